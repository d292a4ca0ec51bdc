"""Sharing a 32-byte secret so that `threshold` shares rebuild it and fewer say nothing.

Source: Shamir, How to share a secret, CACM 22 (11), 1979. The field has a prime of 257 bits (`constants.PRIME`); the
share of holder x is the value at x of a random polynomial whose value at 0 is the secret.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from functools import lru_cache
from math import prod

import numpy as np

from tacit.secagg.constants import KEY, PRIME, SHARE
from tacit.secagg.keys import Secret

__all__ = ["combine", "split"]

_WIDE = 48  # bytes drawn for a coefficient: reduced modulo the prime they are off uniform by less than 2^-127
_LAZY = 16  # steps of Horner's rule between reductions


def split(
    secret: Secret, *, threshold: int, holders: Sequence[int], random: Callable[[int], bytes]
) -> dict[int, Secret]:
    """Shares of `secret`, 33 bytes each, by holder.

    Args:
        secret: 32 bytes.
        threshold: shares that rebuild it, from 1 to the number of holders.
        holders: distinct numbers above 0, where the polynomial is evaluated.
        random: gives as many random bytes as it is asked for.

    Raises:
        ValueError: anything else.

    Guarantee: any `threshold - 1` shares are, but for 2^-127 a coefficient, independent of the secret.
    """
    if len(secret) != KEY or not 1 <= threshold <= len(holders):
        raise ValueError(f"expected {KEY} bytes and a threshold from 1 to {len(holders)}, found {threshold}")
    if len(set(holders)) != len(holders) or min(holders) < 1:
        raise ValueError("expected distinct holders above 0, found one at 0 or twice")
    drawn = random(_WIDE * (threshold - 1))
    falling = [int.from_bytes(drawn[i : i + _WIDE], "big") % PRIME for i in range(0, len(drawn), _WIDE)]
    falling.append(int.from_bytes(secret, "big"))
    return {x: Secret(_value(falling, x).to_bytes(SHARE, "big")) for x in holders}


def _value(falling: Sequence[int], x: int) -> int:
    """The polynomial with coefficients `falling`, of the highest power first, at `x`, by Horner's rule."""
    value = 0
    for i, coefficient in enumerate(falling):
        value = value * x + coefficient
        if i % _LAZY == 0:
            value %= PRIME
    return value % PRIME


def combine(shares: Mapping[int, bytes]) -> Secret:
    """The secret whose polynomial goes through all of `shares`, 33 bytes each by holder.

    It is the shared one where these are `threshold` or more right shares; the caller checks that against something
    public, since wrong shares give another secret.

    Raises:
        ValueError: no share, or shares that belong to no 32-byte secret.
    """
    found = -1
    if shares and max(shares.values()) < PRIME.to_bytes(SHARE, "big"):  # each in its one spelling
        weights = zip(_weights(tuple(shares)), shares.values(), strict=True)
        found = sum(weight * int.from_bytes(share, "big") for weight, share in weights) % PRIME
    if not 0 <= found < 1 << (8 * KEY):
        raise ValueError("expected shares of one secret, found others")
    return Secret(found.to_bytes(KEY, "big"))


@lru_cache(maxsize=64)
def _weights(holders: tuple[int, ...]) -> tuple[int, ...]:
    """Lagrange's weights at 0: the product over the other holders y of y / (y - x)."""
    # All denominators are inverted at once (Montgomery, Math. Comp. 48, 1987): one inverse, three products each.
    everything, denominators = prod(holders) % PRIME, _denominators(holders)
    before = [1]
    for denominator in denominators:
        before.append(before[-1] * denominator % PRIME)
    inverse = everything * pow(before[-1], -1, PRIME) % PRIME
    weights = []
    for i in reversed(range(len(holders))):
        weights.append(inverse * before[i] % PRIME)
        inverse = inverse * denominators[i] % PRIME
    return tuple(reversed(weights))


def _denominators(holders: tuple[int, ...]) -> list[int]:
    """For every holder x: x times the product over the other holders y of (y - x).

    The differences are small, so as many as fit are multiplied in machine words before Python's integers take over.
    """
    xs = np.array(holders, dtype=np.int64)
    factors = xs[None, :] - xs[:, None]
    np.fill_diagonal(factors, xs)
    together = max(1, 62 // max(holders).bit_length())
    padded = np.pad(factors, ((0, 0), (0, -len(holders) % together)), constant_values=1)
    words = padded.reshape(len(holders), -1, together).prod(axis=2)
    return [prod(row) % PRIME for row in words.tolist()]
