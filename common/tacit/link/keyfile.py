"""Files that only their owner reads, replaced at once or not at all."""

from __future__ import annotations

import os
import stat
import tempfile
from pathlib import Path

from tacit.errors import BadInput
from tacit.secagg.constants import KEY
from tacit.secagg.keys import Secret

__all__ = ["check_mode", "make_folder", "read", "read_key", "reserve", "write"]

_OTHERS = 0o077  # what group and others may do


def make_folder(path: Path) -> None:
    """Make the folder `path`, mode 0700, or take one that has it. Raises BadInput where it can not be written."""
    try:
        path.mkdir(mode=0o700, exist_ok=True)
    except OSError as error:
        raise _unwritable(path, error) from None
    check_mode(path)


def write(path: Path, content: bytes) -> None:
    """Put `content` at `path`, mode 0600, synced to disk. Raises BadInput where it can not be written.

    Guarantee: whoever else may look into the folder can open neither the file nor what it is made from, and a
    crash leaves what was there before, or `content`, whole.
    """
    try:
        handle, name = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.")  # mode 0600 from its first moment
        try:
            with os.fdopen(handle, "wb") as file:
                file.write(content)
                file.flush()
                os.fsync(file.fileno())
            Path(name).replace(path)
        finally:
            Path(name).unlink(missing_ok=True)
        _sync(path.parent)
    except OSError as error:
        raise _unwritable(path, error) from None


def read(path: Path) -> Secret:
    """What `write` put at `path`.

    Raises:
        BadInput: no such file, it can not be read, or others than its owner may.
    """
    check_mode(path)
    try:
        return Secret(path.read_bytes())
    except OSError as error:
        raise _unreadable(path, error) from None


def read_key(path: Path) -> Secret:
    """The 32 bytes that `write` put at `path`. Raises BadInput as `read`, and for another length."""
    found = read(path)
    if len(found) != KEY:
        raise BadInput(f"expected {KEY} bytes in {path}, found {len(found)}", hint="restore the file from a backup")
    return found


def reserve(path: Path) -> None:
    """Make an empty file at `path`, mode 0600, where there is none, for a library that would ask for none of it.

    Raises:
        BadInput: it can not be written.
    """
    try:
        os.close(os.open(path, os.O_WRONLY | os.O_CREAT | os.O_CLOEXEC, 0o600))
    except OSError as error:
        raise _unwritable(path, error) from None


def check_mode(path: Path) -> None:
    """Raises BadInput where `path` is missing, or open to others than its owner."""
    try:
        mode = stat.S_IMODE(path.stat().st_mode)
    except OSError as error:
        raise _unreadable(path, error) from None
    if mode & _OTHERS:
        usual = 0o700 if path.is_dir() else 0o600
        raise BadInput(
            f"expected {path} to be open to its owner alone, found mode {mode:04o}", hint=f"run chmod {usual:o} {path}"
        )


def _sync(folder: Path) -> None:
    """A rename is on disk once its folder is."""
    handle = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


def _unwritable(path: Path, error: OSError) -> BadInput:
    return BadInput(
        f"expected to write {path}, found {error.strerror}", hint="check the folder's rights and the disk's free space"
    )


def _unreadable(path: Path, error: OSError) -> BadInput:
    return BadInput(f"expected to read {path}, found {error.strerror}", hint="restore it from a backup")
