"""Dealing a data set to partners: disjoint and complete, and of the shape that each kind promises."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from tacit.data.examples import Examples
from tacit.errors import BadInput
from tacit_sim.partition import KINDS, sizes, split


def examples(labels: list[int], hospital: list[str] | None = None) -> Examples:
    columns = {} if hospital is None else {"hospital": np.array(hospital, dtype=object)}
    array = np.array(labels, dtype=np.int64)
    return Examples(np.zeros((len(labels), 1), np.float32), array, ("a", "b", "c", "d"), columns)


def dealt(data: Examples, **changes: Any) -> list[np.ndarray]:
    return split(
        data, **{"partners": 4, "kind": "iid", "alpha": 0.5, "column": "hospital", "shards": 2, "seed": 1} | changes
    )


@given(
    st.sampled_from(KINDS),
    st.lists(st.integers(0, 3), min_size=8, max_size=120),
    st.integers(1, 4),
    st.sampled_from([1e-4, 0.1, 1.0, 1e4]),
    st.integers(0, 99),
)
def test_disjoint_complete_and_nobody_empty(
    kind: str, labels: list[int], partners: int, alpha: float, seed: int
) -> None:
    data = examples(labels, [f"h{i % 5}" for i in range(len(labels))])
    parts = dealt(data, kind=kind, partners=partners, alpha=alpha, seed=seed)
    assert len(parts) == partners
    assert sorted(np.concatenate(parts).tolist()) == list(range(len(labels)))
    assert min(len(part) for part in parts) >= 1
    assert all(part.dtype == np.int64 for part in parts)
    again = dealt(data, kind=kind, partners=partners, alpha=alpha, seed=seed)
    assert all(np.array_equal(one, other) for one, other in zip(parts, again, strict=True))


@given(st.integers(1, 200), st.integers(1, 50))
def test_iid_sizes_differ_by_one_at_most(n: int, partners: int) -> None:
    if partners <= n:
        counts = [len(part) for part in dealt(examples([0] * n), partners=partners)]
        assert max(counts) - min(counts) <= 1


@pytest.mark.parametrize("kind", ["iid", "dirichlet", "shards"])
def test_the_seed_matters(kind: str) -> None:
    data = examples([0, 1, 2, 3] * 50)
    first, second = (dealt(data, kind=kind, seed=seed)[0].tolist() for seed in (1, 2))
    assert first != second


@pytest.mark.statistical
@pytest.mark.parametrize(("alpha", "low", "high"), [(0.1, 0.75, 1.0), (1.0, 0.45, 0.7), (1000.0, 0.25, 0.3)])
def test_alpha_sets_the_skew(alpha: float, low: float, high: float) -> None:
    # the largest of 4 proportions from Dir(alpha) has the mean 0.25 (even) to 1 (one partner takes all);
    # for alpha = 1 it is (1 + 1/2 + 1/3 + 1/4) / 4 = 0.52; 160 draws
    data = examples([0, 1, 2, 3] * 250)
    largest = []
    for seed in range(40):
        parts = dealt(data, kind="dirichlet", alpha=alpha, seed=seed)
        counts = np.array([np.bincount(data.labels[part], minlength=4) for part in parts])
        largest.extend(counts.max(axis=0) / 250)
    assert low < np.mean(largest) < high


def test_dirichlet_with_as_many_partners_as_examples() -> None:
    parts = dealt(examples([0, 1, 2, 3, 0, 1]), kind="dirichlet", partners=6, alpha=0.01)
    assert [len(part) for part in parts] == [1] * 6


def test_shards_hold_few_classes() -> None:
    data = examples([0, 1, 2, 3] * 25)
    parts = dealt(data, kind="shards", partners=10, shards=2)
    kinds = [len(set(data.labels[part].tolist())) for part in parts]
    assert max(kinds) <= 4  # a shard of 5 that lies across a border has two classes
    assert np.mean(kinds) <= 2.4
    assert [len(part) for part in parts] == [10] * 10


def test_by_column_one_value_each_in_order() -> None:
    data = examples([0] * 6, ["b", "a", "c", "a", "b", "a"])
    parts = dealt(data, kind="by-column", partners=3)
    assert [part.tolist() for part in parts] == [[1, 3, 5], [0, 4], [2]]


def test_by_column_balances_and_keeps_values_whole() -> None:
    hospital = ["a"] * 10 + ["b"] * 6 + ["c"] * 5 + ["d"] * 4 + ["e"] * 1
    data = examples([0] * len(hospital), hospital)
    parts = dealt(data, kind="by-column", partners=3)
    owned = [{hospital[i] for i in part} for part in parts]
    assert owned == [{"a"}, {"b", "e"}, {"c", "d"}]


def test_sizes() -> None:
    data = examples([0, 1, 1, 3])
    parts = [np.array([0, 1]), np.array([2, 3])]
    assert sizes(data, parts) == [
        {"examples": 2, "classes": {"a": 1, "b": 1, "c": 0, "d": 0}},
        {"examples": 2, "classes": {"a": 0, "b": 1, "c": 0, "d": 1}},
    ]


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"partners": 9}, "found 9 partners and 8 examples"),
        ({"partners": 0}, "at least 1 partner, found 0"),
        ({"kind": "random"}, "by-column, dirichlet, iid, shards, found 'random'"),
        ({"kind": "dirichlet", "alpha": 0.0}, "alpha > 0, found 0.0"),
        ({"kind": "dirichlet", "alpha": float("nan")}, "alpha > 0, found nan"),
        ({"kind": "shards", "shards": 3}, "1 to 2 shards a partner for 4 partners and 8 examples, found 3"),
        ({"kind": "shards", "shards": 0}, "found 0"),
        ({"kind": "by-column", "column": "ward"}, "found 'ward' where the data has hospital"),
        ({"kind": "by-column", "column": None}, "found None where the data has hospital"),
        ({"kind": "by-column", "partners": 5}, "found 5 partners and 4 values"),
    ],
)
def test_bad_split(changes: dict[str, Any], message: str) -> None:
    data = examples([0, 1, 2, 3] * 2, ["a", "b", "c", "d"] * 2)
    with pytest.raises(BadInput) as caught:
        dealt(data, **changes)
    assert message in caught.value.message
