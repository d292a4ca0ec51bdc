"""Who is there: one process of a partner at a time, one message at a time, and what a restart of the gateway keeps."""

from __future__ import annotations

import json
import threading
import time
from typing import ClassVar

import pytest
from flwr.proto.message_pb2 import Message, Metadata, ObjectTree

from tacit_server.fleet import Gone
from tacit_server.sessions import Sessions, Taken

ONE, OTHER = "1" * 32, "2" * 32


class Node:
    """A Flower node that notes what is done to it."""

    numbers: ClassVar[dict[str, int]] = {}

    def __init__(self, session: str) -> None:
        self.session, self.node, self.did = session, 0, []
        self.inbox: list[str] = []
        self.lost = False

    def appear(self, known: int = 0) -> int:
        self.did.append("appear")
        self.node, self.lost = known or 1000 + len(self.numbers), False
        self.numbers[self.session] = self.node
        return self.node

    def beat(self) -> None:
        if self.lost:
            raise Gone("node")
        self.did.append("beat")

    def rest(self) -> None:
        self.did.append("rest")

    def forget(self) -> None:
        self.did.append("forget")

    def waiting(self):
        if not self.inbox:
            return None
        name = self.inbox.pop(0)
        leaf = ObjectTree(object_id="c" * 64)
        tree = ObjectTree(object_id=name, children=[leaf, ObjectTree(object_id="d" * 64, children=[leaf])])
        return Message(metadata=Metadata(message_id=name, run_id=5)), tree


@pytest.fixture
def nodes() -> dict[str, Node]:
    return {}


@pytest.fixture
def open_sessions(tmp_path, nodes):
    def make(partner: str, session: str) -> Node:
        nodes[session] = Node(session)
        return nodes[session]

    return lambda grace=10.0: Sessions(tmp_path / "sessions", make=make, grace=grace)


def _notices(stream) -> list:
    found = []
    while not stream.empty():
        found.append(stream.get())
    return found


def test_a_process_is_a_node_and_the_next_one_another(open_sessions, nodes):
    sessions = open_sessions()
    session, stream = sessions.enter("a", ONE)
    sessions.leave(session, stream)
    after, _ = sessions.enter("a", OTHER)
    assert nodes[ONE].did == ["appear", "forget"]
    assert sessions.find("a", ONE) is None
    assert sessions.find("a", OTHER) is after
    assert [s.session for s in sessions.all()] == [OTHER]


def test_two_processes_of_one_partner_are_not_there_at_once(open_sessions):
    sessions = open_sessions()
    sessions.enter("a", ONE)
    sessions.enter("b", OTHER)
    with pytest.raises(Taken):
        sessions.enter("a", OTHER)
    assert sessions.find("a", ONE) is not None


def test_a_process_that_comes_back_keeps_its_node_and_its_message(open_sessions, nodes):
    sessions = open_sessions()
    session, stream = sessions.enter("a", ONE)
    nodes[ONE].inbox = ["e" * 64]
    assert sessions.pump(session)
    (notice,) = _notices(stream)
    again, second = sessions.enter("a", ONE)  # before the gateway noticed that the first stream broke
    assert again is session
    assert _notices(stream) == [None]
    assert _notices(second) == [notice]
    sessions.leave(session, stream)  # the old stream's end is no end of the new one
    assert session.stream is second


def test_one_message_at_a_time(open_sessions, nodes):
    sessions = open_sessions()
    session, stream = sessions.enter("a", ONE)
    nodes[ONE].inbox = ["e" * 64, "f" * 64]
    assert [sessions.pump(session) for _ in range(3)] == [True, False, False]
    assert session.message().metadata.run_id == 5
    assert session.objects() == ["c" * 64, "d" * 64, "e" * 64]
    sessions.answered(session)
    assert sessions.pump(session)
    assert [n.waiting.message for n in _notices(stream)] == ["e" * 64, "f" * 64]


def test_nothing_is_fetched_for_a_partner_that_is_not_there(open_sessions, nodes):
    sessions = open_sessions()
    session, stream = sessions.enter("a", ONE)
    sessions.leave(session, stream)
    nodes[ONE].inbox = ["e" * 64]
    assert not sessions.pump(session)
    assert nodes[ONE].inbox == ["e" * 64]


def test_a_gateway_that_was_restarted_knows_node_and_message(open_sessions, nodes):
    sessions = open_sessions()
    session, _ = sessions.enter("a", ONE)
    number = session.fleet.node
    nodes[ONE].inbox = ["e" * 64]
    sessions.pump(session)
    again, stream = open_sessions().enter("a", ONE)
    assert again.fleet.node == number
    assert [n.waiting.message for n in _notices(stream)] == ["e" * 64]


def test_a_restart_of_both_forgets_the_old_node(open_sessions, nodes):
    session, _ = open_sessions().enter("a", ONE)
    first = nodes[ONE]
    after, stream = open_sessions().enter("a", OTHER)
    assert nodes[ONE] is not first
    assert nodes[ONE].did == ["forget"]
    assert nodes[ONE].node == session.fleet.node
    assert _notices(stream) == []
    assert after.ticket is None


