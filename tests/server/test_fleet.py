"""One Flower node against the real SuperLink: what the gateway relies on in Flower 1.41."""

from __future__ import annotations

import sqlite3
import time
from contextlib import closing, contextmanager

import pytest
from flwr.app import ConfigRecord, Message, RecordDict
from flwr.app.message import remove_content_from_message
from flwr.common.serde import message_to_proto
from flwr.supercore.inflatable.inflatable_object import get_all_nested_objects, get_object_tree

from tacit.errors import BadInput
from tacit_server import superlink
from tacit_server.changes import Changes
from tacit_server.fleet import FleetNode, Gone, Unreachable, node_key
from tacit_server.folder import Folder
from tacit_server.submit import Control

pytestmark = pytest.mark.e2e


@pytest.fixture(scope="module")
def place(tmp_path_factory):
    """A SuperLink and its folder; nothing asks it for anything but these tests."""
    folder = Folder(tmp_path_factory.mktemp("server"))
    for path in (folder.state, folder.logs, folder.runs):
        path.mkdir(parents=True)
    process, port = superlink.start(folder)
    yield folder, port
    process.kill()
    process.wait()


@contextmanager
def _node(port: int, session: str):
    node = FleetNode(lambda: f"127.0.0.1:{port}", node_key(bytes(32), session=session))
    deadline = time.monotonic() + 60
    while True:
        try:
            node.appear()
            break
        except Unreachable:  # it is starting
            assert time.monotonic() < deadline
            time.sleep(0.1)
    try:
        yield node
    finally:
        node.forget()


def test_a_session_is_one_node_and_another_session_another(place):
    _, port = place
    with _node(port, "a" * 32) as one, _node(port, "b" * 32) as other:
        number = one.node
        assert number != other.node != 0
        again = FleetNode(lambda: f"127.0.0.1:{port}", node_key(bytes(32), session="a" * 32))
        assert again.appear(number) == number  # as after a restart of the gateway
        one.rest()
        assert one.appear(number) == number


def test_a_forgotten_node_is_gone(place):
    _, port = place
    with _node(port, "c" * 32) as node:
        node.beat()
        assert node.waiting() is None
        node.forget()
        with pytest.raises(Gone):
            node.beat()


def test_an_object_of_a_run_that_is_over_is_gone(place):
    folder, port = place
    with _node(port, "d" * 32) as node, closing(Control(port)) as control:
        run = control.start(folder.runs / "none")
        control.stop(run)
        with pytest.raises(Gone):
            node.fetch(run, "a" * 64)
        with pytest.raises(Gone):
            node.answer(*_reply(node.node, run=run), lambda wanted: [])


def _reply(node: int, *, run: int = 1) -> tuple[bytes, bytes]:
    message = Message(RecordDict({"a": ConfigRecord({"b": b"c"})}), reply_to=_asked(node, run=run))
    message.metadata.__dict__["_message_id"] = message.object_id
    assert len(get_all_nested_objects(message)) == 3
    proto = message_to_proto(remove_content_from_message(message))
    return proto.SerializeToString(), get_object_tree(message).SerializeToString()


def _asked(node: int, *, run: int) -> Message:
    from flwr.supercore.task_identity import TaskIdentity

    TaskIdentity.run_id, TaskIdentity.node_id, TaskIdentity.task_id = run, 1, 1
    asked = Message(RecordDict(), node, "query")
    asked.metadata.__dict__["_message_id"] = "f" * 64
    return asked


@pytest.mark.parametrize("message", [b"\xff\xff", b"", "another's"])
def test_an_answer_that_is_not_this_node_s_is_refused(place, message):
    _, port = place
    with _node(port, f"f{len(message):031}") as node:
        found, tree = _reply(node.node + 1)
        with pytest.raises(BadInput):
            node.answer(found if message == "another's" else message, tree, lambda wanted: [])


def test_the_database_tells_when_a_run_has_begun(place):
    folder, port = place
    with _node(port, "a0" * 16):
        database = Changes(folder.flower_db)
        database.changed()
        time.sleep(0.3)
        with closing(Control(port)) as control:
            run = control.start(folder.runs / "none")
            assert database.changed()
            control.stop(run)


def test_the_database_tells_which_answers_are_whole(place):
    folder, port = place
    rows = [
        ("INSERT INTO message_res (message_id, reply_to_message_id, delivered_at) VALUES (?, ?, ?)", [
            ("a", "1", ""), ("b", "2", ""), ("c", "3", "yesterday"), ("d", "4", ""),
        ]),
        ("INSERT INTO object_push_session_roots (session_id, root_object_id) VALUES (?, ?)", [("s", "a"), ("t", "d")]),
        ("INSERT INTO object_push_session_pending (session_id, object_id) VALUES (?, ?)", [("s", "part"), ("u", "x")]),
    ]  # fmt: skip
    with _node(port, "a1" * 16), closing(sqlite3.connect(folder.flower_db, isolation_level=None)) as file:
        database = Changes(folder.flower_db)
        assert database.replies() == {}
        file.execute("PRAGMA foreign_keys = OFF")
        for insert, values in rows:
            file.executemany(insert, values)
        try:
            assert database.replies() == {"1": False, "2": True, "4": True}
        finally:
            for table in ("message_res", "object_push_session_roots", "object_push_session_pending"):
                file.execute(f"DELETE FROM {table}")
    assert Changes(folder.path / "none.db").replies() is None


def test_the_database_tells_which_node_lacks_a_message_that_was_taken_for_it(place):
    folder, port = place
    now, many = time.time(), 2**64 - 5
    rows = [
        ("taken", -5, "now", now, 60.0),
        ("waits", 6, "", now, 60.0),
        ("answered", 7, "now", now, 60.0),
        ("late", 8, "now", now - 61.0, 60.0),
    ]
    insert = "INSERT INTO message_ins (message_id, dst_node_id, delivered_at, created_at, ttl) VALUES (?, ?, ?, ?, ?)"
    with _node(port, "a2" * 16), closing(sqlite3.connect(folder.flower_db, isolation_level=None)) as file:
        file.execute("PRAGMA foreign_keys = OFF")
        file.executemany(insert, rows)
        file.execute("INSERT INTO message_res (message_id, reply_to_message_id) VALUES ('x', 'answered')")
        try:
            database = Changes(folder.flower_db)
            assert [database.lost(node) for node in (many, 6, 7, 8, 9)] == [True, False, False, False, False]
        finally:
            file.executescript("DELETE FROM message_ins; DELETE FROM message_res")
    assert not Changes(folder.path / "none.db").lost(5)


def test_nobody_there_is_unreachable():
    node = FleetNode(lambda: "127.0.0.1:9", node_key(bytes(32), session="a" * 32))
    with pytest.raises(Unreachable):
        node.appear()
