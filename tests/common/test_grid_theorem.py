"""The theorem of `Grid`, by adding up all integers: its noise tells no more than the continuous Gaussian it counts as.

Where sums are compared with an upper bound, 1e-12 is left for the floats in which they are added up.
"""

from __future__ import annotations

import math

import numpy as np
import pytest
from scipy import stats

from tacit.privacy.grid import Grid
from tacit_sim.divergence import epsilon_of, hockey_stick, laws

EPSILONS = (0.0, 0.1, 0.5, 1.0, 2.0, 4.0)
SPARE = 16  # variance that is not counted


def _continuous(std: float, *, shift: float, epsilon: float) -> float:
    """Balle and Wang 2018 (arXiv:1805.06530v2, Theorem 8)."""
    half, far = shift / (2 * std), epsilon * std / shift
    return float(stats.norm.cdf(half - far) - math.exp(epsilon) * stats.norm.cdf(-half - far))


def _pmf(std: float, *, reach: float) -> np.ndarray:
    x = np.arange(-math.ceil(reach), math.ceil(reach) + 1)
    weights = np.exp(-0.5 * np.square(x / std))
    return weights / weights.sum()


@pytest.mark.parametrize("std", [1.0, 3.0, 8.0])
def test_integer_noise_tells_no_more_than_the_continuous_noise_it_counts_as(std):
    seen = 0
    for shift in (1, 2, 5, 11, 40):
        pair = laws(math.sqrt(std**2 + SPARE), shift=shift)
        for epsilon in EPSILONS:
            bound = _continuous(std, shift=shift, epsilon=epsilon)
            for one, other in (pair, pair[::-1]):
                assert hockey_stick(one, other, epsilon=epsilon) <= bound + 1e-12
                seen += bound > 1e-9
    assert seen >= 30


def test_without_the_spare_variance_it_may_tell_more():
    """The test above can fail: small discrete noise by itself exceeds the continuous noise of its parameter."""
    excess = [
        hockey_stick(*laws(std, shift=1), epsilon=epsilon) - _continuous(std, shift=1, epsilon=epsilon)
        for std in (0.7, 1.0)
        for epsilon in EPSILONS
    ]
    assert max(excess) > 1e-3


@pytest.mark.parametrize("rate", [0.01, 0.3])
def test_the_same_where_the_unit_is_drawn_by_chance(rate):
    std, shift, seen = 3.0, 4, 0
    integers = laws(math.sqrt(std**2 + SPARE), shift=shift, rate=rate)
    reals = laws(std, shift=shift, rate=rate, step=std / 4000)
    for epsilon in (0.0, 0.05, 0.3, 1.0):
        for i in (0, 1):
            found = hockey_stick(integers[i], integers[1 - i], epsilon=epsilon)
            assert found <= hockey_stick(reals[i], reals[1 - i], epsilon=epsilon) + 1e-9
            seen += found > 1e-6
    assert seen >= 3


def test_in_two_dimensions_the_length_of_the_shift_is_all_that_counts():
    std, reach, seen = 2.0, 50, 0
    x = np.arange(-reach, reach + 1)
    wide = math.sqrt(std**2 + SPARE)

    def line(shift: int) -> np.ndarray:
        return np.exp(-0.5 * np.square((x - shift) / wide))

    for shift in ((1, 2), (3, 3), (-2, 1)):
        base = np.outer(line(0), line(0))
        moved = np.outer(line(shift[0]), line(shift[1]))
        base, moved = base / base.sum(), moved / moved.sum()
        for epsilon in EPSILONS:
            found = hockey_stick(base, moved, epsilon=epsilon)
            assert found <= _continuous(std, shift=math.hypot(*shift), epsilon=epsilon) + 1e-12
            seen += found > 1e-6
    assert seen >= 8


@pytest.mark.parametrize("rate", [1.0, 0.01])
@pytest.mark.parametrize("multiplier", [0.7, 2.0])
def test_at_the_scale_of_a_grid_the_two_cost_the_same(multiplier, rate):
    steps = 2.0**13  # to the clip norm: coarser than grids in use, so that all can be added up
    wide = math.sqrt((multiplier * steps) ** 2 + SPARE)
    integers = laws(wide, shift=steps, rate=rate)
    reals = laws(multiplier * steps, shift=steps, rate=rate, step=multiplier * steps / 16384)
    for epsilon in EPSILONS:
        one, other = (
            max(hockey_stick(*p, epsilon=epsilon), hockey_stick(*p[::-1], epsilon=epsilon)) for p in (integers, reals)
        )
        assert one <= other + 1e-9
        if other > 1e-8:
            assert one == pytest.approx(other, rel=0.01)
    cost, counted = (epsilon_of(*pair, delta=1e-6) for pair in (integers, reals))
    assert cost == pytest.approx(counted, rel=1e-3)
    assert 0.01 < counted < 10


@pytest.mark.parametrize("honest", [2, 3, 7])
def test_a_sum_of_shares_has_the_law_of_one_discrete_gaussian(honest):
    share = 16.0
    one = _pmf(share, reach=12 * share)
    total = one
    for _ in range(honest - 1):
        total = np.convolve(total, one)
    whole = _pmf(math.sqrt(honest) * share, reach=(len(total) - 1) / 2)
    middle = slice(len(total) // 2 - int(6 * share), len(total) // 2 + int(6 * share))
    np.testing.assert_allclose(total[middle], whole[middle], rtol=1e-10)


def test_a_sum_of_small_shares_has_not():
    """The test above can fail: below the least share the difference shows."""
    one = _pmf(0.5, reach=10)
    whole = _pmf(math.sqrt(2) * 0.5, reach=20)
    assert np.abs(np.convolve(one, one) / whole - 1)[18:23].max() > 0.005


def test_shares_of_a_grid_add_up_to_what_is_charged():
    for honest, partners in ((1, 3), (6, 10), (60, 100)):
        grid = Grid(clip=0.1, length=26_010, partners=partners, honest=honest, noise_multiplier=1.3, most=8)
        counted = math.sqrt(honest * grid.share_std**2 - SPARE) / grid.sensitivity
        assert 1.3 <= counted < 1.3 * (1 + 1e-9)
        assert grid.share_std > 2**15
