"""The supervisor, `tacit-server up`: keeps the SuperLink and the gateway alive, and starts and stops runs."""

from __future__ import annotations

import logging
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from logging.handlers import RotatingFileHandler
from pathlib import Path
from typing import Any

from tacit.errors import BadInput, JobFailed
from tacit.lock import take
from tacit_server import superlink
from tacit_server.child import Child, environment, launch
from tacit_server.config import ServerConfig
from tacit_server.dispatch import Dispatcher
from tacit_server.folder import Folder
from tacit_server.submit import Control
from tacit_server.superlink import Place

__all__ = ["Supervisor", "up"]

_log = logging.getLogger(__name__)

_STEP = 0.3  # seconds between two looks at everything
_DEAF = 60.0  # seconds after which a SuperLink that does not answer is started anew
_KNOCK = 1.0  # seconds to connect to the gateway's port
_LOG_BYTES, _LOG_FILES = 10 * 2**20, 5


def up(path: Path, *, gateway: Sequence[str] | None = None, show: Callable[[str], None] = print) -> None:
    """Serve the folder at `path` until SIGTERM or SIGINT.

    Args:
        path: the server's folder.
        gateway: another command for the gateway; the folder is added.
        show: takes lines for the terminal.

    Raises:
        BadInput: no server's folder, or one that is served already; the message names the process.
    """
    folder = Folder.open(path)
    for place in (folder.state, folder.logs, folder.runs):
        place.mkdir(mode=0o700, exist_ok=True)
        place.chmod(0o700)  # the messages of partners pass through here
    with (
        take(folder.up_lock, what=f"tacit-server up {folder.path}"),
        _log_to(folder.logs / "up.log"),
        _stopped() as stop,
    ):

        def tell(text: str) -> None:
            _log.info("%s", text)
            show(text)

        settings = folder.config
        tell(f"address   {settings.address}, listening on {settings.listen} port {settings.port}")
        tell(f"logs      {folder.logs}")
        supervisor = Supervisor(folder, gateway or [sys.executable, "-m", "tacit_server.gateway"], tell)
        try:
            while not stop.is_set():
                supervisor.step()
                stop.wait(_STEP)
        finally:
            supervisor.end()
        tell("stopped")


class Supervisor:
    """What is kept alive for one folder."""

    def __init__(self, folder: Folder, gateway: Sequence[str], tell: Callable[[str], None]) -> None:
        self._folder, self._tell = folder, tell
        self._command = [*gateway, str(folder.path)]
        self._port, self._since = 0, 0.0
        self._control: Control | None = None  # while the SuperLink answers
        self._begun = False  # once a SuperLink has answered: before, a gateway had nobody to speak to
        self._ready = False  # once partners can reach the gateway
        self._silent = ""
        self._superlink = Child("SuperLink", self._start, log=folder.logs / "superlink.log", tell=self._lost)
        self._gateway = Child("gateway", self._start_gateway, log=folder.logs / "gateway.log", tell=tell)
        self._dispatcher = Dispatcher(folder.runs, tell=tell)

    def step(self) -> None:
        """Look at everything once."""
        if self._superlink.tend():
            self._since = time.monotonic()
        if self._control is None:
            self._listen()
        if self._begun:
            self._gateway.tend()
        if not self._ready and self._gateway.pid is not None and _open(self._folder.config):
            self._ready = True
            self._tell("ready")
        if self._control is not None:
            self._dispatch(self._control)

    def end(self) -> None:
        """End both: first the one that the network sees."""
        self._gateway.end()
        self._superlink.end()
        superlink.clear(self._folder)

    def _start(self) -> subprocess.Popen[bytes]:
        process, self._port = superlink.start(self._folder)
        return process

    def _start_gateway(self) -> subprocess.Popen[bytes]:
        env = environment(Path(sys.executable), home=self._folder.flower)
        return launch(self._command, log=self._folder.logs / "gateway.log", env=env)

    def _lost(self, text: str) -> None:
        if self._control is not None:
            self._control.close()
            self._control = None
        self._tell(text)

    def _listen(self) -> None:
        """See whether a new SuperLink answers yet, and note where it is once it does."""
        pid = self._superlink.pid
        if pid is None:
            return
        control = Control(self._port)
        try:
            self._dispatcher.begin(control)
        except JobFailed:
            control.close()
            self._hurry()
            return
        superlink.note(self._folder, Place(port=self._port, pid=pid))
        self._control = control
        self._begun = True

    def _hurry(self) -> None:
        if time.monotonic() - self._since > _DEAF:
            self._since = time.monotonic()
            self._tell(f"SuperLink did not answer within {_DEAF:g} s; ending it")
            self._superlink.kill()

    def _dispatch(self, control: Control) -> None:
        try:
            self._dispatcher.tend(control)
            self._silent = ""
        except (BadInput, JobFailed) as error:  # one that lasts is told once
            if error.message != self._silent:
                self._silent = error.message
                self._tell(f"runs wait: {error.message}")


def _open(config: ServerConfig) -> bool:
    """Whether somebody listens on the gateway's port."""
    host = {"0.0.0.0": "127.0.0.1", "::": "::1"}.get(config.listen, config.listen)
    try:
        socket.create_connection((host, config.port), timeout=_KNOCK).close()
    except OSError:
        return False
    return True


@contextmanager
def _stopped() -> Iterator[threading.Event]:
    """An event that SIGTERM and SIGINT set."""
    event = threading.Event()

    def note(number: int, frame: Any) -> None:
        event.set()

    with ExitStack() as handlers:
        if threading.current_thread() is threading.main_thread():
            for number in (signal.SIGTERM, signal.SIGINT):
                handlers.callback(signal.signal, number, signal.signal(number, note))
        yield event


@contextmanager
def _log_to(path: Path) -> Iterator[None]:
    handler = RotatingFileHandler(path, maxBytes=_LOG_BYTES, backupCount=_LOG_FILES, encoding="utf-8")
    handler.setFormatter(logging.Formatter("%(asctime)s %(levelname)s %(message)s"))
    _log.addHandler(handler)
    _log.setLevel(logging.INFO)
    _log.propagate = False
    try:
        yield
    finally:
        _log.removeHandler(handler)
        handler.close()
