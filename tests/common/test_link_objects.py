"""Objects that would blow up or break Flower's own reader, found out before it sees them."""

from __future__ import annotations

import hashlib
import json
import tracemalloc

import numpy as np
import pytest
from flwr.app import Message
from flwr.supercore.inflatable.inflatable_object import get_all_nested_objects
from flwr.supercore.inflatable.inflatable_utils import inflate_object_from_contents
from flwr.supercore.task_identity import TaskIdentity
from hypothesis import given
from hypothesis import strategies as st

from tacit.errors import BadInput
from tacit.link.objects import outline
from tacit.link.pieces import Oversize
from tacit.link.records import to_records
from tacit.parcel import Parcel

MIB = 2**20


def _message(arrays: dict[str, np.ndarray]) -> Message:
    TaskIdentity.run_id, TaskIdentity.node_id, TaskIdentity.task_id = 1, 0, 0
    message = Message(to_records(Parcel(arrays, {"round": 1})), 7, "train", ttl=60.0)
    message.metadata.__dict__["_created_at"] = 1e9  # the same hashes every time
    return message


def _objects(message: Message) -> tuple[str, dict[str, bytes]]:
    return message.object_id, {name: each.deflate() for name, each in get_all_nested_objects(message).items()}


def _outline(root: str, objects: dict[str, bytes], *, limit: int) -> Message:
    lengths = {name: len(content) for name, content in objects.items()}
    return outline(root, lengths=lengths, read=lambda name, size: objects[name][:size], limit=limit)


def _rewritten(root: str, objects: dict[str, bytes], change: dict[str, bytes]) -> tuple[str, dict[str, bytes]]:
    """The same message with some objects' contents changed, and all hashes made to fit again."""
    new = {name: change.get(name, content) for name, content in objects.items()}
    for name in list(new):  # children come first
        content = new.pop(name)
        known = hashlib.sha256(content).hexdigest()
        new = {other: text.replace(name.encode(), known.encode()) for other, text in new.items()} | {known: content}
        root = known if name == root else root
    return root, new


def _body(content: bytes, body: bytes) -> bytes:
    kind, children, _ = content[: content.index(b"\0")].split(b" ")
    return b"%s %s %d\0%s" % (kind, children, len(body), body)


def _bomb(times: int) -> tuple[str, dict[str, bytes]]:
    """A message of 1 MiB that says it twice, or a thousand times."""
    root, objects = _objects(_message({"update": np.arange(MIB // 4, dtype=np.uint32)}))
    (name,) = [name for name, content in objects.items() if content.startswith(b"Array ")]
    facts = json.loads(objects[name][objects[name].index(b"\0") + 1 :])
    facts["arraychunk_ids"] = [0] * times
    return _rewritten(root, objects, {name: _body(objects[name], json.dumps(facts).encode())})


@pytest.mark.parametrize("length", [0, 3, MIB, 3 * MIB])
def test_an_honest_message_passes_as_it_is(length):
    message = _message({"update": np.arange(length, dtype=np.uint32), "zeros": np.zeros(length, np.uint32)})
    root, objects = _objects(message)
    found = _outline(root, objects, limit=8 * length)
    assert vars(found.metadata) == vars(message.metadata) | {"_message_id": found.metadata.message_id}
    assert inflate_object_from_contents(root, dict(objects)).content == message.content
    if length >= MIB:
        with pytest.raises(Oversize):
            _outline(root, objects, limit=8 * length - 1)


def test_a_small_message_that_would_be_large_is_refused_in_little_memory():
    assert len(inflate_object_from_contents(*_bomb(3)).content["arrays"]["update"].data) == 3 * MIB  # it does blow up
    root, objects = _bomb(100_000)
    assert sum(map(len, objects.values())) < 2 * MIB
    tracemalloc.start()
    with pytest.raises(Oversize, match="expected arrays of at most"):
        _outline(root, objects, limit=64 * MIB)
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert peak < 32 * MIB
    assert _outline(*_bomb(64), limit=64 * MIB).metadata.message_type == "train"


def test_more_beside_the_arrays_than_any_message_has_is_refused():
    root, objects = _objects(_message({}))
    objects["f" * 64] = b"ConfigRecord  0\0" + bytes(4 * MIB)
    with pytest.raises(Oversize, match="beside its arrays"):
        _outline(root, objects, limit=2**40)


@given(st.data())
def test_whatever_is_changed_is_refused_or_can_be_inflated(data):
    root, objects = _objects(_message({"update": np.arange(2**17, dtype=np.uint32)}))
    name = data.draw(st.sampled_from(sorted(objects)))
    content = bytearray(objects[name])
    for _ in range(data.draw(st.integers(1, 3))):
        content[data.draw(st.integers(0, min(len(content), 400) - 1))] = data.draw(st.integers(0, 255))
    if data.draw(st.booleans()):
        content = content[: data.draw(st.integers(0, min(len(content), 400)))]
    root, changed = _rewritten(root, objects, {name: bytes(content)})
    try:
        _outline(root, changed, limit=4 * MIB)
    except BadInput:
        return
    assert isinstance(inflate_object_from_contents(root, dict(changed)), Message)


def test_objects_that_are_missing_left_over_or_no_message_are_refused():
    root, objects = _objects(_message({"update": np.arange(2**17, dtype=np.uint32)}))
    assert len(objects) == 6
    for name in objects:
        with pytest.raises(BadInput):
            _outline(root, {other: content for other, content in objects.items() if other != name}, limit=MIB)
        if name != root:
            with pytest.raises(BadInput):
                _outline(name, objects, limit=MIB)
    with pytest.raises(BadInput, match="found others"):
        _outline(root, objects | {"f" * 64: b"ConfigRecord  0\0"}, limit=MIB)
