"""Files that nobody reads or changes without the key: AES-256-GCM in chunks, written and read as they pass.

Format: `common/tacit/spec/seal.md`. Sources: the STREAM construction of Hoang, Reyhanitabar, Rogaway and Vizár,
Online Authenticated-Encryption and its Nonce-Reuse Misuse-Resistance (CRYPTO 2015, ePrint 2015/189, section 7);
AES-256-GCM: NIST SP 800-38D; HKDF-SHA256: RFC 5869.
"""

from __future__ import annotations

import io
import os
from types import TracebackType
from typing import BinaryIO, Self

from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.ciphers.aead import AESGCM
from cryptography.hazmat.primitives.hashes import SHA256
from cryptography.hazmat.primitives.kdf.hkdf import HKDF

from tacit.codec import Writer
from tacit.errors import BadInput
from tacit.key import KEY_BYTES, Key, make_key, read_key
from tacit.passphrase import SALT_BYTES, Passphrase, check_cost

__all__ = [
    "CHUNK",
    "FILE",
    "SUFFIX",
    "Key",
    "Lock",
    "Sealer",
    "Unsealer",
    "is_sealed",
    "make_key",
    "read_key",
    "seal",
    "unseal",
]

CHUNK = 2**20
"""Plain bytes in every chunk but the last."""

FILE = "file"
"""The use of what `tacit-client seal` seals, whatever it is."""
SUFFIX = ".sealed"
"""At the end of the names of such files. Readers go by what is in a file."""

_MAGIC = b"tacit-seal"
_WITH_KEY, _WITH_PASSPHRASE = _MAGIC + b"\1", _MAGIC + b"\2"  # the versions
_TAG_BYTES = 16
_RESTORE = "restore it from a backup"


Lock = Key | Passphrase


class Sealer:
    """Seals what is written to it into `file`, one chunk in memory at a time.

    A context: leaving it writes the last chunk, without which nobody takes the file for whole. An exception inside
    leaves it out. `file` stays open.

    Args:
        file: takes bytes, from where it stands.
        key: the master key, or a passphrase.
        use: what the file is; one that is sealed for another use does not open as this.

    Guarantee: `file` never receives a byte in clear, and no two files share a key and nonce: each has a fresh salt.
    """

    def __init__(self, file: BinaryIO, *, key: Lock, use: str) -> None:
        salt = os.urandom(SALT_BYTES)
        start = _start(key)
        self._file = file
        self._cipher = _cipher(_master(key, start, where="a new file"), start=start, salt=salt, use=use)
        self._number = 0
        self._held = memoryview(bytearray(CHUNK))
        self._filled = 0
        file.write(start + salt)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        if kind is None:
            self._put(last=True)

    def write(self, data: bytes | memoryview) -> None:
        """Take `data`, of any length; a memoryview must be of bytes."""
        rest = memoryview(data)
        while rest:
            if self._filled == len(self._held):  # not sooner: a full chunk may yet be the last
                self._put(last=False)
            taken = rest[: len(self._held) - self._filled]
            self._held[self._filled : self._filled + len(taken)] = taken
            self._filled += len(taken)
            rest = rest[len(taken) :]

    def _put(self, *, last: bool) -> None:
        plain = self._held[: self._filled]
        self._file.write(self._cipher.encrypt(_nonce(self._number, last=last), plain, None))
        self._filled = 0
        self._number += 1


