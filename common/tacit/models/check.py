"""Whether a network can be trained with DP-SGD: every layer keeps examples apart and has gradients by example.

DP-SGD (Abadi et al., arXiv:1607.00133v2, algorithm 1) clips each example's gradient. That bounds an example's
influence only where the gradient is of that example alone, and where nothing but the gradient carries the data
into the model.
"""

from __future__ import annotations

from collections.abc import Iterator

import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm
from torch.nn.modules.dropout import _DropoutNd
from torch.nn.modules.instancenorm import _InstanceNorm

from tacit.errors import BadInput

__all__ = ["HOOKED", "check_independent", "check_private"]

HOOKED = frozenset(
    {
        nn.Conv1d,
        nn.Conv2d,
        nn.Conv3d,
        nn.Embedding,
        nn.GroupNorm,
        nn.InstanceNorm1d,
        nn.InstanceNorm2d,
        nn.InstanceNorm3d,
        nn.LayerNorm,
        nn.Linear,
        nn.RMSNorm,
    }
)
"""Layers that may have trainable parameters. Opacus has a hook for each (a test compares its gradients with
autograd's); a layer without a hook would be run again example by example with its first argument only."""


def check_private(network: nn.Module) -> None:
    """Refuse a network that DP-SGD would not protect, or could not train, before any training.

    Guarantee: a network that passes has no layer that normalises over the batch, no buffer, no layer that
    changes its weights while it runs, and no trainable parameter outside the layers of `HOOKED`. What a
    network's own code does between its layers is not seen here: see `check_independent`.

    Raises:
        BadInput: names the first such layer by its dotted path and class, and what to put in its place.
    """
    trainable = False
    for path, module in network.named_modules():
        found = _fault(module)
        if found is not None:
            what, hint = found
            raise BadInput(
                f"expected layers that keep examples apart, found {what} at {_place(path, module)}", hint=hint
            )
        trainable = trainable or any(_trainable_names(module))
    if not trainable:
        raise BadInput(
            f"expected a network with trainable parameters, found none in {type(network).__name__}",
            hint="set requires_grad on the parameters that are to be trained",
        )


def check_independent(network: nn.Module, inputs: tuple[Tensor, ...]) -> None:
    """Refuse a network whose output for one example depends on the others in the batch.

    Runs the network in training mode, with dropout off, on the whole batch and on each example beside a copy
    of itself (a norm over the batch does not run on one).

    Guarantee: an output that moves by more than rounding with the company an example is in is refused, and so
    is a network that changes its own state while it runs. Tried on `inputs` only; not a proof.

    Args:
        network: any network; its mode and its state are left as found.
        inputs: the tensors that it takes, examples along dimension 0, two or more; random ones will do.

    Raises:
        BadInput: where the outputs differ, their dimension 0 is not the examples', or the state changed.
    """
    modes = {module: module.training for module in network.modules()}
    before = {name: tensor.clone() for name, tensor in network.state_dict().items()}
    try:
        for module in modes:
            module.training = not isinstance(module, _DropoutNd)
        together, alone = _outputs(network, inputs)
        changed = [name for name, tensor in network.state_dict().items() if not torch.equal(tensor, before[name])]
    finally:
        network.load_state_dict(before)
        for module, mode in modes.items():
            module.training = mode
    if changed:
        raise BadInput(
            f"expected a network that only training changes, found {changed[0]} changed by a forward pass",
            hint="keep no state of the examples in the network",
        )
    if together.shape != alone.shape or not torch.allclose(together, alone, rtol=1e-3, atol=1e-4, equal_nan=True):
        raise BadInput(
            f"expected an output that depends on its own example, found {type(network).__name__} mixing the batch",
            hint="take means, sums and sorts over other dimensions than dimension 0",
        )


def _outputs(network: nn.Module, inputs: tuple[Tensor, ...]) -> tuple[Tensor, Tensor]:
    count = len(inputs[0])
    with torch.no_grad():
        together: Tensor = network(*inputs)
        alone = torch.cat([network(*(x[[i, i]] for x in inputs))[:1] for i in range(count)])
    return together, alone


def _fault(module: nn.Module) -> tuple[str, str] | None:
    """What is wrong with one layer and what to do about it, or None. Children are looked at on their own."""
    found = _mixing(module)
    if found is not None:
        return found
    buffers = [name for name, _ in module.named_buffers(recurse=False)]
    if buffers:
        return f"the buffer {buffers[0]}", "compute it in forward, or keep it as a parameter with requires_grad=False"
    names = list(_trainable_names(module))
    if names and type(module) not in HOOKED:
        return f"the trainable parameter {names[0]} in a layer without gradients by example", _replacement(module)
    odd = [name for name in names if name not in ("weight", "bias")]
    if odd:
        return f"the trainable parameter {odd[0]} of a rewritten layer", "take the weight norm off this layer"
    return None


def _mixing(module: nn.Module) -> tuple[str, str] | None:
    match module:
        case _BatchNorm():
            return "a mean over the batch", "replace it by GroupNorm or LayerNorm"
        case _InstanceNorm(track_running_stats=True):
            return "running statistics of the examples", "set track_running_stats=False"
        case nn.Embedding():
            return _embedding(module)
        case nn.Conv1d() | nn.Conv2d() | nn.Conv3d() if module.padding_mode != "zeros":
            return f'padding "{module.padding_mode}" without gradients by example', 'set padding_mode="zeros"'
    return None


def _embedding(layer: nn.Embedding) -> tuple[str, str] | None:
    if layer.max_norm is not None:
        return "weights that a forward pass rescales", "leave max_norm out"
    if layer.scale_grad_by_freq:
        return "gradients scaled by counts over the batch", "set scale_grad_by_freq=False"
    if layer.padding_idx is not None:
        # The hook gives the padding's row a gradient all the same.
        return "a padding row whose gradient by example is wrong", "leave padding_idx out, and mask padding"
    return None


def _replacement(module: nn.Module) -> str:
    match module:
        case nn.MultiheadAttention():
            return "replace it by tacit.models.Attention"
        case nn.RNNBase() | nn.RNNCellBase():
            return "replace it by convolutions or by tacit.models.Attention"
        case nn.EmbeddingBag():
            return "replace it by Embedding and a mean over the tokens"
        case nn.PReLU():
            return "replace it by GELU or Tanh"
        case nn.Bilinear() | nn.ConvTranspose1d() | nn.ConvTranspose2d() | nn.ConvTranspose3d():
            return "replace it by Linear or by upsampling and a convolution"
    allowed = ", ".join(sorted(layer.__name__ for layer in HOOKED))
    return f"build it of layers that have gradients by example: {allowed}"


def _trainable_names(module: nn.Module) -> Iterator[str]:
    return (name for name, parameter in module.named_parameters(recurse=False) if parameter.requires_grad)


def _place(path: str, module: nn.Module) -> str:
    return f"{path or 'the network itself'} ({type(module).__name__})"
