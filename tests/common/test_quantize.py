"""The grid of updates: unbiased, off by less than a step, clipped, and never wrapping."""

from __future__ import annotations

from math import isqrt, sqrt

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as arrays

from tacit.errors import BadInput
from tacit.privacy.randomness import Randomness, Stream
from tacit.quantize import COARSEST, Ring

BLOCK = 1 << 16  # entries that are encoded at a time
PARTNERS = (1, 2, 3, 10, 65536)


class Constant(Stream):
    """Rounding that is not random: every draw is the same 32 bits."""

    def __init__(self, bits: int) -> None:
        self._word = np.uint64(bits << 32 | bits)

    def words(self, n: int) -> np.ndarray:
        return np.full(n, self._word)


DOWN, NEAREST, UP = Constant(0), Constant(2**31), Constant(2**32 - 1)


def _random(*labels: int) -> Stream:
    return Randomness(1).stream("rounding", *labels)


def _integers(encoded: np.ndarray) -> np.ndarray:
    return encoded.view(np.int32).astype(np.int64)


def _clipped(update: np.ndarray, norm: float) -> np.ndarray:
    exact = update.astype(np.float64)
    return exact * min(1.0, norm / max(np.linalg.norm(exact), 1e-300))


def _bias(rounding: Stream, *, fraction: float, sign: int) -> float:
    """The mean error of 3 blocks of equal entries, in standard deviations of an unbiased rounding."""
    n, ring = 3 * BLOCK, Ring(norm=1.0, partners=1000)
    value = np.float32(sign * (1000 + fraction) * ring.step)
    update = np.full(n, value)
    exact = float(value) / ring.step
    encoded, clipped = ring.encode(update, weight=1.0, rounding=rounding)
    assert not clipped
    assert {int(v) for v in np.unique(_integers(encoded))} <= {int(np.floor(exact)), int(np.ceil(exact))}
    left = exact - np.floor(exact)
    return float((_integers(encoded).mean() - exact) / sqrt(left * (1 - left) / n))


@pytest.mark.statistical
@pytest.mark.parametrize("fraction", [0.02, 0.3, 0.5, 0.7])
@pytest.mark.parametrize("sign", [1, -1])
def test_rounding_is_unbiased(fraction, sign):
    """Within 4.5 standard deviations of 196,608 draws; the same test sees rounding down, up and to the nearest."""
    assert abs(_bias(_random(sign), fraction=fraction, sign=sign)) < 4.5
    biased = [_bias(rounding, fraction=fraction, sign=sign) for rounding in (DOWN, UP)]
    assert min(map(abs, biased)) > 50
    if fraction != 0.5:
        assert abs(_bias(NEAREST, fraction=fraction, sign=sign)) > 50


@pytest.mark.statistical
def test_entries_are_rounded_apart():
    """Neighbours and halves of a word are uncorrelated: 4.5 standard deviations of 65,536 pairs."""
    ring = Ring(norm=1.0, partners=1000)
    update = np.full(2 * BLOCK, 1000.5 * ring.step, np.float32)
    encoded, _ = ring.encode(update, weight=1.0, rounding=_random(7))
    up = _integers(encoded) - 1000.5
    for one, other in ((up[::2], up[1::2]), (up[1:-1:2], up[2::2]), (up[:BLOCK], up[BLOCK:])):
        assert abs(np.mean(one * other) / 0.25) < 4.5 / sqrt(len(one))


UPDATES = arrays.arrays(np.float32, st.integers(0, 40), elements=st.floats(-1e4, 1e4, width=32))
NORMS = st.floats(1e-3, 5.0)


@given(UPDATES, NORMS, st.integers(1, 65536), st.floats(1e-4, 1.0), st.integers(0, 2**32))
def test_one_encoding_is_off_by_less_than_a_step(update, norm, partners, weight, seed):
    ring = Ring(norm=norm, partners=partners)
    encoded, clipped = ring.encode(update, weight=weight, rounding=_random(seed))
    assert (encoded.dtype, encoded.shape) == (np.uint32, update.shape)
    assert clipped == (np.linalg.norm(update.astype(np.float64)) > norm)
    error = ring.decode(encoded, weight=1.0) - weight * _clipped(update, norm)
    assert np.abs(error).max(initial=0) <= ring.step * (1 + 1e-6)
    assert ring.step * ring.bound == pytest.approx(norm)


