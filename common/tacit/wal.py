"""SQLite's write-ahead log: readers and one writer at a time, and a commit that outlives a crash."""

from __future__ import annotations

import sqlite3
import time

__all__ = ["switch_to_wal"]

_PAUSE = 0.01  # seconds between two tries


def switch_to_wal(db: sqlite3.Connection, *, patience: float) -> None:
    """Have `db` use the log. Raises sqlite3.Error, after `patience` seconds for others who are at it.

    Processes that switch a new file at the same moment block each other, and SQLite then does not wait.
    """
    deadline = time.monotonic() + patience
    while True:
        try:
            db.execute("PRAGMA journal_mode = WAL")
        except sqlite3.OperationalError as error:
            if error.sqlite_errorcode != sqlite3.SQLITE_BUSY or time.monotonic() > deadline:
                raise
            time.sleep(_PAUSE)
        else:
            return
