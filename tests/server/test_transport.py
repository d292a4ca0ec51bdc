"""Messages over a grid: bounded waits, late answers left out, answers that can not be read."""

from __future__ import annotations

import threading
import time
from collections.abc import Iterable
from types import SimpleNamespace

import numpy as np
import pytest
from flwr.app import Array, ArrayRecord, ConfigRecord, Error, Message, RecordDict
from flwr.serverapp import Grid
from flwr.supercore.task_identity import TaskIdentity

from tacit.errors import JobFailed
from tacit.link.records import to_parcel, to_records
from tacit.parcel import Parcel
from tacit_server import transport
from tacit_server.transport import Failure, exchange, wait_for_nodes

ASK = Parcel({"model": np.ones(3, np.float32)}, {"round": 1})


class Scripted(Grid):
    """A grid whose nodes answer what a table says, after so many calls of pull."""

    def __init__(self, answers: dict[int, tuple[int, RecordDict | Error]], nodes: Iterable[Iterable[int]] = ()) -> None:
        TaskIdentity.run_id, TaskIdentity.node_id, TaskIdentity.task_id = 1, 0, 0
        self.answers = answers
        self.pushed: list[Message] = []
        self.pulls = 0
        self.nodes = [list(n) for n in nodes]

    def set_run(self, run): ...

    @property
    def run(self):
        return None

    def create_message(self, *args): ...

    def send_and_receive(self, *args, **kwargs): ...

    def get_node_ids(self):
        return self.nodes.pop(0) if len(self.nodes) > 1 else self.nodes[0]

    def push_messages(self, messages):
        self.pushed += list(messages)
        return [str(message.metadata.dst_node_id) for message in self.pushed]

    def pull_messages(self, message_ids):
        self.pulls += 1
        for name in sorted(message_ids):
            due, content = self.answers.get(int(name), (10**9, None))
            if self.pulls >= due:
                metadata = SimpleNamespace(reply_to_message_id=name, src_node_id=int(name))
                error = content if isinstance(content, Error) else None
                yield SimpleNamespace(metadata=metadata, has_error=lambda e=error: e, error=error, content=content)


def _exchange(grid: Grid, nodes: list[int], *, timeout: float = 0.3, stop: threading.Event | None = None):
    stop = stop or threading.Event()
    return list(exchange(grid, dict.fromkeys(nodes, ASK), kind="train", timeout=timeout, group="7", stop=stop))


def _reply(text: str) -> RecordDict:
    return to_records(Parcel({}, {"text": text}))


def test_every_node_is_asked_once_and_answers_once():
    grid = Scripted({1: (1, _reply("a")), 2: (3, _reply("b")), 3: (2, _reply("c"))})
    answers = _exchange(grid, [1, 2, 3], timeout=30.0)
    assert [(node, parcel.scalars["text"]) for node, parcel in answers] == [(1, "a"), (3, "c"), (2, "b")]
    sent = [(m.metadata.dst_node_id, m.metadata.message_type, m.metadata.group_id) for m in grid.pushed]
    assert sent == [(1, "train", "7"), (2, "train", "7"), (3, "train", "7")]


def test_each_node_gets_its_own_parcel_and_what_is_common_is_encoded_once():
    model = np.ones(2**17, np.float32)  # large: a small parcel is one record
    parcels = {n: Parcel({"model": model, "inbox": np.full(n, n, np.uint8)}, {"to": n}) for n in (1, 2)}
    grid = Scripted({n: (1, _reply("x")) for n in parcels})
    list(exchange(grid, parcels, kind="train", timeout=5.0, group="7", stop=threading.Event()))
    sent = {m.metadata.dst_node_id: m.content for m in grid.pushed}
    assert {n: to_parcel(content).arrays["inbox"].tolist() for n, content in sent.items()} == {1: [1], 2: [2, 2]}
    assert {n: to_parcel(content).scalars["to"] for n, content in sent.items()} == {1: 1, 2: 2}
    assert sent[1]["arrays"]["model"] is sent[2]["arrays"]["model"]
    assert sent[1]["arrays"]["inbox"] is not sent[2]["arrays"]["inbox"]


