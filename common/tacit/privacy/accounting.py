"""What a list of events costs: composition by privacy loss distributions.

Koskela et al. 2020 (arXiv:1906.03049), discretised as in Doroshenko et al. 2022 (arXiv:2207.04380) by Google's
dp-accounting 0.6, which errs on the side of a larger epsilon.
"""

from __future__ import annotations

import math
from collections.abc import Iterable
from functools import lru_cache

from dp_accounting.pld import privacy_loss_distribution as pld

from tacit.errors import BadInput
from tacit.privacy.events import Event, merge

__all__ = ["LEAST_NOISE", "calibrate", "epsilon"]

LEAST_NOISE = 0.2
"""The smallest noise multiplier that is accounted for."""

_CEILING = 50.0
"""Where a part of the steps, from a sixteenth to a quarter, costs more, all of them are said to cost without bound."""

_AT_ONCE = 10**5  # steps that dp-accounting composes in one go
_STEP = 1e-4  # discretisation of the privacy loss; dp-accounting's default
_PRECISION = 1e-3  # of a calibrated noise multiplier, relative; always rounded towards more noise
_LARGEST = 1e4  # noise multiplier above which calibration gives up
_MOST_NOISE, _LEAST_RATE = 1e9, 1e-30  # beyond these dp-accounting's numbers overflow; they cost nothing either way


def epsilon(events: Iterable[Event], *, delta: float) -> float:
    """Epsilon of all `events` together at `delta`, under add-remove adjacency.

    Guarantee: the releases of all rounds, runs and restarts that are in `events` are composed; none counts for
    itself alone. An unprotected release gives infinity, and so does one with less noise than `LEAST_NOISE`, whose
    epsilon is in the thousands and takes minutes to compute. So do events of which a part alone costs more than anybody
    would promise: whoever proposes them chooses how many gigabytes an exact figure would take. Events of different
    units give infinity too: each speaks of other neighbouring data sets, and no one number holds for all of them. No
    events give 0. There is an answer for whatever events a stranger tells: of noise and rates beyond what numbers hold,
    the worse ones that they do hold are counted.
    """
    merged = merge(events)
    if len({event.unit for event in merged}) > 1:
        return math.inf
    if any(event.kind == "none" or event.noise_multiplier < LEAST_NOISE for event in merged):
        return math.inf
    return _epsilon(merged, delta) if merged else 0.0


@lru_cache(maxsize=65536)
def _epsilon(merged: tuple[Event, ...], delta: float) -> float:
    if any(_endless(event.sampling_rate, event.noise_multiplier, event.steps, delta) for event in merged):
        return math.inf
    total = _composed(merged[0].sampling_rate, merged[0].noise_multiplier, merged[0].steps)
    for event in merged[1:]:
        total = total.compose(_composed(event.sampling_rate, event.noise_multiplier, event.steps))
    return float(total.get_epsilon_for_delta(delta))


def _endless(rate: float, noise_multiplier: float, steps: int, delta: float) -> bool:
    """Memory grows with epsilon, and epsilon with the steps: parts are looked at before the whole, small ones first.

    The parts are powers of four, so that one who searches for a number of steps looks at the same ones again.
    """
    part = 1
    while 4 * part <= steps:
        if _part(rate, noise_multiplier, part, delta) > _CEILING:
            return True
        part *= 4
    return False


@lru_cache(maxsize=4096)
def _part(rate: float, noise_multiplier: float, steps: int, delta: float) -> float:
    return float(_composed(rate, noise_multiplier, steps).get_epsilon_for_delta(delta))


def _composed(rate: float, noise_multiplier: float, steps: int) -> pld.PrivacyLossDistribution:
    return _power(_one(rate, noise_multiplier), steps)


def _power(one: pld.PrivacyLossDistribution, steps: int) -> pld.PrivacyLossDistribution:
    """`one` composed with itself. Of one with a few cells dp-accounting computes first what cells ** steps is."""
    if steps <= _AT_ONCE:
        return one.self_compose(steps)
    many, rest = _power(one.self_compose(_AT_ONCE), steps // _AT_ONCE), steps % _AT_ONCE
    return many.compose(one.self_compose(rest)) if rest else many


@lru_cache(maxsize=1024)
def _one(rate: float, noise_multiplier: float) -> pld.PrivacyLossDistribution:
    noise, chance = min(noise_multiplier, _MOST_NOISE), max(rate, _LEAST_RATE)
    return pld.from_gaussian_mechanism(
        noise, sampling_prob=chance, value_discretization_interval=_STEP, use_connect_dots=True
    )


@lru_cache(maxsize=4096)
def calibrate(*, target: float, delta: float, sampling_rate: float, steps: int) -> float:
    """The smallest noise multiplier, to one in a thousand, with which `steps` steps cost at most `target`.

    Guarantee: the epsilon of the returned multiplier is never above `target`.

    Raises:
        BadInput: no noise multiplier below 10,000 is enough.
    """

    def cost(noise_multiplier: float) -> float:
        event = Event(kind="dp-sgd", sampling_rate=sampling_rate, noise_multiplier=noise_multiplier, steps=steps)
        return epsilon((event,), delta=delta)

    # Near the answer from the start: far too little noise for many steps takes minutes and gigabytes to account for.
    low, high = 0.0, max(1.0, sampling_rate * math.sqrt(steps))
    while cost(high) > target:
        low, high = high, 2 * high
        if high > _LARGEST:
            raise BadInput(
                f"expected an epsilon that noise can reach over {steps} steps, found {target}",
                hint="raise privacy.epsilon, or plan fewer rounds or steps",
            )
    while high - low > _PRECISION * high:
        middle = (low + high) / 2
        if middle < LEAST_NOISE:
            return max(high, LEAST_NOISE)
        low, high = (low, middle) if cost(middle) <= target else (middle, high)
    return high
