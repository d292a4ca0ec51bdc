"""The keystream and its draws. Every p-value is two-sided: right passes at p > 0.001, wrong fails at p < 1e-6."""

from __future__ import annotations

import itertools
import math

import numpy as np
import pytest
from cryptography.hazmat.primitives.ciphers import Cipher, algorithms, modes
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import stats

from tacit.privacy.randomness import Randomness, Stream

ACCEPT, REJECT = 1e-3, 1e-6
WRONG = (0.8, 1.25)


def _stream(*labels: str | int) -> Stream:
    return Randomness(7).stream(*labels)


def test_the_keystream_is_aes_of_a_counter():
    key = bytes(range(32))
    block = Cipher(algorithms.AES256(key), modes.ECB()).encryptor()
    expected = b"".join(block.update(i.to_bytes(16, "big")) for i in range(500))
    assert Stream(key).words(1000).tobytes() == expected


@given(st.lists(st.integers(0, 50), max_size=8))
def test_draws_follow_each_other_and_never_repeat(lengths):
    stream, whole = _stream("a"), _stream("a").words(sum(lengths))
    parts = [stream.words(n) for n in lengths]
    np.testing.assert_array_equal(np.concatenate([np.empty(0, np.uint64), *parts]), whole)
    assert len(np.unique(whole)) == len(whole)


LABELS = st.lists(st.text(max_size=3) | st.integers(-3, 30), max_size=3).map(tuple)


@given(LABELS, LABELS, st.integers(0, 3), st.integers(0, 3))
def test_streams_are_equal_where_seed_and_labels_are(first, second, one, other):
    same = [(type(x), x) for x in first] == [(type(x), x) for x in second] and one == other
    words = Randomness(one).stream(*first).words(4), Randomness(other).stream(*second).words(4)
    assert np.array_equal(*words) is same


def test_labels_do_not_run_into_each_other():
    labels = [
        ("a", "bc"),
        ("ab", "c"),
        ("abc",),
        ("a", "b"),
        ("astr:b",),
        ("abc", ""),
        ("", "abc"),
        (1, 11),
        (11, 1),
        ("1", 11),
        (111,),
    ]
    first = {tuple(_stream(*label).words(2)) for label in labels}
    assert len(first) == len(labels)


def test_without_a_seed_every_stream_is_fresh_and_the_run_is_secure():
    secure = Randomness()
    assert secure.secure
    assert not Randomness(0).secure
    assert len({tuple(secure.stream("noise", 1).words(2)) for _ in range(50)}) == 50


def test_no_repr_shows_the_key():
    key = b"planted-secret-of-32-bytes-long!"
    for shown in (repr(Stream(key)), str(Stream(key)), f"{[Stream(key)]}"):
        assert "planted" not in shown
        assert key.hex() not in shown
        assert "Stream(<secret>)" in shown


@pytest.mark.statistical
def test_words_are_uniform_in_every_byte_and_bit():
    words = _stream("words").words(200_000)
    counts = np.apply_along_axis(np.bincount, 0, words.view(np.uint8).reshape(-1, 8), minlength=256)
    assert stats.chisquare(counts.sum(axis=1)).pvalue > ACCEPT
    assert min(stats.chisquare(counts[:, byte]).pvalue for byte in range(8)) > ACCEPT / 8
    bits = np.unpackbits(words.view(np.uint8).reshape(-1, 8), axis=1).sum(axis=0)
    assert len(bits) == 64
    assert min(stats.binomtest(int(b), 200_000, 0.5).pvalue for b in bits) > ACCEPT / 64
    assert stats.binomtest(int(bits[0]), 200_000, 0.49).pvalue < REJECT


@pytest.mark.statistical
def test_uniform_numbers_are_uniform_and_below_one():
    draws = _stream("uniform").uniform(200_000)
    assert draws.min() >= 0
    assert draws.max() < 1
    assert np.all(draws * 2**53 == np.floor(draws * 2**53))
    assert stats.kstest(draws, "uniform").pvalue > ACCEPT
    assert stats.kstest(draws**1.05, "uniform").pvalue < REJECT


@pytest.mark.statistical
def test_gaussian_draws_are_standard_normal():
    draws = _stream("gaussian").gaussian(400_001).astype(np.float64)
    assert len(draws) == 400_001
    assert stats.kstest(draws, "norm").pvalue > ACCEPT
    assert stats.kurtosistest(draws).pvalue > ACCEPT
    assert stats.skewtest(draws).pvalue > ACCEPT
    assert 4.3 < np.abs(draws).max() < 8.58  # the largest of 400,000
    # What must not pass: another scale, the even tails of a uniform, the heavy ones of Student's t.
    for factor in WRONG:
        assert stats.kstest(factor * draws, "norm").pvalue < REJECT
    assert stats.kurtosistest(stats.t.ppf(stats.norm.cdf(draws), df=50)).pvalue < REJECT


@pytest.mark.statistical
def test_the_spread_of_gaussian_draws_is_one_to_a_hundredth():
    draws = _stream("spread").gaussian(400_000).astype(np.float64)
    n = draws.size
    for factor, passes in ((1.0, True), (0.99, False), (1.01, False)):
        lower = stats.chi2.cdf(np.square(factor * draws).sum(), df=n)
        p = 2 * min(lower, 1 - lower)
        assert p > ACCEPT if passes else p < REJECT


