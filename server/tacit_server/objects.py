"""Objects of messages, read beside the SuperLink from its database.

The model of a round is the same for every partner, and the SuperLink takes some milliseconds of a core for every object
that it is asked for; its SQLite file gives the same bytes to many readers at once and leaves that core to others. The
table is not promised by Flower (1.41): what can not be read is asked for.
"""

from __future__ import annotations

import sqlite3
from contextlib import suppress
from pathlib import Path
from types import TracebackType
from typing import Self

__all__ = ["Objects"]

_QUERY = "SELECT content FROM objects WHERE object_id = ? AND is_available = 1"


class Objects:
    """A look into the SuperLink's database at `path`, while the context lasts. One thread only.

    Guarantee: an object is found by the hash of its bytes alone, so who asks must know that it is meant for whom it is
    given to; what was deleted there is not found here either, as nothing is kept.
    """

    def __init__(self, path: Path) -> None:
        self._path = path
        self._file: sqlite3.Connection | None = None

    def __enter__(self) -> Self:
        with suppress(sqlite3.Error):  # not there
            self._file = sqlite3.connect(f"file:{self._path}?mode=ro", uri=True, check_same_thread=False)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        file, self._file = self._file, None
        if file is not None:
            file.close()

    def read(self, name: str) -> bytes | None:
        """The object whose SHA-256 is `name`; no bytes while it is not there, None where that can not be read."""
        if self._file is None:
            return None
        try:
            found = self._file.execute(_QUERY, (name,)).fetchone()
        except sqlite3.Error:  # another version of Flower's
            return None
        return b"" if found is None else bytes(found[0])
