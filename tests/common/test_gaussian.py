"""The discrete Gaussian against its exact chances: right passes on both sides of a p-value, wrong fails at p < 1e-6.

A p-value of 0.999 is as suspicious as one of 0.001: numbers that fit too well were not drawn at random.
"""

from __future__ import annotations

import math
from dataclasses import replace
from fractions import Fraction

import numpy as np
import pytest
from gaussian_twin import Coins
from scipy import stats

from tacit.errors import BadInput
from tacit.privacy import gaussian
from tacit.privacy.gaussian import LARGEST, SMALLEST, discrete_gaussian
from tacit.privacy.randomness import Randomness, Stream

ACCEPT, REJECT = 1e-3, 1e-6
SIGMAS = (0.3, 0.5, 1.0, 3.0, 31.99, 32.0, 40.0, 1234.567, 2.0**20, 2.0**36 * 1.1)
N = 1_000_000
FORCED = 2.0  # as the distance within which floating point is not trusted: nowhere


def _stream(*labels: str | int, seed: int = 5) -> Stream:
    return Randomness(seed).stream(*labels)


def _edges(sigma: float) -> np.ndarray:
    """Bounds of bins, each a half above an integer: single integers where sigma is small."""
    step = max(1.0, math.floor(sigma / 16))
    most = max(2, int(3.6 * sigma / step))
    return np.arange(-most, most + 1) * step + 0.5


def _chances(edges: np.ndarray, sigma: float) -> np.ndarray:
    """Of each bin; the outermost two reach to infinity."""
    if sigma > 100:  # sums of so many terms are integrals to 1e-9
        cumulated = stats.norm.cdf(edges / sigma)
    else:
        support = np.arange(-60 * math.ceil(sigma), 60 * math.ceil(sigma) + 1)
        weights = np.exp(-0.5 * np.square(support / sigma))
        sums = np.cumsum(weights) / math.fsum(weights)
        cumulated = sums[np.floor(edges).astype(int) - support[0]]
    return np.diff(np.concatenate([[0.0], cumulated, [1.0]]))


def _p(draws: np.ndarray, sigma: float) -> float:
    """Chi-squared, over the bins where five and more are expected."""
    edges = _edges(sigma)
    expected = _chances(edges, sigma) * len(draws)
    counts = np.bincount(np.searchsorted(edges, draws), minlength=len(expected))
    kept = expected >= 5
    first = int(np.argmax(kept))  # what is too rare for a bin of its own goes with it
    counts[first] += counts[~kept].sum()
    expected[first] += expected[~kept].sum()
    counts, expected = counts[kept], expected[kept]
    return float(stats.chi2.sf((np.square(counts - expected) / expected).sum(), df=len(counts) - 1))


def _fits(p: float) -> bool:
    return ACCEPT < p < 1 - ACCEPT


@pytest.mark.statistical
@pytest.mark.parametrize("sigma", SIGMAS)
def test_the_chances_are_those_of_the_discrete_gaussian(sigma):
    draws = discrete_gaussian(_stream("law", f"{sigma:g}"), N, sigma=sigma)
    assert draws.dtype == np.int64
    assert len(draws) == N
    assert _fits(_p(draws, sigma))
    assert _p(draws, 1.01 * sigma) < REJECT
    assert _p(draws, sigma / 1.01) < REJECT
    if sigma >= 40:
        assert _p(draws + round(0.02 * sigma), sigma) < REJECT


@pytest.mark.statistical
def test_a_rounded_gaussian_is_told_apart():
    normal = np.random.default_rng(1).standard_normal(N)
    for sigma in (0.5, 1.0):
        assert _p(np.rint(sigma * normal).astype(np.int64), sigma) < REJECT
    drawn = discrete_gaussian(_stream("shifted"), N, sigma=3.0)
    moved = drawn + (np.random.default_rng(2).random(N) < 0.06)  # a mean of 0.02 sigma
    assert _p(moved, 3.0) < REJECT