@pytest.mark.parametrize("torn", [b"", b"{", b"[]", b'{"session": 1}', b'{"session":"x","node":1,"ticket":"!"}'])
def test_a_torn_file_is_a_new_session(open_sessions, tmp_path, torn):
    open_sessions().enter("a", ONE)
    (tmp_path / "sessions" / "a.json").write_bytes(torn)
    session, _ = open_sessions().enter("a", OTHER)
    assert session.session == OTHER


def test_a_node_is_online_for_the_grace_and_then_not(open_sessions, nodes):
    sessions = open_sessions(0.2)
    session, stream = sessions.enter("a", ONE)
    sessions.beat(session)
    sessions.leave(session, stream)
    sessions.beat(session)
    assert nodes[ONE].did == ["appear", "beat", "beat"]
    time.sleep(0.25)
    sessions.beat(session)
    sessions.beat(session)
    assert nodes[ONE].did == ["appear", "beat", "beat", "rest"]
    sessions.enter("a", ONE)
    sessions.beat(session)
    assert nodes[ONE].did[-2:] == ["appear", "beat"]


def test_a_superlink_without_memory_gets_the_node_anew(open_sessions, nodes):
    sessions = open_sessions()
    session, _ = sessions.enter("a", ONE)
    nodes[ONE].lost = True
    sessions.beat(session)
    assert nodes[ONE].did == ["appear", "appear"]


def test_a_removed_partner_is_gone_with_its_node_and_file(open_sessions, nodes, tmp_path):
    sessions = open_sessions()
    session, stream = sessions.enter("a", ONE)
    sessions.expel(session)
    assert _notices(stream) == [None]
    assert nodes[ONE].did == ["appear", "forget"]
    assert sessions.all() == []
    assert list((tmp_path / "sessions").iterdir()) == []


def test_an_answer_may_be_about_as_large_as_what_was_asked(open_sessions, nodes):
    sessions = open_sessions()
    session, _ = sessions.enter("a", ONE)
    nodes[ONE].inbox = ["e" * 64]
    sessions.pump(session)
    assert session.allowance() == (3 + 4) * 8 * 2**20


def test_a_message_in_the_hand_of_a_killed_gateway_ends_the_session(tmp_path, nodes):
    def make(partner: str, session: str) -> Node:
        nodes[session] = Node(session)
        return nodes[session]

    asked: list[int] = []

    def again() -> Sessions:
        return Sessions(tmp_path / "sessions", make=make, grace=10.0, lost=lambda node: asked.append(node) or True)

    sessions = again()
    session, stream = sessions.enter("a", ONE)
    number = session.fleet.node
    sessions.leave(session, stream)
    sessions.enter("a", ONE)  # it came back to the same gateway, which has lost nothing
    assert asked == []
    sessions = again()
    with pytest.raises(Gone):
        sessions.enter("a", ONE)
    assert (asked, nodes[ONE].did) == ([number], ["forget"])
    assert sessions.enter("a", OTHER)[0].session == OTHER


def test_a_message_that_is_at_hand_is_not_lost(tmp_path, nodes):
    def make(partner: str, session: str) -> Node:
        nodes[session] = Node(session)
        return nodes[session]

    sessions = [Sessions(tmp_path / "sessions", make=make, grace=10.0, lost=lambda node: True) for _ in range(2)]
    session, _ = sessions[0].enter("a", ONE)
    nodes[ONE].inbox = ["e" * 64]
    sessions[0].pump(session)
    assert sessions[1].enter("a", ONE)[0].ticket == session.ticket


def test_a_node_that_was_forgotten_on_purpose_ends_the_stream(open_sessions, nodes, monkeypatch):
    sessions = open_sessions()
    session, stream = sessions.enter("a", ONE)

    def gone(known: int = 0) -> int:
        raise Gone("node")

    nodes[ONE].lost = True
    monkeypatch.setattr(nodes[ONE], "appear", gone)
    sessions.beat(session)
    assert _notices(stream) == [None]


def test_what_an_earlier_process_leaves_behind_changes_no_file(open_sessions, nodes, tmp_path):
    sessions = open_sessions()
    session, stream = sessions.enter("a", ONE)
    nodes[ONE].inbox = ["e" * 64]
    sessions.pump(session)
    sessions.leave(session, stream)
    sessions.enter("a", OTHER)
    before = (tmp_path / "sessions" / "a.json").read_bytes()
    sessions.answered(session)  # an answer that was still on its way
    sessions.expel(session)
    assert (tmp_path / "sessions" / "a.json").read_bytes() == before


def test_threads_that_hold_and_answer_at_once_leave_a_whole_file(open_sessions, nodes, tmp_path):
    sessions = open_sessions()
    session, _ = sessions.enter("a", ONE)
    nodes[ONE].inbox = [f"{number:064}" for number in range(300)]
    failures: list[BaseException] = []

    def work(step) -> None:
        try:
            for _ in range(300):
                step(session)
        except BaseException as error:  # noqa: BLE001  # of a thread; the test looks at it
            failures.append(error)

    threads = [threading.Thread(target=work, args=(step,)) for step in (sessions.pump, sessions.answered) * 2]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert failures == []
    facts = json.loads((tmp_path / "sessions" / "a.json").read_bytes())
    assert facts["session"] == ONE
    assert bool(facts["ticket"]) is (session.ticket is not None)