@pytest.mark.statistical
def test_the_halves_of_a_gaussian_draw_are_independent():
    """They share a radius; for a right angle their sizes are independent all the same."""
    draws = _stream("halves").gaussian(200_000).astype(np.float64)
    cosine, sine = draws[:100_000], draws[100_000:]
    assert stats.pearsonr(cosine, sine).pvalue > ACCEPT
    assert stats.pearsonr(cosine**2, sine**2).pvalue > ACCEPT
    assert stats.pearsonr(draws[:-1], draws[1:]).pvalue > ACCEPT


@given(st.integers(0, 9))
def test_gaussian_draws_of_any_number_are_finite(n):
    draws = _stream(n).gaussian(n)
    assert draws.shape == (n,)
    assert draws.dtype == np.float32
    assert np.isfinite(draws).all()


@pytest.mark.parametrize(("word", "largest"), [(0, 8.58), (2**64 - 1, 0.01)])
def test_the_ends_of_the_keystream_give_finite_draws(word, largest):
    class Fixed(Stream):
        def words(self, n):
            return np.full(n, word, np.uint64)

    draws = Fixed(bytes(32)).gaussian(4)
    assert np.isfinite(draws).all()
    assert np.abs(draws).max() <= largest


@pytest.mark.statistical
def test_streams_of_different_labels_are_independent():
    streams = [
        _stream(*labels).gaussian(50_000) for labels in (("noise", "p", 1), ("noise", "p", 2), ("noise", "q", 1))
    ]
    streams.append(Randomness(8).stream("noise", "p", 1).gaussian(50_000))
    pairs = list(itertools.combinations(streams, 2))
    assert len(pairs) == 6
    assert min(stats.pearsonr(a, b).pvalue for a, b in pairs) > ACCEPT / 6
    assert stats.pearsonr(streams[0], streams[1] + 0.05 * streams[0]).pvalue < REJECT


@pytest.mark.statistical
@pytest.mark.parametrize("rate", [0.01, 0.3, 0.9])
def test_poisson_samples_have_the_rate(rate):
    stream, n, times = _stream("poisson"), 1000, 200
    samples = [stream.poisson_sample(n, rate=rate) for _ in range(times)]
    taken = sum(len(s) for s in samples)
    assert stats.binomtest(taken, n * times, rate).pvalue > ACCEPT
    for factor in WRONG:
        assert factor * rate > 1 or stats.binomtest(taken, n * times, factor * rate).pvalue < REJECT
    # Sizes vary as a binomial's: a batch of fixed size, or one draw for all, is no Poisson sample.
    spread = np.var([len(s) for s in samples], ddof=1) * (times - 1) / (n * rate * (1 - rate))
    assert ACCEPT < stats.chi2.cdf(spread, df=times - 1) < 1 - ACCEPT
    # Each index as often as any other.
    assert stats.chisquare(np.bincount(np.concatenate(samples), minlength=n)).pvalue > ACCEPT


@given(st.integers(0, 40), st.floats(0.0, 1.0))
def test_poisson_samples_are_sorted_indices_without_repetition(n, rate):
    sample = _stream(n).poisson_sample(n, rate=rate)
    assert np.all(np.diff(sample) > 0)
    assert all(0 <= i < n for i in sample)
    assert len(sample) == n or rate < 1
    assert len(sample) == 0 or rate > 0


@pytest.mark.statistical
def test_every_choice_is_as_likely_as_any_other():
    stream, times = _stream("choose"), 20_000
    chosen = [tuple(stream.choose(6, k=3)) for _ in range(times)]
    sets = list(itertools.combinations(range(6), 3))
    counts = [chosen.count(s) for s in sets]
    assert sum(counts) == times
    assert len(counts) == math.comb(6, 3)
    assert stats.chisquare(counts).pvalue > ACCEPT
    tilted = np.array(counts) * (1 + 0.2 * np.array([0 in s for s in sets]))
    assert stats.chisquare(tilted * times / tilted.sum()).pvalue < REJECT


@settings(max_examples=50)
@given(st.integers(0, 30), st.integers(0, 30))
def test_choices_are_distinct_and_rising(n, k):
    chosen = _stream(n, k).choose(n, k=k)
    assert len(chosen) == min(n, k)
    assert np.all(np.diff(chosen) > 0)
    assert all(0 <= i < n for i in chosen)


@settings(max_examples=100)
@given(st.lists(st.integers(0, 9), max_size=8), st.integers(1, 10))
def test_each_group_gives_as_many_as_it_has_and_is_asked_for(sizes, k):
    group, member = _stream("each", k).choose_each(np.array(sizes, dtype=np.int64), k=k)
    for i, size in enumerate(sizes):
        mine = member[group == i]
        assert len(mine) == min(size, k)
        assert np.all(np.diff(mine) > 0)
        assert all(0 <= one < size for one in mine)
    assert len(group) == sum(min(size, k) for size in sizes)
    assert np.all(np.diff(group) >= 0)


@pytest.mark.statistical
def test_each_groups_choices_are_as_likely_as_any_others():
    """Among groups of other sizes; the same counts of one that keeps to the first members are refused."""
    stream, times, sizes = _stream("each"), 20_000, np.array([1, 500, 6, 3])
    chosen = []
    for _ in range(times):
        group, member = stream.choose_each(sizes, k=3)
        chosen.append(tuple(member[group == 2].tolist()))
    sets = list(itertools.combinations(range(6), 3))
    counts = np.array([chosen.count(s) for s in sets])
    assert counts.sum() == times
    assert stats.chisquare(counts).pvalue > ACCEPT
    tilted = counts * (1 + 0.2 * np.array([0 in s for s in sets]))
    assert stats.chisquare(tilted * times / tilted.sum()).pvalue < REJECT
