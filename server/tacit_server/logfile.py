"""Log files of other processes, kept from growing without end."""

from __future__ import annotations

import os
from pathlib import Path

__all__ = ["last_lines", "open_log", "trim"]

_LARGEST = 10 * 2**20  # bytes
_KEPT = 5  # older files: NAME.1 is the newest of them
_TAIL = 16 * 2**10  # bytes in which the last lines are looked for


def open_log(path: Path) -> int:
    """A descriptor to hand to a process as its output; what an earlier process wrote is moved to `NAME.1`.

    The file is opened for appending, so that `trim` may empty it while the process writes.
    """
    path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
    if path.is_file() and path.stat().st_size:
        _shift(path)
        path.rename(_older(path, 1))
    return os.open(path, os.O_WRONLY | os.O_CREAT | os.O_APPEND | os.O_CLOEXEC, 0o600)


def trim(path: Path, *, largest: int = _LARGEST) -> None:
    """Where the file is larger than `largest` bytes, copy it to `NAME.1` and empty it.

    Lines that are written between the two are lost; the process that writes needs to know nothing of it.
    """
    if not path.is_file() or path.stat().st_size <= largest:
        return
    _shift(path)
    _older(path, 1).write_bytes(path.read_bytes())
    os.truncate(path, 0)


def last_lines(path: Path, *, lines: int) -> str:
    """The last `lines` lines that are not empty, or nothing where there is no such file."""
    try:
        with path.open("rb") as file:
            file.seek(max(0, path.stat().st_size - _TAIL))
            text = file.read().decode("utf-8", "replace")
    except OSError:
        return ""
    return "\n".join([line.rstrip() for line in text.splitlines() if line.strip()][-lines:])


def _shift(path: Path) -> None:
    """Every older file becomes one older; the oldest goes."""
    for number in range(_KEPT - 1, 0, -1):
        if _older(path, number).is_file():
            _older(path, number).replace(_older(path, number + 1))


def _older(path: Path, number: int) -> Path:
    return path.with_name(f"{path.name}.{number}")
