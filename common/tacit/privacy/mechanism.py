"""The mechanism: the one value from which noise, sampling and accounting are taken.

Abadi et al. 2016 (arXiv:1607.00133v2, Algorithm 1), with Poisson sampling and a public divisor. Where a column names
persons, the unit that is drawn, clipped and counted is the person with all its rows, as in DP-SGD with user-level
sampling (Charles et al. 2024, arXiv:2407.07737v1, there DP-SGD-ULS).

How many rows a person gives to a step (`max_per_unit`) is not part of the mechanism. The mean of its gradients is
clipped as one vector, so that its influence is the clip norm for one row as for a hundred, whichever they are; the
number bounds the work and changes what is learnt, and neither noise nor accounting may come to depend on it.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from tacit.data.splits import kept
from tacit.errors import BadInput
from tacit.job import MOST_DRAWN, Job
from tacit.privacy.accounting import calibrate
from tacit.privacy.events import EXAMPLE, PARTNER, Event, Kind

__all__ = ["Mechanism", "common_rate", "local", "plan", "sampling_rate", "weight"]


@dataclass(frozen=True, kw_only=True)
class Mechanism:
    """What one partner does in every step of a job.

    Attributes:
        kind: as in `tacit.privacy.events.Event`.
        max_grad_norm: L2 bound of one unit's gradient, or with `client` of a partner's whole update in the first round;
            0.0 for `none`.
        noise_multiplier: standard deviation of the noise over `max_grad_norm`; 0.0 for `none`.
        sampling_rate: chance of each unit to be in a step's batch; with `client`, of each partner to be asked, 1.0
            wherever a server chooses whom it asks.
        expected_batch: divisor of every step, in units; a public constant.
        steps: steps in a round; with `client` the round is one.
        unit: what is protected: `example`, the column that names the person, or `partner`.
        adjacency: the neighbouring relation: data sets that differ by one unit added or removed.
        colluders: partners that may know their share of the noise and be no help; None where the noise is not shared.

    Guarantee: no other value carries a clip norm, a noise scale or a sampling rate, and `event` is made from the
    same fields as the noise.
    """

    kind: Kind
    max_grad_norm: float
    noise_multiplier: float
    sampling_rate: float
    expected_batch: float
    steps: int
    unit: str = EXAMPLE
    adjacency: Literal["add-remove"] = "add-remove"
    colluders: int | None = None

    @property
    def private(self) -> bool:
        """True where gradients are clipped and noised."""
        return self.kind != "none"

    @property
    def noise_std(self) -> float:
        """Standard deviation of the noise on the sum of clipped gradients."""
        return self.noise_multiplier * self.max_grad_norm

    def event(self) -> Event:
        """The accounting event of one round."""
        return Event(
            kind=self.kind,
            sampling_rate=self.sampling_rate,
            noise_multiplier=self.noise_multiplier,
            steps=self.steps,
            unit=self.unit,
            colluders=self.colluders,
        )


def sampling_rate(*, batch_size: int, units: int, held: float = 0.0, unit: str = EXAMPLE) -> float:
    """The Poisson rate for an expected batch of `batch_size`: over the units rounded down to two digits.

    The rate is named in the accounting events, which leave the machine; a rate over the exact count would tell
    that count. The expected batch is therefore `batch_size` or up to a tenth above it.

    Args:
        batch_size: expected, in units.
        units: all that the partner has, those held out among them.
        held: share that is held out.
        unit: `example`, or the column that names the person.

    Raises:
        BadInput: fewer units than the batch.

    Guarantee: rate and refusal depend on the count only through its first two digits, at every share: the count is
    rounded first and the share taken off afterwards, so that many shares tell no more than one.
    """
    known, _ = _trained(units, held)
    if batch_size > known:
        raise BadInput(
            f"expected training.batch_size of at most the partner's {_words(unit)}, {known} in round numbers, "
            f"found {batch_size}",
            hint="lower training.batch_size, or give the partner more data",
        )
    return batch_size / known


def _two_digits(count: int) -> tuple[int, int]:
    """The bounds that the first two digits of a count set to it: it is at least the first and below the second."""
    power: int = 10 ** max(0, len(str(count)) - 2)
    known = count // power * power
    return known, known + power


def _trained(units: int, held: float) -> tuple[int, int]:
    """The bounds that the first two digits of `units` set to what is trained on: it is from the first to the second."""
    known, above = _two_digits(units)
    return kept(known, share=held), kept(above, share=held)


def _words(unit: str) -> str:
    return "training examples" if unit == EXAMPLE else f"persons to train on, by {unit}"


def plan(job: Job, *, units: int, unit: str = EXAMPLE, chance: float = 1.0) -> Mechanism:
    """The mechanism of a partner for every round of `job`.

    Where the job names an epsilon, the noise is calibrated to it over all planned rounds, as if the partner took
    part in each: taking part in fewer costs less.

    Args:
        job: as resolved.
        units: examples of the partner, those held out among them; with another `unit`, persons who have any.
        unit: `example`, or the column that names the person.
        chance: with `client`, of each partner to be drawn in a round, independently of all others. It is never read
            from a job: a server could write what it likes there.

    Raises:
        BadInput: a batch larger than the data, a delta that is not below 1/N, an epsilon out of noise's reach, a
            population that the partner's own data is far beyond.

    Guarantee: `rounds * local_steps` steps of the returned mechanism cost at most the job's epsilon at its delta. What
    is returned and what is refused, which the server hears, depend on the count only through its first two digits.
    """
    training, privacy = job.training, job.privacy
    if privacy.mechanism == "client":
        return _whole(job, chance=chance)
    shared, held = privacy.mechanism == "distributed-dp-sgd", job.evaluation.partner_holdout
    if shared:
        rate = common_rate(job)
    else:
        rate = sampling_rate(batch_size=training.batch_size, units=units, held=held, unit=unit)
    if privacy.mechanism == "none":
        clip, noise = 0.0, 0.0
    else:
        delta, clip = _given(privacy.delta), _given(privacy.max_grad_norm)
        _check_delta(delta, trained=_trained(units, held), unit=unit)
        _check_population(rate, trained=_trained(units, held), unit=unit)
        steps = training.rounds * training.local_steps
        noise = privacy.noise_multiplier or calibrate(
            target=_given(privacy.epsilon), delta=delta, sampling_rate=rate, steps=steps
        )
    return Mechanism(
        kind=privacy.mechanism,
        max_grad_norm=clip,
        noise_multiplier=noise,
        sampling_rate=rate,
        expected_batch=training.batch_size,
        steps=training.local_steps,
        unit=unit,
        colluders=job.aggregation.max_colluders if shared else None,
    )


def _whole(job: Job, *, chance: float) -> Mechanism:
    """A round is one step, and the unit a partner with all that it holds, however much."""
    privacy = job.privacy
    noise = privacy.noise_multiplier or calibrate(
        target=_given(privacy.epsilon), delta=_given(privacy.delta), sampling_rate=chance, steps=job.training.rounds
    )
    return Mechanism(
        kind="client",
        max_grad_norm=_given(privacy.max_update_norm),
        noise_multiplier=noise,
        sampling_rate=chance,
        expected_batch=chance,
        steps=1,
        unit=PARTNER,
        colluders=job.aggregation.max_colluders if job.shares_noise else None,
    )


def local(job: Job, *, units: int, unit: str = EXAMPLE) -> Mechanism:
    """How a partner trains with `client`: `local_steps` steps without noise, for the noise comes with the sum.

    A partner with fewer units than the batch takes all of them in every step: to refuse would tell how few they are.

    Args:
        job: of mechanism `client`.
        units: examples of the partner, those held out among them, or persons who have any.
        unit: `example`, or the column that names the person.
    """
    known = max(1, _trained(units, job.evaluation.partner_holdout)[0])
    batch = min(job.training.batch_size, known)
    return Mechanism(
        kind="none",
        max_grad_norm=0.0,
        noise_multiplier=0.0,
        sampling_rate=batch / known,
        expected_batch=batch,
        steps=job.training.local_steps,
        unit=unit,
    )


def common_rate(job: Job) -> float:
    """The one Poisson rate of all partners of a `distributed-dp-sgd` job. Raises BadInput where it names none.

    Guarantee: it depends on the job alone, so it tells nothing of what a partner holds, and no partner can be made to
    sample at another rate than the others: all of them compute it from the job that they granted.
    """
    if job.training.population is None:
        raise BadInput("expected training.population, found nothing", hint="load the job anew")
    return job.training.batch_size / job.training.population


def _check_population(rate: float, *, trained: tuple[int, int], unit: str) -> None:
    """A population far below what one partner holds would have it draw more than sums are exact for."""
    known, above = trained
    if rate * above > 2 * MOST_DRAWN:
        raise BadInput(
            f"expected a sampling rate that draws at most {2 * MOST_DRAWN} of the partner's {_words(unit)}, {known} in "
            f"round numbers, found {rate:.3g}",
            hint="set training.population to the examples of all partners together",
        )


def _check_delta(delta: float, *, trained: tuple[int, int], unit: str) -> None:
    known, above = trained
    if delta >= 1 / above:
        raise BadInput(
            f"expected privacy.delta below 1/N = {1 / above:.3g} for the partner's {_words(unit)}, {known} in round "
            f"numbers, found {delta:g}",
            hint="lower privacy.delta: at 1/N it would allow to publish one of them outright",
        )


def weight(job: Job, *, units: int) -> int:
    """How much a partner counts in the mean: as many as it has examples, or persons, to train on, up to `max_weight`.

    Args:
        job: as resolved.
        units: all that it has, those held out among them.

    Guarantee: where a mechanism protects the data this depends on the count through its first two digits only, which
    the accounting publishes anyway. Persons, not rows, are counted where they are the unit: one person with many rows
    would move a count of rows by all of them.
    """
    if job.aggregation.weighting == "uniform":
        return 1
    held = job.evaluation.partner_holdout
    known = kept(units, share=held) if job.privacy.mechanism == "none" else _trained(units, held)[0]
    return min(known, job.aggregation.max_weight)


def _given(value: float | None) -> float:
    if value is None:
        raise BadInput(
            "expected epsilon, delta and a clip norm with a private mechanism, found a gap", hint="load the job anew"
        )
    return value
