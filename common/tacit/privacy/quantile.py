"""The clip norm that follows a quantile of the updates' norms.

Andrew, Thakkar, McMahan, Ramaswamy 2021 (arXiv:1905.03871v5, Algorithm 1). There the sum of the updates and the count
of those that were not clipped get noise of their own, z_delta S and sigma_b. Here the count is one more entry of the
update, so that both are one vector with one noise, and their events one event: see `joint_norm`.
"""

from __future__ import annotations

import math

import numpy as np
from numpy.typing import NDArray

from tacit.errors import BadInput
from tacit.protection import LARGEST_NORM, LEAST_NORM

__all__ = ["clip", "follow", "join", "joint_norm", "part"]

_SCALE = 0.5  # lambda over S


def joint_norm(norm: float) -> float:
    """L2 bound of an update of at most `norm` with its entry: S sqrt(1 + (lambda / 2S)^2), lambda being S / 2.

    With noise multiplier z the sum of updates gets noise of z_delta S, z_delta = 1.031 z, and the count sigma_b =
    2.06 z; by the paper's formula, 1 / z^2 = 1 / z_delta^2 + 1 / (2 sigma_b)^2, these two together cost what z costs.
    Here that needs no formula: it is one Gaussian mechanism of multiplier z on vectors of this length.
    """
    return norm * math.hypot(1.0, _SCALE / 2)


def clip(update: NDArray[np.float32], *, norm: float) -> tuple[NDArray[np.float64], bool]:
    """The update at no more than `norm` in L2, float64 `[d]`, and whether it was within it.

    Guarantee: the result's length is at most `norm` (1 + 2^-40), whatever the update holds; one that leaves the finite
    numbers counts as zero, so that no partner shows itself by a NaN or by a refusal.
    """
    wide = update.astype(np.float64)
    length = float(np.sqrt(np.square(wide).sum()))  # of float32s: no square overflows
    if not np.isfinite(length):
        return np.zeros_like(wide), True
    return (wide * (norm / length), False) if length > norm else (wide, True)


def join(update: NDArray[np.float64], *, norm: float, within: bool) -> NDArray[np.float64]:
    """`update` (float64 `[d]`) with the entry lambda (b - 1/2), b being 1 where it was `within` the norm."""
    return np.append(update, _SCALE * norm * (0.5 if within else -0.5))


def part(total: NDArray[np.float64], *, norm: float, partners: float) -> tuple[NDArray[np.float64], float]:
    """The opposite, of a sum: that of the updates, float64 `[d]`, and the noisy share of them that were within.

    Args:
        total: float64 `[d + 1]`.
        norm: of the round.
        partners: in the sum, or expected in it.
    """
    return total[:-1], float(total[-1]) / (_SCALE * norm * partners) + 0.5


def follow(norm: float, *, share: float, quantile: float, rate: float) -> float:
    """The next round's norm, S exp(-rate (share - quantile)); it depends on the data through `share` only.

    A share beyond 0 or 1 is the noise's: it counts as 0 or 1, so that no round changes the norm by more than a factor
    exp(rate).

    Raises:
        BadInput: a share that is no number.
    """
    if not math.isfinite(share):
        raise BadInput(f"expected a share of updates, found {share}", hint="check the sum that it came from")
    found = norm * math.exp(-rate * (min(max(share, 0.0), 1.0) - quantile))
    return min(max(found, LEAST_NORM), LARGEST_NORM)
