"""What waits, in databases that Flower wrote, and in one that is not Flower's."""

from __future__ import annotations

import sqlite3
import time

import pytest
from flwr.supercore.object_store.sql_object_store import SqlObjectStore

from tacit_server.changes import Changes

HALF = 2**63
MESSAGE = "message_id, dst_node_id, delivered_at"
TABLES = (
    "CREATE TABLE message_ins (message_id, dst_node_id, delivered_at)",
    "CREATE TABLE message_res (message_id, reply_to_message_id, delivered_at)",
    "CREATE TABLE object_push_session_roots (session_id, root_object_id)",
    "CREATE TABLE object_push_session_pending (session_id, object_id)",
)


@pytest.fixture(params=["made up", "flower"])
def database(request, tmp_path) -> sqlite3.Connection:
    """One with the tables and columns that are read and no others, and one that Flower made."""
    if request.param == "flower":
        SqlObjectStore(str(tmp_path / "flower.db")).initialize()
    database = sqlite3.connect(tmp_path / "flower.db", isolation_level=None)
    if request.param == "made up":
        database.execute("PRAGMA journal_mode = WAL")
        for table in TABLES:
            database.execute(table)
    return database


def _insert(database: sqlite3.Connection, table: str, columns: str, rows: list[tuple]) -> None:
    marks = ", ".join("?" for _ in columns.split(","))
    database.executemany(f"INSERT INTO {table} ({columns}) VALUES ({marks})", rows)


def test_the_first_look_is_a_change_and_then_what_others_write(database, tmp_path):
    changes = Changes(tmp_path / "flower.db")
    assert changes.changed()
    assert not changes.changed()
    _insert(database, "message_ins", MESSAGE, [("m", 1, "")])
    assert changes.changed()
    assert not changes.changed()


def test_nodes_are_those_with_a_message_that_was_not_handed_out(database, tmp_path):
    changes = Changes(tmp_path / "flower.db")
    assert changes.nodes() == set()
    rows = [("a", 5, ""), ("b", 5, ""), ("c", -3, ""), ("d", 7, "2026-01-01")]
    _insert(database, "message_ins", MESSAGE, rows)
    assert changes.nodes() == {5, 2 * HALF - 3}  # Flower's numbers have 64 bits and no sign
    database.execute("UPDATE message_ins SET delivered_at = 'now'")
    assert changes.nodes() == set()


def test_an_answer_is_whole_once_none_of_its_objects_is_awaited(database, tmp_path):
    changes = Changes(tmp_path / "flower.db")
    assert changes.replies() == {}
    rows = [("r1", "m1", ""), ("r2", "m2", ""), ("r3", "m3", "2026-01-01")]
    _insert(database, "message_res", "message_id, reply_to_message_id, delivered_at", rows)
    _insert(database, "object_push_session_roots", "session_id, root_object_id", [("s1", "r1"), ("s2", "r2")])
    _insert(database, "object_push_session_pending", "session_id, object_id", [("s1", "o1"), ("s1", "o2")])
    assert changes.replies() == {"m1": False, "m2": True}
    database.execute("DELETE FROM object_push_session_pending WHERE object_id = 'o1'")
    assert changes.replies() == {"m1": False, "m2": True}
    database.execute("DELETE FROM object_push_session_pending")
    assert changes.replies() == {"m1": True, "m2": True}


@pytest.mark.parametrize("content", [None, b"", b"no database " * 1000], ids=["missing", "empty", "broken"])
def test_where_nothing_can_be_read_everything_may_wait(content, tmp_path):
    if content is not None:
        (tmp_path / "flower.db").write_bytes(content)
    changes = Changes(tmp_path / "flower.db")
    assert changes.nodes() is None
    assert changes.replies() is None
    assert (tmp_path / "flower.db").exists() is (content is not None)


def test_a_database_that_comes_later_is_found(tmp_path):
    changes = Changes(tmp_path / "flower.db")
    assert changes.nodes() is None
    assert not changes.changed()
    with sqlite3.connect(tmp_path / "flower.db") as database:
        for table in TABLES:
            database.execute(table)
    assert changes.nodes() == set()
    assert changes.changed()


def test_another_version_s_tables_are_no_error(database, tmp_path):
    database.execute("ALTER TABLE message_ins RENAME COLUMN delivered_at TO handed_out_at")
    database.execute("DROP TABLE object_push_session_pending")
    changes = Changes(tmp_path / "flower.db")
    assert changes.nodes() is None
    assert changes.replies() is None


def test_after_close_the_file_is_opened_anew(database, tmp_path):
    changes = Changes(tmp_path / "flower.db")
    changes.nodes()
    changes.close()
    assert changes.nodes() == set()


def test_a_look_costs_next_to_nothing(database, tmp_path):
    """A thousand looks in the time that the SuperLink takes for some tens of questions."""
    changes = Changes(tmp_path / "flower.db")
    changes.changed()
    started = time.process_time()
    for _ in range(1000):
        changes.changed()
    assert time.process_time() - started < 0.5
