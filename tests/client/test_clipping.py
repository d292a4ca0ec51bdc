"""Clipping: the factored form equals the written-out one, and no example counts for more than the norm."""

from __future__ import annotations

import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from tacit_client.clipping import Outer, Rows, clipped_sums, whole


def _draw(*shape: int, seed: int = 0) -> torch.Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def test_an_outer_product_is_what_it_stands_for():
    outer = Outer(_draw(3, 2), _draw(3, 4, seed=1))
    assert whole(outer).shape == (3, 2, 4)
    for i in range(3):
        expected = outer.left[i][:, None] * outer.right[i][None, :]
        torch.testing.assert_close(outer[i], expected)
        torch.testing.assert_close(whole(outer)[i], expected)


@pytest.mark.parametrize("max_norm", [0.1, 3.0, 100.0])
def test_sums_equal_one_example_at_a_time(max_norm):
    outer, bias = Outer(_draw(6, 2), _draw(6, 4, seed=1)), _draw(6, 2)
    expected = [torch.zeros(2, 4), torch.zeros(2)]
    scaled = 0
    for i in range(6):
        norm = math.sqrt(float(outer[i].square().sum() + bias[i].square().sum()))
        factor = min(1.0, max_norm / norm)
        scaled += factor < 1
        expected = [total + factor * part for total, part in zip(expected, (outer[i], bias[i]), strict=True)]
    assert (scaled > 0) == (max_norm < 100)
    for form in (outer, whole(outer)):
        found = clipped_sums([form, bias], max_norm=max_norm)
        for one, other in zip(found, expected, strict=True):
            torch.testing.assert_close(one, other, rtol=1e-4, atol=1e-5)


def test_looked_up_rows_are_what_autograd_gives_one_example_at_a_time():
    ids = torch.tensor([[1, 1, 4, 0], [2, 3, 3, 3], [0, 0, 0, 0]])
    embedding = torch.nn.Embedding(6, 3)
    gradients = _draw(3, 4, 3)
    rows = Rows.of(ids, gradients, count=6)
    assert whole(rows).shape == (3, 6, 3)
    for i in range(3):
        (expected,) = torch.autograd.grad(embedding(ids[i]), embedding.weight, gradients[i])
        torch.testing.assert_close(rows[i], expected)
        torch.testing.assert_close(whole(rows)[i], expected)
    for max_norm in (0.5, 2.0, 100.0):
        found = clipped_sums([rows, _draw(3, 2)], max_norm=max_norm)
        expected = clipped_sums([whole(rows), _draw(3, 2)], max_norm=max_norm)
        assert len(found) == 2
        for one, other in zip(found, expected, strict=True):
            torch.testing.assert_close(one, other, rtol=1e-5, atol=1e-6)


def _means(gradients: torch.Tensor, owners: list[int]) -> torch.Tensor:
    """Person by person."""
    owner = torch.tensor(owners)
    return torch.stack([gradients[owner == p].mean(dim=0) for p in range(max(owners) + 1)])


@settings(max_examples=60, deadline=None)
@given(sizes=st.lists(st.integers(1, 5), min_size=1, max_size=6), max_norm=st.sampled_from([0.1, 1.0, 100.0]))
def test_a_persons_mean_is_clipped_as_one_vector(sizes, max_norm):
    owners = [p for p, size in enumerate(sizes) for _ in range(size)]
    n = len(owners)
    outer, bias, volume = Outer(_draw(n, 2), _draw(n, 4, seed=1)), _draw(n, 2), _draw(n, 2, 1, 2, seed=2)
    rows = Rows.of(torch.randint(0, 5, (n, 3), generator=torch.Generator().manual_seed(n)), _draw(n, 3, 2), count=5)
    forms = [outer, bias, volume, rows]
    expected = clipped_sums([_means(whole(form), owners) for form in forms], max_norm=max_norm)
    found = clipped_sums(forms, max_norm=max_norm, persons=torch.tensor(owners))
    assert len(found) == 4
    for one, other in zip(found, expected, strict=True):
        torch.testing.assert_close(one, other, rtol=1e-4, atol=1e-5)
    assert math.sqrt(sum(float(one.square().sum()) for one in found)) <= len(sizes) * max_norm * (1 + 1e-5)


