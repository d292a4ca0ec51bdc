"""Which networks can be trained with privacy: what passes has right gradients by example, the rest is named."""

from __future__ import annotations

import pytest
import torch
from opacus.grad_sample import GradSampleModule
from opacus.validators import ModuleValidator
from torch import nn

from tacit.errors import BadInput
from tacit.models import check_independent, check_private
from tacit.models.check import HOOKED

torch.set_num_threads(1)

# One of each layer that may be trained, with an input for it.
_LAYERS = [
    (nn.Conv1d(4, 6, 3, stride=2, padding=1, groups=2), (4, 7)),
    (nn.Conv2d(3, 4, 3, dilation=2), (3, 7, 6)),
    (nn.Conv3d(2, 3, 2), (2, 3, 4, 3)),
    (nn.GroupNorm(2, 4), (4, 5)),
    (nn.InstanceNorm1d(3, affine=True), (3, 5)),
    (nn.InstanceNorm2d(3, affine=True), (3, 4, 5)),
    (nn.InstanceNorm3d(3, affine=True), (3, 2, 3, 2)),
    (nn.LayerNorm(5), (3, 5)),
    (nn.Linear(5, 3), (2, 5)),
    (nn.RMSNorm(5), (3, 5)),
    (nn.Embedding(9, 4), None),
]


def test_every_hooked_layer_is_tried():
    assert {type(layer) for layer, _ in _LAYERS} == HOOKED
    assert set(GradSampleModule.GRAD_SAMPLERS) >= HOOKED


@pytest.mark.parametrize(
    ("layer", "shape"), _LAYERS, ids=lambda x: type(x).__name__ if isinstance(x, nn.Module) else ""
)
def test_a_hooked_layer_passes_and_has_right_gradients_by_example(layer, shape):
    torch.manual_seed(0)
    layer = layer.double()
    check_private(layer)
    assert not ModuleValidator.validate(layer)
    x = torch.randint(0, 9, (3, 5)) if shape is None else torch.randn(3, *shape, dtype=torch.float64)
    weights = torch.randn_like(layer(x).detach())
    expected = [
        torch.autograd.grad((layer(x[i : i + 1]) * weights[i : i + 1]).sum(), [*layer.parameters()]) for i in range(3)
    ]
    hooked = GradSampleModule(layer, loss_reduction="sum")
    try:
        (hooked(x) * weights).sum().backward()
        for k, parameter in enumerate(layer.parameters()):
            for i in range(3):
                torch.testing.assert_close(parameter.grad_sample[i], expected[i][k], rtol=1e-5, atol=1e-12)
    finally:
        hooked.remove_hooks()


def test_opacus_still_ignores_padding_idx():
    layer = nn.Embedding(3, 2, padding_idx=0)
    hooked = GradSampleModule(layer, loss_reduction="sum")
    hooked(torch.tensor([[0, 1]])).sum().backward()
    assert layer.weight.grad[0].tolist() == [0, 0]
    assert layer.weight.grad_sample[0, 0].tolist() == [1, 1]


