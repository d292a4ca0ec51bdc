"""Secret sharing against Lagrange's formula from the textbook."""

from __future__ import annotations

from contextlib import suppress
from fractions import Fraction
from itertools import combinations

import pytest
from cohort import Coins
from hypothesis import given, settings
from hypothesis import strategies as st

from tacit.secagg.constants import PRIME
from tacit.secagg.keys import Secret
from tacit.secagg.shamir import combine, split

SECRETS = st.binary(min_size=32, max_size=32) | st.sampled_from([bytes(32), b"\xff" * 32])


@st.composite
def _sharings(draw):
    holders = draw(st.lists(st.integers(1, 70000), min_size=1, max_size=9, unique=True))
    return draw(st.integers(1, len(holders))), holders


def _lagrange(points: dict[int, int], at: int) -> int:
    """The value at `at` of the polynomial of least degree through `points`, modulo the prime, term by term."""
    total = 0
    for x, value in points.items():
        weight = Fraction(1)
        for y in points:
            if y != x:
                weight *= Fraction(at - y, x - y)
        total += value * weight.numerator * pow(weight.denominator, -1, PRIME)
    return total % PRIME


def _numbers(shares) -> dict[int, int]:
    return {x: int.from_bytes(share, "big") for x, share in shares.items()}


@settings(max_examples=60)
@given(SECRETS, _sharings(), st.data())
def test_any_threshold_of_shares_rebuilds(secret, sharing, data):
    threshold, holders = sharing
    shares = split(Secret(secret), threshold=threshold, holders=holders, random=Coins())
    assert list(shares) == holders
    assert all(isinstance(share, Secret) and len(share) == 33 for share in shares.values())
    some = data.draw(st.permutations(holders))[: data.draw(st.integers(threshold, len(holders)))]
    found = combine({x: shares[x] for x in some})
    assert found == secret
    assert isinstance(found, Secret)
    assert _lagrange(_numbers({x: shares[x] for x in some}), 0) == int.from_bytes(secret, "big")


@settings(max_examples=30)
@given(SECRETS, SECRETS, _sharings())
def test_fewer_are_consistent_with_every_secret(secret, other, sharing):
    """One polynomial takes the same shares to any other secret, and sharing draws each with the same chance."""
    threshold, holders = sharing
    known = split(Secret(secret), threshold=threshold, holders=holders, random=Coins())
    points = {0: int.from_bytes(other, "big")} | _numbers({x: known[x] for x in holders[: threshold - 1]})
    rising = _coefficients(points)
    assert len(rising) == threshold
    assert rising[0] == points[0]
    drawn = b"".join(c.to_bytes(48, "big") for c in reversed(rising[1:]))
    again = split(Secret(other), threshold=threshold, holders=holders, random=lambda size: drawn[:size])
    assert {x: again[x] for x in holders[: threshold - 1]} == {x: known[x] for x in holders[: threshold - 1]}
    assert combine({x: again[x] for x in holders[:threshold]}) == other


def _coefficients(points: dict[int, int]) -> list[int]:
    """Of the polynomial through `points`, the lowest power first."""
    total = [0] * len(points)
    for x, value in points.items():
        basis, scale = [1], value
        for y in points:
            if y != x:
                basis = [a - y * b for a, b in zip([0, *basis], [*basis, 0], strict=True)]
                scale = scale * pow(x - y, -1, PRIME)
        total = [(t + scale * b) % PRIME for t, b in zip(total, basis, strict=True)]
    return total


def test_fewer_do_not_rebuild():
    secret = Secret(bytes(range(32)))
    shares = split(secret, threshold=4, holders=range(1, 7), random=Coins())
    tried = 0
    for some in combinations(shares, 3):
        with suppress(ValueError):
            assert combine({x: shares[x] for x in some}) != secret
        tried += 1
    assert tried == 20


@pytest.mark.parametrize("threshold", [2, 16, 17, 18, 33, 40])
def test_long_polynomials(threshold):
    holders = range(1, 46)
    coins = Coins()
    shares = split(Secret(b"\xff" * 32), threshold=threshold, holders=holders, random=coins)
    (drawn,) = coins.given
    assert len(drawn) == 48 * (threshold - 1)
    falling = [int.from_bytes(drawn[i : i + 48], "big") for i in range(0, len(drawn), 48)] + [2**256 - 1]
    for x in holders:
        assert int.from_bytes(shares[x], "big") == sum(c * x**i for i, c in enumerate(reversed(falling))) % PRIME
    assert combine({x: shares[x] for x in list(holders)[-threshold:]}) == b"\xff" * 32


