"""Persons: drawn independently of what they have, their examples uniformly, in one chunk, on one side of the cut."""

from __future__ import annotations

import itertools
import math
import unicodedata

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import stats

from tacit.privacy.randomness import Randomness, Stream
from tacit_client.persons import Batch, Persons, held_out, number

ACCEPT, REJECT = 1e-3, 1e-9  # p-values of the right and of a wrong way
OWNERS = st.lists(st.integers(0, 7), min_size=1, max_size=60)
BIG, SMALL = 500, 5


def _stream(*labels: str | int) -> Stream:
    return Randomness(11).stream("persons", *labels)


def _persons(owners: list[int], *, most: int = 3) -> Persons:
    return Persons.of(np.array(owners, dtype=np.int64), unit="patient_id", most=most)


@settings(max_examples=100)
@given(OWNERS, st.integers(1, 9), st.integers(1, 12))
def test_a_draw_gives_each_person_its_share_and_chunks_keep_persons_whole(owners, most, size):
    persons = _persons(owners, most=most)
    assert len(persons) == len(set(owners))
    whole = persons.draw(_stream(), rate=1.0)
    assert len(set(whole.rows.tolist())) == len(whole.rows)
    given_by = np.array(owners)[whole.rows]
    assert sorted(np.bincount(whole.persons).tolist()) == sorted(min(most, owners.count(p)) for p in set(owners))
    assert all(len(set(given_by[whole.persons == p].tolist())) == 1 for p in range(len(persons)))
    chunks = whole.chunks(size)
    assert np.concatenate([chunk.rows for chunk in chunks]).tolist() == whole.rows.tolist()
    seen: set[int] = set()
    for chunk in chunks:
        mine = set(np.array(owners)[chunk.rows].tolist())
        assert not mine & seen
        assert sorted(set(chunk.persons.tolist())) == list(range(len(mine)))
        assert len(chunk.rows) <= size or len(mine) == 1
        seen |= mine
    assert len(seen) == len(persons)


def test_chunks_are_as_full_as_persons_allow():
    batch = Batch(np.arange(9), np.array([0, 0, 1, 1, 1, 1, 1, 2, 3]))
    assert [chunk.rows.tolist() for chunk in batch.chunks(4)] == [[0, 1], [2, 3, 4, 5, 6], [7, 8]]
    assert [chunk.persons.tolist() for chunk in batch.chunks(4)] == [[0, 0], [0, 0, 0, 0, 0], [0, 1]]
    assert Batch(np.arange(0), np.arange(0)).chunks(4) == []


def test_rows_alone_are_cut_by_number():
    assert [chunk.rows.tolist() for chunk in Batch(np.arange(5)).chunks(2)] == [[0, 1], [2, 3], [4]]


def _drawn(persons: Persons, *, times: int, rate: float) -> np.ndarray:
    """Who was drawn when, bool `[times, persons]`."""
    stream, owner = _stream("who"), np.repeat(np.arange(len(persons)), np.diff(persons.starts))
    hits = np.zeros((times, len(persons)), dtype=bool)
    for i in range(times):
        hits[i, owner[persons.draw(stream, rate=rate).rows]] = True
    return hits


def _fits(hits: np.ndarray, *, rate: float) -> float:
    """The p-value of independent draws with `rate`: each person's count, and each pair's."""
    times, n = hits.shape
    single = [stats.binomtest(int(count), times, rate).pvalue for count in hits.sum(axis=0)]
    pairs = [(i, j) for i in range(n) for j in range(i)]
    both = [stats.binomtest(int((hits[:, i] & hits[:, j]).sum()), times, rate**2).pvalue for i, j in pairs]
    return min(1.0, min(single + both) * (n + len(pairs)))


@pytest.mark.statistical
def test_every_person_is_drawn_with_the_rate_whatever_it_has():
    owners = [0] * BIG + [p for p in range(1, 7) for _ in range(SMALL)]
    hits = _drawn(_persons(owners), times=6000, rate=0.1)
    assert hits.shape == (6000, 7)
    assert _fits(hits, rate=0.1) > ACCEPT
    # The same test of draws that take rows, so that a person comes with any of its rows, and of ones in fixed number.
    by_row = np.random.default_rng(3).random((6000, 7)) < [1 - 0.9**BIG, *[1 - 0.9**SMALL] * 6]
    assert _fits(by_row, rate=0.1) < REJECT
    fixed = np.zeros((6000, 7), dtype=bool)
    fixed[np.arange(6000), np.random.default_rng(4).integers(7, size=6000)] = True  # one in each, never two
    assert _fits(fixed, rate=1 / 7) < REJECT


