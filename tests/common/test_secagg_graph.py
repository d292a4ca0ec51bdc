"""Who shares masks with whom. Right passes at p > 0.001, a chance 1/256 off fails at p < 1e-6."""

from __future__ import annotations

from itertools import combinations
from math import comb, exp, lgamma, log

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import stats

from tacit.secagg import graph
from tacit.secagg.graph import Graph, default_threshold, edge_chance
from tacit.secagg.keys import Digest, Secret, derive, digest
from tacit.secagg.labels import label
from tacit.secagg.prg import keystream

ACCEPT, REJECT = 1e-3, 1e-6


def _session(i: int) -> Digest:
    return digest(f"session {i}".encode())


def _graph(n: int, *, edges: int, session: int = 0, present=None, threshold: int | None = None) -> Graph:
    least = default_threshold(n) if threshold is None else threshold
    here = range(n) if present is None else present
    return Graph(n, threshold=least, edges=edges, session=_session(session), present=here)


def _pairs(n: int, *, edges: int, session: int) -> set[tuple[int, int]]:
    """The edges, one coin after the other in the order of pairs."""
    coins = keystream(derive(Secret(_session(session)), label("graph")), n * (n - 1) // 2)
    return {pair for pair, coin in zip(combinations(range(n), 2), coins, strict=True) if coin < edges}


@settings(max_examples=60)
@given(st.integers(2, 24), st.integers(1, 255), st.integers(0, 99), st.data())
def test_every_party_sees_the_same_edges(n, edges, session, data):
    present = data.draw(st.sets(st.integers(0, n - 1)))
    found = _graph(n, edges=edges, session=session, present=present)
    pairs = _pairs(n, edges=edges, session=session)
    for i in range(n):
        whole = [j for j in range(n) if (min(i, j), max(i, j)) in pairs]
        assert found.neighbours(i) == [j for j in whole if j in present]
        # More than 9/16 of the holders in the whole cohort, whoever is present.
        holders = len(whole) + 1
        least = found.needed(i)
        assert 16 * least > 9 * holders >= 16 * (least - 1)
        assert all(type(j) is int for j in found.neighbours(i))


@pytest.mark.parametrize("n", [2, 5, 64])
def test_the_complete_graph(n):
    present = set(range(n)) - {1}
    found = _graph(n, edges=256, present=present, threshold=n // 2 + 1)
    for i in range(n):
        assert found.neighbours(i) == sorted(present - {i})
        assert found.needed(i) == n // 2 + 1


def test_no_edge_but_for_a_coin_below_the_chance():
    n = 40
    coins = keystream(derive(Secret(_session(3)), label("graph")), n * (n - 1) // 2)
    edges = coins[0]
    assert 1 not in _graph(n, edges=edges, session=3).neighbours(0)
    assert 1 in _graph(n, edges=edges + 1, session=3).neighbours(0)


def test_the_graph_follows_from_the_session():
    one, same, two = (_graph(60, edges=128, session=s) for s in (1, 1, 2))
    assert all(one.neighbours(i) == same.neighbours(i) for i in range(60))
    both = sum(len(set(one.neighbours(i)) & set(two.neighbours(i))) for i in range(60)) // 2
    # Edges in both: as by chance, a quarter of the pairs.
    assert stats.binomtest(both, comb(60, 2), 0.25).pvalue > ACCEPT


@pytest.mark.statistical
@pytest.mark.parametrize("edges", [1, 77, 255])
def test_every_pair_has_the_chance_asked_for(edges):
    n, sessions = 100, 100
    graphs = [_graph(n, edges=edges, session=s) for s in range(sessions)]
    joined = sum(len(found.neighbours(i)) for found in graphs for i in range(n)) // 2
    pairs = sessions * comb(n, 2)
    assert stats.binomtest(joined, pairs, edges / 256).pvalue > ACCEPT
    assert stats.binomtest(joined, pairs, (edges - 1) / 256).pvalue < REJECT
    assert stats.binomtest(joined, pairs, (edges + 1) / 256).pvalue < REJECT


@given(st.integers(2, 70000))
def test_two_lists_have_an_honest_signer_in_common(n):
    threshold = default_threshold(n)
    colluders = -(-n // 3) - 1  # fewer than n/3
    assert 2 * threshold - n > colluders
    assert threshold <= n
    assert 2 * (threshold - 1) - n <= -(-n // 3)  # one fewer would not do for n/3


def test_the_default_threshold():
    assert [default_threshold(n) for n in (2, 3, 4, 5, 6, 7, 8, 9, 10)] == [2, 3, 3, 4, 5, 5, 6, 7, 7]


@pytest.mark.parametrize("n", [2, 3, 63, 64])
def test_small_cohorts_are_complete(n):
    assert edge_chance(n, threshold=default_threshold(n)) == 256
    assert edge_chance(n, threshold=n) == 256


def test_large_cohorts_are_sparser():
    found = [edge_chance(n, threshold=default_threshold(n)) for n in (65, 100, 150, 200, 500)]
    assert found == sorted(found, reverse=True)
    assert found[0] < 256
    assert found[-1] < 256 * 0.6
    for n in (65, 200, 500):
        assert edge_chance(n, threshold=default_threshold(n) - 1) == 256
        assert edge_chance(n, threshold=n) <= edge_chance(n, threshold=default_threshold(n))


def test_the_chances_of_some_cohorts():
    """As they stand in the specification of who may start a round: a partner refuses a lower one."""
    chances = {
        65: 249,
        70: 247,
        80: 243,
        100: 237,
        150: 219,
        200: 204,
        300: 179,
        500: 150,
        700: 127,
        1000: 103,
        2000: 67,
    }
    assert {n: edge_chance(n, threshold=default_threshold(n)) for n in chances} == chances
    assert {n: edge_chance(n, threshold=n) for n in (65, 200, 500, 1000)} == {65: 249, 200: 204, 500: 146, 1000: 101}


@pytest.mark.parametrize("n", [65, 66, 67, 100, 200])
@pytest.mark.parametrize("more", [0, 9])
def test_the_chance_is_the_least_that_holds(n, more):
    threshold = default_threshold(n) + more
    edges = edge_chance(n, threshold=threshold)
    budget = 2.0**-88
    assert min(_slow_bound(n, threshold, edges, part) for part in PARTS) <= budget
    assert min(_slow_bound(n, threshold, edges - 1, part) for part in PARTS) > budget


PARTS = (2, 4, 8, 16, 32, 64, 128)


def _slow_bound(n: int, threshold: int, edges: int, part: int) -> float:
    return _slow_exposed(n, edges, part) + _slow_split(n, threshold, edges, part)


def _slow_exposed(n: int, edges: int, part: int) -> float:
    """Expected honest partners with fewer than `part` honest holders among those needed, degree by degree."""
    colluding = next(c for c in range(n, -1, -1) if 3 * c < n)
    honest = n - colluding
    ours = stats.binom.pmf(np.arange(honest), honest - 1, edges / 256)
    theirs = stats.binom.pmf(np.arange(colluding + 1), colluding, edges / 256)
    total = 0.0
    for h in range(honest):
        for c in range(colluding + 1):
            needed = 9 * (h + 1 + c) // 16 + 1
            if needed - c < part:
                total += honest * ours[h] * theirs[c]
    return total


def _slow_split(n: int, threshold: int, edges: int, part: int) -> float:
    """Expected pairs of honest sets without an edge between them that are all honest survivors, size by size."""
    colluding = next(c for c in range(n, -1, -1) if 3 * c < n)
    honest = n - colluding
    total = 0.0
    for a in range(part, honest + 1):
        for b in range(a, honest - a + 1):
            if a + b >= threshold - colluding:
                ways = lgamma(honest + 1) - lgamma(a + 1) - lgamma(b + 1) - lgamma(honest - a - b + 1)
                total += exp(min(0.0, ways + a * b * log(1 - edges / 256)))
    return total


@pytest.mark.parametrize("n", [65, 90])
@pytest.mark.parametrize("edges", [60, 200])
@pytest.mark.parametrize("part", [2, 8, 16])
def test_both_terms_of_the_bound(n, edges, part):
    threshold = default_threshold(n)
    fast = graph._exposed(n, edges / 256, part), graph._split(n, threshold, edges / 256, part)
    slow = _slow_exposed(n, edges, part), _slow_split(n, threshold, edges, part)
    np.testing.assert_allclose(fast, slow, rtol=1e-9)


def test_splits_counted_one_by_one():
    n, threshold, part, chance = 10, 7, 2, 0.9
    honest, colluding = range(7), 3
    total = 0.0
    for a in range(part, len(honest)):
        for ours in combinations(honest, a):
            rest = [i for i in honest if i not in ours]
            for b in range(a, len(rest) + 1):
                if a + b >= threshold - colluding:
                    total += sum((1 - chance) ** (a * b) for _ in combinations(rest, b))
    assert graph._split(n, threshold, chance, part) == pytest.approx(total, rel=1e-9)


@pytest.mark.statistical
def test_the_exposed_are_as_many_as_expected():
    """At a chance where it happens: the bound is the expected number, which is above the chance of any."""
    n, edges, part = 65, 60, 1
    colluding, rounds = 21, 400
    counts = []
    for s in range(rounds):
        found = _graph(n, edges=edges, session=s)
        exposed = 0
        for i in range(colluding, n):
            theirs = sum(j < colluding for j in found.neighbours(i))
            exposed += theirs + part > found.needed(i)
        counts.append(exposed)
    expected = graph._exposed(n, edges / 256, part)
    spread = np.std(counts) / np.sqrt(rounds)
    assert abs(np.mean(counts) - expected) < 4 * spread
    assert abs(np.mean(counts) - 1.5 * expected) > 5 * spread
    assert np.mean(np.array(counts) > 0) <= expected + 4 * spread


@pytest.mark.statistical
def test_a_weaker_budget_is_kept(monkeypatch):
    """With one failure in 16 rounds allowed: colluders that take part of the drop-outs away find no more."""
    n, rounds, colluding = 90, 300, 29
    threshold = default_threshold(n)
    strict = edge_chance(n, threshold=threshold)
    monkeypatch.setattr(graph, "FAILURE_BITS", 4)
    monkeypatch.setattr(graph, "GRIND_BITS", 0)
    edges = edge_chance.__wrapped__(n, threshold=threshold)
    assert edges < strict
    failures = sum(_fails(n, threshold, edges, session, colluding) for session in range(rounds))
    assert stats.binomtest(failures, rounds, 2.0**-4, alternative="greater").pvalue > ACCEPT
    often = sum(_fails(n, threshold, 20, session, colluding) for session in range(rounds))
    assert stats.binomtest(often, rounds, 2.0**-4, alternative="greater").pvalue < REJECT


def _fails(n: int, threshold: int, edges: int, session: int, colluding: int) -> bool:
    """Colluders rebuild somebody's secret, or cut off an honest partner that answers and one neighbour with it."""
    found = _graph(n, edges=edges, session=session)
    drops = n - threshold
    for i in range(colluding, n):
        near = found.neighbours(i)
        honest = [j for j in near if j >= colluding]
        if len(near) - len(honest) >= found.needed(i):
            return True
        alone = max(0, len(honest) - drops)
        if alone == 0 and len(near) - len(honest) + 1 >= found.needed(i):
            return True
    return False
