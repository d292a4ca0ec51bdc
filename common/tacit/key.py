"""The key file of sealed files: 32 secret bytes that one user alone can read."""

from __future__ import annotations

import os
import stat
import tempfile
from dataclasses import dataclass
from pathlib import Path

from tacit.errors import BadInput

__all__ = ["KEY_BYTES", "Key", "make_key", "read_key"]

KEY_BYTES = 32

_RESTORE = "restore it from a backup"


@dataclass(frozen=True, repr=False)
class Key:
    """A master key: 32 secret bytes. Its repr shows none of them."""

    secret: bytes

    def __post_init__(self) -> None:
        if len(self.secret) != KEY_BYTES:
            raise BadInput(f"expected a key of {KEY_BYTES} bytes, found {len(self.secret)}", hint=_RESTORE)

    def __repr__(self) -> str:
        return "Key(<secret>)"


def make_key(path: Path) -> Key:
    """A fresh key, kept at `path` with mode 0600.

    Guarantee: there is a whole key at `path` or nothing, and never in place of another.

    Raises:
        BadInput: something stands at `path`, or nothing can be written there.
    """
    key = Key(os.urandom(KEY_BYTES))
    try:
        handle, temporary = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.")  # with mode 0600
        try:
            with open(handle, "wb") as file:
                file.write(key.secret)
                file.flush()
                os.fsync(file.fileno())
            os.link(temporary, path)  # unlike a rename it fails where something is
        finally:
            os.unlink(temporary)
    except FileExistsError:
        raise BadInput(
            f"expected no key at {path}, found one", hint="keep it: what it has sealed opens with nothing else"
        ) from None
    except OSError as error:
        raise BadInput(
            f"expected a place for a key at {path}, found: {error.strerror}", hint="make the folder writable"
        ) from None
    return key


def read_key(path: Path) -> Key:
    """The key at `path`.

    Guarantee: a key that others than its owner may read or change is refused.

    Raises:
        BadInput: no key, one of another length, or one that is open to others.
    """
    try:
        with path.open("rb") as file:
            mode = os.fstat(file.fileno()).st_mode
            secret = file.read(KEY_BYTES + 1)
    except OSError as error:
        raise BadInput(f"expected a key at {path}, found: {error.strerror}", hint=_RESTORE) from None
    if stat.S_IMODE(mode) & 0o077:
        raise BadInput(
            f"expected a key that its owner alone can read, found mode {stat.S_IMODE(mode):04o} at {path}",
            hint=f"run chmod 600 {path}, and ask who may have read it",
        )
    if len(secret) != KEY_BYTES:
        raise BadInput(f"expected a key of {KEY_BYTES} bytes, found another length at {path}", hint=_RESTORE)
    return Key(secret)
