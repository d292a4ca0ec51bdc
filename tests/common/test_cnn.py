"""The convolutional networks: their forms, sizes and gradients by example."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from opacus.grad_sample import GradSampleModule
from torch import nn
from torch.nn.functional import cross_entropy

from tacit.errors import BadInput
from tacit.models import CnnOptions, build_cnn, check_private

torch.set_num_threads(1)


def _parameters(network: nn.Module) -> int:
    return sum(p.numel() for p in network.parameters())


@pytest.mark.parametrize(
    ("shape", "form", "parameters"),
    [
        ((28, 28), "four", 26_010),
        ((28, 28, 1), "four", 26_010),
        ((32, 32, 3), "eight", 550_570),
        ((8, 8), "small", 9_258),
        ((15, 15), "small", None),
        ((16, 16), "four", None),
        ((16, 16, 3), "eight", None),
        ((32, 32), "eight", None),
    ],
)
def test_auto_takes_the_form_by_the_shape(shape, form, parameters):
    options = CnnOptions(classes=10, shape=shape)
    assert options.form == form
    if parameters is not None:
        assert _parameters(build_cnn(options)) == parameters


def test_a_form_that_is_asked_for_is_built():
    assert CnnOptions(classes=10, shape=(28, 28), layers="small").form == "small"


def test_a_list_from_a_job_is_taken_as_a_shape():
    assert CnnOptions.model_validate({"classes": 2, "shape": [28, 28]}).shape == (28, 28)


@settings(max_examples=25, deadline=None)
@given(
    layers=st.sampled_from(["auto", "small", "four", "eight"]),
    height=st.integers(1, 40),
    width=st.integers(1, 40),
    channels=st.sampled_from([1, 3]),
)
def test_every_shape_either_runs_or_is_refused_when_the_options_are_made(layers, height, width, channels):
    try:
        options = CnnOptions(classes=3, shape=(height, width, channels), layers=layers)
    except BadInput:
        refused = True
    else:
        refused = False
        assert build_cnn(options)(torch.zeros(2, channels, height, width)).shape == (2, 3)
    form = layers if layers != "auto" else _auto(min(height, width), channels=channels)
    assert refused == (min(height, width) < {"small": 4, "four": 16, "eight": 8}[form])


def _auto(side: int, *, channels: int) -> str:
    return "small" if side < 16 else "four" if side < 32 and channels == 1 else "eight"


@pytest.mark.parametrize(("layers", "least"), [("small", 4), ("four", 16), ("eight", 8)])
def test_the_least_side_is_taken_and_one_below_is_refused(layers, least):
    build_cnn(CnnOptions(classes=2, shape=(least, least), layers=layers))
    with pytest.raises(BadInput, match=f"expected images of {least} pixels"):
        CnnOptions(classes=2, shape=(least - 1, 40), layers=layers)


@pytest.mark.parametrize("shape", [(28,), (28, 28, 1, 1), (28, 0), (28, 28, -1)])
def test_a_shape_that_is_no_image_is_refused(shape):
    with pytest.raises(BadInput, match=r"expected \[h, w\]"):
        CnnOptions(classes=2, shape=shape)


@pytest.mark.parametrize("shape", [(8, 8), (28, 28), (16, 16, 3)])
def test_gradients_by_example_equal_those_of_one_example_at_a_time(shape):
    torch.manual_seed(0)
    options = CnnOptions(classes=4, shape=shape)
    network = build_cnn(options).double()
    check_private(network)
    x = torch.randn(3, options.channels, *shape[:2], dtype=torch.float64)
    y = torch.tensor([0, 3, 1])
    expected = [
        torch.autograd.grad(cross_entropy(network(x[i : i + 1]), y[i : i + 1]), [*network.parameters()])
        for i in range(3)
    ]
    hooked = GradSampleModule(network, loss_reduction="sum")
    cross_entropy(hooked(x), y, reduction="sum").backward()
    parameters = list(hooked.parameters())
    assert len(parameters) == {(8, 8): 8, (28, 28): 8, (16, 16, 3): 16}[shape]
    for k, parameter in enumerate(parameters):
        for i in range(3):
            torch.testing.assert_close(parameter.grad_sample[i], expected[i][k], rtol=1e-5, atol=1e-12)
