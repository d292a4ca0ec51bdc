"""The ledger of a real partner: it knows the limit, and when it was written to."""

from __future__ import annotations

import logging
import sqlite3
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from tacit.privacy.events import Event, merge
from tacit_client.config import PolicySection
from tacit_client.ledger import Ledger, Release
from tacit_client.policy import check_budget, check_day, cost

__all__ = ["Budget", "Spell"]

_log = logging.getLogger(__name__)

_DAY = 86_400.0  # seconds

_MOMENTS = """
CREATE TABLE IF NOT EXISTS moment (
    at REAL NOT NULL,
    run TEXT NOT NULL,
    round INTEGER NOT NULL,
    attempt INTEGER NOT NULL
) STRICT
"""


@dataclass(frozen=True)
class Spell:
    """What one run took.

    Attributes:
        run: its id.
        releases: rounds that were charged, those that failed afterwards among them.
        first, last: seconds since 1970.
        events: added up.
    """

    run: str
    releases: int
    first: float
    last: float
    events: tuple[Event, ...]


class Budget(Ledger):
    """A durable ledger that refuses what would pass the limit.

    Args:
        path: the SQLite file; made if missing.
        partner: whose rows are read and written.
        policy: the limits.
        clock: seconds since 1970.

    Guarantee: whatever was asked and planned before, `reserve` writes nothing that takes everything in this file past
    `policy.epsilon_limit`. All of the file counts, whatever the data looked like then: new rows do not make a new
    budget for the old ones.

    Raises:
        BadInput: a file that is no ledger, or can not be written.
    """

    def __init__(
        self, path: Path, *, partner: str, policy: PolicySection, clock: Callable[[], float] = time.time
    ) -> None:
        super().__init__(path, partner=partner)
        self._policy = policy
        self._clock = clock
        try:
            self._db.execute(_MOMENTS)
        except sqlite3.Error as error:
            raise self._bad(error) from None
        self._spent = merge(self.events())
        self._allowed: tuple[Event, ...] = ()  # what was last found to be within the limit, all together

    @property
    def spent(self) -> tuple[Event, ...]:
        """Everything in the ledger, added up; kept in memory, as one process alone writes here."""
        return self._spent

    def reserve(self, release: Release) -> None:
        """As `Ledger.reserve`, within the limits. Raises BadInput where they, or the disk, do not allow it."""
        self.check(release.event, rounds=1)
        row = (self._clock(), release.run, release.round, release.attempt)
        try:
            self._db.execute("INSERT INTO moment (at, run, round, attempt) VALUES (?, ?, ?, ?)", row)
        except sqlite3.Error as error:
            raise self._bad(error) from None
        super().reserve(release)
        self._spent = merge([*self._spent, release.event])
        _log.info("charged round %d of run %r: %s", release.round, release.run, _words(release.event))

    def check(self, planned: Event, *, rounds: int) -> None:
        """Raises BadInput where the limits have no room for `rounds` rounds more like `planned`, one of them today.

        A part of what was within the limit before is within it: a job that goes as planned is accounted for once.
        """
        check_day(self._policy, today=self.today())
        total = merge([*self._spent, planned.model_copy(update={"steps": planned.steps * rounds})])
        if not _is_part(total, self._allowed):
            check_budget(self._policy, spent=self._spent, planned=planned, rounds=rounds)
            self._allowed = total
            _log.info(
                "allowed %d rounds of %s: epsilon %.4g of %g at delta %g, with all that was before",
                rounds,
                planned.kind,
                cost(self._policy, total),
                self._policy.epsilon_limit,
                self._policy.delta,
            )

    def today(self) -> int:
        """Rounds of training in the last 24 hours. A clock that was set back makes it more, not fewer."""
        query = "SELECT COUNT(*) FROM moment WHERE at > ?"
        try:
            ((count,),) = self._db.execute(query, (self._clock() - _DAY,)).fetchall()
        except sqlite3.Error as error:
            raise self._bad(error) from None
        return int(count)

    def spells(self) -> tuple[Spell, ...]:
        """What each run took, in the order of their beginnings."""
        query = "SELECT run, COUNT(*), MIN(at), MAX(at) FROM moment GROUP BY run ORDER BY MIN(rowid)"
        try:
            rows = self._db.execute(query).fetchall()
        except sqlite3.Error as error:
            raise self._bad(error) from None
        return tuple(Spell(run, count, first, last, self.totals(run=run)) for run, count, first, last in rows)


def _words(event: Event) -> str:
    if event.kind == "none":
        return f"{event.steps} steps without protection"
    return f"{event.steps} steps with noise {event.noise_multiplier:.4g} at sampling rate {event.sampling_rate:.3g}"


def _is_part(events: tuple[Event, ...], whole: tuple[Event, ...]) -> bool:
    """Whether `whole` has every mechanism of `events` with as many steps; both are merged."""
    steps = {_one_step(event): event.steps for event in whole}
    return all(event.steps <= steps.get(_one_step(event), 0) for event in events)


def _one_step(event: Event) -> Event:
    return event.model_copy(update={"steps": 1})
