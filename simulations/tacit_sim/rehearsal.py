"""A real federation on one machine: real processes, real TLS, by the commands that operators and partners type.

Nothing here knows more than a person with a terminal; what the demonstration, the benchmarks and the tests of whole
federations see is what users see.
"""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from types import TracebackType
from typing import Self

from tacit.errors import JobFailed

__all__ = ["HOST", "Rehearsal", "free_port"]

HOST = "127.0.0.1"

_PATIENCE = 120.0  # seconds for a process to say that it is ready: a cold machine loads torch first
_LOOK = 0.05
_GRACE = 20.0  # seconds for a process to end after SIGTERM


class Rehearsal:
    """A server and partners in one folder: `server/`, and a folder for each partner.

    Used as a context, it ends every process that it started.

    Args:
        folder: made if missing.
        port: of the gateway; a free one where left out.
        tell: told every command, as it would be typed.
        settings: of every process, beside this one's environment.
    """

    def __init__(
        self,
        folder: Path,
        *,
        port: int | None = None,
        tell: Callable[[str], None] = lambda text: None,
        settings: Mapping[str, str] | None = None,
    ) -> None:
        self.folder, self.port, self._tell = folder, port or free_port(), tell
        self.server, self.logs = folder / "server", folder / "logs"
        self.processes: dict[str, subprocess.Popen[bytes]] = {}
        # The processes share this machine's cores: more threads each would only be in each other's way.
        self._environment = os.environ | {"OMP_NUM_THREADS": "1"} | dict(settings or {})
        self.logs.mkdir(parents=True, exist_ok=True)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.end()

    def init(self) -> None:
        """Make the server's folder."""
        self.run("tacit-server", "init", str(self.server), "--host", HOST, "--port", str(self.port))

    def up(self, *, settings: Mapping[str, str] | None = None) -> None:
        """Start the server, with `settings` of its own beside everybody's, and wait until it serves."""
        self.start("server", "tacit-server", "up", str(self.server), settings=settings)
        self.wait_for("server", "ready")

    def join(self, partner: str, *, data: Path, flags: Sequence[str] = ("--trust-new-peers",)) -> None:
        """Invite `partner`, and let it join."""
        invitation = self.folder / f"{partner}.invitation.toml"
        self.run("tacit-server", "invite", str(self.server), partner, "--out", str(invitation))
        place = str(self.folder / partner)
        self.run("tacit-client", "join", str(invitation), "--dir", place, "--data", str(data), *flags)

    def attend(self, partner: str, *, wait: bool = True, settings: Mapping[str, str] | None = None) -> None:
        """Start `partner`'s process, with `settings` of its own, and wait until it is connected."""
        self.start(partner, "tacit-client", "run", str(self.folder / partner), settings=settings)
        if wait:
            self.wait_for(partner, "connected to")

    def run(self, *words: str, show: Callable[[str], None] | None = None) -> str:
        """Run a command to its end. Returns what it printed, which `show` is told line by line meanwhile.

        Raises:
            JobFailed: another exit code than 0.
        """
        self._tell(f"$ {' '.join(words)}")
        said = ""
        with subprocess.Popen(
            _command(words), stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.PIPE,
            text=True, env=self._environment,
        ) as process:  # fmt: skip
            for line in process.stdout or ():
                said += line
                if show is not None:
                    show(line.rstrip("\n"))
            wrong = process.stderr.read() if process.stderr else ""
        if process.returncode != 0:
            raise JobFailed(f"expected {words[0]} {words[1]} to succeed, found {wrong.strip()}", hint="see its output")
        return said

    def start(self, name: str, *words: str, settings: Mapping[str, str] | None = None) -> None:
        """Start a command that runs until it is ended, with `settings` in its environment; its output goes to a log."""
        self._tell(f"$ {' '.join(words)} &")
        with self.log(name).open("ab") as log:
            self.processes[name] = subprocess.Popen(
                _command(words), stdin=subprocess.DEVNULL, stdout=log, stderr=log,
                env=self._environment | dict(settings or {}), start_new_session=True,
            )  # fmt: skip

    def log(self, name: str) -> Path:
        """Where the output of a started process goes."""
        return self.logs / f"{name}.log"

    def wait_for(self, name: str, words: str, *, times: int = 1, timeout: float = _PATIENCE) -> None:
        """Wait until a started process has said `words` so many times. Raises JobFailed."""
        deadline = time.monotonic() + timeout
        while (said := self.log(name).read_text(errors="replace")).count(words) < times:
            if time.monotonic() > deadline or self.processes[name].poll() is not None:
                raise JobFailed(f"expected {name} to say {words!r}, found {said[-500:].strip()!r}", hint="see its log")
            time.sleep(_LOOK)

    def kill(self, name: str, number: int = signal.SIGKILL) -> None:
        """Send a signal to a started process; after SIGKILL and SIGTERM wait until it is gone."""
        process = self.processes[name]
        with suppress(ProcessLookupError):
            process.send_signal(number)
        if number in (signal.SIGKILL, signal.SIGTERM):
            process.wait(_GRACE)

    def end(self) -> None:
        """End every process, partners first."""
        for name in sorted(self.processes, key=lambda name: name == "server"):
            with suppress(ProcessLookupError):
                self.processes[name].terminate()
        for process in self.processes.values():
            try:
                process.wait(_GRACE)
            except subprocess.TimeoutExpired:
                process.kill()
                process.wait()


def free_port() -> int:
    """A TCP port of the loopback interface that nobody uses now."""
    with socket.socket() as probe:
        probe.bind((HOST, 0))
        return int(probe.getsockname()[1])


def _command(words: Sequence[str]) -> list[str]:
    """`words` with the command of this installation in front."""
    return [str(Path(sys.executable).parent / words[0]), *words[1:]]
