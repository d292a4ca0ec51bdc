"""The ledger of a real partner: it knows the limit, and when it was written to."""

from __future__ import annotations

import logging
import time
from collections.abc import Callable
from pathlib import Path

from tacit.job import Job
from tacit.privacy.events import Event, merge
from tacit.secagg.keys import Secret
from tacit_client.agenda import check_exact
from tacit_client.chain import Row
from tacit_client.config import PolicySection
from tacit_client.ledger import DataSet, Ledger, Release
from tacit_client.policy import check_budget, check_day, cost
from tacit_client.tally import Spell, Tally

__all__ = ["Budget"]

_log = logging.getLogger(__name__)

_DAY = 86_400_000  # milliseconds


class Budget(Ledger):
    """A durable ledger that refuses what would pass the limits.

    Args:
        path: the SQLite file; made if missing.
        partner: whose rows are written.
        key: the partner's ledger key.
        dataset: what the releases will be about.
        policy: the limits.
        writable: False for one who only looks; the file must be there.
        clock: seconds since 1970.

    Guarantee: whatever was asked and planned before, and whoever else writes to the file, `reserve` writes nothing that
    takes the budget of the data set past `policy.epsilon_limit`: limit, sum and row are one transaction. The budget
    is of the data, over all jobs, runs, servers and partners' names in the file; content that was accepted as going
    on from another is charged to the same one. So it is with `judge` and `policy.max_exact_evaluations`.

    Raises:
        Tampered, BadInput: as `Ledger`.
    """

    def __init__(
        self,
        path: Path,
        *,
        partner: str,
        key: Secret,
        dataset: DataSet,
        policy: PolicySection,
        writable: bool = True,
        clock: Callable[[], float] = time.time,
    ) -> None:
        super().__init__(path, partner=partner, key=key, dataset=dataset, writable=writable, clock=clock)
        self._policy = policy
        self._allowed: tuple[Event, ...] = ()  # what was last found to be within the limit, all together

    @property
    def spent(self) -> tuple[Event, ...]:
        """Everything that the budget of the data set was charged with, added up."""
        return self._spent(self._book.tally())

    def reserve(self, release: Release) -> None:
        """As `Ledger.reserve`, within the limits. Raises BadInput where they, or the disk, do not allow it."""

        def choose(tally: Tally) -> Row:
            self._check(tally, release.event, rounds=1)
            return self._entry("reserved", release)

        self._book.append(choose)
        _log.info("charged round %d of run %r: %s", release.round, release.run, _words(release.event))

    def judge(self, job: Job, *, run: str, number: tuple[int, int]) -> None:
        """Count an evaluation with exact counts, before it is made.

        Args:
            job: of the run.
            run: its id.
            number: round, and attempt at the run.

        Raises:
            Tampered: another changed the file.
            BadInput: it can not be written, or is beyond what the job plans or the policy allows.
        """

        def choose(tally: Tally) -> Row:
            self._check_exact(tally, job, run=run)
            return self._place("judged", job=job.hash(), run=run, number=number)

        self._book.append(choose)

    def check_exact(self, job: Job, *, run: str) -> None:
        """One evaluation more with exact counts is within the limits. Raises BadInput where it is not."""
        self._check_exact(self._book.tally(), job, run=run)

    @property
    def judged(self) -> int:
        """Evaluations with exact counts of the data of this budget."""
        return self._judged(self._book.tally())

    def check(self, planned: Event, *, rounds: int, beside: Event | None = None) -> None:
        """Raises BadInput where the limits have no room for `rounds` more like `planned`, one of them today.

        Args:
            planned: a round of training, or an evaluation with a price.
            rounds: of them, at least 1.
            beside: what else is planned.

        A part of what was within the limit before is within it: a job that goes as planned is accounted for once.
        """
        self._check(self._book.tally(), planned, rounds=rounds, beside=() if beside is None else (beside,))

    def today(self) -> int:
        """Rounds of training in the last 24 hours, whatever data they were about.

        A clock that was set back makes it more, not fewer: no row is older than the one before it, and rows from
        later than now are of today.
        """
        return self._today(self._book.tally())

    def spells(self) -> tuple[Spell, ...]:
        """What each job took in each run, in the order of their beginnings."""
        return self._book.tally().spells()

    def _spent(self, tally: Tally) -> tuple[Event, ...]:
        return tally.spent(tally.root(self.dataset) or self.dataset)

    def _judged(self, tally: Tally) -> int:
        return tally.judged(tally.root(self.dataset) or self.dataset)

    def _check_exact(self, tally: Tally, job: Job, *, run: str) -> None:
        in_run = tally.judged_in(partner=self.partner, run=run)
        check_exact(job, self._policy, in_run=in_run, ever=self._judged(tally))

    def _today(self, tally: Tally) -> int:
        return tally.since(self._book.now() - _DAY)

    def _check(self, tally: Tally, planned: Event, *, rounds: int, beside: tuple[Event, ...] = ()) -> None:
        if planned.kind != "metrics":
            check_day(self._policy, today=self._today(tally))
        spent = self._spent(tally)
        total = _together((*spent, *beside), planned, rounds)
        if _is_part(total, self._allowed):
            return
        check_budget(self._policy, spent=spent, planned=planned, rounds=rounds, beside=beside)
        self._allowed = total
        _log.info(
            "allowed %d %s of %s: epsilon %.4g of %g at delta %g, with all that was before",
            rounds,
            "releases" if planned.kind == "metrics" else "rounds",
            planned.kind,
            cost(self._policy, total),
            self._policy.epsilon_limit,
            self._policy.delta,
        )


def _words(event: Event) -> str:
    if event.kind == "none":
        return f"{event.steps} steps without protection"
    if event.kind == "metrics":
        return f"the counts of {event.steps} evaluations with noise {event.noise_multiplier:.4g}"
    return f"{event.steps} steps with noise {event.noise_multiplier:.4g} at sampling rate {event.sampling_rate:.3g}"


def _together(spent: tuple[Event, ...], planned: Event, rounds: int) -> tuple[Event, ...]:
    return merge([*spent, planned.model_copy(update={"steps": planned.steps * rounds})])


def _is_part(events: tuple[Event, ...], whole: tuple[Event, ...]) -> bool:
    """Whether `whole` has every mechanism of `events` with as many steps; both are merged."""
    steps = {_one_step(event): event.steps for event in whole}
    return all(event.steps <= steps.get(_one_step(event), 0) for event in events)


def _one_step(event: Event) -> Event:
    return event.model_copy(update={"steps": 1})
