"""The file of a ledger: SQLite, append-only, verified before anything in it is believed.

A row is one transaction. What was verified is kept in memory as its sums; before every append, and before every
look, the rows that others have added meanwhile are verified too, under the lock that an append needs.
"""

from __future__ import annotations

import os
import sqlite3
import threading
from collections.abc import Callable, Iterator
from contextlib import ExitStack, suppress
from pathlib import Path

from tacit.errors import BadInput
from tacit.link import keyfile
from tacit.secagg.keys import Secret, derive
from tacit.wal import switch_to_wal
from tacit_client.chain import EMPTY, Broken, Head, Row, check, forge
from tacit_client.tally import Tally

__all__ = ["MEMORY", "Book", "Tampered"]

MEMORY = Path(":memory:")
"""A book that is kept nowhere, for experiments."""

_USE = b"tacit/v1/ledger"  # what the key of the macs is derived for
_PATIENCE = 60.0  # seconds to wait for others who write
_HASH = 32
_FAULTS = (sqlite3.Error, UnicodeDecodeError)  # the latter where SQLite quotes a damaged file
_COLUMNS = ", ".join(Row._fields)
_TABLE = """CREATE TABLE entry (
    seq INTEGER PRIMARY KEY,
    at INTEGER NOT NULL,
    kind TEXT NOT NULL,
    partner TEXT NOT NULL,
    dataset TEXT NOT NULL,
    unit TEXT NOT NULL,
    continues TEXT NOT NULL,
    job TEXT NOT NULL,
    run TEXT NOT NULL,
    round INTEGER NOT NULL,
    attempt INTEGER NOT NULL,
    event TEXT NOT NULL,
    hash BLOB NOT NULL,
    mac BLOB NOT NULL
) STRICT"""


class Tampered(BadInput):
    """A ledger that is not as this partner's processes left it."""


