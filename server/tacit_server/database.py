"""An SQLite file that several processes, and several threads of each, write to."""

from __future__ import annotations

import sqlite3
import threading
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path

from tacit.errors import BadInput
from tacit.link import keyfile
from tacit.wal import switch_to_wal

__all__ = ["Database", "Unusable"]

_PATIENCE = 60.0  # seconds to wait for others who write


class Unusable(BadInput):
    """A file of the server's own that can not be read or written now: no fault of whoever asks."""


class Database:
    """One connection to a file in WAL mode, every change synced to disk.

    Args:
        path: made if missing.
        schema: statements that make the tables.
        version: of the schema.

    Guarantee: what is done within one `change` happens wholly or not at all, and no other change in between. A file
    that is made here is open to its owner alone.

    Raises:
        BadInput: no database of this version, or one that can not be written.
    """

    def __init__(self, path: Path, *, schema: Sequence[str], version: int) -> None:
        self._path = path
        with suppress(BadInput):  # SQLite says why it can not be written
            keyfile.reserve(path)  # the files that SQLite puts beside it get the same mode
        self._lock = threading.RLock()  # threads share the connection, and with it its transaction
        try:
            self._db = sqlite3.connect(path, isolation_level=None, timeout=_PATIENCE, check_same_thread=False)
            switch_to_wal(self._db, patience=_PATIENCE)
            self._db.execute("PRAGMA synchronous = FULL")
        except sqlite3.Error as error:
            raise self._bad(error) from None
        with self.change() as db:
            (found,) = db.execute("PRAGMA user_version").fetchone()
            if found not in (0, version):
                raise BadInput(
                    f"expected version {version} of {path}, found {found}", hint="use the version of tacit that made it"
                )
            if found == 0:
                for statement in (*schema, f"PRAGMA user_version = {version}"):
                    db.execute(statement)

    @contextmanager
    def change(self) -> Iterator[sqlite3.Connection]:
        """A transaction that an exception undoes. Raises BadInput for SQLite's own errors."""
        with self._transaction("IMMEDIATE") as db:  # the lock is taken before anything is read
            yield db

    @contextmanager
    def look(self) -> Iterator[sqlite3.Connection]:
        """A transaction that only reads, and sees one moment; waits for nobody. Raises BadInput as `change`."""
        with self._transaction("DEFERRED") as db:
            yield db

    @contextmanager
    def _transaction(self, kind: str) -> Iterator[sqlite3.Connection]:
        with self._lock:
            try:
                self._db.execute(f"BEGIN {kind}")
                try:
                    yield self._db
                    self._db.execute("COMMIT")
                finally:
                    if self._db.in_transaction:
                        self._db.execute("ROLLBACK")
            except sqlite3.Error as error:
                raise self._bad(error) from None

    def close(self) -> None:
        """Let go of the file."""
        self._db.close()

    def _bad(self, error: sqlite3.Error) -> Unusable:
        return Unusable(
            f"expected a database that can be read and written at {self._path}, found {error}",
            hint="check the disk's free space and the file's rights",
        )
