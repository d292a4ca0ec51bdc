"""Flower messages in envelopes: what a server may send, and what it may not."""

from __future__ import annotations

import json
import time

import numpy as np
import pytest
from flwr.app import ConfigRecord, Message, RecordDict
from flwr.supercore.inflatable.inflatable_object import get_all_nested_objects, get_object_tree
from flwr.supercore.task_identity import TaskIdentity
from hypothesis import given
from hypothesis import strategies as st

from tacit.errors import BadInput
from tacit.link.link_pb2 import Envelope, Ticket
from tacit.link.records import to_parcel, to_records
from tacit.parcel import Parcel
from tacit_client.letters import closed, opened

NODE, MOST = 7, 2**20


def _sent(arrays: dict[str, np.ndarray], *, node: int = NODE) -> tuple[Envelope, dict[str, bytes]]:
    """As the gateway sends it."""
    TaskIdentity.run_id, TaskIdentity.node_id, TaskIdentity.task_id = 1, 1, 1
    message = Message(to_records(Parcel(arrays, {"round": 1})), node, "train", ttl=60.0)
    message.metadata.__dict__["_created_at"] = 1e9
    ticket = Ticket(session="a" * 32, message=message.object_id)
    envelope = Envelope(ticket=ticket, tree=get_object_tree(message).SerializeToString())
    return envelope, {name: each.deflate() for name, each in get_all_nested_objects(message).items()}


def test_a_message_is_opened_and_its_answer_closed():
    arrays = {"model": np.arange(2**17, dtype=np.float32)}
    envelope, objects = _sent(arrays)
    asked = opened(envelope, objects.items(), node=NODE, most=MOST)
    np.testing.assert_array_equal(to_parcel(asked.content).arrays["model"], arrays["model"])
    assert asked.metadata.message_id == envelope.ticket.message
    reply = Message(to_records(Parcel({}, {"partner": "a"})), reply_to=asked)
    answer, parts = closed(reply, asked, ticket=envelope.ticket, seconds=5.0)
    assert answer.ticket == envelope.ticket
    assert len(dict(parts)) == 3
    # by the server's date, whatever this machine's clock says
    assert (reply.metadata.created_at, reply.metadata.ttl) == (1e9 + 5.0, 55.0)
    assert abs(time.time() - 1e9) > 1e6


def test_a_message_for_another_node_is_refused():
    envelope, objects = _sent({}, node=NODE + 1)
    with pytest.raises(BadInput, match="one for another"):
        opened(envelope, objects.items(), node=NODE, most=MOST)


def test_another_message_than_the_announced_one_is_refused():
    envelope, objects = _sent({})
    envelope.ticket.message = "f" * 64
    with pytest.raises(BadInput, match="announced"):
        opened(envelope, objects.items(), node=NODE, most=MOST)


def test_a_message_that_would_fill_the_memory_is_refused():
    envelope, objects = _sent({"model": np.arange(2**17, dtype=np.float32)})
    with pytest.raises(BadInput, match="at most 524287 bytes"):
        opened(envelope, objects.items(), node=NODE, most=2**19 - 1)
    assert opened(envelope, objects.items(), node=NODE, most=2**19)


@pytest.mark.parametrize("tree", [b"\xff\xff", b"", b"\x0a\x03abc"])
def test_a_tree_that_is_none_is_refused(tree):
    envelope, objects = _sent({})
    envelope.tree = tree
    with pytest.raises(BadInput):
        opened(envelope, objects.items(), node=NODE, most=MOST)


@given(st.data())
def test_whatever_a_server_sends_is_refused_or_a_message(data):
    """Any other error would end the partner's process. Hashes are not looked at here: `pieces` has done that."""
    envelope, objects = _sent({"model": np.arange(2**17, dtype=np.float32)})
    assert len(objects) == 6
    changed = {}
    for name, content in objects.items():
        bytes_ = bytearray(content[:500])
        for _ in range(data.draw(st.integers(0, 2))):
            bytes_[data.draw(st.integers(0, len(bytes_) - 1))] = data.draw(st.integers(0, 255))
        changed[name] = bytes(bytes_) + content[500:]
    try:
        found = opened(envelope, changed.items(), node=NODE, most=MOST)
    except BadInput:
        return
    assert isinstance(found, Message)


def test_an_array_where_a_record_belongs_is_refused():
    """Flower asks a chunk for its bytes, whatever stands there: an AttributeError of its own."""
    envelope, objects = _sent({"model": np.arange(2**17, dtype=np.float32)})
    (array,) = [name for name, content in objects.items() if content.startswith(b"Array ")]
    (chunk,) = [name for name, content in objects.items() if content.startswith(b"ArrayChunk ")]
    body = json.dumps({"a": "b"}).encode()
    assert array != chunk
    for wrong in (ConfigRecord({"a": 1}).deflate(), RecordDict().deflate(), b"Array  %d\0%s" % (len(body), body)):
        with pytest.raises(BadInput):
            opened(envelope, (objects | {chunk: wrong}).items(), node=NODE, most=MOST)
