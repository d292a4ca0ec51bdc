"""What of a job is still to come: rounds of training, and evaluations, which have a price or are so many at most."""

from __future__ import annotations

from tacit.errors import BadInput
from tacit.job import Job
from tacit.privacy.events import Event
from tacit.privacy.metrics import Price, evaluations, price
from tacit_client.config import PolicySection
from tacit_client.train import Shard

__all__ = ["REPEATS", "check_number", "evaluations_left", "price_of", "rounds_left"]

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


def check_number(job: Job, *, answered: int) -> None:
    """One evaluation more with exact counts is within what the job plans.

    Args:
        job: of the run.
        answered: evaluations of the run so far.

    Raises:
        BadInput: it is not.
    """
    if answered >= (most := evaluations(job) + REPEATS):
        raise BadInput(
            f"expected at most {most} evaluations with exact counts in this run, found one more asked for",
            hint="submit the job as a new run",
        )
