"""Parameters as one flat vector: there and back, in one order, whatever the memory layout."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

from tacit import vector
from tacit.errors import BadInput

torch.set_num_threads(1)


def _network() -> nn.Module:
    torch.manual_seed(1)
    network = nn.Sequential(nn.Conv2d(3, 4, 2), nn.Flatten(), nn.Linear(16, 2))
    network.register_parameter("scale", nn.Parameter(torch.tensor(7.0)))
    return network


SIZE = 1 + 4 * 3 * 2 * 2 + 4 + 16 * 2 + 2


@settings(max_examples=30, deadline=None)
@given(st.lists(st.floats(width=32, allow_nan=False, allow_infinity=False), min_size=SIZE, max_size=SIZE))
def test_what_is_loaded_comes_back(values):
    network, given_vector = _network(), np.array(values, np.float32)
    vector.load(network, given_vector)
    np.testing.assert_array_equal(vector.flatten(network), given_vector)


def test_the_order_is_that_of_the_names_in_any_memory_layout():
    network = _network()
    expected = np.concatenate([p.detach().numpy().ravel() for _, p in network.named_parameters()])
    assert vector.size(network) == SIZE == len(expected)
    network[0].to(memory_format=torch.channels_last)
    np.testing.assert_array_equal(vector.flatten(network), expected)
    vector.load(network, expected[::-1].copy())
    np.testing.assert_array_equal(network[0].weight.detach().numpy().ravel(), expected[::-1][1:49])


def test_the_vector_is_a_copy_both_ways():
    network = _network()
    flat = vector.flatten(network)
    kept = flat.copy()
    vector.load(network, np.zeros(SIZE, np.float32))
    np.testing.assert_array_equal(flat, kept)
    vector.load(network, flat)
    flat[:] = 5.0
    np.testing.assert_array_equal(vector.flatten(network), kept)


def test_loading_leaves_the_parameters_trainable_and_in_their_type():
    network = _network().double()
    vector.load(network, np.ones(SIZE, np.float32))
    assert all(p.requires_grad and p.grad_fn is None and p.dtype == torch.float64 for p in network.parameters())
    assert vector.flatten(network).dtype == np.float32


@pytest.mark.parametrize("length", [0, SIZE - 1, SIZE + 1])
def test_another_length_is_refused_with_both_numbers_and_changes_nothing(length):
    network = _network()
    before = vector.flatten(network)
    with pytest.raises(BadInput, match=f"expected a model of {SIZE} parameters, found {length}"):
        vector.load(network, np.zeros(length, np.float32))
    np.testing.assert_array_equal(vector.flatten(network), before)


@pytest.mark.parametrize("value", [math.nan, math.inf, -math.inf])
def test_a_number_that_is_not_finite_is_refused_and_changes_nothing(value):
    network = _network()
    before, wrong = vector.flatten(network), np.zeros(SIZE, np.float32)
    wrong[-1] = value
    with pytest.raises(BadInput, match="finite"):
        vector.load(network, wrong)
    np.testing.assert_array_equal(vector.flatten(network), before)


def test_names_and_shapes_are_the_networks():
    network = _network()
    parts = vector.named(network, vector.flatten(network))
    expected = {name: p.detach().numpy() for name, p in network.named_parameters()}
    assert list(parts) == list(expected) == ["scale", "0.weight", "0.bias", "2.weight", "2.bias"]
    for name, part in parts.items():
        np.testing.assert_array_equal(part, expected[name])