@pytest.mark.statistical
@pytest.mark.parametrize("sigma", [2.0**20, 2.0**45 * 1.7])
def test_no_block_of_the_table_is_favoured(sigma):
    """Bins of half a block and of its sixteenth-last bits; a wrong weight, offset or chance shows in one of them."""
    draws = discrete_gaussian(_stream("blocks"), 4 * N, sigma=sigma)
    table = gaussian._table(sigma, 2.0**-32)
    half = 2 ** (table.shift - 1)
    edges = np.arange(-7 * table.tail // 4, 7 * table.tail // 4 + 1) * half - 0.5
    expected = np.diff(stats.norm.cdf(edges / sigma)) * len(draws)
    counts, _ = np.histogram(draws, edges)
    assert len(counts) > 400
    inside = int(counts.sum())
    p = stats.chi2.sf((np.square(counts - expected) / expected).sum(), df=len(counts))
    assert _fits(p)
    assert 0.99 * len(draws) < inside < len(draws)
    low = np.bincount((draws >> (table.shift - 4)) & 15, minlength=16)
    assert stats.chisquare(low).pvalue > ACCEPT
    assert stats.chisquare(np.bincount(draws & 15, minlength=16)).pvalue > ACCEPT


@pytest.mark.statistical
@pytest.mark.parametrize("sigma", [3.0, 2.0**20])
def test_the_tail_is_as_heavy_as_it_should_be(sigma):
    n = 20 * N
    draws = np.abs(discrete_gaussian(_stream("tail"), n, sigma=sigma))
    starts = np.array([4.0, 4.25, 4.5, 5.0]) * sigma
    support = np.arange(math.ceil(starts[0]), math.ceil(12 * sigma))
    weights = np.exp(-0.5 * np.square(support / sigma)) * 2 / (sigma * math.sqrt(2 * math.pi))
    for i, start in enumerate(starts):
        end = starts[i + 1] if i + 1 < len(starts) else math.inf
        chance = float(weights[(support >= start) & (support < end)].sum())
        seen = int(((draws >= start) & (draws < end)).sum())
        assert stats.binomtest(seen, n, chance).pvalue > ACCEPT
        if chance * n > 600:
            assert stats.binomtest(seen, n, 1.3 * chance).pvalue < REJECT
            assert stats.binomtest(seen, n, chance / 1.3).pvalue < REJECT
    assert draws.max() > 5 * sigma  # a tail cut there


@pytest.mark.statistical
def test_moments():
    draws = discrete_gaussian(_stream("moments"), N, sigma=2.0**30).astype(np.float64) / 2**30
    assert abs(draws.mean()) * math.sqrt(N) < 3.3
    square = float(np.square(draws).sum())
    assert _fits(2 * min(stats.chi2.cdf(square, df=N), stats.chi2.sf(square, df=N)))
    assert stats.skewtest(draws).pvalue > ACCEPT
    assert stats.kurtosistest(draws).pvalue > ACCEPT
    heavier = stats.t.ppf(stats.norm.cdf(draws), df=100)
    assert stats.kurtosistest(heavier).pvalue < REJECT


@pytest.mark.statistical
def test_successive_draws_have_nothing_to_do_with_each_other():
    draws = discrete_gaussian(_stream("pairs"), N, sigma=1e6).astype(np.float64) / 1e6
    for lag in (1, 2, 3, 16, 1 << 14):
        for one, other in ((draws, draws), (np.abs(draws), np.abs(draws)), (np.sign(draws), np.abs(draws))):
            p = stats.pearsonr(one[lag:], other[:-lag]).pvalue
            assert p > ACCEPT / 15
    glued = draws.copy()
    glued[1:] += 0.01 * draws[:-1]
    assert stats.pearsonr(glued[1:], glued[:-1]).pvalue < REJECT


def _agree(one: np.ndarray, other: np.ndarray, *, sigma: float) -> float:
    edges = stats.norm.ppf(np.linspace(0.05, 0.95, 12)) * sigma
    table = [np.bincount(np.searchsorted(np.unique(np.floor(edges) + 0.5), x), minlength=1) for x in (one, other)]
    return float(stats.chi2_contingency(np.array(table)).pvalue)


@pytest.mark.statistical
@pytest.mark.parametrize("sigma", [1.5, 40.0])
def test_the_slow_twin_agrees(sigma):
    coins = Coins(3)
    slow = np.array([coins.gaussian(Fraction(sigma) ** 2) for _ in range(4000)])
    quick = discrete_gaussian(_stream("twin"), 400_000, sigma=sigma)
    assert _fits(_p(slow, sigma))
    assert _agree(slow, quick, sigma=sigma) > ACCEPT
    assert _agree(slow, discrete_gaussian(_stream("twin"), 400_000, sigma=1.25 * sigma), sigma=sigma) < REJECT


@pytest.mark.parametrize("sigma", [0.3, 0.5, 3.0, 40.0, 1234.567, 2.0**20, LARGEST])
def test_eighty_digits_decide_as_floats_do(sigma):
    """Guarantee: floating point decides only where it is certain, so that both ways give the same draws."""
    quick, slow = gaussian._table(sigma, 2.0**-32), gaussian._table(sigma, FORCED)
    one, other = (gaussian._attempt(_stream("forced"), 1500, table=table) for table in (quick, slow))
    np.testing.assert_array_equal(one, other)
    assert len(one) > 600
    assert slow.sure.max() == 0


@pytest.mark.parametrize("sigma", [0.5, 7.0, 2.0**20, LARGEST])
def test_eighty_digits_decide_as_floats_do_in_the_tail(sigma):
    found = []
    for doubtful in (2.0**-32, FORCED):
        stream, table = _stream("tail", 4), gaussian._table(sigma, doubtful)
        places, heights = stream.words(400), stream.words(400)
        blocks = np.full(400, table.tail, dtype=np.int16)
        found.append(gaussian._decide(stream, places, heights, np.zeros(400, dtype=np.int64), blocks, table=table))
    np.testing.assert_array_equal(found[0][0], found[1][0])
    np.testing.assert_array_equal(found[0][1], found[1][1])
    assert found[0][0].min() >= 4 * sigma
    assert (found[0][1].sum() > 20) == (sigma > 1)  # at small sigma the tail's first integer has nearly all of it


@pytest.mark.parametrize("sigma", [0.3, 3.0, 40.0, 2.0**20, LARGEST])
def test_no_chance_is_above_one(sigma):
    """Guarantee: a chance that had to be cut at one would bend the law."""
    table = gaussian._table(sigma, 2.0**-32)
    assert len(table.blocks) == 2**13
    assert table.weights.min() >= 0
    assert table.tail << table.shift >= 4 * sigma
    for block in range(table.tail):
        start = block << table.shift
        chance = math.exp(-0.5 * (start / sigma) ** 2) * table.scale / int(table.weights[block])
        assert 0 < chance <= 1
        full = 1 << (64 + 128)
        assert not gaussian._below(full, start, block, 0, table=table)
        assert gaussian._below(int(chance * 2**40 - 1) << 152, start, block, 0, table=table)
        assert not gaussian._below(int(chance * 2**40 + 1) << 152, start, block, 0, table=table)
    wide = 1 << (table.shift + 4)
    for j in range(53):
        start = (table.tail << table.shift) + j * wide
        assert math.exp(-0.5 * (start / sigma) ** 2) * table.scale * 2.0 ** (j + 5) <= table.weights[table.tail]


class _Zeros(Stream):
    """The rarest coins: never a one."""

    def words(self, n: int) -> np.ndarray:
        return np.zeros(n, dtype=np.uint64)


@pytest.mark.parametrize("sigma", [0.3, 40.0])
def test_a_tail_without_end_is_turned_away(sigma):
    table = gaussian._table(sigma, 2.0**-32)
    nothing, sizes = np.zeros(3, dtype=np.uint64), np.zeros(3, dtype=np.int64)
    blocks = np.array([table.tail, table.tail + 1, 0], dtype=np.int16)
    _, accepted = gaussian._decide(_Zeros(bytes(32)), nothing, nothing, sizes, blocks, table=table)
    assert accepted.tolist() == [False, False, True]


def test_a_word_is_sure_only_where_every_offset_accepts_it():
    sigma = 2.0**20
    table = gaussian._table(sigma, 2.0**-32)
    assert (table.sure > 0).sum() > 120
    for block in np.flatnonzero(table.sure):
        last = (int(block) + 1) << table.shift
        chance = math.exp(-0.5 * (last / sigma) ** 2) * table.scale / int(table.weights[block])
        assert chance - 2.0**-30 < int(table.sure[block]) / 2**64 < chance - 2.0**-32
    assert not table.sure[[0, table.tail, table.tail + 1]].any()


def test_a_wrong_table_is_found_by_the_chi_squared_test():
    right = gaussian._table(40.0, 2.0**-32)
    weights = right.weights.copy()
    weights[[20, -1]] += [24, -24]  # 24 cells more for one block, whose chance is not lowered for it
    wrong = replace(right, blocks=np.repeat(np.arange(len(weights), dtype=np.int16), weights))
    assert _fits(_p(gaussian._draw(_stream("wrong"), N, table=right), 40.0))
    assert _p(gaussian._draw(_stream("wrong"), N, table=wrong), 40.0) < REJECT


def test_equal_streams_give_equal_draws_of_any_number():
    for n in (0, 1, 2, 17, 1 << 14, 40_000):
        one, other = (discrete_gaussian(_stream("again", n), n, sigma=9.5) for _ in range(2))
        np.testing.assert_array_equal(one, other)
        assert len(one) == n
    assert (
        np.count_nonzero(discrete_gaussian(_stream(1), 999, sigma=1e9) == discrete_gaussian(_stream(2), 999, sigma=1e9))
        == 0
    )


def test_the_largest_sigma_stays_far_from_the_end_of_the_integers():
    draws = discrete_gaussian(_stream("largest"), N, sigma=LARGEST)
    assert 4 * LARGEST < np.abs(draws).max() < 31 * LARGEST < 2**55
    assert _fits(_p(draws, LARGEST))


@pytest.mark.parametrize("sigma", [0.0, -1.0, SMALLEST * 0.999, LARGEST * 1.001, math.inf, math.nan])
def test_a_sigma_out_of_range_is_refused(sigma):
    with pytest.raises(BadInput, match=r"expected a sigma from 0\.3"):
        discrete_gaussian(_stream("a"), 3, sigma=sigma)


def test_a_negative_number_of_draws_is_refused():
    with pytest.raises(BadInput, match="expected 0 draws or more, found -1"):
        discrete_gaussian(_stream("a"), -1, sigma=1.0)
