"""Objects out of a database like the SuperLink's."""

from __future__ import annotations

import sqlite3
from pathlib import Path
from types import SimpleNamespace

import pytest
from flwr.proto.message_pb2 import ObjectTree
from flwr.supercore.inflatable.inflatable_object import get_object_id
from flwr.supercore.object_store.sql_object_store import SqlObjectStore

from tacit_server.fleet import Gone, Unreachable
from tacit_server.objects import Objects
from tacit_server.service import Service

CONTENT = b"ArrayChunk  3\x00abc"
NAME = get_object_id(CONTENT)
MESSAGE = b"Message  0\x00"
ROOT = get_object_id(MESSAGE)


@pytest.fixture
def store(tmp_path) -> SqlObjectStore:
    """Flower's own store, with one object that is announced and not there yet."""
    store = SqlObjectStore(str(tmp_path / "flower.db"))
    store.initialize()
    store.preregister(1, ObjectTree(object_id=NAME))
    return store


def _path(store: SqlObjectStore) -> Path:
    return Path(store.database_url.removeprefix("sqlite:///"))


def test_an_object_is_found_once_it_is_there_and_until_it_is_deleted(store):
    with Objects(_path(store)) as near:
        assert near.read(NAME) == b""
        store.put(NAME, CONTENT)
        assert near.read(NAME) == CONTENT
        store.delete(NAME)
        assert near.read(NAME) == b""


def test_what_was_never_announced_is_not_there(store):
    with Objects(_path(store)) as near:
        assert near.read("f" * 64) == b""


def test_an_object_of_flower_s_full_size_is_whole(store):
    content = b"ArrayChunk  5242880\x00" + bytes(range(256)) * 20480
    name = get_object_id(content)
    store.preregister(1, ObjectTree(object_id=name))
    store.put(name, content)
    with Objects(_path(store)) as near:
        assert near.read(name) == content


def test_what_can_not_be_read_is_none_and_not_absent(tmp_path):
    with Objects(tmp_path / "none.db") as near:
        assert near.read(NAME) is None
    assert not (tmp_path / "none.db").exists()
    other = sqlite3.connect(tmp_path / "other.db")
    other.execute("CREATE TABLE something (id)")
    other.close()
    with Objects(tmp_path / "other.db") as near:
        assert near.read(NAME) is None
    (tmp_path / "broken.db").write_bytes(b"no database" * 1000)
    with Objects(tmp_path / "broken.db") as near:
        assert near.read(NAME) is None


def test_nothing_is_written_there(store):
    with Objects(_path(store)) as near, pytest.raises(sqlite3.OperationalError, match="readonly"):
        near._file.execute("DELETE FROM objects")


def test_after_the_context_nothing_is_read(store):
    store.put(NAME, CONTENT)
    with Objects(_path(store)) as near:
        pass
    assert near.read(NAME) is None


class _Fleet:
    """A SuperLink that answers from `there`, is deaf for the first `deaf` questions, and notes them all."""

    def __init__(self, there: dict[str, bytes], *, deaf: int = 0) -> None:
        self.there, self.deaf = there, deaf
        self.asked: list[str] = []

    def fetch(self, run: int, name: str) -> bytes:
        self.asked.append(name)
        if len(self.asked) <= self.deaf:
            raise Unreachable
        if name not in self.there:
            raise Gone(name)
        return self.there[name]


def _taken(database: Path, fleet: _Fleet) -> tuple[list[tuple[str, bytes]], list[object]]:
    """What the gateway hands on of a message with two objects, and the sessions whose message it gave up."""
    over: list[object] = []
    sessions = SimpleNamespace(answered=over.append)
    service = Service(SimpleNamespace(flower_db=database), None, sessions, wake=lambda: None)
    context = SimpleNamespace(is_active=lambda: True)
    return list(service._fetch(SimpleNamespace(fleet=fleet), 1, [NAME, ROOT], context)), over


def _fill(store: SqlObjectStore) -> None:
    store.preregister(1, ObjectTree(object_id=ROOT))
    store.put(NAME, CONTENT)
    store.put(ROOT, MESSAGE)


def test_the_superlink_is_asked_for_the_message_itself_alone(store):
    _fill(store)
    fleet = _Fleet({NAME: CONTENT, ROOT: MESSAGE}, deaf=1)
    assert _taken(_path(store), fleet) == ([(NAME, CONTENT), (ROOT, MESSAGE)], [])
    assert fleet.asked == [ROOT, ROOT]


def test_the_superlink_is_asked_for_all_where_the_database_can_not_be_read(tmp_path):
    fleet = _Fleet({NAME: CONTENT, ROOT: MESSAGE})
    assert _taken(tmp_path / "none.db", fleet) == ([(NAME, CONTENT), (ROOT, MESSAGE)], [])
    assert fleet.asked == [NAME, ROOT]


def test_what_the_database_does_not_show_is_asked_for_in_the_end(store):
    fleet = _Fleet({NAME: CONTENT, ROOT: MESSAGE})
    assert _taken(_path(store), fleet) == ([(NAME, CONTENT), (ROOT, MESSAGE)], [])
    assert fleet.asked == [NAME, ROOT]


def test_nothing_is_handed_on_of_a_run_that_is_over(store):
    """Its objects may still be in the file: the message that the partner would answer is never whole."""
    _fill(store)
    with pytest.raises(Gone):
        _taken(_path(store), _Fleet({}))
