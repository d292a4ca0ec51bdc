"""The whole protocol in memory: the sum is the plain sum or there is none."""

from __future__ import annotations

from collections.abc import Mapping
from unittest.mock import patch

import numpy as np
import pytest
from cohort import REQUEST, Coins, aborts, check_abort, make_parties, make_round, make_vectors, plain_sum
from hypothesis import event, given, settings
from hypothesis import strategies as st

from tacit.secagg import client, server
from tacit.secagg import round as rounds
from tacit.secagg.abort import Abort, Reason, Stage
from tacit.secagg.graph import edge_chance
from tacit.secagg.round import Round
from tacit.secagg.run import aggregate

# Entries: none, one, a few, and about a block of keystream of 2^17 bytes.
LENGTHS = st.sampled_from([0, 1, 2, 13]) | st.sampled_from([2**14 - 1, 2**14, 2**14 + 1, 2**15, 2**15 + 1])
STAGES = list(Stage)


@st.composite
def _runs(draw) -> tuple[Round, dict[int, Stage]]:
    n = draw(st.integers(2, 8))
    threshold = draw(st.integers(n // 2 + 1, n))
    purpose = draw(st.sampled_from(["train", "evaluate"]))
    new = make_round(n, threshold=threshold, update=draw(LENGTHS), counters=draw(LENGTHS), purpose=purpose)
    gone = draw(st.lists(st.integers(0, n - 1), unique=True, max_size=n if draw(st.booleans()) else n - threshold))
    return new, {i: draw(st.sampled_from(STAGES)) for i in gone}


def _here(n: int, vanish: Mapping[int, Stage], stage: Stage) -> list[int]:
    return [i for i in range(n) if i not in vanish or STAGES.index(vanish[i]) > STAGES.index(stage)]


def _aggregate(new: Round, vanish: Mapping[int, Stage], *, seed: int = 7) -> server.Sum:
    vectors = make_vectors(new, seed=seed)
    return aggregate(new, make_parties(new), vectors, request=REQUEST, random=Coins(), vanish=vanish)


def _check_sum(found: server.Sum, new: Round, survivors: list[int]) -> None:
    vectors = make_vectors(new)
    assert found.survivors == tuple(survivors)
    assert found.rejected == {}
    assert (found.update.dtype, found.counters.dtype) == (np.uint32, np.uint64)
    update = sum((vectors[i].update for i in survivors), np.zeros(new.update, np.uint32))
    counters = sum((vectors[i].counters for i in survivors), np.zeros(new.counters, np.uint64))
    np.testing.assert_array_equal(found.update, update)
    np.testing.assert_array_equal(found.counters, counters)


@settings(max_examples=120, deadline=None)
@given(_runs())
def test_the_plain_sum_or_nothing(case):
    new, vanish = case
    n = len(new.members)
    short = next((stage for stage in STAGES if len(_here(n, vanish, stage)) < new.threshold), None)
    event(f"too few in {short}")
    if short is None:
        _check_sum(_aggregate(new, vanish), new, _here(n, vanish, Stage.MASK))
        return
    with patch.object(client, "unmask", wraps=client.unmask) as unmask:
        expected = f"expected at least {new.threshold} partners, found {len(_here(n, vanish, short))}$"
        with aborts(short, Reason.TOO_FEW, match=expected):
            _aggregate(new, vanish)
    # Before the last stage no share was given; in it, fewer than rebuild anything.
    assert unmask.call_count == (len(_here(n, vanish, Stage.UNMASK)) if short is Stage.UNMASK else 0)


@pytest.mark.parametrize("stage", STAGES)
@pytest.mark.parametrize("left", [0, 1])
def test_down_to_the_threshold_at_every_stage(stage, left):
    """At the threshold the sum is right; with one fewer there is none."""
    new = make_round(7, threshold=5)
    vanish = dict.fromkeys(range(2 + left), stage)
    if left:
        with aborts(stage, Reason.TOO_FEW, match="at least 5 partners, found 4"):
            _aggregate(new, vanish)
    else:
        _check_sum(_aggregate(new, vanish), new, _here(7, vanish, Stage.MASK))


def test_the_sum_in_whole_numbers():
    new = make_round(6, threshold=4, update=40, counters=40)
    found = _aggregate(new, {0: Stage.MASK, 5: Stage.UNMASK})
    assert (found.update.tolist(), found.counters.tolist()) == plain_sum(make_vectors(new), [1, 2, 3, 4, 5])


def test_what_leaves_is_masked():
    """Every entry that leaves is another one than the plain, in both channels."""
    new = make_round(3, update=200, counters=200)
    plain, vectors = make_vectors(new), make_vectors(new)
    aggregate(new, make_parties(new), vectors, request=REQUEST, random=Coins())
    for i, vector in vectors.items():
        assert (vector.update != plain[i].update).all()
        assert (vector.counters != plain[i].counters).all()


def test_a_large_sparse_round():
    n, threshold = 70, 47
    edges = edge_chance(n, threshold=threshold)
    assert edges < 256
    new = make_round(n, threshold=threshold, edges=edges, update=3, counters=2)
    vanish = {3: Stage.ADVERTISE, 11: Stage.SHARE, 69: Stage.MASK, 0: Stage.MASK, 30: Stage.AGREE, 40: Stage.UNMASK}
    _check_sum(_aggregate(new, vanish), new, _here(n, vanish, Stage.MASK))


@settings(max_examples=25, deadline=None)
@given(st.integers(6, 10), st.integers(180, 250), st.data())
def test_small_sparse_rounds(n, edges, data):
    """The same with few partners: the sum is exact, or some partner's holders are too few."""
    gone = data.draw(st.dictionaries(st.integers(0, n - 1), st.sampled_from(STAGES), max_size=2))
    with patch.object(rounds, "edge_chance", return_value=1):
        new = make_round(n, threshold=n // 2 + 1, edges=edges)
    try:
        found = _aggregate(new, gone)
    except Abort as error:
        event("too few holders")
        found = error
    if isinstance(found, Abort):
        check_abort(found, found.stage, Reason.TOO_FEW)
        assert gone
    else:
        _check_sum(found, new, _here(n, gone, Stage.MASK))


def test_a_sparse_round_that_nobody_leaves():
    with patch.object(rounds, "edge_chance", return_value=1):
        new = make_round(9, threshold=5, edges=140)
    _check_sum(_aggregate(new, {}), new, list(range(9)))
