"""The discrete Gaussian drawn the slow and obvious way: from fair chances of fractions, one number at a time."""

from __future__ import annotations

import math
from fractions import Fraction

import numpy as np

__all__ = ["Coins"]


class Coins:
    """Canonne, Kamath, Steinke 2020 (arXiv:2004.00010v5), Algorithms 1 to 3, in fractions: slow and obvious."""

    def __init__(self, seed: int) -> None:
        self._draw = np.random.default_rng(seed)

    def _bernoulli(self, p: Fraction) -> bool:
        return int(self._draw.integers(p.denominator)) < p.numerator

    def _bernoulli_exp(self, gamma: Fraction) -> bool:
        while gamma > 1:
            if not self._bernoulli_exp(Fraction(1)):
                return False
            gamma -= 1
        k = 1
        while self._bernoulli(gamma / k):
            k += 1
        return k % 2 == 1

    def _laplace(self, t: int) -> int:
        while True:
            u = int(self._draw.integers(t))
            if not self._bernoulli_exp(Fraction(u, t)):
                continue
            v = 0
            while self._bernoulli_exp(Fraction(1)):
                v += 1
            size, negative = u + t * v, self._bernoulli(Fraction(1, 2))
            if not (negative and size == 0):
                return -size if negative else size

    def gaussian(self, variance: Fraction) -> int:
        """One draw."""
        t = math.isqrt(variance.numerator // variance.denominator) + 1
        while True:
            y = self._laplace(t)
            if self._bernoulli_exp((abs(y) - variance / t) ** 2 / (2 * variance)):
                return y