def test_a_grid_that_never_answers_is_left_after_the_timeout():
    started = time.monotonic()
    grid = Scripted({})
    assert _exchange(grid, [1, 2], timeout=0.3) == []
    assert 0.3 <= time.monotonic() - started < 2.0
    assert 3 <= grid.pulls < 50  # it rests between two looks


def test_who_answers_in_time_is_kept_beside_one_who_never_does():
    answers = _exchange(Scripted({2: (1, _reply("b"))}), [1, 2], timeout=0.3)
    assert [node for node, _ in answers] == [2]


def test_nobody_to_ask_is_no_wait():
    started = time.monotonic()
    assert _exchange(Scripted({}), [], timeout=30.0) == []
    assert time.monotonic() - started < 1.0


def test_an_error_of_flowers_is_a_failure_with_its_reason():
    ((node, answer),) = _exchange(Scripted({4: (1, Error(0, "vanished"))}), [4])
    assert (node, answer) == (4, "vanished")
    assert isinstance(answer, Failure)


def test_an_answer_that_can_not_be_read_is_a_failure_and_spares_the_others():
    pickled = ArrayRecord({"a": Array(dtype="object", shape=(1,), stype="numpy.ndarray", data=b"x")})
    bad = {1: RecordDict(), 2: RecordDict({"arrays": pickled, "scalars": ConfigRecord()})}
    grid = Scripted({**{node: (1, content) for node, content in bad.items()}, 3: (1, _reply("fine"))})
    answers = dict(_exchange(grid, [1, 2, 3]))
    assert {node: type(answer) for node, answer in answers.items()} == {1: Failure, 2: Failure, 3: Parcel}
    assert answers[2].startswith("expected an array of tacit.raw.v1")


def test_stop_is_heard_while_waiting():
    stop = threading.Event()
    threading.Timer(0.2, stop.set).start()
    started = time.monotonic()
    with pytest.raises(KeyboardInterrupt):
        _exchange(Scripted({}), [1], timeout=30.0, stop=stop)
    assert time.monotonic() - started < 5.0


def test_nodes_are_waited_for():
    grid = Scripted({}, nodes=[[], [3], [3, 1]])
    assert wait_for_nodes(grid, least=2, timeout=30.0) == [1, 3]


def test_too_few_nodes_fail_the_job_in_time():
    started = time.monotonic()
    with pytest.raises(JobFailed, match=r"^expected at least 3 partners within 0.2 s, found 2$"):
        wait_for_nodes(Scripted({}, nodes=[[1, 2]]), least=3, timeout=0.2)
    assert time.monotonic() - started < 2.0


def test_an_answer_is_fetched_once_all_of_it_is_there():
    grid = Scripted({1: (1, _reply("a")), 2: (1, _reply("b"))}, nodes=[[1, 2]])
    asked: list[list[str]] = []
    pull = grid.pull_messages
    grid.pull_messages = lambda ids: asked.append(sorted(ids)) or pull(ids)
    looks = iter([{}, {"1": False, "2": True, "9": True}, {"1": False}, {"1": True}])
    stop, news = threading.Event(), lambda: next(looks)
    answers = exchange(grid, {1: ASK, 2: ASK}, kind="train", timeout=9.0, group="7", stop=stop, news=news)
    assert [node for node, _ in answers] == [2, 1]
    assert asked == [["2"], ["1"]]


def test_a_node_that_left_is_noticed_without_news_of_it(monkeypatch):
    monkeypatch.setattr(transport, "_LONGEST_SILENCE", 0.05)
    grid = Scripted({1: (1, Error(5, "no heartbeat")), 2: (1, _reply("b"))}, nodes=[[1, 2], [2]])
    stop, news = threading.Event(), dict[str, bool]
    answers = list(exchange(grid, {1: ASK, 2: ASK}, kind="train", timeout=0.5, group="7", stop=stop, news=news))
    assert answers == [(1, "went offline")]  # of the other there is no news, so that it is not fetched
