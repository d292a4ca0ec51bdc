"""What the rows of a ledger add up to. No file, no clock, no limit: rows in, sums out."""

from __future__ import annotations

import json
from bisect import bisect_right
from collections import Counter, defaultdict
from dataclasses import dataclass, field

from tacit.errors import BadInput
from tacit.privacy.events import EXAMPLE, Event
from tacit_client.chain import EMPTY, Head, Row

__all__ = ["DataSet", "Spell", "Tally"]

_KINDS = ("dataset", "reserved", "confirmed", "judged")


@dataclass(frozen=True)
class DataSet:
    """What has a budget of its own, or goes on with another's.

    Attributes:
        fingerprint: of the content, 64 hex digits.
        unit: what one more or less of is hidden: `example`, or the column that names the person.
    """

    fingerprint: str
    unit: str = EXAMPLE


@dataclass(frozen=True)
class Spell:
    """What one job took in one run from one budget.

    Attributes:
        run: its id.
        job: SHA-256 of the job in hex, or "" where it was not noted.
        partner: by which name.
        budget: the data set that the budget began with.
        releases: rounds that were charged, those that failed afterwards among them.
        unconfirmed: of them, rounds that were not finished.
        first, last: seconds since 1970.
        events: added up.
    """

    run: str
    job: str
    partner: str
    budget: DataSet
    releases: int
    unconfirmed: int
    first: float
    last: float
    events: tuple[Event, ...]


@dataclass
class _Sum:
    """A spell that is being added up."""

    first: int
    last: int = 0
    releases: int = 0
    events: Counter[Event] = field(default_factory=Counter)
    pending: Counter[tuple[int, int]] = field(default_factory=Counter)


class Tally:
    """The sums over all rows so far.

    Attributes:
        head: of the last row.
        at: of the last row, milliseconds since 1970; 0 without one.

    Guarantee: every `reserved` row counts, in its budget, its run and its day, whatever follows it; no other row does.
    Every `judged` row counts, in its budget and its run, as an evaluation with exact counts.
    """

    def __init__(self) -> None:
        self.head: Head = EMPTY
        self.at = 0
        self._roots: dict[DataSet, DataSet] = {}
        self._used: dict[str, DataSet] = {}
        self._last: DataSet | None = None
        self._runs: defaultdict[tuple[str, str], Counter[Event]] = defaultdict(Counter)
        self._budgets: dict[DataSet, Counter[Event]] = {}
        self._sums: dict[tuple[DataSet, str, str, str], _Sum] = {}
        self._judged: Counter[DataSet] = Counter()
        self._judged_in: Counter[tuple[str, str]] = Counter()
        self._times: list[int] = []
        self._releases: list[tuple[DataSet, str, str, Event]] = []
        self._read: dict[str, tuple[Event, Event]] = {}

    def add(self, row: Row) -> None:
        """Count `row`, which follows all that were counted. Raises BadInput for one that this version does not know."""
        data = DataSet(row.dataset, row.unit)
        if row.kind == "dataset":
            root = self._accepted(DataSet(row.continues, row.unit), row) if row.continues else data
            self._roots[data] = root
            self._budgets.setdefault(root, Counter())
        elif row.kind == "judged":
            self._judged[self._accepted(data, row)] += 1
            self._judged_in[row.partner, row.run] += 1
        elif row.kind in _KINDS:
            self._count(row, self._accepted(data, row))
        else:
            raise BadInput(
                f"expected a row of the ledger to be one of {', '.join(_KINDS)}, found {row.kind} at row {row.seq}",
                hint="use the version of Tacit that wrote it, or a newer one",
            )
        self._used[row.partner] = self._last = data
        self.head, self.at = row.head, row.at

    def _accepted(self, data: DataSet, row: Row) -> DataSet:
        if data not in self._roots:
            raise BadInput(
                f"expected a data set that the ledger knows at row {row.seq}, found another",
                hint="report it: no version of Tacit writes that",
            )
        return self._roots[data]

    def _count(self, row: Row, root: DataSet) -> None:
        event, one = self._event(row.event)
        key = root, row.partner, row.run, row.job
        if (found := self._sums.get(key)) is None:
            found = self._sums[key] = _Sum(row.at)
        round_ = (row.round, row.attempt)
        if row.kind == "confirmed":
            found.pending[round_] -= 1
            if found.pending[round_] <= 0:
                del found.pending[round_]
            return
        found.last, found.releases = row.at, found.releases + 1
        found.events[one] += event.steps
        found.pending[round_] += 1
        self._budgets[root][one] += event.steps
        self._runs[row.partner, row.run][one] += event.steps
        if event.kind != "metrics":
            self._times.append(row.at)
        self._releases.append((root, row.partner, row.run, event))

    def _event(self, text: str) -> tuple[Event, Event]:
        """The event and a single step of it: a run has thousands of rows and one event."""
        if text not in self._read:
            event = Event.from_json(json.loads(text))
            self._read[text] = event, event.model_copy(update={"steps": 1})
        return self._read[text]

    def root(self, data: DataSet) -> DataSet | None:
        """The data set whose budget `data` is charged to; None for one that was never accepted."""
        return self._roots.get(data)

    def last_used(self, partner: str) -> DataSet | None:
        """The data set of `partner`'s last row, of anybody's where it has none; None without rows."""
        return self._used.get(partner, self._last)

    def datasets(self) -> dict[DataSet, DataSet]:
        """Every data set that was accepted, oldest first, with the one that its budget began with."""
        return dict(self._roots)

    def spent(self, budget: DataSet) -> tuple[Event, ...]:
        """All that was reserved from a budget, named by its first data set; added up as `merge` does."""
        return _events(self._budgets.get(budget, Counter()))

    def events(self, *, partner: str, run: str | None = None) -> tuple[Event, ...]:
        """Every event that `partner` reserved, oldest first; of one run only where `run` is given."""
        return tuple(event for _, whose, of, event in self._releases if whose == partner and run in (None, of))

    def history(self, budget: DataSet) -> tuple[Event, ...]:
        """Every event that was reserved from a budget, named by its first data set, oldest first."""
        return tuple(event for root, _, _, event in self._releases if root == budget)

    def totals(self, *, partner: str, run: str) -> tuple[Event, ...]:
        """The same as `merge(events(partner=partner, run=run))`, without going through them one by one."""
        return _events(self._runs.get((partner, run), Counter()))

    def judged(self, budget: DataSet) -> int:
        """Evaluations with exact counts of the data of a budget, named by its first data set."""
        return self._judged[budget]

    def judged_in(self, *, partner: str, run: str) -> int:
        """Of all data of `partner` in one run."""
        return self._judged_in[partner, run]

    def since(self, at: int) -> int:
        """Rounds of training reserved later than `at`, milliseconds since 1970."""
        return len(self._times) - bisect_right(self._times, at)

    def spells(self) -> tuple[Spell, ...]:
        """What each job took in each run, in the order of their beginnings."""
        return tuple(
            Spell(
                run=run,
                job=job,
                partner=partner,
                budget=root,
                releases=found.releases,
                unconfirmed=found.pending.total(),
                first=found.first / 1000,
                last=found.last / 1000,
                events=_events(found.events),
            )
            for (root, partner, run, job), found in self._sums.items()
            if found.releases
        )


def _events(steps: Counter[Event]) -> tuple[Event, ...]:
    return tuple(one.model_copy(update={"steps": n}) for one, n in steps.items())
