"""A network's parameters as one flat vector, in the order of `named_parameters`.

Buffers are not part of it: the networks allowed here (`tacit.models.check`) have none that training changes.
"""

from __future__ import annotations

import numpy as np
import torch
from numpy.typing import NDArray
from torch import nn

from tacit.errors import BadInput

__all__ = ["flatten", "load", "named", "size"]


def size(network: nn.Module) -> int:
    """Number of parameters."""
    return sum(p.numel() for p in network.parameters())


def flatten(network: nn.Module) -> NDArray[np.float32]:
    """The parameters, float32 `[d]`, copied to the CPU."""
    flat = torch.cat([p.detach().reshape(-1).to(device="cpu", dtype=torch.float32) for p in network.parameters()])
    return flat.numpy()


def load(network: nn.Module, vector: NDArray[np.float32]) -> None:
    """Copy `vector` (float32 `[d]`) into the parameters.

    Raises:
        BadInput: another length, or a number that is not finite.
    """
    d = size(network)
    if vector.shape != (d,):
        raise BadInput(
            f"expected a model of {d} parameters, found {vector.shape[0]}",
            hint="install the same version of the task on both sides",
        )
    if not np.isfinite(vector).all():
        raise BadInput("expected finite parameters, found NaN or infinity", hint="lower training.learning_rate")
    start = 0
    with torch.no_grad():
        for parameter in network.parameters():
            part = torch.tensor(vector[start : start + parameter.numel()])
            parameter.copy_(part.view_as(parameter))
            start += parameter.numel()


def named(network: nn.Module, vector: NDArray[np.float32]) -> dict[str, NDArray[np.float32]]:
    """`vector` cut into arrays of the parameters' shapes, by name."""
    arrays: dict[str, NDArray[np.float32]] = {}
    start = 0
    for name, parameter in network.named_parameters():
        arrays[name] = vector[start : start + parameter.numel()].reshape(tuple(parameter.shape))
        start += parameter.numel()
    return arrays
