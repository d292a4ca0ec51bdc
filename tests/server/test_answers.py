"""Answers that a partner's own code would never give: none of them reaches the rounds."""

from __future__ import annotations

import hashlib
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from tempfile import gettempdir
from typing import Any

import numpy as np
import pytest
from flwr.app import Error, Message, RecordDict
from flwr.app.message import remove_content_from_message
from flwr.common.serde import message_to_proto
from flwr.proto.message_pb2 import Message as Cover
from flwr.proto.message_pb2 import ObjectTree
from flwr.supercore.task_identity import TaskIdentity
from hypothesis import given
from hypothesis import strategies as st

from tacit.errors import BadInput
from tacit.link.link_pb2 import Ticket
from tacit.link.records import to_records
from tacit.parcel import Parcel
from tacit_client.letters import closed
from tacit_server import answers
from tacit_server.spool import Spool

NODE, OTHER, LIMIT = 7, 8, 2**22
BIG = np.arange(2**17, dtype=np.uint32)


def _asked(node: int = NODE) -> Message:
    TaskIdentity.run_id, TaskIdentity.node_id, TaskIdentity.task_id = 1, 1, 1
    asked = Message(to_records(Parcel({}, {"round": 1})), node, "train", ttl=60.0, group_id="3")
    asked.metadata.__dict__["_message_id"] = asked.object_id
    return asked


@dataclass
class Answer:
    """An answer in its parts, which a test may change."""

    asked: Message = field(default_factory=_asked)
    content: Any = field(default_factory=lambda: to_records(Parcel({"update": BIG}, {"partner": "a"})))
    change: Callable[[Message], None] = lambda reply: None

    def __post_init__(self) -> None:
        reply = Message(self.content, reply_to=self.asked)
        self.change(reply)
        envelope, objects = closed(reply, self.asked, ticket=Ticket(), seconds=1.0)
        self.cover, self.tree = Cover.FromString(envelope.message), ObjectTree.FromString(envelope.tree)
        self.objects = dict(objects)

    def check(self, *, limit: int = LIMIT) -> None:
        """Raises BadInput."""
        with Spool(Path(gettempdir())) as spool:
            spool.keep(self.objects.items())
            asked = message_to_proto(remove_content_from_message(self.asked))
            answers.check(
                self.cover.SerializeToString(), self.tree.SerializeToString(), spool, asked=asked, limit=limit
            )


@pytest.mark.parametrize(
    "content",
    [
        to_records(Parcel({"update": BIG}, {"partner": "a"})),
        to_records(Parcel({"update": np.zeros(2**18, np.uint32)}, {})),
        to_records(Parcel({}, {"kind": "refusal"})),
        RecordDict(),
        Error(0, "the partner failed"),
    ],
    ids=["large", "zeros", "small", "empty", "error"],
)
def test_an_honest_answer_passes(content):
    Answer(content=content).check()


def _set(**values: Any) -> Callable[[Message], None]:
    return lambda reply: reply.metadata.__dict__.update({f"_{name}": value for name, value in values.items()})


def test_an_answer_that_names_another_partner_s_question_inside_is_refused():
    """The rounds go by what stands inside."""
    honest, other = Answer(), _asked(OTHER)
    liar = Answer(change=_set(reply_to_message_id=other.metadata.message_id))
    with pytest.raises(BadInput, match="message at hand"):
        liar.check()
    cover = Cover.FromString(honest.cover.SerializeToString())
    cover.metadata.message_id = liar.cover.metadata.message_id
    liar.cover = cover
    with pytest.raises(BadInput, match="on its cover and inside"):
        liar.check()


@pytest.mark.parametrize(
    "values",
    [
        {"run_id": 2},
        {"src_node_id": OTHER},
        {"dst_node_id": OTHER},
        {"reply_to_message_id": "f" * 64},
        {"message_type": "evaluate"},
        {"group_id": "4"},
    ],
    ids=lambda values: next(iter(values)),
)
def test_an_answer_to_another_question_is_refused(values):
    with pytest.raises(BadInput, match="expected an answer"):
        Answer(change=_set(**values)).check()


@pytest.mark.parametrize("value", [float("nan"), float("inf"), float("-inf")])
def test_an_answer_without_a_date_is_refused(value):
    asked = _asked()
    asked.metadata.__dict__["_created_at"] = value  # which `closed` takes over
    with pytest.raises(BadInput):
        Answer(asked=asked).check()


def test_an_answer_of_which_a_part_never_comes_is_refused():
    """The rounds would wait for it, for hours."""
    names = list(Answer().objects)
    assert len(names) == 6
    for place in range(6):
        answer = Answer()
        del answer.objects[list(answer.objects)[place]]
        with pytest.raises(BadInput, match="is whole"):
            answer.check()
    answer = Answer()
    answer.tree.children.add(object_id="f" * 64)
    with pytest.raises(BadInput, match="is whole"):
        answer.check()


def test_more_than_was_announced_is_refused():
    answer = Answer()
    answer.objects[hashlib.sha256(b"more").hexdigest()] = b"more"
    with pytest.raises(BadInput, match="is whole"):
        answer.check()


@pytest.mark.parametrize("times", [20, 20_000])
def test_an_object_that_would_be_fetched_over_and_over_is_refused(times):
    answer = Answer()
    chunk = max(answer.objects, key=lambda name: len(answer.objects[name]))
    for _ in range(times):
        answer.tree.children.add(object_id=chunk)
    with pytest.raises(BadInput, match="is whole"):
        answer.check()


def test_objects_that_are_no_message_are_refused():
    answer = Answer()
    content = b"ConfigRecord  1\0x"
    name = hashlib.sha256(content).hexdigest()
    answer.objects, answer.tree = {name: content}, ObjectTree(object_id=name)
    answer.cover.metadata.message_id = name
    with pytest.raises(BadInput):
        answer.check()


def test_an_answer_larger_than_allowed_is_refused():
    with pytest.raises(BadInput):
        Answer().check(limit=BIG.nbytes - 1)


def test_an_error_in_many_words_is_refused():
    Answer(content=Error(0, "x" * 1000)).check()
    with pytest.raises(BadInput, match="1000 bytes"):
        Answer(content=Error(0, "x" * 1001)).check()


@pytest.mark.parametrize("bytes_", [b"\xff\xff\xff", b""])
def test_bytes_that_are_nothing_are_refused(bytes_, tmp_path):
    answer = Answer()
    with pytest.raises(BadInput):
        answers.check(bytes_, bytes_, Spool(tmp_path), asked=answer.cover, limit=LIMIT)


@given(st.lists(st.binary(max_size=50), max_size=8), st.data())
def test_a_spool_gives_what_it_took(contents, data):
    objects = [(hashlib.sha256(content).hexdigest(), content) for content in contents]
    names = sorted({name for name, _ in objects})
    wanted = data.draw(st.sets(st.sampled_from(names))) if names else set()
    with Spool(Path(gettempdir())) as spool:
        spool.keep([*objects, *objects])
        assert spool.lengths == {name: len(content) for name, content in objects}
        assert all(spool.read(name, 3) == content[:3] for name, content in objects)
        assert dict(spool.some(wanted)) == {name: content for name, content in objects if name in wanted}
