"""The Gaussian mechanism in integers: sums on a grid, with discrete Gaussian noise that partners may share.

Kairouz, Liu, Steinke 2021 (arXiv:2102.06387v4, section 3), without its rotation and with rounding to the nearest: the
grid is so fine that rounding adds less than a hundredth to the noise. Everything that is released is an integer, so no
digit of a float tells what the noise should hide (Mironov 2012, doi:10.1145/2382196.2382264).
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from tacit.errors import BadInput
from tacit.privacy.gaussian import discrete_gaussian
from tacit.privacy.randomness import Stream

__all__ = ["Grid", "noised_sum"]

_MOST = 2**31 - 1  # of a sum: a residue above stands for a negative number
_LONGEST = 2**30
_FINEST, _COARSEST = 30, 10  # steps to the clip norm, as powers of two
_ROUNDING = 0.01  # of the sensitivity: the most that rounding may add
_FLOATS = 1 + 2.0**-20  # how far float64 arithmetic may stretch a clipped sum's difference
_SPARE = 16  # variance that turns continuous noise into integers: deviation 4
_LEAST_SHARE = 16.0  # deviation from which on a sum of discrete Gaussians is one for all that can be seen
_WIDE = 10  # deviations of the noise of all partners that must find room
_UP = 1 + 2.0**-40  # covers the rounding of the few operations that lead to a share's deviation
_BLOCK = 1 << 16  # entries at a time: copies stay in the processor's cache

_FINE_BITS = 36
_FINE_NOISE = 1 + 2.0**-19
_LEAST_MULTIPLIER, _LARGEST_MULTIPLIER = 2.0**-10, 2.0**13
_FAR = 2.0**60


@dataclass(frozen=True, kw_only=True)
class Grid:
    """The integers of one masked sum, to which every partner adds its share of the noise.

    Attributes:
        clip: L2 bound C of one unit's contribution, before rounding.
        length: entries of the vector, d.
        partners: in the cohort, n.
        honest: partners whose noise is counted on; the least of those in the sum, less those who may work together
            with the server.
        noise_multiplier: z of the continuous Gaussian mechanism whose cost is charged.
        most: bound of an entry of one partner's own sum, in units of `clip`; entries are cut to it.

    Raises:
        BadInput: a number out of its range; nobody whose noise counts; so many partners or entries, so large a bound or
            so much noise that the sum would wrap or the grid be too coarse; so little noise that it is no Gaussian.

    Guarantee: the sum of encoded vectors of at least `honest` partners who draw their noise as told satisfies what the
    continuous Gaussian mechanism of noise multiplier z satisfies, alone or under Poisson sampling, up to a factor
    exp(+-1e-100) of every chance, for units of which each is in one partner's data, adds at most `clip` in L2 to a sum
    of at most 2^15 of them there, and is added or removed. Proof, in the integers' scale, with K = 2^bits.

    - Sensitivity. The sums of a partner's data with and without a unit, in float64, are within K (1 + 2^-20) of each
      other: adding up m vectors is off by at most m 2^-53 of the sum of their lengths, so both sums together by
      2 m^2 2^-53 K <= 2^-22 K, and norm, factor and the quotient by `unit` by less than is left, for d up to 2^30.
      Cutting each entry to a range brings no two vectors further apart. Rounding to the nearest moves an entry of the
      difference by at most 1, hence the difference by at most sqrt(d). That makes `sensitivity`.
    - A constant. Sums of exp(-(j - c)^2 / 2 v^2) over all integers j are the same for all c, up to a factor exp(+-4 t)
      with t = exp(-2 pi^2 v^2) <= 0.1: by Poisson summation each is sqrt(2 pi) v (1 + 2 sum_i t^(i^2) cos 2 pi i c).
    - Shares. Of two discrete Gaussians of variances a and b the sum is k with chance in proportion to
      exp(-k^2 / 2 (a + b)) times such a sum over j, with v^2 = a b / (a + b): up to exp(+-8 t) a discrete Gaussian of
      variance a + b. Adding `honest` of deviation s one by one, v^2 >= s^2 / 2: altogether one of deviation
      S = sqrt(honest) s, up to exp(+-8 honest exp(-pi^2 s^2)) an entry, below exp(+-1e-1000) for s of 16 and more.
      Other partners' noise on top is post-processing.
    - Continuous noise. Let f be an integer vector, r = 4, and S^2 = S'^2 + r^2. Draw z from N(f, S'^2 I), then in each
      entry an integer k with chance in proportion to exp(-(k - z)^2 / 2 r^2). Its normaliser is such a constant;
      without it, exp(-(z - f)^2 / 2 S'^2 - (k - z)^2 / 2 r^2) integrates over z to exp(-(k - f)^2 / 2 S^2) but for a
      factor. So k is f plus a discrete Gaussian of deviation S, up to exp(+-8 exp(-2 pi^2 r^2)) < exp(+-1e-135) an
      entry. The second step does not look at f: what is released is post-processing of N(f, S'^2 I), and
      S' = z `sensitivity`. (The step of Peikert 2010, ePrint 2010/088, for the integers.)

    Guarantee: a sum of `partners` encoded vectors wraps in an entry with chance below 2 exp(-50): each is at most
    ceil(most K) + 1 in size before the noise, and `bits` leaves room for ten deviations of all partners' noise, which
    is sub-Gaussian. A sum that wraps has lost accuracy and no privacy.
    """

    clip: float
    length: int
    partners: int
    honest: int
    noise_multiplier: float
    most: float

    def __post_init__(self) -> None:
        _positive(self.clip, "clip")
        _positive(self.noise_multiplier, "noise multiplier")
        _positive(self.most, "bound of a partner's sum")
        if not 1 <= self.length <= _LONGEST:
            raise BadInput(f"expected a vector of 1 to 2^30 entries, found {self.length}", hint="check the model")
        if not 1 <= self.honest <= self.partners:
            raise BadInput(
                f"expected the noise of 1 to {self.partners} partners to count, found {self.honest}",
                hint="raise the threshold, or lower aggregation.max_colluders",
            )
        if not self._fits(_COARSEST) or math.sqrt(self.length) > _ROUNDING * 2**self.bits:
            raise BadInput(
                f"expected a sum over {self.partners} partners of {self.length} entries up to {self.most:g} clip norms "
                f"with noise {self.noise_multiplier:g} to fit in 32 bits, found it to wrap or to be rounded too much",
                hint="lower training.batch_size, ask for fewer partners, or choose a smaller model",
            )
        if self.share_std < _LEAST_SHARE:
            raise BadInput(
                f"expected a share of the noise of {_LEAST_SHARE:g} steps of the grid or more, found "
                f"{self.share_std:.3g}",
                hint="raise the noise multiplier, or ask fewer partners",
            )

    @property
    def bits(self) -> int:
        """The clip norm is 2^bits steps of the grid: as many as leave room for the sum, at most 2^30."""
        return next((bits for bits in range(_FINEST, _COARSEST, -1) if self._fits(bits)), _COARSEST)

    @property
    def unit(self) -> float:
        """What one integer stands for."""
        return math.ldexp(self.clip, -self.bits)

    @property
    def sensitivity(self) -> float:
        """How far one unit moves the sum of all partners' rounded vectors, in L2, in integers."""
        return self._sensitivity(self.bits)

    @property
    def share_std(self) -> float:
        """Deviation of each partner's noise, in integers."""
        return self._share_std(self.bits)

    def encode(self, total: NDArray[np.float64], *, noise: Stream) -> NDArray[np.uint32]:
        """One partner's sum, cut, rounded and noised, modulo 2^32.

        Args:
            total: float64 `[d]`, the sum of clipped contributions.
            noise: gives this partner's share.

        Raises:
            BadInput: anything but a float64 vector of `length` numbers.

        Guarantee: every entry gets noise of deviation `share_std`, also where the sum is empty.
        """
        if total.shape != (self.length,) or total.dtype != np.float64:
            raise BadInput(
                f"expected a float64 vector of {self.length}, found {total.dtype} {list(total.shape)}",
                hint="flatten the sum",
            )
        unit, limit, sigma = self.unit, _limit(self.most, self.bits), self.share_std
        encoded = np.empty(self.length, dtype=np.uint32)
        for start in range(0, self.length, _BLOCK):
            entries = _rounded(total[start : start + _BLOCK], unit=unit, limit=limit)
            entries += discrete_gaussian(noise, len(entries), sigma=sigma)
            encoded[start : start + _BLOCK] = entries  # to uint32: modulo 2^32
        return encoded

    def decode(self, total: NDArray[np.uint32]) -> NDArray[np.float64]:
        """The sum over partners, float64 `[d]`, from the sum modulo 2^32."""
        return np.multiply(total.view(np.int32), self.unit, dtype=np.float64)

    def _fits(self, bits: int) -> bool:
        noise = math.sqrt(self.partners) * self._share_std(bits)
        return self.partners * (_limit(self.most, bits) + 1) + _WIDE * noise <= _MOST

    def _sensitivity(self, bits: int) -> float:
        return math.ldexp(_FLOATS, bits) + math.sqrt(self.length)

    def _share_std(self, bits: int) -> float:
        counted = (self.noise_multiplier * self._sensitivity(bits)) ** 2 + _SPARE
        return math.sqrt(counted / self.honest) * _UP


def noised_sum(
    total: NDArray[np.float64], *, clip: float, noise_multiplier: float, noise: Stream
) -> NDArray[np.float64]:
    """One party's own Gaussian mechanism: a sum of clipped contributions and all of the noise.

    Args:
        total: float64 `[d]`.
        clip: L2 bound C of one unit's contribution.
        noise_multiplier: z of the continuous Gaussian mechanism whose cost is charged.
        noise: where the noise comes from.

    Returns:
        float64 `[d]`, integers times C 2^-36, rounded to what float64 can hold.

    Raises:
        BadInput: anything but a float64 vector of at most 2^30 numbers; a multiplier below 2^-10 or above 2^13.

    Guarantee: as for a `Grid` of one partner with K = 2^36. The noise's deviation is z K (1 + 2^-19), at least what a
    `Grid` takes: the rounding's part is sqrt(d) / K <= 2^-21, and (1 + 2^-19)^2 - (1 + 2^-20 + 2^-21)^2 > 2^-21, of
    z^2 K^2 more than 16 for z of 2^-10 and more. Entries are cut to 2^60 steps, which no sum of 2^15 units reaches. To
    leave the integers again is post-processing.
    """
    if total.ndim != 1 or total.dtype != np.float64 or len(total) > _LONGEST:
        raise BadInput(
            f"expected a float64 vector of at most 2^30, found {total.dtype} {list(total.shape)}",
            hint="flatten the sum",
        )
    _positive(clip, "clip")
    if not _LEAST_MULTIPLIER <= noise_multiplier <= _LARGEST_MULTIPLIER:
        raise BadInput(
            f"expected a noise multiplier from 2^-10 to 2^13, found {noise_multiplier}", hint="plan another mechanism"
        )
    unit, sigma = math.ldexp(clip, -_FINE_BITS), math.ldexp(noise_multiplier, _FINE_BITS) * _FINE_NOISE
    released = np.empty(len(total), dtype=np.float64)
    for start in range(0, len(total), _BLOCK):
        entries = _rounded(total[start : start + _BLOCK], unit=unit, limit=_FAR)
        entries += discrete_gaussian(noise, len(entries), sigma=sigma)
        np.multiply(entries, unit, out=released[start : start + _BLOCK])
    return released


def _rounded(total: NDArray[np.float64], *, unit: float, limit: float) -> NDArray[np.int64]:
    entries = total / unit
    if np.isnan(entries).any():
        raise BadInput("expected a sum of numbers, found NaN", hint="clip contributions before they are added up")
    np.clip(entries, -limit, limit, out=entries)
    return np.rint(entries, out=entries).astype(np.int64)


def _limit(most: float, bits: int) -> float:
    return float(math.ceil(math.ldexp(most, bits)))


def _positive(value: float, what: str) -> None:
    if not 0.0 < value < math.inf:
        raise BadInput(f"expected a {what} above 0, found {value}", hint="correct it")
