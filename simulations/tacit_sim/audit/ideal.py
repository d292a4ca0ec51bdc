"""The same audit of mechanisms that are nothing but noise: what a bound can be at best with so many canaries."""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from tacit.errors import BadInput
from tacit_sim.audit.bound import CONFIDENCE, Sweep, sweep
from tacit_sim.audit.watch import evidence

__all__ = ["Ideal", "gaussian_epsilon", "gaussian_sigma", "gaussian_trial", "ideal", "sampled"]

_Floats = NDArray[np.float64]

_TRIALS = 20


@dataclass(frozen=True)
class Ideal:
    """What to expect of an audit, from simulated ones of one Gaussian mechanism.

    Attributes:
        sigma: its noise, in sensitivities.
        guesses: their number; from `ideal` the one whose bound was the greatest on average, to be fixed before a run.
        mean: of the bounds with that number.
        least: of them.
        most: of them.
    """

    sigma: float
    guesses: int
    mean: float
    least: float
    most: float


def ideal(epsilon: float, *, delta: float, canaries: int, seed: int, trials: int = _TRIALS) -> Ideal:
    """Audits of the Gaussian mechanism that is (`epsilon`, `delta`)-private and no better.

    Raises:
        BadInput: an epsilon that is not positive and finite; too few canaries.
    """
    sigma = gaussian_sigma(epsilon, delta=delta)
    rng = np.random.default_rng(seed)
    sweeps = [gaussian_trial(rng, sigma=sigma, canaries=canaries, delta=delta) for _ in range(trials)]
    bounds = np.array([[guesses.bound for guesses in found.tried] for found in sweeps])
    chosen = int(bounds.mean(axis=0).argmax())
    column = bounds[:, chosen]
    made = sweeps[0].tried[chosen].made
    return Ideal(sigma, made, float(column.mean()), float(column.min()), float(column.max()))


def sampled(
    *, rate: float, noise: float, steps: int, guesses: int, canaries: int, delta: float, seed: int, trials: int = 10
) -> Ideal:
    """Audits of `steps` Poisson-sampled Gaussian mechanisms and nothing else: what a run of a job can show at best.

    Sampling spreads the privacy loss: where units are drawn a few times only, epsilon is about the few that are drawn
    most, and a bound from all canaries hears little of them.

    Args:
        rate: chance of each canary that is in to be in a step.
        noise: in sensitivities, as it is added.
        guesses: their number.
    """
    rng, bounds = np.random.default_rng(seed), []
    for _ in range(trials):
        coins, scores = rng.integers(0, 2, canaries).astype(np.bool_), np.zeros(canaries)
        for _ in range(steps):
            drawn = coins & (rng.random(canaries) < rate)
            seen = drawn + noise * rng.standard_normal(canaries)
            scores += evidence(seen[None], rate=rate, noise=np.full(canaries, noise))
        bounds.append(sweep(scores, coins, delta=delta).at(guesses).bound)
    return Ideal(noise, guesses, float(np.mean(bounds)), min(bounds), max(bounds))


def gaussian_trial(
    rng: np.random.Generator, *, sigma: float, canaries: int, delta: float, confidence: float = CONFIDENCE
) -> Sweep:
    """One audit: each canary that is in adds 1 to an entry of its own, and every entry has noise of `sigma`."""
    coins = rng.integers(0, 2, canaries).astype(np.bool_)
    return sweep(coins - 0.5 + sigma * rng.standard_normal(canaries), coins, delta=delta, confidence=confidence)


def gaussian_epsilon(sigma: float, *, delta: float) -> float:
    """Epsilon of the Gaussian mechanism of sensitivity 1 at `delta`, exact (Balle and Wang 2018, arXiv:1805.06530v2,
    theorem 8), rounded up to 1e-9 at most."""
    low, high = 0.0, 1.0
    while _gaussian_delta(sigma, high) > delta:
        low, high = high, 2 * high
    while high - low > 1e-9 * max(1.0, high):
        middle = (low + high) / 2
        low, high = (middle, high) if _gaussian_delta(sigma, middle) > delta else (low, middle)
    return high


def gaussian_sigma(epsilon: float, *, delta: float) -> float:
    """The noise with which the Gaussian mechanism of sensitivity 1 is (`epsilon`, `delta`)-private and no better."""
    if not 0.0 < epsilon < math.inf:
        raise BadInput(f"expected an epsilon above 0 and finite, found {epsilon}", hint="audit a job with a mechanism")
    low, high = 0.0, 1.0
    while gaussian_epsilon(high, delta=delta) > epsilon:
        low, high = high, 2 * high
    while high - low > 1e-6 * high:
        middle = (low + high) / 2
        low, high = (middle, high) if gaussian_epsilon(middle, delta=delta) > epsilon else (low, middle)
    return high


def _gaussian_delta(sigma: float, epsilon: float) -> float:
    if sigma == 0.0:
        return 1.0
    first = _below(0.5 / sigma - epsilon * sigma)
    second = _below(-0.5 / sigma - epsilon * sigma)
    return first - math.exp(epsilon + math.log(second)) if second > 0.0 else first


def _below(x: float) -> float:
    """Chance of a standard normal number below `x`."""
    return 0.5 * math.erfc(-x / math.sqrt(2))