class Unsealer(io.RawIOBase):
    """Reads what a `Sealer` has sealed, one chunk in memory at a time; give it to `io.BufferedReader` to read by size.

    Args:
        file: gives the sealed bytes, from where it stands to its end.
        key: the master key, or the passphrase.
        use: what the file is, as it was sealed.
        where: names the file in errors.

    Guarantee: every byte given is the one sealed at that place, and the end is given where the end was sealed: a file
    that was changed, cut, made longer or put in place of another use's raises before a byte of that chunk is given, and
    whenever it is read again.
    Who reads must therefore read to the end before believing that all is there.

    Raises:
        BadInput: at once, no sealed file of a known version, a key for a passphrase's file or the reverse, or a cost of
            scrypt out of range; while reading, another key or use, or a changed file.
    """

    def __init__(self, file: BinaryIO, *, key: Lock, use: str, where: str) -> None:
        start = _read_start(file, where=where)
        self._file = file
        self._where, self._use = where, use
        master = _master(key, start, where=where)
        self._cipher = _cipher(master, start=start, salt=_exactly(file, SALT_BYTES, where=where), use=use)
        self._number = 0
        self._ahead: bytes | None = file.read(CHUNK + _TAG_BYTES)
        self._plain = memoryview(b"")
        self._refused = False

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: memoryview) -> int:  # type: ignore[override]  # what io.RawIOBase hands over is one
        """Fill `buffer` from one chunk; gives how many bytes, 0 at the end."""
        if self._refused:  # tried again, a chunk might stand elsewhere and open
            raise self._refusal()
        if not self._plain and self._ahead is not None:
            self._plain = memoryview(self._next(self._ahead))
        size = min(len(buffer), len(self._plain))
        buffer[:size] = self._plain[:size]
        self._plain = self._plain[size:]
        return size

    def _next(self, sealed: bytes) -> bytes:
        """Open `sealed`, the chunk whose turn it is. It is the last where nothing comes after it."""
        self._ahead = self._file.read(CHUNK + _TAG_BYTES) or None
        try:
            plain = self._cipher.decrypt(_nonce(self._number, last=self._ahead is None), sealed, None)
        except InvalidTag:
            raise self._refusal() from None
        if not plain and self._number:  # a writer has none: every content has one way to be cut into chunks
            raise self._refusal()
        self._number += 1
        return plain

    def _refusal(self) -> BadInput:
        self._refused = True
        return BadInput(
            f"expected a whole {self._use} sealed with this key, found other bytes in chunk {self._number} of "
            f"{self._where}",
            hint="give the key it was sealed with, or restore the file from a backup",
        )


def seal(plain: bytes, *, key: Lock, use: str) -> bytes:
    """`plain` sealed, in memory."""
    file = io.BytesIO()
    with Sealer(file, key=key, use=use) as sealer:
        sealer.write(plain)
    return file.getvalue()


def unseal(sealed: bytes, *, key: Lock, use: str, where: str) -> bytes:
    """What was sealed, in memory. Raises BadInput as `Unsealer` does."""
    return Unsealer(io.BytesIO(sealed), key=key, use=use, where=where).readall()


def is_sealed(start: bytes) -> bool:
    """Whether a file that begins with `start` says that it is sealed, in whichever version."""
    return start.startswith(_MAGIC)


def _start(key: Lock) -> bytes:
    """What stands before the file's salt, and of a passphrase says how its key is made."""
    match key:
        case Key():
            return _WITH_KEY
        case Passphrase():
            return _WITH_PASSPHRASE + bytes([key.cost]) + key.salt


def _read_start(file: BinaryIO, *, where: str) -> bytes:
    start = file.read(len(_WITH_KEY))
    if not is_sealed(start):
        raise BadInput(f"expected a sealed file, found another kind at {where}", hint="check which file it is")
    if start == _WITH_KEY:
        return start
    if start == _WITH_PASSPHRASE:
        return start + _exactly(file, 1 + SALT_BYTES, where=where)
    found = f"found version {start[-1]}" if len(start) > len(_MAGIC) else "found its first bytes only"
    raise BadInput(
        f"expected a file sealed in version 1 or 2, {found} at {where}",
        hint="use the tacit that wrote it, or restore the file from a backup",
    )


def _exactly(file: BinaryIO, size: int, *, where: str) -> bytes:
    found = file.read(size)
    if len(found) != size:
        raise BadInput(f"expected a whole sealed file, found its first bytes only at {where}", hint=_RESTORE)
    return found


def _master(key: Lock, start: bytes, *, where: str) -> bytes:
    """Of `key`, which must be of the kind that the file's start asks for."""
    match key:
        case Key() if start == _WITH_KEY:
            return key.secret
        case Passphrase() if start != _WITH_KEY:
            cost = start[len(_WITH_PASSPHRASE)]
            check_cost(cost, place=where)
            return key.key(salt=start[len(_WITH_PASSPHRASE) + 1 :], cost=cost)
    wanted, found = ("key file", "passphrase") if start == _WITH_KEY else ("passphrase", "key file")
    raise BadInput(f"expected the {wanted} that sealed {where}, found a {found}", hint=f"give the {wanted}")


def _cipher(master: bytes, *, start: bytes, salt: bytes, use: str) -> AESGCM:
    """Under the file's own key: a header that was changed gives another one, and so does another use."""
    info = Writer().fixed(start, size=len(start)).text(use).done()
    return AESGCM(HKDF(algorithm=SHA256(), length=KEY_BYTES, salt=salt, info=info).derive(master))


def _nonce(number: int, *, last: bool) -> bytes:
    return number.to_bytes(11, "big") + bytes([last])
