"""Sums on the grid: how far a unit moves them, how much noise they carry, and that they do not wrap."""

from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import stats

from tacit.errors import BadInput
from tacit.privacy.grid import Grid, noised_sum
from tacit.privacy.randomness import Randomness, Stream

ACCEPT, REJECT = 1e-3, 1e-6
WRONG = (0.95, 1.05)


def _grid(**changes: float) -> Grid:
    fields = {"clip": 0.1, "length": 1000, "partners": 10, "honest": 6, "noise_multiplier": 1.1, "most": 8.0}
    return Grid(**{**fields, **changes})


def _stream(*labels: str | int) -> Stream:
    return Randomness(9).stream(*labels)


def _added(grid: Grid, totals: list[np.ndarray], *, label: str = "noise") -> np.ndarray:
    encoded = [grid.encode(total, noise=_stream(label, i)) for i, total in enumerate(totals)]
    return grid.decode(np.sum(encoded, axis=0, dtype=np.uint32))


def _spread_p(draws: np.ndarray, std: float) -> float:
    lower = stats.chi2.cdf(float(np.square(draws).sum()) / std**2, df=draws.size)
    return 2 * min(lower, 1 - lower)


@settings(max_examples=80, deadline=None)
@given(
    seed=st.integers(0, 2**30),
    length=st.integers(1, 300),
    size=st.sampled_from([0.0, 1e-9, 1.0, 7.99, 30.0]),
    share=st.sampled_from([1e-9, 0.01, 1.0]),
    clip=st.sampled_from([1e-6, 0.1, 3.0, 1e6]),
)
def test_a_unit_moves_the_integers_by_no_more_than_the_sensitivity(seed, length, size, share, clip):
    """Guarantee: the same noise on both, so that their difference is that of the rounded sums."""
    grid = _grid(length=length, clip=clip)
    draw = np.random.default_rng(seed)
    total = draw.uniform(-size, size, length) * clip
    unit = draw.standard_normal(length) * draw.integers(0, 2, length)
    unit *= share * clip / max(float(np.linalg.norm(unit)), 1e-300)
    one, other = (grid.encode(x, noise=_stream(seed)) for x in (total, total + unit))
    moved = (other - one).view(np.int32).astype(np.float64)
    assert float(np.linalg.norm(moved)) <= grid.sensitivity


def test_rounding_alone_moves_every_entry_and_the_bound_counts_on_it():
    grid = _grid(length=10_000)
    total = np.full(10_000, 0.5 * grid.unit)
    one, other = (grid.encode(total * (1 + tiny), noise=_stream("same")) for tiny in (-1e-9, 1e-9))
    moved = float(np.linalg.norm((other - one).view(np.int32)))
    assert moved == math.sqrt(10_000)
    assert grid.sensitivity == pytest.approx(2**grid.bits * (1 + 2**-20) + moved, rel=1e-12)


@settings(max_examples=60, deadline=None)
@given(
    partners=st.integers(1, 60),
    most=st.sampled_from([0.5, 1.0, 8.0, 100.0, 5000.0]),
    noise_multiplier=st.sampled_from([0.2, 1.0, 30.0]),
    sign=st.sampled_from([-1.0, 1.0]),
    data=st.data(),
)
def test_the_sum_does_not_wrap_where_everybody_is_at_the_bound(partners, most, noise_multiplier, sign, data):
    honest = data.draw(st.integers(1, partners))
    grid = _grid(length=64, partners=partners, honest=honest, most=most, noise_multiplier=noise_multiplier)
    found = _added(grid, [np.full(64, sign * math.inf)] * partners)
    limit = math.ceil(math.ldexp(most, grid.bits)) * grid.unit
    noise = math.sqrt(partners) * grid.share_std * grid.unit
    assert np.abs(found - sign * partners * limit).max() < 6 * noise
    assert grid._fits(grid.bits)
    assert grid.bits == 30 or not grid._fits(grid.bits + 1)


def test_room_is_left_for_ten_deviations_and_no_more_than_is_needed():
    grid = _grid(partners=100, honest=3, most=1.0, noise_multiplier=20.0)
    whole = 100 * (2**grid.bits + 1) + 10 * math.sqrt(100) * grid.share_std
    assert 2**30 < whole <= 2**31 - 1


@pytest.mark.statistical
def test_the_decoded_sum_carries_the_noise_of_all_partners():
    grid = _grid(length=100_000)
    draw = np.random.default_rng(4)
    totals = [draw.uniform(-0.3, 0.3, 100_000) for _ in range(10)]
    noise = _added(grid, totals) - np.sum(totals, axis=0)
    std = math.sqrt(10) * grid.share_std * grid.unit
    assert _spread_p(noise, std) > ACCEPT
    assert abs(noise.mean()) < 3.3 * std / math.sqrt(len(noise))
    for factor in WRONG:
        assert _spread_p(noise, factor * std) < REJECT
    honest = math.sqrt(6) * grid.share_std * grid.unit
    assert 1.1 * 0.1 < honest < 1.1 * 0.1 * 1.001


