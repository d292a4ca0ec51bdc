"""Metrics with a price: noise on the counts of a federated evaluation, and how much of it.

One example adds 1 to one cell of the confusion matrix, 1 to the right or to the wrong answers, and to the loss at most
`NOISY_LOSS_LIMIT`. Each of the three weighs the same: the noise on the loss is to that limit what the noise on a count
is to 1, so that accuracy, loss and matrix each have at most sqrt(3) times the noise that they would have alone. The
proof that integer noise costs what the continuous Gaussian mechanism costs is in `tacit/spec/privacy.md`; the noise is
the discrete Gaussian of Canonne, Kamath and Steinke 2020 (arXiv:2004.00010v5).
"""

from __future__ import annotations

import math
from dataclasses import dataclass

from tacit.errors import BadInput
from tacit.job import Job
from tacit.metrics import LOSS_UNIT, NOISY_LOSS_LIMIT, Counters
from tacit.privacy.accounting import calibrate
from tacit.privacy.events import EXAMPLE, Event
from tacit.privacy.gaussian import discrete_gaussian
from tacit.privacy.randomness import Stream

__all__ = ["Price", "evaluations", "price"]

_PARTS = 3  # of what one example adds, each as large as the others
_ROUNDING = 4  # of the variance: what makes of a continuous Gaussian one over the integers
_LOSS_STEPS = round(NOISY_LOSS_LIMIT / LOSS_UNIT)  # that one example adds at most
_MORE = "raise metrics_epsilon, or have the job evaluate more rarely"
_LARGEST = 2**15  # standard deviation of a count: then no noise on the loss comes near the 2^40 of a counter


@dataclass(frozen=True, kw_only=True)
class Price:
    """What one federated evaluation costs a partner, and the noise that makes it so.

    Attributes:
        noise_multiplier: of the continuous Gaussian mechanism whose cost is charged.
        unit: what is protected: `example`, or the column that names the person.
        most: examples of one unit that are judged, at most.

    Raises:
        BadInput: so much noise that the counts would say nothing.
    """

    noise_multiplier: float
    unit: str = EXAMPLE
    most: int = 1

    def __post_init__(self) -> None:
        if self.variance > _LARGEST**2:
            raise BadInput(
                f"expected noise on counts of a standard deviation up to {_LARGEST}, found {self.variance**0.5:.4g}",
                hint=_MORE,
            )

    @property
    def variance(self) -> int:
        """Of the noise on each count; the loss has the same in units of `NOISY_LOSS_LIMIT`."""
        return math.ceil(_PARTS * (self.most * self.noise_multiplier) ** 2) + _ROUNDING

    def event(self) -> Event:
        """The accounting event of one evaluation."""
        return Event(kind="metrics", sampling_rate=1.0, noise_multiplier=self.noise_multiplier, steps=1, unit=self.unit)

    def cover(self, exact: Counters, *, noise: Stream) -> Counters:
        """`exact` with noise on every sum.

        Args:
            exact: of at most `most` examples of each unit, with losses up to `NOISY_LOSS_LIMIT`.
            noise: a stream of its own.

        Raises:
            BadInput: counters that have noise already, or losses above that limit.

        Guarantee: the sums satisfy what `event()` says, for the unit that it names: a unit more or less moves the
        vector by at most `most` * sqrt(3) where the loss is measured in `NOISY_LOSS_LIMIT`, and every entry gets noise
        as `variance` says. How many examples there are, and whether any, is under the noise like all else.
        """
        if exact.variance or exact.loss_sum > _LOSS_STEPS * (exact.right + exact.wrong):
            raise BadInput(
                f"expected exact counts and losses up to {NOISY_LOSS_LIMIT:g} nats, found others",
                hint="evaluate with most=NOISY_LOSS_LIMIT, and cover once",
            )
        deviation, classes = math.sqrt(self.variance), exact.classes
        drawn = discrete_gaussian(noise, classes**2 + 2, sigma=deviation)
        (loss,) = discrete_gaussian(noise, 1, sigma=deviation * _LOSS_STEPS)
        right, wrong = (int(draw) for draw in drawn[-2:])
        return Counters(
            exact.confusion + drawn[:-2].reshape(classes, classes),
            exact.loss_sum + int(loss),
            (exact.right + right, exact.wrong + wrong),
            self.variance,
        )


def evaluations(job: Job, *, first: int = 1) -> int:
    """Federated evaluations that `job` plans from round `first` on; none where nothing is held out."""
    rounds, every = job.training.rounds, job.evaluation.every
    if not job.evaluation.partner_holdout or first > rounds:
        return 0
    return rounds // every - (first - 1) // every + (rounds % every != 0)


def price(job: Job, *, epsilon: float, delta: float, unit: str = EXAMPLE, most: int = 1) -> Price | None:
    """The price of each evaluation of `job`, so that all that it plans cost at most `epsilon` together.

    Args:
        job: as resolved.
        epsilon: of the evaluations by themselves, above 0.
        delta: at which it is counted, where the job names none of its own.
        unit: as for `Price`.
        most: as for `Price`.

    Returns:
        None for a job without any evaluation.

    Raises:
        BadInput: so many evaluations, or so small an epsilon, that the counts would say nothing.

    Guarantee: `evaluations(job)` events of the returned price cost at most `epsilon`. It depends on the job and the
    partner's rules, and on nothing in the data.
    """
    planned = evaluations(job)
    if not planned:
        return None
    try:
        noise = calibrate(target=epsilon, delta=job.privacy.delta or delta, sampling_rate=1.0, steps=planned)
    except BadInput:
        raise BadInput(
            f"expected a metrics_epsilon that noise can reach over {planned} evaluations, found {epsilon:g}", hint=_MORE
        ) from None
    return Price(noise_multiplier=noise, unit=unit, most=most)
