"""The partner's own log: plain words on stderr and in DIR/logs/client.log."""

from __future__ import annotations

import logging
import os
import sys
from io import TextIOWrapper
from logging.handlers import RotatingFileHandler
from pathlib import Path
from typing import Any

from tacit.errors import BadInput
from tacit.terminal import plain

__all__ = ["start"]

_LARGEST = 10 * 2**20  # bytes
_KEPT = 5  # older files
_OURS = ("tacit", "tacit_client")  # what Flower and grpc say is no news to a partner


class _Plain(logging.Formatter):
    """One line a message: the server chooses some of the words, and must not write lines of its own into the log."""

    def formatMessage(self, record: logging.LogRecord) -> str:  # noqa: N802  # logging calls it so
        record.message = plain(record.message)
        return super().formatMessage(record)

    def formatException(self, info: Any) -> str:  # noqa: N802  # logging calls it so
        """Indented, so that none of its lines looks like one of the log."""
        return "\n".join(f"    {plain(line)}" for line in super().formatException(info).splitlines())


class _Owned(RotatingFileHandler):
    """Every file of the rotation is open to its owner alone; logging itself asks for no mode."""

    _told = False

    def _open(self) -> TextIOWrapper:
        return open(self.baseFilename, "a", encoding="utf-8", opener=_private)

    def handleError(self, record: logging.LogRecord) -> None:  # noqa: N802  # logging calls it so
        """A disk that is full is said once, at the terminal, where the lines themselves still go."""
        error = sys.exception()
        if not isinstance(error, OSError):
            super().handleError(record)
        elif not self._told:
            self._told = True
            print(
                f"expected to write {self.baseFilename}, found: {error.strerror}; make room on the disk",
                file=sys.stderr,
                flush=True,
            )


def _private(path: str, flags: int) -> int:
    return os.open(path, flags | os.O_CLOEXEC, 0o600)


def start(directory: Path) -> None:
    """Write what `tacit` and `tacit_client` log to stderr and to client.log in `directory`, mode 0600, rotated.

    Raises:
        BadInput: the file can not be written.
    """
    path = directory / "client.log"
    try:
        directory.mkdir(mode=0o700, exist_ok=True)
        file = _Owned(path, maxBytes=_LARGEST, backupCount=_KEPT)
    except OSError as error:
        raise BadInput(
            f"expected a log that can be written at {path}, found {error.strerror}", hint="mend the folder's rights"
        ) from None
    form = _Plain("%(asctime)s %(levelname)s %(message)s")
    handlers: list[logging.Handler] = [logging.StreamHandler(), file]
    for handler in handlers:
        handler.setFormatter(form)
    for name in _OURS:
        logger = logging.getLogger(name)
        for old in logger.handlers[:]:
            logger.removeHandler(old)
            old.close()
        logger.setLevel(logging.INFO)
        logger.propagate = False
        for handler in handlers:
            logger.addHandler(handler)
