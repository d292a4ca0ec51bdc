"""Randomness as an argument: the operating system's by default, a seed only in tests and simulations.

Both are the same code: AES-256 in counter mode under a 32-byte key (NIST SP 800-38A, section 6.5). Only the key
differs, so a seeded run walks every line that a private run walks.
"""

from __future__ import annotations

import hashlib
import os
from dataclasses import dataclass

import numpy as np
from cryptography.hazmat.primitives.ciphers import Cipher, algorithms, modes
from numpy.typing import NDArray

__all__ = ["Randomness", "Stream"]

_KEY_BYTES = 32
_BLOCK_BYTES = 16


@dataclass(frozen=True)
class Randomness:
    """Where streams get their keys.

    Attributes:
        seed: None for the operating system's generator, else a number that everyone may know.

    Guarantee: with `seed=None` every stream has a fresh key from `os.urandom` that is never stored or shown.
    With a seed the noise can be recomputed by anybody, so `secure` is False and the run's result says so.
    """

    seed: int | None = None

    @property
    def secure(self) -> bool:
        """True where nobody can recompute the noise."""
        return self.seed is None

    def stream(self, *labels: str | int) -> Stream:
        """A stream for one purpose. Under a seed, equal labels give equal streams and others unrelated ones."""
        if self.seed is None:
            return Stream(os.urandom(_KEY_BYTES))
        digest = hashlib.sha256(b"tacit/v1/stream")
        for part in (self.seed, *labels):
            text = f"{type(part).__name__}:{part}".encode()
            digest.update(len(text).to_bytes(8, "big") + text)  # lengths keep ("a", "bc") apart from ("ab", "c")
        return Stream(digest.digest())


class Stream:
    """A keystream and the draws made from it. Holds a secret key: its repr shows none of it."""

    def __init__(self, key: bytes) -> None:
        # The counter begins at zero: each key serves one stream only, so no block is ever used twice.
        self._cipher = Cipher(algorithms.AES256(key), modes.CTR(bytes(_BLOCK_BYTES))).encryptor()

    def __repr__(self) -> str:
        return "Stream(<secret>)"

    def words(self, n: int) -> NDArray[np.uint64]:
        """`n` uniform 64-bit words."""
        return np.frombuffer(self._cipher.update(bytes(8 * n)), dtype="<u8")

    def uniform(self, n: int) -> NDArray[np.float64]:
        """`n` numbers uniform on the multiples of 2^-53 in [0, 1)."""
        return (self.words(n) >> np.uint64(11)).astype(np.float64) * 2.0**-53

    def gaussian(self, n: int) -> NDArray[np.float32]:
        """`n` standard normal numbers, float32, by Box and Muller (Ann. Math. Stat. 29, 1958, p. 610).

        The radius comes from a uniform number of 53 bits, so no draw exceeds 8.58 and the mass beyond that is
        below 1e-17 a draw; the angle has 24 bits, as many as the result can show. Single precision from the
        logarithm on: an order of magnitude quicker, and what leaves is float32 anyway.
        """
        half = (n + 1) // 2
        words = self.words(2 * half)
        uniform = ((words[:half] >> np.uint64(11)).astype(np.float32) + np.float32(1)) * np.float32(2.0**-53)
        radius = np.sqrt(np.float32(-2) * np.log(uniform))
        angle = (words[half:] >> np.uint64(40)).astype(np.float32) * np.float32(2 * np.pi * 2.0**-24)
        normal = np.empty(2 * half, dtype=np.float32)
        np.multiply(radius, np.cos(angle), out=normal[:half])
        np.multiply(radius, np.sin(angle), out=normal[half:])
        return normal[:n]

    def choose(self, n: int, *, k: int) -> NDArray[np.int64]:
        """`k` of the numbers below `n`, without replacement, uniformly, in rising order."""
        return np.sort(np.argsort(self.words(n), kind="stable")[:k])

    def choose_each(self, sizes: NDArray[np.int64], *, k: int) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
        """Of each of several groups `k` members, or all where it has fewer, without replacement.

        Args:
            sizes: int64 `[g]`, members of each group.
            k: at least 1.

        Returns:
            (group, member): int64 `[m]` each, the second from 0 to below the group's size, both in rising order.

        Guarantee: every choice of a group's members has one chance, independently of the other groups. Members are
        ranked by random words of 64 bits, so nothing is divided and no member favoured; two equal words, which alone
        would favour the earlier, come in a group of n with a chance below n^2 / 2^65.
        """
        group = np.repeat(np.arange(len(sizes)), sizes)
        first = np.repeat(np.cumsum(sizes) - sizes, sizes)  # where each member's group begins
        order = np.lexsort((self.words(len(group)), group))
        taken = np.sort(order[np.arange(len(group)) - first < k])
        return group[taken], taken - first[taken]

    def poisson_sample(self, n: int, *, rate: float) -> NDArray[np.int64]:
        """Indices below `n`, each taken independently with probability `rate`.

        Guarantee: the draw of one index does not depend on any other's, nor on the data: this is the Poisson
        sampling that the accounting assumes. The sample may be empty.
        """
        return np.flatnonzero(self.uniform(n) < rate)
