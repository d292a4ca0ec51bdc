"""Flower's grid with a shortcut: the objects of answers are read beside the SuperLink.

An answer in one small record is three objects, and each costs the SuperLink some milliseconds of a core when it is
asked for; a step of a block has six answers and more. Everything else goes Flower's own way (1.41); the name that it
does not promise is pinned by tests/server/test_shortcut.py.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

from flwr.proto.message_pb2 import PullObjectRequest, PullObjectResponse
from flwr.serverapp import Grid
from flwr.superlink.grid.http_grid import HttpGrid

from tacit_server.objects import Objects

__all__ = ["shorten"]

Pull = Callable[[PullObjectRequest], PullObjectResponse]


def shorten(grid: Grid, database: Path) -> None:
    """Let `grid` read what it pulls from the SuperLink's `database`, and ask only for what is not there.

    Grids that are not Flower's own over HTTP stay as they are.
    """
    if isinstance(grid, HttpGrid):
        client = grid._runtime_client  # made at the first use, and then kept
        client.__dict__["PullObject"] = _beside(client.PullObject, database)


def _beside(ask: Pull, database: Path) -> Pull:
    def pull(request: PullObjectRequest) -> PullObjectResponse:
        with Objects(database) as near:  # pulls come from several threads
            content = near.read(request.object_id)
        if content:
            return PullObjectResponse(object_found=True, object_available=True, object_content=content)
        return ask(request)

    return pull
