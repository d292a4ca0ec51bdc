"""A lower bound on epsilon from one run with many canaries, each in the data or not by a fair coin.

Steinke, Nasr and Jagielski 2023, "Privacy Auditing with One (1) Training Run" (arXiv:2305.08846, theorem 5.2). Whoever
saw the run guesses some of the coins. If the run was (epsilon, delta)-private, the number of right guesses is hardly
larger than that of as many biased coins, each right with chance 1 / (1 + exp(-epsilon)). So many right guesses reject
every epsilon under the bound.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from functools import lru_cache

import numpy as np
from numpy.typing import NDArray

from tacit.errors import BadInput

__all__ = ["CONFIDENCE", "LEAST_CANARIES", "Guesses", "Sweep", "lower_bound", "numbers", "p_value", "sweep"]

CONFIDENCE = 0.95
LEAST_CANARIES = 20
"""Fewer tell nothing at that confidence."""

_PRECISION = 1e-4  # of a bound
_LEAST_GUESSES = 16  # with 10 all right ones the bound is 0.5 at best


@dataclass(frozen=True)
class Guesses:
    """One number of guesses, and what it shows.

    Attributes:
        made: canaries guessed, those that the scores tell most of; the rest is left open.
        right: of these.
        bound: on epsilon, had this number been fixed beforehand.
        shared: on epsilon, with the other numbers of the sweep tried beside it (union bound).
    """

    made: int
    right: int
    bound: float
    shared: float


@dataclass(frozen=True)
class Sweep:
    """Every number of guesses that was tried, in falling order.

    Guarantee: of an (epsilon, delta)-private run each of these is above epsilon with a chance of at most 1 -
    confidence, over coins and run: `at(n).bound` for a number that was fixed before the run, and `shared`. This is not
    so for `pointwise`.
    """

    tried: tuple[Guesses, ...]

    def at(self, made: int) -> Guesses:
        """Those of `made` guesses. Raises BadInput where that number was not tried."""
        for guesses in self.tried:
            if guesses.made == made:
                return guesses
        raise BadInput(f"expected a number of guesses that was tried, found {made}", hint="take one of numbers()")

    @property
    def shared(self) -> float:
        """The best bound after all numbers were looked at: each has its share of the chance of error."""
        return max(guesses.shared for guesses in self.tried)

    @property
    def pointwise(self) -> float:
        """The greatest bound of one number alone, as papers print it: without the price of having looked at all."""
        return max(guesses.bound for guesses in self.tried)


def sweep(
    scores: NDArray[np.float64], coins: NDArray[np.bool_], *, delta: float, confidence: float = CONFIDENCE
) -> Sweep:
    """Guess the coins that `scores` tell most of, and compare with `coins`, bool `[m]`.

    Args:
        scores: float64 `[m]`, logarithms of how much likelier in than out a canary is, up to a common factor: above 0
            it is said to be in, and the further from 0 the surer. Where only those that are in can show themselves,
            as in a mechanism that samples, most of the sure guesses are of that kind.

    Raises:
        BadInput: fewer than `LEAST_CANARIES` canaries, shapes that differ, a score that is no number.
    """
    m = len(scores)
    if m < LEAST_CANARIES or scores.shape != coins.shape or np.isnan(scores).any():
        raise BadInput(
            f"expected a score and a coin for each of at least {LEAST_CANARIES} canaries, found {m} scores and "
            f"{len(coins)} coins",
            hint="raise --canaries",
        )
    hits = ((scores > 0) == coins)[np.argsort(-np.abs(scores), kind="stable")]
    tried = numbers(m)
    levels = confidence, 1 - (1 - confidence) / len(tried)
    found = []
    for made in tried:
        right = int(hits[:made].sum())
        bound, shared = (lower_bound(made, right=right, canaries=m, delta=delta, confidence=c) for c in levels)
        found.append(Guesses(made, right, bound, shared))
    return Sweep(tuple(found))


def numbers(canaries: int) -> tuple[int, ...]:
    """The numbers of guesses that a sweep over so many canaries tries, falling by a quarter or a third each."""
    halvings = max(1, int(math.log2(canaries / _LEAST_GUESSES)) + 1) if canaries >= _LEAST_GUESSES else 1
    raw = [int(canaries * part / 2**k) for k in range(halvings) for part in (1.0, 0.75)]
    return tuple(n for n in raw if n >= _LEAST_GUESSES)


def lower_bound(guesses: int, *, right: int, canaries: int, delta: float, confidence: float) -> float:
    """The largest epsilon >= 0, to 1e-4 and rounded down, that `right` of `guesses` right guesses reject.

    Guarantee: had the run been (epsilon', delta)-private for an epsilon' below the returned one, so many right guesses
    would have had a chance of at most 1 - `confidence`. This needs no p-value that rises with epsilon: what is private
    with epsilon' is private with every larger one, so one rejected epsilon rejects all below it.
    """
    low, high = 0.0, 1.0

    def rejected(epsilon: float) -> bool:
        p = p_value(guesses, right=right, canaries=canaries, epsilon=epsilon, delta=delta)
        return p <= 1 - confidence

    if not rejected(low):
        return low
    while rejected(high):
        low, high = high, 2 * high
    while high - low > _PRECISION:
        middle = (low + high) / 2
        low, high = (middle, high) if rejected(middle) else (low, middle)
    return low


def p_value(guesses: int, *, right: int, canaries: int, epsilon: float, delta: float) -> float:
    """A bound on the chance of `right` or more right guesses in an (epsilon, delta)-private run.

    With W binomial (`guesses`, 1 / (1 + exp(-epsilon))): P[W >= v] + 2 m delta max over i of P[v - i <= W < v] / i.
    """
    if not 0 <= right <= guesses <= canaries:
        raise BadInput(
            f"expected right guesses <= guesses <= canaries, found {right}, {guesses}, {canaries}",
            hint="check the numbers",
        )
    chances = _binomial(guesses, 1 / (1 + math.exp(-epsilon)))
    tail = float(chances[right:].sum())
    if not right or not delta:
        return min(1.0, tail)
    below = np.cumsum(chances[:right][::-1])  # P[v - i <= W < v] for i = 1, 2, ..., v
    return min(1.0, tail + 2 * canaries * delta * float((below / np.arange(1, right + 1)).max()))


def _binomial(n: int, q: float) -> NDArray[np.float64]:
    """Chances of 0 to `n` right ones of `n`, each right with chance `q` below 1: float64 `[n + 1]`."""
    if q >= 1.0:  # exp(-epsilon) was lost beside 1
        only: NDArray[np.float64] = (np.arange(n + 1) == n).astype(np.float64)
        return only
    k = np.arange(n + 1)
    found: NDArray[np.float64] = np.exp(_ways(n) + k * math.log(q) + (n - k) * math.log1p(-q))
    return found


@lru_cache(maxsize=64)
def _ways(n: int) -> NDArray[np.float64]:
    """Logarithms of the binomial coefficients of `n`."""
    factorials = np.concatenate([[0.0], np.cumsum(np.log(np.arange(1, n + 1)))])
    found: NDArray[np.float64] = factorials[n] - factorials - factorials[::-1]
    return found