class Book:
    """A file of rows that only ever grows.

    Args:
        path: the SQLite file; made if missing, where `writable`.
        key: the partner's ledger key.
        clock: seconds since 1970.
        durable: True syncs every row to the disk before `append` returns.
        writable: False for one who only looks.

    Guarantee: every row was verified before it is counted; a row that `append` returned for is counted by every book
    that is opened on the file afterwards, or opening it raises. Threads and processes may use one file at once.

    Raises:
        Tampered: a row that was edited, put in, taken out of the middle, or written with another key; another
            table, index or trigger in the file.
        BadInput: no ledger, one of an earlier format, or one that can not be read or written.
    """

    def __init__(
        self, path: Path, *, key: Secret, clock: Callable[[], float], durable: bool = True, writable: bool = True
    ) -> None:
        self.path = path
        self._key = derive(key, _USE)
        self._clock = clock
        self._lock = threading.RLock()
        self._tally = Tally()
        self._hashes = bytearray()
        self._place: tuple[tuple[int, int], ...] = ()
        if writable and path != MEMORY:
            with suppress(BadInput):  # SQLite says why it can not be written
                keyfile.reserve(path)  # what it says of the data is for its owner alone
        try:
            with ExitStack() as held:
                self.db = self._connect(writable=writable)
                held.callback(self.db.close)
                self._prepare(durable=durable, writable=writable)
                held.pop_all()
        except _FAULTS as error:
            raise self._bad(error) from None

    def _connect(self, *, writable: bool) -> sqlite3.Connection:
        where = str(self.path) if writable else f"{self.path.absolute().as_uri()}?mode=rw"
        return sqlite3.connect(
            where, uri=not writable, isolation_level=None, timeout=_PATIENCE, check_same_thread=False
        )

    def _prepare(self, *, durable: bool, writable: bool) -> None:
        if writable:
            switch_to_wal(self.db, patience=_PATIENCE)
            self.db.execute(f"PRAGMA synchronous = {'FULL' if durable else 'OFF'}")
        else:
            self.db.execute("PRAGMA query_only = ON")
        self._check_schema(writable=writable)
        if (damage := [str(found) for (found,) in self.db.execute("PRAGMA quick_check(1)")]) != ["ok"]:
            raise self._tampered(f"damage: {damage[0]}")
        self._place = self._places() if writable else ()
        self._catch_up()

    def _check_schema(self, *, writable: bool) -> None:
        """One table and nothing else: a trigger or an index could change what is written or read."""
        found = self._schema()
        if not found and writable:
            self.db.execute("BEGIN IMMEDIATE")  # another process may make it at the same moment
            if not self._schema():
                self.db.execute(_TABLE)
            self.db.execute("COMMIT")
            found = self._schema()
        if found not in ([_TABLE], []):
            raise self._foreign(found)

    def _schema(self) -> list[str]:
        return [str(sql) for (sql,) in self.db.execute("SELECT sql FROM sqlite_master ORDER BY rowid")]

    def tally(self) -> Tally:
        """The sums of all rows, those of other processes among them. Raises Tampered, BadInput."""
        with self._lock:
            try:
                self._catch_up()
            except _FAULTS as error:
                raise self._bad(error) from None
            return self._tally

    def append(self, choose: Callable[[Tally], Row | None]) -> None:
        """Add the row that `choose` makes of the sums of all rows before it; none where it gives None.

        Number, time, hash and mac of the row are filled in here. Other processes wait meanwhile: nothing comes between
        what `choose` saw and the row.

        Guarantee: when this returns, the row is in the file, synced where the book is durable. When it raises, what
        `choose` raised or one of those below, the row is not counted, or else counted without any use.

        Raises:
            Tampered: another changed the file.
            BadInput: it can not be written.
        """
        with self._lock:
            try:
                row = self._write(choose)
            except _FAULTS as error:
                raise self._bad(error) from None
            if row is not None:
                self._take(row)

    def _write(self, choose: Callable[[Tally], Row | None]) -> Row | None:
        self.db.execute("BEGIN IMMEDIATE")
        try:
            self._catch_up()
            row = self._forged(choose(self._tally))
            if row is not None:
                self.db.execute(f"INSERT INTO entry ({_COLUMNS}) VALUES ({', '.join('?' * len(row))})", row)
            self.db.execute("COMMIT")
            return row
        finally:
            if self.db.in_transaction:
                with suppress(sqlite3.Error):  # a disk that fails here failed before, and that is what is raised
                    self.db.execute("ROLLBACK")

    def _forged(self, row: Row | None) -> Row | None:
        if row is None:
            return None
        # A clock that was set back makes no row older than the one before: days end later then, and never earlier.
        at = max(self.now(), self._tally.at)
        head = self._tally.head
        try:
            return forge(row._replace(seq=head.seq + 1, at=at), after=head, key=self._key)
        except (OverflowError, UnicodeEncodeError):
            raise BadInput(
                "expected texts and numbers that a ledger can hold, found others", hint="correct the run or the job"
            ) from None

    def now(self) -> int:
        """Milliseconds since 1970."""
        return int(self._clock() * 1000)

    def hash_at(self, seq: int) -> bytes | None:
        """The hash of row `seq`, as it was verified; that of no rows for 0; None where there is no such row."""
        with self._lock:
            self.tally()
            if seq == 0:
                return EMPTY.hash
            return self._hash(seq) if 0 < seq <= self._tally.head.seq else None

    def rows(self, *, partner: str, run: str) -> tuple[Row, ...]:
        """The rows of one run, oldest first, each as it was verified. Raises Tampered, BadInput."""
        query = f"SELECT {_COLUMNS} FROM entry WHERE partner = ? AND run = ? AND seq <= ? ORDER BY seq"
        with self._lock:
            known = self.tally().head.seq
            try:
                found = tuple(map(Row._make, self.db.execute(query, (partner, run, known))))
                for row in found:
                    check(row, after=Head(row.seq - 1, self._hash(row.seq - 1)), key=self._key)
            except _FAULTS as error:
                raise self._bad(error) from None
            except Broken as error:
                raise self._tampered(str(error)) from None
            return found

    def close(self) -> None:
        """Let go of the file."""
        with self._lock:
            self.db.close()

    def _catch_up(self) -> None:
        """Verify and count what is new; the last row that was verified must still stand there."""
        if self._place and self._places() != self._place:
            raise self._tampered("another file in its place")
        known = self._tally.head
        try:
            for row in self._rows(known):
                check(row, after=self._tally.head, key=self._key)
                self._take(row)
        except Broken as error:
            raise self._tampered(str(error)) from None

    def _rows(self, known: Head) -> Iterator[Row]:
        """All rows after `known`, which must still stand; every row where none is known, whatever its number."""
        where = "WHERE seq >= ?" if known.seq else "WHERE ? IS NOT NULL"
        rows = self.db.execute(f"SELECT {_COLUMNS} FROM entry {where} ORDER BY seq", (known.seq,))
        found = map(Row._make, rows)
        if known.seq:
            last = next(found, None)
            if last is None or last.seq != known.seq:
                raise Broken(f"row {known.seq} missing")
            check(last, after=Head(known.seq - 1, self._hash(known.seq - 1)), key=self._key)
            if last.hash != known.hash:
                raise Broken(f"row {known.seq} changed")
        yield from found

    def _take(self, row: Row) -> None:
        self._tally.add(row)
        self._hashes += row.hash

    def _hash(self, seq: int) -> bytes:
        return bytes(self._hashes[_HASH * (seq - 1) : _HASH * seq]) if seq else EMPTY.hash

    def _places(self) -> tuple[tuple[int, int], ...]:
        """Which files these are: what is written to one that was moved away is lost."""
        if self.path == MEMORY:
            return ()
        try:
            found = [os.stat(f"{self.path}{end}") for end in ("", "-wal")]
        except OSError:
            return ((0, 0),)
        return tuple((file.st_dev, file.st_ino) for file in found)

    def _tampered(self, found: str) -> Tampered:
        return Tampered(
            f"expected the privacy ledger {self.path.name} as this partner left it, found {found}",
            hint="put the newest untouched copy back; without one nobody knows what was spent, and the data can not be "
            "trained on",
        )

    def _foreign(self, found: list[str]) -> BadInput:
        if any("CREATE TABLE entry" in sql and "state TEXT" in sql for sql in found):
            return BadInput(
                f"expected a privacy ledger of format 1 at {self.path.name}, found one from before it, whose rows "
                "nothing authenticates",
                hint="move it away, and lower policy.epsilon_limit by what that version says was spent",
            )
        if _TABLE in found:
            return self._tampered("more than the table of rows in it")
        return BadInput(
            f"expected a privacy ledger at {self.path.name}, found another program's database",
            hint="move it away, or correct the key ledger in site.toml",
        )

    def _bad(self, error: Exception) -> BadInput:
        return BadInput(
            f"expected a privacy ledger that can be read and written at {self.path.name}, found {error}",
            hint="check the disk and the file's rights; nothing is trained without the ledger",
        )
