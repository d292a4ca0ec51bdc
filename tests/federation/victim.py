"""A partner's office in a process of its own, which answers until it is killed, and everything that leaves it."""

from __future__ import annotations

import multiprocessing
import os
import threading
import time
from contextlib import suppress
from multiprocessing import forkserver
from multiprocessing.connection import Connection
from pathlib import Path
from types import TracebackType
from typing import NamedTuple, Self

import torch
from flwr.app import Message

from tacit.link.records import to_parcel, to_records
from tacit.parcel import Parcel
from tacit_client.office import Office
from tacit_client.site import Folder
from tacit_sim.grid import InlineGrid

__all__ = ["Left", "Victim", "forget", "prepare"]

_OPEN = "open"
_LOOK = 0.0005  # seconds between two looks at the ledger
_context = multiprocessing.get_context("forkserver")  # torch is loaded once; a fork of it is there at once
_context.set_forkserver_preload(["torch", "flwr.clientapp", "tacit_client.office", "tacit_sim.grid"])


class Left(NamedTuple):
    """An answer, and what of it was asked for; 0 where a stage does not say."""

    kind: str
    round: int
    attempt: int


class Victim:
    """The process of the partner at `folder`, from its birth to its end.

    Attributes:
        left: the answers that left the process, also those of which only a part did.
        opened: when its office was open, seconds of a clock that only goes up; None before.
        exitcode: after its end.
    """

    def __init__(self, folder: Path) -> None:
        asked, self._requests = _context.Pipe(duplex=False)
        self._replies, told = _context.Pipe(duplex=False)
        self._ledger = Folder.open(folder).ledger
        self.left: list[Left] = []
        self.opened: float | None = None
        self.exitcode: int | None = None
        self._process = _context.Process(target=_serve, args=(folder, asked, told), daemon=True)
        self._process.start()
        asked.close()
        told.close()

    def __enter__(self) -> Self:
        return self

    def wait(self) -> bool:
        """Until the office is open. Returns whether it was before the end."""
        with suppress(EOFError):
            if (said := self._replies.recv()) != _OPEN:
                raise RuntimeError(said)
            self.opened = time.monotonic()
        return self.opened is not None

    def ask(self, kind: str, parcel: Parcel) -> Parcel | None:
        """The answer; None where the process came to its end instead."""
        number, attempt = (parcel.scalars.get(key) for key in ("round", "attempt"))
        answer = Left(kind, number if isinstance(number, int) else 0, attempt if isinstance(attempt, int) else 0)
        try:
            self._requests.send((kind, parcel))
            found = self._replies.recv()
        except (EOFError, BrokenPipeError):
            return None
        except OSError:  # in the middle of an answer
            self.left.append(answer)
            return None
        if not isinstance(found, Parcel):
            raise TypeError(str(found))
        self.left.append(answer)
        return found

    def kill_in(self, seconds: float) -> None:
        """Kill it so many seconds from now."""
        timer = threading.Timer(seconds, self._process.kill)
        timer.daemon = True
        timer.start()

    def kill_after_row(self, seconds: float) -> None:
        """Kill it so many seconds after the next row that it writes to its ledger."""
        before = self._written()

        def look() -> None:
            while self._written() == before and self._process.is_alive():
                time.sleep(_LOOK)
            time.sleep(seconds)
            self._process.kill()

        threading.Thread(target=look, daemon=True).start()

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Wait for its end; make one where something else went wrong."""
        if error is not None:
            self._process.kill()
        self._process.join(60)
        self.exitcode = self._process.exitcode
        self._requests.close()
        self._replies.close()

    def _written(self) -> int:
        """When a row was last written; rows go to the file beside the ledger first."""
        try:
            return os.stat(f"{self._ledger}-wal").st_mtime_ns
        except FileNotFoundError:
            return 0


def prepare() -> None:
    """Load what victims are forked with, so that the first of them is no slower than the others."""
    first = _context.Process(target=_nothing)
    first.start()
    first.join()


def forget() -> None:
    """End the process that victims are forked from."""
    forkserver._forkserver._stop()  # it would hold torch in memory until the last test of all


def _nothing() -> None:
    pass


def _serve(folder: Path, requests: Connection, replies: Connection) -> None:
    torch.set_num_threads(1)
    with Office(Folder.open(folder)) as office:
        grid = InlineGrid(office.app(), partners=1)
        replies.send(_OPEN)
        while True:
            kind, parcel = requests.recv()
            (reply,) = grid.send_and_receive([Message(to_records(parcel), 1, kind, group_id="1.1.x")])
            office.mark()  # as it goes with every answer
            replies.send(str(reply.error) if reply.has_error() else to_parcel(reply.content))
