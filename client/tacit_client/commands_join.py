"""Commands that make a partner and run it: join, run."""

from __future__ import annotations

import argparse
import os
import signal
import sys
import threading
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any

from tacit_client import log
from tacit_client.site import Folder

__all__ = ["add"]


def add(commands: Any, *, parents: Sequence[argparse.ArgumentParser]) -> None:
    """Add the commands to the parser's `commands`."""
    join = commands.add_parser("join", parents=parents, help="make keys and become a partner")
    join.add_argument("invitation", type=Path, metavar="INVITE", help="the file that the operator sent")
    join.add_argument("--dir", type=Path, required=True, help="the partner's folder, to be made")
    join.add_argument("--data", type=Path, metavar="PATH", help="the examples; can be filled in later in site.toml")
    join.add_argument("--trust-new-peers", action="store_true", help="accept every peer that the server names")
    join.set_defaults(act=_join)

    run = commands.add_parser("run", parents=parents, help="take part, until Ctrl-C or SIGTERM")
    run.add_argument("folder", type=Path, metavar="DIR", help="the partner's folder")
    run.set_defaults(act=_run)


def _join(args: argparse.Namespace) -> int:
    from tacit_client.join import join

    join(args.invitation, args.dir, data=args.data, trust_new_peers=args.trust_new_peers)
    return 0


def _run(args: argparse.Namespace) -> int:
    folder = Folder.open(args.folder)
    stop = _stop_on_signals()

    from tacit_client import node
    from tacit_client.office import Office

    log.start(folder.logs)
    with Office(folder) as office:
        print(f"{folder.config.name} computes on {office.device}", flush=True)
        node.run(folder, office, stop=stop)
    return 0


_STOPPING = b"stopping; an answer at hand is finished first (Ctrl-C again does not wait)\n"


def _stop_on_signals() -> threading.Event:
    """An event that SIGTERM and Ctrl-C set: the answer at hand is finished first. A second Ctrl-C does not wait."""
    stop = threading.Event()

    def note(number: int, frame: Any) -> None:
        if stop.is_set() and number == signal.SIGINT:
            raise KeyboardInterrupt
        if not stop.is_set():
            with suppress(OSError):
                os.write(sys.stderr.fileno(), _STOPPING)  # a signal may come in the middle of a print
        stop.set()

    if threading.current_thread() is threading.main_thread():
        signal.signal(signal.SIGTERM, note)
        signal.signal(signal.SIGINT, note)
    return stop
