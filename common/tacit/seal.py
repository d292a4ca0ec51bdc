"""Files that nobody reads or changes without the key: AES-256-GCM in chunks, written and read as they pass.

Format: `common/tacit/spec/seal.md`. Sources: the STREAM construction of Hoang, Reyhanitabar, Rogaway and Vizár,
Online Authenticated-Encryption and its Nonce-Reuse Misuse-Resistance (CRYPTO 2015, ePrint 2015/189, section 7);
AES-256-GCM: NIST SP 800-38D; HKDF-SHA256: RFC 5869.
"""

from __future__ import annotations

import io
import os
import stat
import tempfile
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import BinaryIO, Self

from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.ciphers.aead import AESGCM
from cryptography.hazmat.primitives.hashes import SHA256
from cryptography.hazmat.primitives.kdf.hkdf import HKDF

from tacit.codec import Writer
from tacit.errors import BadInput

__all__ = ["CHUNK", "Key", "Sealer", "Unsealer", "is_sealed", "make_key", "read_key", "seal", "unseal"]

CHUNK = 2**20
"""Plain bytes in every chunk but the last."""

_MAGIC = b"tacit-seal"
_VERSION = 1
_START = _MAGIC + bytes([_VERSION])
_KEY_BYTES = 32
_SALT_BYTES = 32
_TAG_BYTES = 16


@dataclass(frozen=True, repr=False)
class Key:
    """A master key: 32 secret bytes. Its repr shows none of them."""

    secret: bytes

    def __post_init__(self) -> None:
        if len(self.secret) != _KEY_BYTES:
            raise BadInput(
                f"expected a key of {_KEY_BYTES} bytes, found {len(self.secret)}", hint="restore the key from a backup"
            )

    def __repr__(self) -> str:
        return "Key(<secret>)"


def make_key(path: Path) -> Key:
    """A fresh key, kept at `path` with mode 0600.

    Guarantee: there is a whole key at `path` or nothing, and never in place of another.

    Raises:
        BadInput: something stands at `path`, or nothing can be written there.
    """
    key = Key(os.urandom(_KEY_BYTES))
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
            secret = file.read(_KEY_BYTES + 1)
    except OSError as error:
        raise BadInput(
            f"expected a key at {path}, found: {error.strerror}", hint="restore the key from a backup"
        ) from None
    if stat.S_IMODE(mode) & 0o077:
        raise BadInput(
            f"expected a key that its owner alone can read, found mode {stat.S_IMODE(mode):04o} at {path}",
            hint=f"run chmod 600 {path}, and ask who may have read it",
        )
    if len(secret) != _KEY_BYTES:
        raise BadInput(
            f"expected a key of {_KEY_BYTES} bytes, found another length at {path}",
            hint="restore the key from a backup",
        )
    return Key(secret)


class Sealer:
    """Seals what is written to it into `file`, one chunk in memory at a time.

    A context: leaving it writes the last chunk, without which nobody takes the file for whole. An exception inside
    leaves it out. `file` stays open.

    Args:
        file: takes bytes, from where it stands.
        key: the master key.
        use: what the file is; one that is sealed for another use does not open as this.

    Guarantee: `file` never receives a byte in clear, and no two files share a key and nonce: each has a fresh salt.
    """

    def __init__(self, file: BinaryIO, *, key: Key, use: str) -> None:
        salt = os.urandom(_SALT_BYTES)
        self._file = file
        self._cipher = _cipher(key, salt=salt, use=use)
        self._number = 0
        self._held = bytearray()
        file.write(_START + salt)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        if kind is None:
            self._put(bytes(self._held), last=True)

    def write(self, data: bytes | memoryview) -> None:
        """Take `data`, of any length; a memoryview must be of bytes."""
        for start in range(0, len(data), CHUNK):
            self._held += data[start : start + CHUNK]
            if len(self._held) > CHUNK:  # at exactly one chunk it may yet be the last
                self._put(bytes(self._held[:CHUNK]), last=False)
                del self._held[:CHUNK]

    def _put(self, plain: bytes, *, last: bool) -> None:
        self._file.write(self._cipher.encrypt(_nonce(self._number, last=last), plain, None))
        self._number += 1


class Unsealer(io.RawIOBase):
    """Reads what a `Sealer` has sealed, one chunk in memory at a time; give it to `io.BufferedReader` to read by size.

    Args:
        file: gives the sealed bytes, from where it stands to its end.
        key: the master key.
        use: what the file is, as it was sealed.
        where: names the file in errors.

    Guarantee: every byte given is the one sealed at that place, and the end is given where the end was sealed: a file
    that was changed, cut, made longer or put in place of another use's raises before a byte of that chunk is given, and
    whenever it is read again.
    Who reads must therefore read to the end before believing that all is there.

    Raises:
        BadInput: at once, no sealed file of this version; while reading, another key or use, or a changed file.
    """

    def __init__(self, file: BinaryIO, *, key: Key, use: str, where: str) -> None:
        start = file.read(len(_START) + _SALT_BYTES)
        if not is_sealed(start):
            raise BadInput(f"expected a sealed file, found another kind at {where}", hint="check which file it is")
        if start[: len(_START)] != _START:
            found = f"found version {start[len(_MAGIC)]}" if len(start) > len(_MAGIC) else "found its first bytes only"
            raise BadInput(
                f"expected a file sealed in version {_VERSION}, {found} at {where}",
                hint="use the tacit that wrote it, or restore the file from a backup",
            )
        self._file = file
        self._where, self._use = where, use
        self._cipher = _cipher(key, salt=start[len(_START) :], use=use)
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


def seal(plain: bytes, *, key: Key, use: str) -> bytes:
    """`plain` sealed, in memory."""
    file = io.BytesIO()
    with Sealer(file, key=key, use=use) as sealer:
        sealer.write(plain)
    return file.getvalue()


def unseal(sealed: bytes, *, key: Key, use: str, where: str) -> bytes:
    """What was sealed, in memory. Raises BadInput as `Unsealer` does."""
    return Unsealer(io.BytesIO(sealed), key=key, use=use, where=where).readall()


def is_sealed(start: bytes) -> bool:
    """Whether a file that begins with `start` says that it is sealed, in whichever version."""
    return start.startswith(_MAGIC)


def _cipher(key: Key, *, salt: bytes, use: str) -> AESGCM:
    """Under the file's own key: a header that was changed gives another one, and so does another use."""
    info = Writer().fixed(_START, size=len(_START)).text(use).done()
    return AESGCM(HKDF(algorithm=SHA256(), length=_KEY_BYTES, salt=salt, info=info).derive(key.secret))


def _nonce(number: int, *, last: bool) -> bytes:
    return number.to_bytes(11, "big") + bytes([last])
