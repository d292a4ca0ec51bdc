"""Updates as integers modulo 2^32 and back.

An update is clipped to a public L2 norm, multiplied by a public scale and rounded at random up or down, so that the
expectation of what is sent is the update itself. The sum of all partners' integers is exact; nothing wraps.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from tacit.errors import BadInput
from tacit.privacy.randomness import Stream

__all__ = ["COARSEST", "Ring"]

COARSEST = 2.0**-12
"""The largest step of the fixed-point grid that a job may have: coarser updates would be rounded to noise."""

_MOST = 2**31 - 1  # of a sum: a residue above stands for a negative number
_BLOCK = 1 << 16  # entries at a time: float64 copies stay in the processor's cache


@dataclass(frozen=True)
class Ring:
    """The fixed-point grid of a round.

    Attributes:
        norm: L2 bound of an update.
        partners: whose sum must not wrap.

    Raises:
        BadInput: no partners; a norm so large that with a step of `COARSEST` or finer the sum could wrap.

    Guarantee: the sum of `partners` encoded updates never wraps. Proof: `bound` = floor((2^31 - 1) / partners); each
    entry of an encoded update lies from -bound to bound by its last operation, a clamp to that range; so a sum of
    `partners` entries lies within 2^31 - 1 of zero, where residues modulo 2^32 and integers are one to one. The clamp
    changes nothing but rounding errors: an entry is at most the L2 norm, and scale * norm = bound.
    """

    norm: float
    partners: int

    def __post_init__(self) -> None:
        if self.partners < 1:
            raise BadInput(f"expected a cohort of at least 1, found {self.partners}", hint="check the server's version")
        most = COARSEST * self.bound
        if not self.norm <= most:
            raise BadInput(
                f"expected aggregation.max_update_norm of at most {most:g} for {self.partners} partners, found "
                f"{self.norm:g}: their sum would wrap round in 32 bits",
                hint=f"lower aggregation.max_update_norm to {most:g} or less",
            )

    @property
    def bound(self) -> int:
        """The largest integer that one partner sends."""
        return _MOST // self.partners

    @property
    def step(self) -> float:
        """What one unit stands for. An entry of the mean of unweighted updates is off by less than this."""
        return self.norm / self.bound

    def encode(
        self, update: NDArray[np.float32], *, weight: float, rounding: Stream
    ) -> tuple[NDArray[np.uint32], bool]:
        """`weight` times the clipped update as integers modulo 2^32, and whether it was clipped.

        Args:
            update: float32 `[d]`.
            weight: above 0, at most 1.
            rounding: decides between up and down, so that the expectation is exact.

        Raises:
            BadInput: NaN or infinity, anything but a float32 vector, a weight out of range.
        """
        if not 0.0 < weight <= 1.0:
            raise BadInput(f"expected a weight above 0 and at most 1, found {weight}", hint="check the example count")
        shrink = _shrink(update, norm=self.norm)
        scale = weight * shrink / self.step
        encoded = np.empty(len(update), dtype=np.uint32)
        for start in range(0, len(update), _BLOCK):
            part = update[start : start + _BLOCK] * np.float64(scale)
            part += rounding.words((len(part) + 1) // 2).view("<u4")[: len(part)] * 2.0**-32
            np.floor(part, out=part)
            np.clip(part, -self.bound, self.bound, out=part)
            encoded[start : start + _BLOCK] = part.astype(np.int64)  # to uint32: modulo 2^32
        return encoded, shrink < 1.0

    def decode(self, total: NDArray[np.uint32], *, weight: float) -> NDArray[np.float64]:
        """The weighted mean, float64 `[d]`, from the sum modulo 2^32 and the sum of the weights."""
        return np.multiply(total.view(np.int32), self.step / weight, dtype=np.float64)


def _shrink(update: NDArray[np.float32], *, norm: float) -> float:
    if update.ndim != 1 or update.dtype != np.float32:
        raise BadInput(
            f"expected an update of float32 in one dimension, found {update.dtype} in {update.ndim}",
            hint="flatten the update",
        )
    squares = 0.0
    for start in range(0, len(update), _BLOCK):
        part = update[start : start + _BLOCK].astype(np.float64)
        squares += float(np.square(part, out=part).sum())  # a product of vectors would start the threads of a BLAS
    if not np.isfinite(squares):
        raise BadInput("expected an update of finite numbers, found NaN or infinity", hint="lower the learning rate")
    length = float(np.sqrt(squares))
    return norm / length if length > norm else 1.0