@pytest.mark.statistical
def test_a_persons_rows_are_drawn_uniformly_and_anew_in_every_step():
    """Each of 20 rows as often as the others: of 3 drawn without replacement, the statistic shrinks by 17/19."""
    n, k, times = 20, 3, 6000
    persons, stream = _persons([1] * 7 + [0] * n, most=k), _stream("rows")
    draws = [sorted(row - 7 for row in persons.draw(stream, rate=1.0).rows.tolist() if row >= 7) for _ in range(times)]
    assert {len(draw) for draw in draws} == {k}

    def fits(drawn: list[list[int]]) -> float:
        counts = np.bincount(np.concatenate(drawn), minlength=n)
        square = float(((counts - times * k / n) ** 2 / (times * k / n)).sum()) * (n - 1) / (n - k)
        return float(stats.chi2.sf(square, n - 1))

    assert fits(draws) > ACCEPT
    assert fits([[0, 1, 2]] * times) < REJECT  # always the first
    again = sum(one == other for one, other in itertools.pairwise(draws))
    assert again < 40  # one in 1140, by chance: about 5


def test_without_a_stop_a_person_gives_all():
    batch = _persons([4, 4, 2, 4], most=9).draw(_stream(), rate=1.0)
    assert (batch.rows.tolist(), batch.persons.tolist()) == ([2, 0, 1, 3], [0, 1, 1, 1])


def test_names_are_numbered_by_first_appearance():
    assert number(["b", "a", "b", 3, "3"]).tolist() == [0, 1, 0, 2, 2]


NAMES = st.lists(st.sampled_from([f"p{i}" for i in range(30)]), min_size=1, max_size=80)
SHARE = st.floats(0, 0.99)


@given(NAMES, SHARE, st.binary(min_size=1, max_size=8))
def test_no_person_is_on_both_sides(names, share, key):
    held = held_out(names, share=share, key=key)
    out = {name for name, is_out in zip(names, held.tolist(), strict=True) if is_out}
    kept = {name for name, is_out in zip(names, held.tolist(), strict=True) if not is_out}
    assert not out & kept
    assert len(out) == min(round(len(set(names)) * share), len(set(names)) - 1)


@given(NAMES, SHARE)
def test_one_person_more_moves_one_other_at_most(names, share):
    before = held_out(names, share=share, key=b"k")
    after = held_out(["newcomer", *names, "newcomer"], share=share, key=b"k")[1:-1]
    moved = {name for name, one, other in zip(names, before, after, strict=True) if one != other}
    assert len(moved) <= 1


def test_who_is_held_out_is_the_keys_choice():
    names = [f"p{i}" for i in range(200)]
    first, second = (held_out(names, share=0.5, key=key) for key in (b"a", b"b"))
    assert not np.array_equal(first, second)
    assert first.sum() == second.sum() == 100
    expected, spread = 50, math.sqrt(200 * 0.25 * 0.25)
    assert abs(int((first & second).sum()) - expected) < 5 * spread


def test_persons_show_their_number_only():
    assert repr(_persons([31337] * 3 + [5])) == "Persons(n=2)"


@pytest.mark.parametrize("other", ["7", " 7", "7 ", "7.0", 7, 7.0, np.int64(7)])
def test_one_person_written_in_two_ways_is_one(other):
    """Two would be bounded apart, and their rows could stand on both sides of the cut."""
    names = ["8", "7", other, "9", "07"]
    assert number(names).tolist() == [0, 1, 1, 2, 3]
    held = held_out(names, share=0.5, key=b"k")
    assert held[1] == held[2]
    assert held.tolist() == held_out(["8", "7", "7", "9", "07"], share=0.5, key=b"k").tolist()


@given(st.text(max_size=12).filter(str.strip), st.sampled_from(["NFC", "NFD"]))
def test_one_person_whose_letters_are_put_together_in_two_ways_is_one(text, form):
    """A file that went through a Mac has the other form."""
    names = ["Zoë", text, unicodedata.normalize(form, text), unicodedata.normalize("NFD", "Zoë")]
    first, second, third, fourth = number(names).tolist()
    assert (first, second) == (fourth, third)
    held = held_out([*names, "x", "y"], share=0.5, key=b"k").tolist()
    assert (held[0], held[1]) == (held[3], held[2])


def test_the_two_ways_differ():
    assert unicodedata.normalize("NFC", "Zoë") != unicodedata.normalize("NFD", "Zoë")
    assert number(["Zoë", "Zoe"]).tolist() == [0, 1]
