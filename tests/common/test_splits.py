"""The held-out share: disjoint, complete, fixed by the key, of the right size."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from tacit.data.splits import holdout, stratified
from tacit.errors import BadInput

SHARES = st.floats(0, 1, exclude_max=True)


@given(st.integers(1, 300), SHARES, st.binary(min_size=1))
def test_holdout_is_a_partition(n: int, share: float, key: bytes) -> None:
    train, held = holdout(n, share=share, key=key)
    assert sorted([*train, *held]) == list(range(n))
    assert len(train) >= 1
    assert len(held) == min(round(n * share), n - 1)
    assert train.dtype == held.dtype == np.int64


def test_holdout_follows_its_key() -> None:
    first, again, other = (holdout(200, share=0.3, key=key)[1].tolist() for key in (b"a", b"a", b"b"))
    assert first == again
    assert first != other


@pytest.mark.statistical
def test_holdout_has_no_favourites() -> None:
    # each example is held out in 400 * 0.3 = 120 of 400 keys, sd 9.2: 5 sd to either side
    counts = np.zeros(50)
    for key in range(400):
        counts[holdout(50, share=0.3, key=key.to_bytes(2, "big"))[1]] += 1
    assert counts.min() > 74
    assert counts.max() < 166
    assert counts.std() > 4, "a rotation would give every example the same count"


def test_share_zero_holds_nothing_out() -> None:
    train, held = holdout(5, share=0.0, key=b"k")
    assert (train.tolist(), len(held)) == ([0, 1, 2, 3, 4], 0)


@pytest.mark.parametrize(("n", "share", "key"), [(0, 0.1, b"k"), (5, 1.0, b"k"), (5, -0.1, b"k"), (5, 0.1, b"")])
def test_holdout_refuses(n: int, share: float, key: bytes) -> None:
    with pytest.raises(BadInput, match=r"expected .*, found"):
        holdout(n, share=share, key=key)


@given(st.lists(st.integers(0, 4), min_size=1, max_size=200), SHARES, st.integers(0, 9))
def test_stratified_takes_the_share_of_each_class(labels: list[int], share: float, seed: int) -> None:
    array = np.array(labels, dtype=np.int64)
    rest, cut = stratified(array, share=share, seed=seed)
    assert sorted([*rest, *cut]) == list(range(len(labels)))
    for label in set(labels):
        n = labels.count(label)
        assert int((array[cut] == label).sum()) == min(round(n * share), n - 1)


def test_stratified_follows_its_seed() -> None:
    labels = np.zeros(100, dtype=np.int64)
    cuts = [stratified(labels, share=0.2, seed=seed)[1].tolist() for seed in (1, 1, 2)]
    assert cuts[0] == cuts[1] != cuts[2]
