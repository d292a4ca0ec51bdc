"""Private keys that lie sealed on the disk and are opened in memory alone.

`tacit-client seal DIR/keys/identity.key --passphrase --remove` leaves `identity.key.sealed`; whoever starts the partner
gives the passphrase at the terminal, or in the file that the variable TACIT_PASSPHRASE_FILE names.
"""

from __future__ import annotations

import os
import sys
from functools import lru_cache
from pathlib import Path

from tacit.errors import BadInput
from tacit.link import keyfile
from tacit.passphrase import Passphrase, ask_passphrase, read_passphrase
from tacit.seal import FILE, SUFFIX, unseal
from tacit.secagg.constants import KEY
from tacit.secagg.keys import Secret

__all__ = ["VARIABLE", "is_there", "read", "read_key"]

VARIABLE = "TACIT_PASSPHRASE_FILE"
"""Names a file with the passphrase in one line, mode 0600."""


def is_there(path: Path) -> bool:
    """Whether there is a key at `path`, in clear or sealed."""
    return path.exists() or _sealed(path).exists()


def read(path: Path) -> Secret:
    """The key at `path`, or sealed beside it under the same name with `.sealed` after it.

    Guarantee: a sealed key is opened in memory and written nowhere.

    Raises:
        BadInput: no key, one that is open to others, no passphrase or another one.
    """
    sealed = _sealed(path)
    if path.exists() or not sealed.exists():
        return keyfile.read(path)
    return _opened(bytes(keyfile.read(sealed)), sealed)


def read_key(path: Path) -> Secret:
    """The 32 bytes at `path`, as `read`. Raises BadInput as it, and for another length."""
    found = read(path)
    if len(found) != KEY:
        raise BadInput(f"expected {KEY} bytes in {path}, found {len(found)}", hint="restore the file from a backup")
    return found


def _sealed(path: Path) -> Path:
    return path.with_name(path.name + SUFFIX)


@lru_cache(maxsize=16)  # a process reads its keys several times, and scrypt takes half a second
def _opened(content: bytes, path: Path) -> Secret:
    return Secret(unseal(content, key=_passphrase(), use=FILE, where=str(path)))


@lru_cache(maxsize=1)
def _passphrase() -> Passphrase:
    if named := os.environ.get(VARIABLE):
        return read_passphrase(Path(named))
    if sys.stdin is not None and sys.stdin.isatty():
        return ask_passphrase("passphrase of the keys: ")
    raise BadInput(
        "expected a passphrase for the sealed keys, found neither a terminal nor a file",
        hint=f"set {VARIABLE} to a file with the passphrase, mode 0600",
    )
