"""The transformer: shapes, padding, options and gradients by example."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from opacus.grad_sample import GradSampleModule
from torch import nn
from torch.nn.functional import cross_entropy

from tacit.errors import BadInput
from tacit.models import Attention, TransformerOptions, build_transformer, check_independent, check_private, transformer

torch.set_num_threads(1)

LENGTH = 6
OPTIONS = TransformerOptions(classes=3, width=8, depth=2, heads=2, length=LENGTH, feed_forward=2)


def _batch(words: list[int]) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """Random tokens with so many words a row, padding after them."""
    mask = torch.arange(LENGTH).repeat(len(words), 1) < torch.tensor(words)[:, None]
    ids = torch.where(mask, torch.randint(0, 256, mask.shape), 256)
    return ids, torch.arange(LENGTH).repeat(len(words), 1), mask


def _network() -> nn.Module:
    torch.manual_seed(0)
    return build_transformer(OPTIONS).double()


def test_a_network_of_bytes_has_a_row_for_each_byte_and_the_padding():
    assert _network().tokens.weight.shape == (257, 8)


def test_gradients_by_example_equal_those_of_one_example_at_a_time():
    network = _network()
    inputs, y = _batch([6, 3, 0, 1]), torch.tensor([0, 2, 1, 1])
    expected = [
        torch.autograd.grad(
            cross_entropy(network(*(x[i : i + 1] for x in inputs)), y[i : i + 1]), [*network.parameters()]
        )
        for i in range(4)
    ]
    hooked = GradSampleModule(network, loss_reduction="sum")
    cross_entropy(hooked(*inputs), y, reduction="sum").backward()
    parameters = list(hooked.parameters())
    assert len(parameters) == 2 + 2 * 16 + 4
    for k, parameter in enumerate(parameters):
        for i in range(4):
            torch.testing.assert_close(parameter.grad_sample[i], expected[i][k], rtol=1e-5, atol=1e-12)


def test_padding_has_no_gradient():
    network, inputs = _network(), _batch([6, 3, 0, 1])
    cross_entropy(network(*inputs), torch.tensor([0, 2, 1, 1])).backward()
    assert torch.count_nonzero(network.tokens.weight.grad[256]) == 0
    assert torch.count_nonzero(network.tokens.weight.grad) > 0


@settings(max_examples=20, deadline=None)
@given(words=st.lists(st.integers(0, LENGTH), min_size=1, max_size=5), seed=st.integers(0, 100))
def test_logits_are_finite_and_do_not_depend_on_company_or_padding(words, seed):
    network = _network()
    torch.manual_seed(seed)
    ids, positions, mask = _batch(words)
    together = network(ids, positions, mask)
    alone = torch.cat([network(ids[i : i + 1], positions[i : i + 1], mask[i : i + 1]) for i in range(len(words))])
    other_padding = torch.where(mask, ids, torch.randint(0, 257, ids.shape))
    assert torch.isfinite(together).all()
    torch.testing.assert_close(alone, together)
    torch.testing.assert_close(network(other_padding, positions, mask), together)


def test_an_empty_text_is_finite_with_a_kernel_that_has_no_softmax_over_nothing(monkeypatch):
    def plain(query, key, value, *, attn_mask):
        scores = query @ key.transpose(-1, -2) / query.shape[-1] ** 0.5
        return scores.masked_fill(~attn_mask, -torch.inf).softmax(-1) @ value

    network, inputs = _network(), _batch([0, 4])
    expected = network(*inputs)
    monkeypatch.setattr(transformer, "scaled_dot_product_attention", plain)
    logits = network(*inputs)
    torch.testing.assert_close(logits, expected)
    logits.sum().backward()
    gradients = [p.grad for p in network.parameters()]
    assert len(gradients) == 38
    assert all(torch.isfinite(g).all() for g in gradients)


def test_words_and_their_order_change_the_logits():
    network = _network()
    ids, positions, mask = _batch([6])
    ids[0, :2] = torch.tensor([65, 66])
    swapped = ids.clone()
    swapped[0, :2] = torch.tensor([66, 65])
    assert not torch.allclose(network(ids, positions, mask), network(swapped, positions, mask))


def test_attention_equals_torchs_own():
    torch.manual_seed(1)
    ours, theirs = Attention(8, heads=2).double(), nn.MultiheadAttention(8, 2, batch_first=True).double()
    with torch.no_grad():
        theirs.in_proj_weight.copy_(torch.cat([ours.query.weight, ours.key.weight, ours.value.weight]))
        theirs.in_proj_bias.copy_(torch.cat([ours.query.bias, ours.key.bias, ours.value.bias]))
        theirs.out_proj.load_state_dict(ours.output.state_dict())
    x = torch.randn(3, LENGTH, 8, dtype=torch.float64)
    mask = _batch([6, 2, 4])[2]
    torch.testing.assert_close(ours(x, mask), theirs(x, x, x, key_padding_mask=~mask)[0])


def test_the_network_passes_both_checks():
    network = _network()
    check_private(network)
    check_independent(network, _batch([6, 3, 0, 1]))


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"heads": 3}, "expected width to be a multiple of heads, found width 64 and heads 3"),
        ({"tokens": "wordpiece"}, "expected a vocabulary"),
        ({"vocabulary": "bert-uncased"}, "expected no vocabulary"),
        ({"entries": 100}, "expected no vocabulary and no entries"),
    ],
)
def test_options_that_do_not_fit_together_are_refused(change, message):
    with pytest.raises(BadInput, match=message):
        TransformerOptions(classes=2, **change)