@given(st.lists(UPDATES.filter(len), min_size=1, max_size=6), NORMS, st.data())
def test_the_sum_decodes_to_the_weighted_mean(updates, norm, data):
    length, partners = min(map(len, updates)), data.draw(st.integers(len(updates), 1000))
    weights = [data.draw(st.sampled_from([1.0, 0.5, 0.003])) for _ in updates]
    ring, total = Ring(norm=norm, partners=partners), np.zeros(length, np.uint32)
    for i, (update, weight) in enumerate(zip(updates, weights, strict=True)):
        total += ring.encode(update[:length], weight=weight, rounding=_random(i))[0]
    exact = np.average([_clipped(u[:length], norm) for u in updates], axis=0, weights=weights)
    error = np.abs(ring.decode(total, weight=sum(weights)) - exact).max()
    assert error <= ring.step * len(updates) / sum(weights) * (1 + 1e-6)  # a step for the unweighted mean


@pytest.mark.parametrize("partners", PARTNERS)
@pytest.mark.parametrize("sign", [1, -1])
@pytest.mark.parametrize("rounding", [DOWN, UP], ids=["down", "up"])
def test_a_sum_never_wraps(partners, sign, rounding):
    """Guarantee, driven to the edge: everybody at the norm in one entry, everything rounded the same way."""
    assert partners * Ring(norm=1.0, partners=partners).bound <= 2**31 - 1
    most, tried = COARSEST * Ring(norm=1.0, partners=partners).bound, 0
    for norm in (most, most * 0.9999, 1.0, 0.1, 1 / 3, 1e-3):
        ring = Ring(norm=norm, partners=partners)
        for value in (np.nextafter(np.float32(norm), np.float32(np.inf)) * sign, np.float32(9 * sign * norm)):
            encoded, _ = ring.encode(np.array([0, value, 0], np.float32), weight=1.0, rounding=rounding)
            assert ring.bound - 1 <= abs(int(_integers(encoded)[1])) <= ring.bound
            total = np.multiply(encoded, np.uint32(partners), dtype=np.uint32)
            assert ring.decode(total, weight=partners)[1] == pytest.approx(sign * norm, abs=1.001 * ring.step)
            tried += 1
    assert tried == 12


def test_the_clamp_is_needed_and_holds():
    """A norm that floats round up would give one integer too many; the twin without the clamp does."""
    over = 0
    for i in range(1, 400):
        ring = Ring(norm=i / 7, partners=3)
        update = np.array([i / 7], np.float32)
        if float(update[0]) > i / 7:
            continue  # it is clipped to the norm anyway
        for rounding, sign, draw in ((UP, 1, 1 - 2**-32), (DOWN, -1, 0.0)):
            encoded, _ = ring.encode(sign * update, weight=1.0, rounding=rounding)
            assert abs(int(_integers(encoded)[0])) <= ring.bound
            length = float(np.sqrt(float(update[0]) ** 2))
            over += (
                abs(np.floor(sign * float(update[0]) * (min(1.0, ring.norm / length) / ring.step) + draw)) > ring.bound
            )
    assert over > 0


@pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf])
@pytest.mark.parametrize("place", [0, BLOCK - 1, BLOCK])
def test_what_is_not_finite_is_refused(bad, place):
    update = np.zeros(BLOCK + 1, np.float32)
    update[place] = bad
    with pytest.raises(BadInput, match=r"^expected an update of finite numbers, found NaN or infinity$"):
        Ring(norm=1.0, partners=3).encode(update, weight=1.0, rounding=_random())


