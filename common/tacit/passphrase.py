"""A passphrase as the key of sealed files: scrypt, RFC 7914."""

from __future__ import annotations

import os
import stat
import unicodedata
from pathlib import Path

from cryptography.hazmat.primitives.kdf.scrypt import Scrypt

from tacit.errors import BadInput
from tacit.key import KEY_BYTES

__all__ = ["COST", "COSTS", "SALT_BYTES", "Passphrase", "ask_passphrase", "check_cost", "read_passphrase"]

COST = 17
"""log2 of scrypt's N: with r = 8 and p = 1 it takes 128 MiB. Source: OWASP Password Storage Cheat Sheet, 2024."""
COSTS = range(10, 19)
"""What a file that is read may ask for: 256 MiB and about a second at most."""
SALT_BYTES = 32

_SHORTEST = 12
_LONGEST = 4096  # bytes of a file


class Passphrase:
    """What a person remembers, as a master key. Its repr shows nothing of it.

    All that one value seals shares one run of scrypt, and what it has opened is remembered, so that a folder of a
    thousand files costs one run and not a thousand.

    Args:
        text: taken in Unicode's form NFC, so that two keyboards give the same key.
        cost: log2 of scrypt's N for what is sealed, one of `COSTS`.

    Raises:
        BadInput: fewer than 12 characters, or a cost out of range.

    Guarantee: a guess at the passphrase of a file costs one run of scrypt, also where other files are known.
    """

    def __init__(self, text: str, *, cost: int = COST) -> None:
        normal = unicodedata.normalize("NFC", text)
        if len(normal) < _SHORTEST:
            raise BadInput(
                f"expected a passphrase of at least {_SHORTEST} characters, found {len(normal)}",
                hint="take six words that nobody would guess",
            )
        check_cost(cost, place="the passphrase")
        self._text = normal.encode()
        self._keys: dict[tuple[bytes, int], bytes] = {}
        self.cost = cost
        self.salt = os.urandom(SALT_BYTES)

    def __repr__(self) -> str:
        return "Passphrase(<secret>)"

    def key(self, *, salt: bytes, cost: int) -> bytes:
        """The master key, 32 bytes, for `salt` (32 bytes) and `cost`, one of `COSTS`."""
        found = self._keys.get((salt, cost))
        if found is None:
            found = Scrypt(salt=salt, length=KEY_BYTES, n=2**cost, r=8, p=1).derive(self._text)
            self._keys[salt, cost] = found
        return found


def check_cost(cost: int, *, place: str) -> None:
    """Raises BadInput where `cost` is none of `COSTS`."""
    if cost not in COSTS:
        raise BadInput(
            f"expected a cost of scrypt from {COSTS[0]} to {COSTS[-1]}, found {cost} in {place}",
            hint="restore the file from a backup: no tacit writes others",
        )


def ask_passphrase(prompt: str, *, twice: bool = False) -> Passphrase:
    """The passphrase that a person types at the terminal, where it is not shown.

    Raises:
        BadInput: none, one too short, or two that differ.
    """
    from getpass import getpass

    try:
        text = getpass(prompt)
        again = getpass("again: ") if twice else text
    except EOFError:
        raise BadInput("expected a passphrase, found the end of the input", hint="give the command again") from None
    if again != text:
        raise BadInput("expected the same passphrase twice, found two", hint="give the command again")
    return Passphrase(text)


def read_passphrase(path: Path) -> Passphrase:
    """The passphrase that stands on the one line of the file at `path`.

    Guarantee: a passphrase that others than its owner may read is refused, and none is taken for another: not for its
    beginning, and not for one with other letters in place of those that can not be read.

    Raises:
        BadInput: no such file, not one line of UTF-8, a passphrase too short or too long, or one open to others.
    """
    try:
        with path.open("rb") as file:
            mode = stat.S_IMODE(os.fstat(file.fileno()).st_mode)
            content = file.read(_LONGEST + 1)
    except OSError as error:
        raise BadInput(
            f"expected a passphrase at {path}, found: {error.strerror}", hint="write it there, with mode 0600"
        ) from None
    if mode & 0o077:
        raise BadInput(
            f"expected a passphrase that its owner alone can read, found mode {mode:04o} at {path}",
            hint=f"run chmod 600 {path}, and ask who may have read it",
        )
    lines = _text(content, path).splitlines()
    if len(lines) != 1:
        raise BadInput(f"expected one line of text at {path}, found {len(lines)}", hint="write the passphrase alone")
    return Passphrase(lines[0])


def _text(content: bytes, path: Path) -> str:
    if len(content) > _LONGEST:
        raise BadInput(
            f"expected a passphrase of at most {_LONGEST} bytes, found more at {path}", hint="name the right file"
        )
    try:
        return content.decode()
    except UnicodeDecodeError:
        raise BadInput(
            f"expected a passphrase in UTF-8, found other bytes at {path}", hint="write the file anew in UTF-8"
        ) from None
