"""The audit log: one line of JSON for everything that was asked of this partner and decided here.

Append-only, chained and authenticated: every line holds the SHA-256 of the one before it and an HMAC-SHA-256 under a
key of this partner. A line that was changed, taken out, put in or moved breaks the chain at its place; lines cut off
at the end are missed by whoever holds a later mark (`tacit_client.mark`).
"""

from __future__ import annotations

import fcntl
import hashlib
import hmac
import json
import os
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Self

from tacit.errors import BadInput
from tacit.secagg.keys import Secret, derive
from tacit_client.keys import Keys
from tacit_client.site import Folder

__all__ = ["RENEWED", "START", "Audit", "Broken", "Entry", "read"]

START = bytes(32)
"""What the first line has as the hash of the one before it."""

RENEWED = "log-renewed"
"""The event of the first line of a log that took the place of another."""

_KEY = b"tacit/v1/audit"  # what the log's key is derived for
_FIELDS = {"seq", "at", "event", "facts", "previous", "mac"}
_LONGEST = 65_536  # bytes of a line
_REMEDY = "see tacit-client audit verify DIR; tacit-client audit renew DIR puts the log aside and begins another"
_TORN = "start tacit-client run DIR: what a crash left of a line is cut off then, and nothing else is lost"

Facts = Mapping[str, Any]


class Broken(BadInput):
    """The log is not as it was written.

    Attributes:
        line: the first that does not hold, from 1.
    """

    def __init__(self, path: Path, line: int, found: str, *, hint: str = _REMEDY) -> None:
        self.line = line
        super().__init__(f"expected an unbroken audit log, found {found} in line {line} of {path}", hint=hint)


@dataclass(frozen=True)
class Entry:
    """One line.

    Attributes:
        seq: 1 for the first line, one more for every next; a log that took another's place goes on where that ended.
        at: when, ISO 8601 in UTC.
        event: what happened.
        facts: JSON values.
        hash: SHA-256 of all this and of the hash before it; 32 bytes.
    """

    seq: int
    at: str
    event: str
    facts: dict[str, Any]
    hash: bytes


class Audit:
    """The log at `path`, to which lines are added.

    Args:
        path: made with the first line, mode 0600.
        key: authenticates the lines.
        clock: the time, aware.

    Guarantee: what `write` returned for is on disk, whole, after everything written before it, also where several
    processes write. A log whose last line does not verify is not added to.
    """

    def __init__(self, path: Path, *, key: Secret, clock: Callable[[], datetime] = lambda: datetime.now(UTC)) -> None:
        self.path, self._key, self._clock = path, key, clock

    @classmethod
    def of(cls, folder: Folder) -> Self:
        """The log of a partner's folder. Raises BadInput where its key can not be read."""
        return cls(folder.audit, key=derive(Keys(folder.keys).ledger, _KEY))

    def write(self, event: str, facts: Facts) -> None:
        """Add a line, synced to disk.

        Args:
            event: what happened, in one or two words joined by hyphens.
            facts: JSON values; nothing of an example.

        Raises:
            Broken: the line before it does not verify.
            BadInput: it can not be written.
        """
        with self._writing() as handle:
            self._append(handle, self._mended(handle), event, facts)

    def mend(self) -> None:
        """Cut off what a crash left of a line, and say so; `entries` takes no line without an end. As `write`."""
        with self._writing() as handle:
            self._mended(handle)

    def head(self) -> tuple[int, bytes]:
        """Number and hash of the last line; 0 and `START` for a log without lines. Raises as `write`."""
        if not self.path.exists():
            return 0, START
        with self._locked() as handle:
            last, _ = self._end(handle)
        return last

    def entries(self) -> tuple[Entry, ...]:
        """Every line, checked. Raises Broken, or BadInput where the log can not be read."""
        return tuple(self._each())

    def hash_at(self, seq: int) -> bytes | None:
        """The hash of line `seq`, or None where the log ends before it; all are checked. Raises as `entries`."""
        found = START if seq == 0 else None
        for entry in self._each():  # one in memory at a time: this is asked at every connection
            found = entry.hash if entry.seq == seq else found
        return found

    def _each(self) -> Iterator[Entry]:
        if self.path.exists():
            with self._locked():
                yield from read(self.path, key=self._key)

    def renew(self, *, covered: int) -> Path | None:
        """Put the log aside and begin another, which says so. Returns where the old one is now.

        Args:
            covered: lines that the last mark covers.

        Raises:
            BadInput: it can not be written.
        """
        aside, lines = None, 0
        if self.path.exists():
            lines = self.path.read_bytes().count(b"\n")
            with suppress(Broken):  # of the first line; then the mark's number has to do
                lines += self.renewed_after()
            aside = self.path.with_name(f"{self.path.name}.{self._clock().astimezone(UTC):%Y%m%dT%H%M%S%fZ}")
            try:
                self.path.rename(aside)
            except OSError as error:
                raise BadInput(
                    f"expected to rename {self.path}, found {error.strerror}", hint="mend the folder's rights"
                ) from None
        before = max(covered, lines)  # numbers go on: a mark of the old log covers no line of the new one
        facts = {"lines_before": before, "aside": None if aside is None else aside.name}
        with self._writing() as handle:
            self._append(handle, (before, START), RENEWED, facts)
        return aside

    def renewed_after(self) -> int:
        """How many lines the logs before this one had; 0 for the first log. Raises as `entries`, for its first line."""
        first = next(read(self.path, key=self._key), None) if self.path.exists() else None
        return 0 if first is None else first.seq - 1

    def _mended(self, handle: int) -> tuple[int, bytes]:
        """Number and hash of the last line, which has an end."""
        last, torn = self._end(handle)
        if torn:  # of a write that never returned
            os.ftruncate(handle, os.fstat(handle).st_size - torn)
            last = self._append(handle, last, "log-mended", {"bytes_cut": torn})
        return last

    def _append(self, handle: int, last: tuple[int, bytes], event: str, facts: Facts) -> tuple[int, bytes]:
        at = self._clock().astimezone(UTC).isoformat(timespec="milliseconds")
        body = _body({"seq": last[0] + 1, "at": at, "event": event, "facts": dict(facts), "previous": last[1].hex()})
        hashed = hashlib.sha256(body).digest()
        line = body[:-1] + b',"mac":"' + _mac(self._key, hashed).encode() + b'"}\n'
        if len(line) > _LONGEST:
            raise BadInput(f"expected a line of at most {_LONGEST} bytes, found {len(line)}", hint="log fewer facts")
        before = os.fstat(handle).st_size
        if os.write(handle, line) != len(line):  # a full disk may take a part
            os.ftruncate(handle, before)
            raise OSError(28, "no space left on the disk")
        return last[0] + 1, hashed

    @contextmanager
    def _writing(self) -> Iterator[int]:
        try:
            with self._locked() as handle:
                yield handle
                os.fsync(handle)
        except OSError as error:
            raise BadInput(
                f"expected to write the audit log {self.path}, found {error.strerror}",
                hint="make room on the disk, or mend the file's rights",
            ) from None

    @contextmanager
    def _locked(self) -> Iterator[int]:
        try:
            handle = os.open(self.path, os.O_RDWR | os.O_CREAT | os.O_APPEND | os.O_CLOEXEC, 0o600)
        except OSError as error:
            raise BadInput(
                f"expected to open the audit log {self.path}, found {error.strerror}", hint="mend the file's rights"
            ) from None
        try:
            fcntl.flock(handle, fcntl.LOCK_EX)
            yield handle
        finally:
            os.close(handle)

    def _end(self, handle: int) -> tuple[tuple[int, bytes], int]:
        """Number and hash of the last whole line, and how many bytes of an unfinished one come after it."""
        size = os.fstat(handle).st_size
        tail = os.pread(handle, 2 * _LONGEST, max(0, size - 2 * _LONGEST))
        whole, _, torn = tail.rpartition(b"\n")
        if not whole:
            if size > len(torn):
                raise Broken(self.path, 1, "no end of a line")
            return (0, START), len(torn)
        entry = _entry(whole.rpartition(b"\n")[2], key=self._key)
        if isinstance(entry, str):
            raise Broken(self.path, 1 + _count(self.path), entry)
        return (entry[0].seq, entry[0].hash), len(torn)