@pytest.mark.parametrize(
    "update", [np.zeros(3), np.zeros(3, np.int32), np.zeros(3, np.float16), np.zeros((1, 3), np.float32), np.float32(1)]
)
def test_anything_but_a_float32_vector_is_refused(update):
    with pytest.raises(BadInput, match=r"^expected an update of float32 in one dimension, found ") as caught:
        Ring(norm=1.0, partners=3).encode(np.asarray(update), weight=1.0, rounding=_random())
    assert caught.value.message.endswith(f"found {np.asarray(update).dtype} in {np.asarray(update).ndim}")


@pytest.mark.parametrize("weight", [0.0, -0.5, np.nextafter(1.0, 2.0), 2.0, float("nan"), float("inf")])
def test_a_weight_out_of_range_is_refused(weight):
    with pytest.raises(BadInput, match=r"^expected a weight above 0 and at most 1, found "):
        Ring(norm=1.0, partners=3).encode(np.zeros(1, np.float32), weight=weight, rounding=_random())


@pytest.mark.parametrize("partners", PARTNERS)
def test_a_norm_whose_grid_would_be_too_coarse_is_refused_with_both_numbers(partners):
    most = COARSEST * ((2**31 - 1) // partners)
    assert Ring(norm=most, partners=partners).step == COARSEST
    for norm in (most * 1.01, 1e9, float("inf"), float("nan")):
        with pytest.raises(BadInput, match=r"^expected aggregation.max_update_norm of at most ") as caught:
            Ring(norm=norm, partners=partners)
        assert f"at most {most:g} for {partners} partners, found {norm:g}" in caught.value.message
        assert f"{most:g}" in caught.value.hint


@pytest.mark.parametrize("partners", [0, -1])
def test_a_cohort_of_nobody_is_refused(partners):
    with pytest.raises(BadInput, match=rf"^expected a cohort of at least 1, found {partners}$"):
        Ring(norm=1.0, partners=partners)


@pytest.mark.parametrize("length", [1, BLOCK - 1, BLOCK, BLOCK + 1, 2 * BLOCK + 1])
def test_a_long_update_is_shrunk_to_the_norm_whatever_its_length(length):
    update = np.random.default_rng(0).normal(size=length).astype(np.float32)
    long = float(np.linalg.norm(update.astype(np.float64)))
    for norm, expected in ((long * 1.001, False), (long * 0.999, True), (1e-2, True)):
        ring = Ring(norm=norm, partners=10)
        encoded, clipped = ring.encode(update, weight=1.0, rounding=_random(length))
        assert clipped is expected
        found = ring.decode(encoded, weight=1.0)
        np.testing.assert_allclose(found, _clipped(update, norm), rtol=0, atol=1.001 * ring.step)
        slack = ring.step * (isqrt(length) + 1)
        assert abs(np.linalg.norm(found) - min(norm, long)) <= slack


def test_the_largest_floats_are_shrunk_like_any_others():
    ring = Ring(norm=1.0, partners=3)
    encoded, clipped = ring.encode(np.full(4, np.finfo(np.float32).max), weight=1.0, rounding=_random())
    assert clipped
    np.testing.assert_allclose(ring.decode(encoded, weight=1.0), 0.5, rtol=1e-8)


@pytest.mark.parametrize("rounding", [DOWN, UP, _random()], ids=["down", "up", "random"])
@pytest.mark.parametrize("length", [0, 1, BLOCK + 1])
def test_nothing_is_encoded_as_nothing(rounding, length):
    ring = Ring(norm=1.0, partners=3)
    encoded, clipped = ring.encode(np.zeros(length, np.float32), weight=0.5, rounding=rounding)
    assert (encoded.dtype, len(encoded), int(encoded.any()), clipped) == (np.uint32, length, 0, False)
    assert ring.decode(encoded, weight=3.0).tolist() == [0.0] * length


def test_encoding_leaves_the_update_alone_and_follows_its_stream():
    ring, update = Ring(norm=1.0, partners=65536), np.linspace(-1, 1, 999, dtype=np.float32)
    before = update.copy()
    one, again, other = (ring.encode(update, weight=1.0, rounding=_random(i))[0] for i in (1, 1, 2))
    np.testing.assert_array_equal(update, before)
    np.testing.assert_array_equal(one, again)
    assert (one != other).any()
