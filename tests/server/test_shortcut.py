"""Flower's grid that reads objects beside the SuperLink: what it relies on in Flower 1.41, and when it asks."""

from __future__ import annotations

import pytest
from flwr.proto.message_pb2 import ObjectTree, PullObjectRequest, PullObjectResponse
from flwr.proto.node_pb2 import Node
from flwr.supercore.inflatable.inflatable_object import get_object_id
from flwr.supercore.inflatable.inflatable_protobuf_utils import make_pull_object_fn_protobuf
from flwr.supercore.object_store.sql_object_store import SqlObjectStore
from flwr.supercore.runtime import RuntimeHttpClient
from flwr.superlink.grid.http_grid import HttpGrid

from tacit_server.shortcut import shorten
from tacit_sim.grid import InlineGrid

CONTENT = b"ArrayChunk  3\x00abc"
NAME = get_object_id(CONTENT)


@pytest.fixture
def asked(monkeypatch) -> list[str]:
    """The names that Flower's client was asked for; it answers each with another content."""
    names: list[str] = []

    def pull(self: RuntimeHttpClient, request: PullObjectRequest) -> PullObjectResponse:
        names.append(request.object_id)
        return PullObjectResponse(object_found=True, object_available=True, object_content=b"asked")

    monkeypatch.setattr(RuntimeHttpClient, "PullObject", pull)
    return names


def _pulled(grid: HttpGrid, name: str) -> bytes:
    """As `HttpGrid.pull_messages` does it."""
    pull = make_pull_object_fn_protobuf(pull_object_protobuf=grid._runtime_client.PullObject, node=Node(), run_id=1)
    return pull(name)


def test_what_is_there_is_read_and_what_is_not_is_asked_for(tmp_path, asked):
    store = SqlObjectStore(str(tmp_path / "flower.db"))
    store.initialize()
    store.preregister(1, ObjectTree(object_id=NAME))
    grid, other = HttpGrid(token="t"), HttpGrid(token="t")
    shorten(grid, tmp_path / "flower.db")
    assert _pulled(grid, NAME) == b"asked"  # announced, and not there yet
    store.put(NAME, CONTENT)
    assert _pulled(grid, NAME) == CONTENT
    assert asked == [NAME]
    assert _pulled(other, NAME) == b"asked"  # no other grid has it


def test_without_a_database_everything_is_asked_for(tmp_path, asked):
    grid = HttpGrid(token="t")
    shorten(grid, tmp_path / "none.db")
    assert _pulled(grid, NAME) == b"asked"
    assert asked == [NAME]
    assert not (tmp_path / "none.db").exists()


def test_flower_pulls_by_the_name_that_is_replaced(tmp_path, monkeypatch):
    """`pull_messages` takes the method from the client each time."""
    grid = HttpGrid(token="t")
    shorten(grid, tmp_path / "none.db")
    taken = []
    monkeypatch.setattr(
        "flwr.superlink.grid.http_grid.make_pull_object_fn_protobuf",
        lambda *, pull_object_protobuf, **rest: taken.append(pull_object_protobuf),
    )
    monkeypatch.setattr("flwr.superlink.grid.http_grid.pull_objects", lambda **rest: {})
    found = type("Found", (), {"messages_list": [_Reply()], "message_object_trees": [ObjectTree(object_id=NAME)]})
    client = grid._runtime_client
    client.__dict__["PullMessages"] = lambda request: found
    grid._run = type("Run", (), {"run_id": 1})()
    client.__dict__["ConfirmMessageReceived"] = lambda request: None
    with pytest.raises(KeyError):  # there is nothing to put together
        grid.pull_messages(["1"])
    assert taken == [client.__dict__["PullObject"]]


class _Reply:
    metadata = type("Metadata", (), {"message_id": "1", "reply_to_message_id": "1"})


def test_other_grids_stay_as_they_are(tmp_path):
    shorten(InlineGrid.__new__(InlineGrid), tmp_path / "none.db")
