"""What one number with Gaussian noise tells, by adding up: the integers' noise beside the real numbers'.

The hockey-stick divergence at epsilon is the smallest delta for which a release is (epsilon, delta)-private. In one
dimension it can be summed to the last digit that a float has, with no accountant between.
"""

from __future__ import annotations

import math

import numpy as np
from numpy.typing import NDArray

__all__ = ["epsilon_of", "hockey_stick", "laws"]

_REACH = 14  # deviations beyond which a float holds nothing of a Gaussian that counts
_BISECTIONS = 50


def laws(
    std: float, *, shift: float, rate: float = 1.0, step: float = 1.0
) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """The chances of a release without and with one unit, which moves it by `shift` where it is drawn.

    Args:
        std: of the noise.
        shift: the unit's contribution.
        rate: with which the unit is drawn.
        step: between the numbers that can be released: 1.0 for the discrete Gaussian over the integers, a small part
            of `std` for an integral over the continuous one.

    Returns:
        float64 `[m]` each, over the same numbers.
    """
    ends = math.ceil(_REACH * std / step) * step
    numbers = np.arange(-ends, ends + shift + step, step)
    without = np.exp(-0.5 * np.square(numbers / std))
    moved = np.exp(-0.5 * np.square((numbers - shift) / std))
    without /= without.sum()
    return without, (1 - rate) * without + rate * moved / moved.sum()


def hockey_stick(one: NDArray[np.float64], other: NDArray[np.float64], *, epsilon: float) -> float:
    """Delta at `epsilon` of the release whose chances are `one` or `other` (float64 `[m]`)."""
    return float(np.maximum(one - math.exp(epsilon) * other, 0.0).sum())


def epsilon_of(one: NDArray[np.float64], other: NDArray[np.float64], *, delta: float) -> float:
    """The smallest epsilon at `delta` of the release, whichever of `one` and `other` (float64 `[m]`) is the truth."""
    low, high = 0.0, 100.0
    for _ in range(_BISECTIONS):
        middle = (low + high) / 2
        spent = max(hockey_stick(one, other, epsilon=middle), hockey_stick(other, one, epsilon=middle))
        low, high = (middle, high) if spent > delta else (low, middle)
    return high
