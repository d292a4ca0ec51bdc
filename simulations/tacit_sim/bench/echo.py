"""Both ends of an echo, for the benchmark of the link: a ServerApp that asks, a partner's process that says it back.

`python -m tacit_sim.bench.echo DIR` is the partner: the real link and the real loop of `tacit-client run`, and in place
of the training a ClientApp that answers with what it was asked.
"""

from __future__ import annotations

import json
import sys
import threading
import time
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np
from flwr.app import ConfigRecord, Context, Message, RecordDict
from flwr.clientapp import ClientApp
from flwr.serverapp import Grid, ServerApp

from tacit.errors import JobFailed
from tacit.parcel import Parcel
from tacit_client.keys import Keys
from tacit_client.link import Link
from tacit_client.node import Node
from tacit_client.site import Folder
from tacit_server.changes import Changes
from tacit_server.transport import News, exchange
from tacit_sim.bench.processor import spent

__all__ = ["Order", "ask", "ask_as_flower_does", "client", "main", "server"]

_KIND = "query.echo"
_WAIT = 300.0  # seconds for partners to appear, and for one exchange


@dataclass(frozen=True)
class Order:
    """What the ServerApp measures, in its folder's `order.json`.

    Attributes:
        partners: how many are asked.
        length: bytes that each says back.
        warm: exchanges before those that count.
        times: exchanges that count.
        database: the SuperLink's, where answers are waited for as the rounds do; empty: in Flower's way.
        watched: process ids whose processor time is taken.
    """

    partners: int
    length: int
    warm: int
    times: int
    database: str
    watched: tuple[int, ...] = ()

    def write(self, folder: Path) -> None:
        """Leave it in `folder`."""
        (folder / "order.json").write_text(json.dumps(asdict(self)))

    @classmethod
    def read(cls, folder: Path) -> Order:
        """What `write` left in `folder`."""
        found = json.loads((folder / "order.json").read_text())
        return cls(**found | {"watched": tuple(found["watched"])})


client = ClientApp()


@client.query("echo")
def _echo(message: Message, context: Context) -> Message:
    return Message(message.content, reply_to=message)


server = ServerApp()


@server.main()
def _main(grid: Grid, context: Context) -> None:
    """Measure what the run's config asks for, and leave the seconds in a file."""
    folder = Path(str(context.run_config["folder"]))
    order = Order.read(folder)
    nodes = _nodes(grid, count=order.partners)
    news = Changes(Path(order.database)).replies if order.database else None
    for _ in range(order.warm):
        _ask(grid, nodes, length=order.length, news=news)
    before = spent(order.watched)
    seconds = [_ask(grid, nodes, length=order.length, news=news) for _ in range(order.times)]
    after = spent(order.watched)
    processor = {pid: (after[pid] - before[pid]) / order.times for pid in after}
    part = folder / "seconds.json.new"
    part.write_text(json.dumps({"seconds": seconds, "processor": processor}))
    part.replace(folder / "seconds.json")


def _ask(grid: Grid, nodes: list[int], *, length: int, news: News | None) -> float:
    if news is None:
        return ask_as_flower_does(grid, nodes, length=length)
    return ask(grid, nodes, length=length, news=news)


def ask(grid: Grid, nodes: list[int], *, length: int, news: News) -> float:
    """Seconds until every node has said back `length` bytes, as the rounds ask."""
    parcel = Parcel({"bytes": np.random.default_rng().integers(0, 256, length, dtype=np.uint8)}, {})
    started = time.perf_counter()
    answers = exchange(
        grid,
        dict.fromkeys(nodes, parcel),
        kind=_KIND,
        timeout=_WAIT,
        group="echo",
        stop=threading.Event(),
        news=news,
    )
    good = [answer for _, answer in answers if isinstance(answer, Parcel)]
    if len(good) != len(nodes):
        raise JobFailed(f"expected {len(nodes)} answers, found {len(good)}", hint="see the logs")
    return time.perf_counter() - started


def ask_as_flower_does(grid: Grid, nodes: list[int], *, length: int) -> float:
    """The same through Flower's own way to wait."""
    content = RecordDict({"bytes": ConfigRecord({"bytes": np.random.default_rng().bytes(length)})})
    started = time.perf_counter()
    answers = list(grid.send_and_receive([Message(content, node, _KIND) for node in nodes], timeout=_WAIT))
    if len([answer for answer in answers if not answer.has_error()]) != len(nodes):
        raise JobFailed(f"expected {len(nodes)} answers, found {len(answers)}", hint="see the logs")
    return time.perf_counter() - started


def _nodes(grid: Grid, *, count: int) -> list[int]:
    deadline = time.monotonic() + _WAIT
    while len(nodes := sorted(grid.get_node_ids())) < count:
        if time.monotonic() > deadline:
            raise JobFailed(f"expected {count} partners, found {len(nodes)}", hint="see the logs")
        time.sleep(0.1)
    return nodes[:count]


def main(argv: list[str]) -> int:
    """Be the partner of a folder that joined, until killed."""
    folder = Folder.open(Path(argv[0]))
    keys = Keys.open(folder.keys)
    link = Link(
        folder.config.server.address,
        keys.files,
        device="echo",
        welcome=lambda welcome: None,
        left=lambda reason: None,
        mark=lambda: b"",
        renew=lambda ask: False,
    )
    Node(link, client).serve(threading.Event())
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
