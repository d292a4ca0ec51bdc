"""A process that the supervisor keeps alive: started, watched, started again, with a pause that grows."""

from __future__ import annotations

import os
import signal
import subprocess
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from pathlib import Path

from tacit_server.logfile import open_log, trim
from tacit_server.neighbours import forget_proxies

__all__ = ["Child", "environment", "launch"]

_FIRST_PAUSE = 0.2  # seconds before the first new start; doubles
_LONGEST_PAUSE = 10.0
_LONG_LIFE = 60.0  # seconds after which a process counts as well again
_GRACE = 5.0  # seconds to end in an orderly way


class Child:
    """One process by name.

    Args:
        name: as the terminal calls it.
        start: starts it.
        log: where its output goes; kept short.
        tell: told in one line when it ended and is started again.
        clock: seconds.
    """

    def __init__(
        self,
        name: str,
        start: Callable[[], subprocess.Popen[bytes]],
        *,
        log: Path,
        tell: Callable[[str], None],
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._name, self._start, self._log, self._tell, self._clock = name, start, log, tell, clock
        self._process: subprocess.Popen[bytes] | None = None
        self._pause, self._born, self._due = _FIRST_PAUSE, 0.0, 0.0

    @property
    def pid(self) -> int | None:
        """Of the living process, or None."""
        return self._process.pid if self._process else None

    def tend(self) -> bool:
        """Start the process where it is due. Returns whether this call started it."""
        trim(self._log)
        if self._process is not None and (code := self._process.poll()) is not None:
            self._process = None
            self._note_end(code)
        if self._process is not None or self._clock() < self._due:
            return False
        self._process, self._born = self._start(), self._clock()
        return True

    def kill(self) -> None:
        """End it at once; the next `tend` notices."""
        if self._process is not None:
            _signal(self._process, signal.SIGKILL)

    def end(self) -> None:
        """Ask it to end, and make it end after some seconds."""
        if self._process is None:
            return
        _signal(self._process, signal.SIGTERM)
        try:
            self._process.wait(_GRACE)
        except subprocess.TimeoutExpired:
            _signal(self._process, signal.SIGKILL)
            self._process.wait()
        self._process = None

    def _note_end(self, code: int) -> None:
        lived = self._clock() - self._born
        self._pause = _FIRST_PAUSE if lived >= _LONG_LIFE else self._pause
        self._due = self._clock() + self._pause
        how = f"signal {-code}" if code < 0 else f"exit {code}"
        self._tell(f"{self._name} ended ({how}) after {lived:.0f} s; new start in {self._pause:g} s, see {self._log}")
        self._pause = min(2 * self._pause, _LONGEST_PAUSE)


def launch(command: Sequence[str], *, log: Path, env: Mapping[str, str]) -> subprocess.Popen[bytes]:
    """Start `command` in a group of its own, its output in `log`, and its standard input open as long as we live."""
    output = open_log(log)
    try:
        return subprocess.Popen(
            command, stdin=subprocess.PIPE, stdout=output, stderr=output, env=env, start_new_session=True
        )
    finally:
        os.close(output)


def environment(python: Path, *, home: Path) -> dict[str, str]:
    """Ours, with what every process that loads Flower needs: its programs on PATH, its home, silence and no proxy.

    Args:
        python: the interpreter; Flower starts its helpers by bare name from the same folder.
        home: Flower's folder.
    """
    forget_proxies()
    return {
        **os.environ,
        "PATH": os.pathsep.join([str(python.parent), os.environ.get("PATH", os.defpath)]),
        "FLWR_HOME": str(home),
        "FLWR_TELEMETRY_ENABLED": "0",
        "FLWR_DISABLE_UPDATE_CHECK": "1",
        "FLWR_SUPEREXEC_TASK_POLL_INTERVAL": "1.0",  # seconds: the start of a run waits for it
        "OMP_NUM_THREADS": os.environ.get("OMP_NUM_THREADS", "1"),
        "PYTHONUNBUFFERED": "1",
    }


def _signal(process: subprocess.Popen[bytes], number: int) -> None:
    with suppress(ProcessLookupError):
        os.killpg(process.pid, number)