class _Direct(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.scale = nn.Parameter(torch.ones(3))


class _OwnLinear(nn.Linear):
    """A subclass may compute anything: the hook of Linear does not hold for it."""


def _frozen(layer: nn.Module) -> nn.Module:
    return layer.requires_grad_(False)


def _buffered() -> nn.Module:
    layer = nn.Tanh()
    layer.register_buffer("seen", torch.zeros(1))
    return layer


REFUSED = [
    (nn.BatchNorm1d(3), "BatchNorm1d", "GroupNorm"),
    (nn.BatchNorm2d(3, affine=False), "BatchNorm2d", "GroupNorm"),
    (nn.BatchNorm3d(3, affine=False, track_running_stats=False), "BatchNorm3d", "GroupNorm"),
    (nn.SyncBatchNorm(3), "SyncBatchNorm", "GroupNorm"),
    (_frozen(nn.BatchNorm2d(3)), "BatchNorm2d", "GroupNorm"),
    (_frozen(nn.BatchNorm2d(3)).eval(), "BatchNorm2d", "GroupNorm"),
    (nn.InstanceNorm2d(3, track_running_stats=True), "InstanceNorm2d", "track_running_stats=False"),
    (nn.MultiheadAttention(4, 2), "MultiheadAttention", "tacit.models.Attention"),
    (nn.LSTM(3, 3), "LSTM", "Attention"),
    (nn.GRUCell(3, 3), "GRUCell", "Attention"),
    (nn.EmbeddingBag(3, 3), "EmbeddingBag", "Embedding"),
    (nn.PReLU(), "PReLU", "GELU"),
    (nn.Bilinear(2, 2, 2), "Bilinear", "Linear"),
    (nn.ConvTranspose2d(2, 2, 2), "ConvTranspose2d", "upsampling"),
    (nn.ParameterList([nn.Parameter(torch.ones(2))]), "ParameterList", "LayerNorm"),
    (nn.LazyLinear(3), "LazyLinear", "Linear"),
    (_Direct(), "_Direct", "LayerNorm"),
    (_OwnLinear(2, 2), "_OwnLinear", "Linear"),
    (_buffered(), "Tanh", "requires_grad=False"),
    (nn.Embedding(3, 3, max_norm=1.0), "Embedding", "max_norm"),
    (nn.Embedding(3, 3, padding_idx=0), "Embedding", "padding_idx"),
    (nn.Embedding(3, 3, scale_grad_by_freq=True), "Embedding", "scale_grad_by_freq"),
    (nn.Conv2d(1, 1, 3, padding=1, padding_mode="reflect"), "Conv2d", "padding_mode"),
]


@pytest.mark.parametrize(("layer", "name", "replacement"), REFUSED)
def test_a_layer_is_refused_by_path_class_and_replacement(layer, name, replacement):
    network = nn.Sequential(nn.Linear(3, 3), nn.ModuleDict({"inner": layer}))
    with pytest.raises(BadInput) as caught:
        check_private(network)
    assert f" at 1.inner ({name})" in str(caught.value)
    assert replacement in caught.value.hint


@pytest.mark.parametrize("rewrite", [nn.utils.parametrizations.weight_norm, nn.utils.parametrizations.spectral_norm])
def test_a_rewritten_weight_is_refused(rewrite):
    with pytest.raises(BadInput, match=r"at 0 \(ParametrizedLinear\)"):
        check_private(nn.Sequential(rewrite(nn.Linear(3, 3))))


def test_a_further_parameter_of_a_hooked_layer_is_refused():
    layer = nn.Linear(3, 3)
    layer.register_parameter("gain", nn.Parameter(torch.ones(1)))
    with pytest.raises(BadInput, match=r"gain of a rewritten layer at 0 \(Linear\)"):
        check_private(nn.Sequential(layer))


def test_a_network_without_anything_to_train_is_refused():
    with pytest.raises(BadInput, match="expected a network with trainable parameters"):
        check_private(_frozen(nn.Linear(2, 2)))


def test_frozen_layers_of_other_kinds_pass():
    check_private(nn.Sequential(_frozen(nn.LSTM(3, 3)), nn.Linear(3, 2)))


class _Centred(nn.Module):
    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return x - x.mean(0)


class _Counting(nn.Linear):
    def forward(self, x: torch.Tensor) -> torch.Tensor:
        with torch.no_grad():
            self.bias += x.mean()
        return super().forward(x)


class _Summed(nn.Module):
    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return x.sum(0, keepdim=True)


@pytest.mark.parametrize(
    ("network", "message"),
    [
        (nn.Sequential(nn.Linear(3, 3), _Centred()), "mixing the batch"),
        (nn.Sequential(nn.Linear(3, 3), _Summed()), "mixing the batch"),
        (nn.Sequential(nn.BatchNorm1d(3, affine=False, track_running_stats=False)), "mixing the batch"),
        (nn.Sequential(_Counting(3, 3)), "0.bias changed"),
    ],
)
def test_mixing_in_a_networks_own_code_is_seen(network, message):
    network.eval()
    before = {name: tensor.clone() for name, tensor in network.state_dict().items()}
    torch.manual_seed(0)
    with pytest.raises(BadInput, match=message):
        check_independent(network, (torch.randn(4, 3),))
    assert all(torch.equal(tensor, before[name]) for name, tensor in network.state_dict().items())
    assert not any(module.training for module in network.modules())


def test_dropout_is_not_taken_for_mixing():
    torch.manual_seed(0)
    network = nn.Sequential(nn.Linear(3, 3), nn.Dropout(0.5))
    check_independent(network, (torch.randn(4, 3),))
    assert all(module.training for module in network.modules())
