"""What is asked of a partner and what it decides, with every number that the decision was made from."""

from __future__ import annotations

import math
from dataclasses import asdict, dataclass
from typing import Any

from tacit.job import Job
from tacit.privacy.events import Event

__all__ = ["Cost", "Denial", "Figures", "Grant", "Request", "asked"]


@dataclass(frozen=True)
class Request:
    """What a server asks for.

    Attributes:
        job: the whole of it.
        event: one round of training on this partner's data; None before the data was looked at, and where nobody
            trains.
        rounds: of training that are still to come, the one that is asked for among them; at least 1 with an event.
        metrics: the evaluations that are still to come, as one event; None where they have no price.
    """

    job: Job
    event: Event | None = None
    rounds: int = 0
    metrics: Event | None = None

    @property
    def evaluations(self) -> int:
        """How many with a price are still to come."""
        return 0 if self.metrics is None else self.metrics.steps


@dataclass(frozen=True)
class Cost:
    """Epsilon at the policy's delta, unprotected releases left out where the policy allows them.

    Attributes:
        spent: of all that was ever released from this budget.
        planned: of the job's rounds and evaluations that are to come, by themselves.
        after: of both together; less than the sum.
        fit: rounds like the job's that the limit has room for beside the evaluations, at most those asked for.
    """

    spent: float
    planned: float
    after: float
    fit: int


@dataclass(frozen=True)
class Figures:
    """Every number that a decision was made from.

    Attributes:
        limit: `policy.epsilon_limit`.
        delta: `policy.delta`, at which all epsilons are counted.
        rounds: that were asked for.
        evaluations: with a price, that come with them.
        cohort: partners without whom the job begins no round, as it says.
        min_cohort: `policy.min_cohort`.
        peers: accepted, this partner not among them.
        today: rounds of training in the last 24 hours.
        max_rounds_per_day: of the policy.
        cost: None where nobody trains, or an earlier rule denied.
    """

    limit: float
    delta: float
    rounds: int
    evaluations: int
    cohort: int
    min_cohort: int
    peers: int
    today: int
    max_rounds_per_day: int
    cost: Cost | None

    def to_json(self) -> dict[str, Any]:
        """Plain JSON values; None for an epsilon that nothing bounds."""
        found = asdict(self)
        if self.cost is not None:
            found["cost"] = {key: value if math.isfinite(value) else None for key, value in found["cost"].items()}
        return found


@dataclass(frozen=True)
class Grant:
    """The partner takes part."""

    figures: Figures


@dataclass(frozen=True)
class Denial:
    """The partner does not take part.

    Attributes:
        figures: that were compared.
        rule: the key of `[policy]` that stands against it.
        message: what was expected and what was found, as in `BadInput`.
        hint: what to do about it.
    """

    figures: Figures
    rule: str
    message: str
    hint: str


def asked(rounds: int, evaluations: int) -> str:
    """What is asked for, in words."""
    counts = (rounds, "round"), (evaluations, "evaluation")
    return " and ".join(f"{count} {what}{'' if count == 1 else 's'}" for count, what in counts if count)
