"""Flower's SuperLink on the loopback interface, and what an earlier one may have left behind."""

from __future__ import annotations

import json
import os
import signal
import socket
import subprocess
import sys
import time
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

from tacit_server.checkpoint import write_atomic
from tacit_server.child import environment, launch
from tacit_server.folder import Folder

__all__ = ["HOST", "Place", "clear", "note", "place", "remains", "start"]

HOST = "127.0.0.1"  # Flower's APIs have no authentication that would bear any other

_PATIENCE = 5.0  # seconds for what an earlier SuperLink left to end by itself
_BLIND = 2.0  # seconds to wait where this system shows no processes


@dataclass(frozen=True)
class Place:
    """Where a SuperLink listens, and its process id: what `state/superlink.json` holds."""

    port: int
    pid: int


def start(folder: Folder) -> tuple[subprocess.Popen[bytes], int]:
    """Start a SuperLink for `folder`, once nothing of an earlier one is left. Returns its process and port."""
    clear(folder)
    earlier = place(folder)
    port = _port(earlier.port if earlier else 0)
    folder.flower.mkdir(mode=0o700, parents=True, exist_ok=True)
    command = [sys.executable, "-m", "tacit_server.superlink_child", "--insecure", "--host", HOST, "--port", str(port)]
    command += ["--database", str(folder.flower_db), "--isolation", "subprocess"]
    command += ["--disable-runtime-dependency-installation"]
    env = environment(Path(sys.executable), home=folder.flower)
    return launch(command, log=folder.logs / "superlink.log", env=env), port


def note(folder: Folder, found: Place) -> None:
    """Write where the SuperLink answers, for the gateway and for the one who starts the next."""
    write_atomic(folder.superlink, json.dumps(vars(found)).encode(), durable=False)


def place(folder: Folder) -> Place | None:
    """Where the SuperLink was last, or None."""
    try:
        found = json.loads((folder.superlink).read_bytes())
        return Place(port=int(found["port"]), pid=int(found["pid"]))
    except (OSError, ValueError, KeyError, TypeError):
        return None


def clear(folder: Folder) -> None:
    """Wait until nothing of an earlier SuperLink of this folder runs; after some seconds end what is left.

    Flower's helpers watch their parent and end by themselves within a second; a helper that hangs would hold on to
    runs that a new SuperLink starts again.
    """
    if not Path("/proc/self/cmdline").is_file():
        if place(folder) is not None:
            time.sleep(_BLIND)
        return
    for pid in _left(folder, seconds=_PATIENCE):
        with suppress(ProcessLookupError):
            os.kill(pid, signal.SIGKILL)
    _left(folder, seconds=_PATIENCE)  # the system takes a moment over a large one


def _left(folder: Folder, *, seconds: float) -> list[int]:
    """What is there still after at most so many seconds."""
    deadline = time.monotonic() + seconds
    while (left := remains(folder)) and time.monotonic() < deadline:
        time.sleep(0.05)
    return left


def remains(folder: Folder) -> list[int]:
    """Process ids of a SuperLink of this folder and of its helpers, from /proc.

    A SuperLink is known by its database, its SuperExec by the SuperLink's process id, a ServerApp by the SuperExec's
    or, where that is gone, by the lock of a run.
    """
    commands, earlier = _commands(), place(folder)
    links = {pid for pid, words in commands.items() if "--database" in words and str(folder.flower_db) in words}
    parents = {str(pid) for pid in links | ({earlier.pid} if earlier else set())}
    execs = {pid for pid, words in commands.items() if _is("flower-superexec", words) and _parent(words) in parents}
    apps = {pid for pid, words in commands.items() if _is("flwr-serverapp", words)}
    parents = {str(pid) for pid in execs}
    held = {pid for pid in apps if _parent(commands[pid]) in parents} | (apps & _holders(folder))
    return sorted(links | execs | held)


def _commands() -> dict[int, list[str]]:
    found = {}
    for entry in Path("/proc").iterdir():
        if entry.name.isdecimal():
            with suppress(OSError):  # it ended meanwhile
                if entry.stat().st_uid == os.geteuid():  # another user may call a process whatever they like
                    found[int(entry.name)] = (entry / "cmdline").read_bytes().decode("utf-8", "replace").split("\0")
    return found


def _is(program: str, words: list[str]) -> bool:
    """Whether this is Flower's `program`, which the interpreter runs as a script."""
    return any(Path(word).name == program for word in words[:2])


def _parent(words: list[str]) -> str | None:
    return words[words.index("--parent-pid") + 1] if "--parent-pid" in words[:-1] else None


def _holders(folder: Folder) -> set[int]:
    """Process ids in the locks of runs; one that ended may have been given to another program since."""
    found = set()
    for lock in folder.runs.glob("*/lock"):
        with suppress(OSError, ValueError):
            found.add(int(lock.read_text(encoding="ascii")))
    return found


def _port(wanted: int) -> int:
    """`wanted` where it is free, so that nobody has to look for another; else any."""
    for port in (wanted, 0):
        with socket.socket() as probe, suppress(OSError):
            probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            probe.bind((HOST, port))
            return int(probe.getsockname()[1])
    raise OSError(f"no free port on {HOST}")