@pytest.mark.statistical
def test_an_empty_sum_is_noise_alone_in_every_entry():
    grid = _grid(length=30_000, partners=1, honest=1)
    found = grid.encode(np.zeros(30_000), noise=_stream("empty")).view(np.int32)
    assert np.count_nonzero(found) == 30_000
    assert _spread_p(found.astype(np.float64), grid.share_std) > ACCEPT


def test_what_does_not_fit_is_refused():
    for changes, words in (
        ({"honest": 0}, r"noise of 1 to 10 partners to count, found 0"),
        ({"honest": 11}, r"noise of 1 to 10 partners to count, found 11"),
        ({"honest": -1}, r"found -1"),
        ({"length": 0}, r"1 to 2\^30 entries, found 0"),
        ({"length": 2**30 + 1}, r"1 to 2\^30 entries"),
        ({"length": 2**30, "most": 1000.0}, r"to fit in 32 bits, found it to wrap or to be rounded"),
        ({"most": 2.0**21}, r"to fit in 32 bits"),
        ({"partners": 3_000_000}, r"to fit in 32 bits"),
        ({"noise_multiplier": 1e6}, r"to fit in 32 bits"),
        ({"noise_multiplier": 1e-9}, r"a share of the noise of 16 steps"),
        ({"noise_multiplier": 0.0}, r"a noise multiplier above 0, found 0"),
        ({"clip": math.nan}, r"a clip above 0, found nan"),
        ({"clip": math.inf}, r"a clip above 0, found inf"),
        ({"most": 0.0}, r"bound of a partner's sum above 0"),
    ):
        with pytest.raises(BadInput, match=words):
            _grid(**changes)


def test_a_sum_that_is_no_vector_of_numbers_is_refused():
    grid = _grid(length=3)
    for total in (np.zeros(4), np.zeros((3, 1)), np.zeros(3, dtype=np.float32)):
        with pytest.raises(BadInput, match="expected a float64 vector of 3"):
            grid.encode(total, noise=_stream("a"))
    with pytest.raises(BadInput, match="expected a sum of numbers, found NaN"):
        grid.encode(np.array([0.0, math.nan, 1.0]), noise=_stream("a"))


@pytest.mark.statistical
@pytest.mark.parametrize("clip", [1e-6, 0.1, 3.0, 1e6])
def test_one_partys_noised_sum(clip):
    total = np.random.default_rng(5).uniform(-4, 4, 70_000) * clip
    found = noised_sum(total, clip=clip, noise_multiplier=1.3, noise=_stream("own"))
    std = 1.3 * clip * (1 + 2**-19)
    assert _spread_p(found - total, std) > ACCEPT
    for factor in WRONG:
        assert _spread_p(found - total, factor * std) < REJECT
    steps = np.rint(found / (clip * 2.0**-36))
    np.testing.assert_array_equal(steps * (clip * 2.0**-36), found)
    assert np.unique(steps % 64).size == 64  # and on no coarser grid


def test_one_partys_noise_is_at_least_a_grids():
    """Guarantee: what the docstring says of the deviation, at the ends of its range."""
    steps = 2.0**36
    for multiplier in (2.0**-10, 0.2, 1.0, 2.0**13):
        needed = math.sqrt((multiplier * (steps * (1 + 2**-20) + math.sqrt(2**30))) ** 2 + 16)
        assert needed < multiplier * steps * (1 + 2**-19) < needed * (1 + 2**-19)


def test_one_partys_sum_out_of_range_is_refused():
    for total in (np.zeros((2, 2)), np.zeros(2, dtype=np.float32)):
        with pytest.raises(BadInput, match="expected a float64 vector"):
            noised_sum(total, clip=1.0, noise_multiplier=1.0, noise=_stream("a"))
    for multiplier in (0.0, 2.0**-11, 2.0**14, math.nan):
        with pytest.raises(BadInput, match="expected a noise multiplier from"):
            noised_sum(np.zeros(2), clip=1.0, noise_multiplier=multiplier, noise=_stream("a"))
    with pytest.raises(BadInput, match="found NaN"):
        noised_sum(np.array([math.nan]), clip=1.0, noise_multiplier=1.0, noise=_stream("a"))
    assert np.isfinite(noised_sum(np.array([math.inf]), clip=1.0, noise_multiplier=1.0, noise=_stream("a"))).all()
