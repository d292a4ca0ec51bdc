"""What a partner's data has been used for: an append-only file of accounting events.

A reservation is written and synced to disk before any noise is drawn; a second row confirms that the round was
finished. A crash between the two leaves the cost counted. Epsilon is never stored: it is computed from the events.
"""

from __future__ import annotations

import json
import sqlite3
import time
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

from tacit.errors import BadInput
from tacit.link import keyfile
from tacit.privacy.events import Event, merge

__all__ = ["Ledger", "Release"]

_SCHEMA = """
CREATE TABLE IF NOT EXISTS entry (
    seq INTEGER PRIMARY KEY AUTOINCREMENT,
    partner TEXT NOT NULL,
    run TEXT NOT NULL,
    round INTEGER NOT NULL,
    attempt INTEGER NOT NULL,
    state TEXT NOT NULL CHECK (state IN ('reserved', 'confirmed')),
    event TEXT NOT NULL
) STRICT
"""


_PATIENCE = 60.0  # seconds to wait for others who write


@dataclass(frozen=True)
class Release:
    """One round of one run, as the ledger knows it."""

    run: str
    round: int
    attempt: int
    event: Event


class Ledger:
    """The ledger of one partner.

    Args:
        path: the SQLite file; made if missing. Several partners of a simulation may share one.
        partner: whose rows are read and written.
        durable: False leaves syncing to the operating system: enough for virtual partners, whose data is nobody's
            secret, and too little for a real one.

    Guarantee: `events` holds every release that `reserve` returned for, whatever happened afterwards.

    Raises:
        BadInput: a file that is no ledger, or can not be written.
    """

    def __init__(self, path: Path, *, partner: str, durable: bool = True) -> None:
        self._path = path
        self._partner = partner
        with suppress(BadInput):  # SQLite says why it can not be written
            keyfile.reserve(path)  # what it says of the data is for its owner alone
        try:
            self._db = sqlite3.connect(path, isolation_level=None, timeout=_PATIENCE, check_same_thread=False)
            self._switch_to_wal()
            self._db.execute(f"PRAGMA synchronous = {'FULL' if durable else 'OFF'}")
            self._db.execute(_SCHEMA)
        except sqlite3.Error as error:
            raise self._bad(error) from None

    def _switch_to_wal(self) -> None:
        """Processes that switch a new file at the same moment block each other, and SQLite then does not wait."""
        deadline = time.monotonic() + _PATIENCE
        while True:
            try:
                self._db.execute("PRAGMA journal_mode = WAL")
            except sqlite3.OperationalError as error:
                if error.sqlite_errorcode != sqlite3.SQLITE_BUSY or time.monotonic() > deadline:
                    raise
                time.sleep(0.01)
            else:
                return

    def reserve(self, release: Release) -> None:
        """Count `release` as spent, from now on and for ever. Raises BadInput where it can not be written."""
        self._write(release, "reserved")

    def confirm(self, release: Release) -> None:
        """Note that the round of `release` was finished. Changes no cost."""
        self._write(release, "confirmed")

    def events(self, *, run: str | None = None) -> tuple[Event, ...]:
        """Every event reserved, oldest first; of one run only where `run` is given."""
        query = "SELECT event FROM entry WHERE partner = ? AND state = 'reserved' AND (? IS NULL OR run = ?)"
        try:
            rows = self._db.execute(query + " ORDER BY seq", (self._partner, run, run)).fetchall()
        except sqlite3.Error as error:
            raise self._bad(error) from None
        return tuple(self._read(text) for (text,) in rows)

    def totals(self, *, run: str) -> tuple[Event, ...]:
        """The same as `merge(events(run=run))`, added up by the database: a long run costs no more than a short one."""
        query = "SELECT event, COUNT(*) FROM entry WHERE partner = ? AND state = 'reserved' AND run = ?"
        try:
            rows = self._db.execute(query + " GROUP BY event ORDER BY MIN(seq)", (self._partner, run)).fetchall()
        except sqlite3.Error as error:
            raise self._bad(error) from None
        found = [(self._read(text), times) for text, times in rows]
        return merge(event.model_copy(update={"steps": event.steps * times}) for event, times in found)

    def close(self) -> None:
        """Let go of the file."""
        self._db.close()

    def _read(self, text: str) -> Event:
        try:
            return Event.from_json(json.loads(text))
        except json.JSONDecodeError as error:
            raise self._bad(error) from None

    def _write(self, release: Release, state: str) -> None:
        event = json.dumps(release.event.to_json(), sort_keys=True)
        row = (self._partner, release.run, release.round, release.attempt, state, event)
        insert = "INSERT INTO entry (partner, run, round, attempt, state, event) VALUES (?, ?, ?, ?, ?, ?)"
        try:
            self._db.execute(insert, row)
        except sqlite3.Error as error:
            raise self._bad(error) from None

    def _bad(self, error: Exception) -> BadInput:
        return BadInput(
            f"expected a privacy ledger that can be read and written at {self._path.name}, found {error}",
            hint="check the disk and the file's rights; nothing is trained without the ledger",
        )