def test_examples_that_cancel_do_not_get_round_the_clip():
    """The norm is that of the mean that is summed, not one put together from products, which cancel less well."""
    left = torch.tensor([[1e6, 0.0], [-1e6, 0.0], [0.0, 7.0]])
    right = torch.tensor([[1.0, 1e-7], [1.0, 0.0], [1.0, 1.0]])
    (found,) = clipped_sums([Outer(left, right)], max_norm=0.5, persons=torch.tensor([0, 0, 0]))
    assert 0.1 < float(found.double().norm()) <= 0.5 * (1 + 1e-5)


def test_what_is_not_finite_counts_as_zero_in_its_own_person_only():
    lone, pair = _draw(1, 4), _draw(2, 4, seed=1)
    for bad in (math.nan, math.inf, -math.inf):
        spoilt = pair.clone()
        spoilt[1] = bad
        (found,) = clipped_sums([torch.cat([spoilt, lone])], max_norm=9.0, persons=torch.tensor([0, 0, 1]))
        torch.testing.assert_close(found, pair[0] / 2 + lone[0])  # its other example counts half, as before
        outer = Outer(torch.cat([spoilt, lone]), torch.ones(3, 1))
        (found,) = clipped_sums([outer], max_norm=9.0, persons=torch.tensor([0, 0, 1]))
        torch.testing.assert_close(found[:, 0], pair[0] / 2 + lone[0])


WILD = st.sampled_from([0.0, 1e-45, 1e-30, -3e-24, 1.0, -1e6, 1e19, 3e38, math.inf, -math.inf, math.nan])
ROW = st.lists(WILD, min_size=3, max_size=3).map(torch.tensor)


@settings(max_examples=300, deadline=None)
@given(left=ROW, right=ROW, max_norm=st.sampled_from([1e-4, 0.1, 10.0]))
def test_one_example_counts_for_no_more_than_the_norm(left, right, max_norm):
    (found,) = clipped_sums([Outer(left[None], right[None])], max_norm=max_norm)
    assert found.isfinite().all()
    assert float(found.double().norm()) <= max_norm * (1 + 1e-5)


@settings(max_examples=300, deadline=None)
@given(
    ids=st.lists(st.integers(0, 3), min_size=5, max_size=5),
    values=st.lists(ROW, min_size=5, max_size=5),
    max_norm=st.sampled_from([1e-4, 0.1, 10.0]),
)
def test_one_text_counts_for_no_more_than_the_norm(ids, values, max_norm):
    rows = Rows.of(torch.tensor([ids]), torch.stack(values)[None], count=4)
    (found,) = clipped_sums([rows], max_norm=max_norm)
    assert found.isfinite().all()
    assert float(found.double().norm()) <= max_norm * (1 + 1e-5)


@settings(max_examples=200, deadline=None)
@given(
    left=st.lists(ROW, min_size=1, max_size=4),
    right=st.lists(ROW, min_size=4, max_size=4),
    max_norm=st.sampled_from([1e-4, 0.1, 10.0]),
)
def test_one_person_counts_for_no_more_than_the_norm(left, right, max_norm):
    n = len(left)
    outer = Outer(torch.stack(left), torch.stack(right[:n]))
    rows = Rows.of(torch.arange(n).remainder(2)[:, None], torch.stack(left)[:, None], count=2)
    for form in (outer, rows, torch.stack(left)):
        (found,) = clipped_sums([form], max_norm=max_norm, persons=torch.zeros(n, dtype=torch.int64))
        assert found.isfinite().all()
        assert float(found.double().norm()) <= max_norm * (1 + 1e-5)


@pytest.mark.parametrize("max_norm", [1e-7, 1e-6, 1e-3, 1.0])
def test_a_huge_gradient_is_clipped_to_the_norm_and_not_above(max_norm):
    """Guarantee: the quotient of the two is a number of few digits there, and is never rounded up."""
    found = [float(clipped_sums([torch.tensor([[1e37 * i]])], max_norm=max_norm)[0]) for i in range(1, 34)]
    assert 0 < max(found) <= max_norm * (1 + 1e-6)