def read(path: Path, *, key: Secret) -> Iterator[Entry]:
    """The lines of the log at `path`, from the first, each checked.

    Raises:
        Broken: at the first line that is not as it was written, or does not follow on the one before it.
        BadInput: the file can not be read.
    """
    seq, skipped, previous = 0, 0, START
    try:
        with path.open("rb") as file:
            for line in file:
                seq += 1
                if not line.endswith(b"\n"):
                    raise Broken(path, seq, "a line that was cut off", hint=_TORN)
                found = _entry(line[:-1], key=key)
                if isinstance(found, str):
                    raise Broken(path, seq, found)
                entry, before = found
                if seq == 1 and entry.event == RENEWED:
                    skipped = int(entry.facts["lines_before"])
                if entry.seq != skipped + seq:
                    raise Broken(path, seq, f"the line written as number {entry.seq}")
                if before != previous:
                    raise Broken(path, seq, "a line that does not follow on the one before it")
                previous = entry.hash
                yield entry
    except OSError as error:
        raise BadInput(
            f"expected to read the audit log {path}, found {error.strerror}", hint="mend the file's rights"
        ) from None


def _entry(line: bytes, *, key: Secret) -> tuple[Entry, bytes] | str:
    """The line and the hash that it has of the one before it, or what is wrong with it."""
    try:
        found = json.loads(line)
        if not isinstance(found, dict) or found.keys() != _FIELDS:
            return "something that is no line of it"
        mac = str(found.pop("mac")).encode()
        body = _body(found)
    except (ValueError, RecursionError):  # numbers and letters, too, that Python reads and does not write
        return "something that is no line of it"
    hashed = hashlib.sha256(body).digest()
    if line != body[:-1] + b',"mac":"' + mac + b'"}':
        return "a line written in another way"
    if not hmac.compare_digest(mac, _mac(key, hashed).encode()):
        return "a line that was changed or is not this partner's"
    seq, at, event, facts, previous = (found[name] for name in ("seq", "at", "event", "facts", "previous"))
    return Entry(seq, at, event, facts, hashed), bytes.fromhex(previous)


def _body(fields: Facts) -> bytes:
    return json.dumps(fields, separators=(",", ":"), ensure_ascii=True, allow_nan=False).encode()


def _mac(key: Secret, hashed: bytes) -> str:
    return hmac.digest(key, hashed, "sha256").hex()


def _count(path: Path) -> int:
    """Whole lines before the last one."""
    return max(0, path.read_bytes().count(b"\n") - 1)
