"""Rows of numbers with one label each: a task of one's own, as an installed package brings it."""

import torch
from torch import nn

from tacit.data.examples import Examples
from tacit.errors import BadInput
from tacit.tasks import Encoded, Model, Options, Task, cross_entropy, encode_labels

__all__ = ["ROWS", "RowsOptions"]


class RowsOptions(Options):
    """What the network `mlp` takes: `features` numbers a row, `width` units in the hidden layer."""

    features: int
    width: int = 32


def _build(options: RowsOptions) -> nn.Module:
    return nn.Sequential(
        nn.Linear(options.features, options.width),
        nn.Tanh(),
        nn.Linear(options.width, options.classes),
    )


def _encode(options: RowsOptions, examples: Examples) -> Encoded:
    rows = torch.as_tensor(examples.inputs, dtype=torch.float32)
    if rows.shape[1:] != (options.features,):
        raise BadInput(f"expected {options.features} features, found {rows.shape[1:]}", hint="correct features")
    return Encoded((rows,), encode_labels(examples, classes=options.classes))


def _infer(examples: Examples) -> dict[str, object]:
    return {"classes": len(examples.classes), "features": examples.inputs.shape[1]}


ROWS = Task("rows", {"mlp": Model(RowsOptions, _build)}, _encode, _infer, cross_entropy)
