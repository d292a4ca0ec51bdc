"""What waits in the SuperLink's database, read beside it.

Every question to the SuperLink costs it some milliseconds of a core, so asking it for every partner many times a
second would leave it none for the messages themselves. What waits is therefore read from its SQLite file, which costs
microseconds and disturbs nobody, and is then asked for in Flower's own way. The tables are not promised by Flower
(1.41): where they can not be read, everything may wait, and what is lost is time.
"""

from __future__ import annotations

import sqlite3
from pathlib import Path
from typing import Any

__all__ = ["Changes"]

_HALF = 2**63  # Flower keeps its unsigned numbers as signed ones


class Changes:
    """A look into the SuperLink's database at `path`, which may not exist yet. One thread only."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._file: sqlite3.Connection | None = None
        self._version = -1

    def changed(self) -> bool:
        """Whether another process has written to the file since the last look."""
        found = self._read("PRAGMA data_version")
        if found is None:
            return False
        version = int(found[0][0])
        changed, self._version = version != self._version, version
        return changed

    def nodes(self) -> set[int] | None:
        """The nodes for which a message waits; None where that can not be read."""
        found = self._read("SELECT DISTINCT dst_node_id FROM message_ins WHERE delivered_at = ''")
        return None if found is None else {node % (2 * _HALF) for (node,) in found}

    def replies(self) -> dict[str, bool] | None:
        """The ServerApp's messages to which an answer waits, each with whether all of it is there.

        An answer is announced before its parts come. Flower, asked for one that is not whole, hands it out for good and
        waits for the parts: a second at least, and three minutes where whoever sent them was killed. None where
        that can not be read.
        """
        lacking = (
            "SELECT 1 FROM object_push_session_roots JOIN object_push_session_pending USING (session_id) "
            "WHERE root_object_id = message_id"
        )
        found = self._read(
            f"SELECT reply_to_message_id, NOT EXISTS ({lacking}) FROM message_res WHERE delivered_at = ''"
        )
        return None if found is None else {message: bool(whole) for message, whole in found}

    def lost(self, node: int) -> bool:
        """Whether a message was taken for `node`, is in date and has no answer."""
        signed = node if node < _HALF else node - 2 * _HALF
        found = self._read(
            f"SELECT 1 FROM message_ins WHERE dst_node_id = {signed:d} AND delivered_at <> '' "
            "AND created_at + ttl > CAST(strftime('%s', 'now') AS REAL) AND NOT EXISTS "
            "(SELECT 1 FROM message_res WHERE reply_to_message_id = message_ins.message_id) LIMIT 1"
        )
        return bool(found)

    def close(self) -> None:
        """Let go of the file."""
        file, self._file = self._file, None
        if file is not None:
            file.close()

    def _read(self, query: str) -> list[tuple[Any, ...]] | None:
        try:
            if self._file is None:
                self._file = sqlite3.connect(f"file:{self._path}?mode=ro", uri=True, check_same_thread=False)
            return self._file.execute(query).fetchall()
        except sqlite3.Error:  # not there, or another version of Flower's
            self.close()
            return None
