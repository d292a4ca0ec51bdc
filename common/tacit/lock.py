"""One process at a time: a lock on a file, which the system lets go of when its holder ends, however it ends."""

from __future__ import annotations

import fcntl
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from tacit.errors import BadInput

__all__ = ["holder", "take"]

_PID = 32  # bytes, more than the digits of any process id


@contextmanager
def take(path: Path, *, what: str) -> Iterator[None]:
    """Hold the lock at `path` while the body runs.

    The file stays afterwards, empty: a lock file that is removed could be locked by two at once. A process that the
    body forks and leaves behind holds the lock too; one that it starts anew does not.

    Args:
        path: made if missing, mode 0600; its folder must exist. Not on a network drive without locks.
        what: what only one process may do, such as `tacit-client run /srv/tacit`; for the message.

    Raises:
        BadInput: another process, which the message names, holds the lock, or the file can not be written.

    Guarantee: no two bodies run at the same time, in one process or in several.
    """
    try:
        handle = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    except OSError as error:
        raise BadInput(
            f"expected a lock file that can be written at {path}, found {error.strerror}",
            hint="give this user the right to write in that folder",
        ) from None
    try:
        _lock(handle, path=path, what=what)
        yield
        os.ftruncate(handle, 0)
    finally:
        os.close(handle)  # and with it the lock


def holder(path: Path) -> str | None:
    """Who holds the lock at `path`: a process id, `unknown` where that is not said yet, or None where nobody does.

    Makes and changes no file. It looks by holding a shared lock for a moment: a `take` in that moment is refused.

    Raises:
        BadInput: the file can not be read.
    """
    try:
        handle = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    except FileNotFoundError:
        return None
    except OSError as error:
        raise BadInput(
            f"expected to read the lock file {path}, found {error.strerror}", hint="mend the file's rights"
        ) from None
    try:
        fcntl.flock(handle, fcntl.LOCK_SH | fcntl.LOCK_NB)
    except BlockingIOError:
        return _holder(handle)
    finally:
        os.close(handle)
    return None


def _lock(handle: int, *, path: Path, what: str) -> None:
    try:
        fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        raise BadInput(
            f"expected no other process at {what}, found process {_holder(handle)} that holds {path}",
            hint="stop that process, or leave the work to it",
        ) from None
    except OSError as error:
        raise BadInput(
            f"expected a disk that can lock files, found {error.strerror} at {path}",
            hint="move the folder to a local disk",
        ) from None
    try:
        os.ftruncate(handle, 0)
        os.pwrite(handle, f"{os.getpid()}\n".encode(), 0)
    except OSError as error:
        raise BadInput(
            f"expected a lock file that can be written at {path}, found {error.strerror}",
            hint="make room on the disk",
        ) from None


def _holder(handle: int) -> str:
    """The process id in the file; the holder may not have written it yet."""
    found = os.pread(handle, _PID, 0).decode("ascii", "replace").strip()
    return found if found.isdigit() else "unknown"
