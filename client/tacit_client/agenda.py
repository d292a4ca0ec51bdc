"""What of a job is still to come: rounds of training, and evaluations, which have a price or are so many at most."""

from __future__ import annotations

from typing import TYPE_CHECKING

from tacit.errors import BadInput
from tacit.job import Job
from tacit.privacy.events import Event
from tacit.privacy.metrics import Price, evaluations, price
from tacit_client.config import PolicySection

if TYPE_CHECKING:  # commands that show the budget need no torch
    from tacit_client.train import Shard

__all__ = ["REPEATS", "check_exact", "evaluations_left", "price_of", "rounds_left"]

REPEATS = 16
"""Evaluations of a run beyond those that its job plans, for rounds that were begun anew."""


def price_of(job: Job, rules: PolicySection, *, holdout: Shard) -> Price | None:
    """What each evaluation of `job` costs by `rules`; None where counts are exact, or nothing is held out.

    Raises:
        BadInput: `metrics_epsilon` is too small for so many evaluations.
    """
    if rules.metrics_epsilon is None:
        return None
    return price(job, epsilon=rules.metrics_epsilon, delta=rules.delta, unit=holdout.unit, most=holdout.most)


def rounds_left(job: Job, *, number: int) -> int:
    """Rounds of the plan that are to come, the one with that number among them. Raises BadInput where it has none."""
    rounds = job.training.rounds
    if not 1 <= number <= rounds:
        raise BadInput(
            f"expected a round from 1 to training.rounds {rounds}, found {number}",
            hint="run the job with more rounds",
        )
    return rounds - number + 1


def evaluations_left(job: Job, found: Price | None, *, first: int) -> Event | None:
    """All evaluations from round `first` on as one event, where they have a price."""
    number = evaluations(job, first=first)
    return found.event().model_copy(update={"steps": number}) if found is not None and number else None


def check_exact(job: Job, rules: PolicySection, *, in_run: int, ever: int) -> None:
    """One evaluation more with exact counts is within what the job plans, and what the partner allows for ever.

    Args:
        job: of the run.
        rules: the partner's policy.
        in_run: such evaluations of the run so far.
        ever: of the data, over all runs.

    Raises:
        BadInput: it is not.
    """
    if ever >= rules.max_exact_evaluations:
        raise BadInput(
            f"expected at most {rules.max_exact_evaluations} evaluations with exact counts over the life of the data "
            "by this partner's policy, found one more asked for",
            hint="set evaluation.partner_holdout = 0.0, or have the partner set metrics_epsilon",
        )
    if in_run >= (most := evaluations(job) + REPEATS):
        raise BadInput(
            f"expected at most {most} evaluations with exact counts in this run, found one more asked for",
            hint="submit the job as a new run",
        )
