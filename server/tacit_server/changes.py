"""Whether another process has written to an SQLite file."""

from __future__ import annotations

import sqlite3
from pathlib import Path

__all__ = ["Changes"]


class Changes:
    """A cheap look at whether another process has written to an SQLite file: `PRAGMA data_version` rises then."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._file: sqlite3.Connection | None = None
        self._version = -1

    def changed(self) -> bool:
        """Whether something was written since the last look."""
        try:
            if self._file is None:
                self._file = sqlite3.connect(f"file:{self._path}?mode=ro", uri=True, check_same_thread=False)
            (version,) = self._file.execute("PRAGMA data_version").fetchone()
        except sqlite3.Error:  # not there yet
            self._file = None
            return False
        changed, self._version = version != self._version, version
        return bool(changed)