def test_the_weights_of_one_set_of_holders_serve_every_secret():
    for i in range(3):
        secret = Secret(bytes([i]) * 32)
        assert combine(split(secret, threshold=3, holders=[5, 2, 9], random=Coins(f"{i}"))) == secret


@pytest.mark.parametrize("size", [0, 31, 33])
def test_a_secret_of_another_size(size):
    with pytest.raises(ValueError, match=r"expected 32 bytes and a threshold from 1 to 3, found 2$"):
        split(Secret(bytes(size)), threshold=2, holders=[1, 2, 3], random=Coins())


@pytest.mark.parametrize("threshold", [-1, 0, 4])
def test_a_threshold_out_of_range(threshold):
    with pytest.raises(ValueError, match=f"threshold from 1 to 3, found {threshold}$"):
        split(Secret(bytes(32)), threshold=threshold, holders=[1, 2, 3], random=Coins())


@pytest.mark.parametrize("holders", [[0, 1, 2], [1, 1, 2], [-1, 2, 3]])
def test_holders_at_zero_or_twice(holders):
    with pytest.raises(ValueError, match="expected distinct holders above 0"):
        split(Secret(bytes(32)), threshold=2, holders=holders, random=Coins())


@pytest.mark.parametrize("threshold", [1, 3])
def test_thresholds_of_one_and_of_all(threshold):
    shares = split(Secret(bytes(range(32))), threshold=threshold, holders=[1, 2, 3], random=Coins())
    assert combine({x: shares[x] for x in [1, 2, 3][:threshold]}) == bytes(range(32))


def test_no_share():
    with pytest.raises(ValueError, match="expected shares of one secret"):
        combine({})


@pytest.mark.parametrize("value", [2**256, PRIME - 1])
def test_a_value_that_is_no_secret(value):
    with pytest.raises(ValueError, match="expected shares of one secret"):
        combine({1: value.to_bytes(33, "big")})


@pytest.mark.parametrize("value", [PRIME, PRIME + 5, 2**264 - 1])
def test_a_share_that_is_no_element_of_the_field(value):
    right = split(Secret(bytes(32)), threshold=2, holders=[1, 2], random=Coins())
    with pytest.raises(ValueError, match="expected shares of one secret"):
        combine({1: right[1], 2: value.to_bytes(33, "big")})
    with pytest.raises(ValueError, match="expected shares of one secret"):
        combine({1: value.to_bytes(33, "big")})


def test_a_share_of_one_value_more_than_the_field():
    """A share as a number is taken modulo the prime by nobody: the same secret has one set of shares."""
    drawn = (PRIME - 3).to_bytes(48, "big")  # 5 + (p - 3) x is 2 at x = 1
    shares = split(Secret((5).to_bytes(32, "big")), threshold=2, holders=[1, 2], random=lambda size: drawn[:size])
    assert int.from_bytes(shares[1], "big") == 2
    with pytest.raises(ValueError, match="expected shares of one secret"):
        combine({1: (2 + PRIME).to_bytes(33, "big"), 2: shares[2]})
    assert combine(shares) == (5).to_bytes(32, "big")


def test_the_greatest_share():
    drawn = (PRIME - 1).to_bytes(48, "big")  # 0 + (p - 1) x is p - 1 at x = 1
    shares = split(Secret(bytes(32)), threshold=2, holders=[1, 2], random=lambda size: drawn[:size])
    assert int.from_bytes(shares[1], "big") == PRIME - 1
    assert combine(shares) == bytes(32)


def test_the_greatest_secret():
    assert combine({1: (2**256 - 1).to_bytes(33, "big")}) == b"\xff" * 32


def _witness(n: int, base: int) -> bool:
    """Whether `base` proves `n` composite (Miller 1976, Rabin 1980)."""
    odd, twos = n - 1, 0
    while odd % 2 == 0:
        odd, twos = odd // 2, twos + 1
    x = pow(base, odd, n)
    if x in (1, n - 1):
        return False
    for _ in range(twos - 1):
        x = x * x % n
        if x == n - 1:
            return False
    return True


def test_the_prime_is_the_first_above_2_to_256():
    assert PRIME > 2**256
    bases = range(2, 66)  # a composite passes each with a chance of at most 1/4: all with 2^-128
    assert not any(_witness(PRIME, base) for base in bases)
    between = range(2**256 + 1, PRIME)
    composite = [n for n in between if n % 2 == 0 or any(_witness(n, base) for base in bases)]
    assert len(composite) == len(between) == 296
