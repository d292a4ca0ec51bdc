"""What a task is: a frozen record of functions, so that a new one is a value and not a subclass."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import torch
from pydantic import BaseModel, ConfigDict
from torch import Tensor, nn
from torch.nn import functional

from tacit.data.examples import Examples
from tacit.errors import BadInput

__all__ = ["Encoded", "Model", "Options", "Task", "cross_entropy", "encode_labels"]


class Options(BaseModel):
    """Base of every model's options: frozen, strict, unknown keys are errors.

    `classes` stands in every model's options: the number of classes, a public fact of the job.
    """

    model_config = ConfigDict(frozen=True, extra="forbid", strict=True)

    classes: int


@dataclass(frozen=True, repr=False)
class Encoded:
    """Examples as tensors.

    Attributes:
        inputs: one tensor for each positional argument of the model, each with the examples along
            dimension 0. Every tensor that the model takes is here: per-example gradients need the batch
            dimension on every input.
        targets: int64 `[n]`.
    """

    inputs: tuple[Tensor, ...]
    targets: Tensor

    def __len__(self) -> int:
        return len(self.targets)

    def __repr__(self) -> str:
        return f"Encoded(n={len(self)})"

    def take(self, indices: Tensor) -> Encoded:
        """The examples at `indices` (int64 `[m]`), in that order."""
        return Encoded(tuple(x[indices] for x in self.inputs), self.targets[indices])

    def to(self, device: torch.device) -> Encoded:
        """The same examples on `device`."""
        return Encoded(tuple(x.to(device) for x in self.inputs), self.targets.to(device))


@dataclass(frozen=True)
class Model:
    """A network by name: the options it takes and the function that builds it."""

    options: type[Options]
    build: Callable[[Any], nn.Module]


@dataclass(frozen=True)
class Task:
    """How examples become tensors, and which networks are offered for them.

    Attributes:
        kind: the name a job gives under `[task] kind`.
        models: the networks by the name a job gives under `[task] model`.
        encode: `(options, examples) -> Encoded`. Raises BadInput where the examples do not fit the options.
        infer: `(examples) -> dict` of option values that follow from public facts of a data set (its number
            of classes, its image shape); a simulation fills them in where the job leaves them out.
        loss: `(logits, targets) -> float [n]`, one loss for each example, no reduction.
    """

    kind: str
    models: Mapping[str, Model]
    encode: Callable[[Any, Examples], Encoded]
    infer: Callable[[Examples], dict[str, Any]]
    loss: Callable[[Tensor, Tensor], Tensor]


def cross_entropy(logits: Tensor, targets: Tensor) -> Tensor:
    """Cross-entropy of each example: float `[n, classes]` and int64 `[n]` to float `[n]`, in nats."""
    return functional.cross_entropy(logits, targets, reduction="none")


def encode_labels(examples: Examples, *, classes: int) -> Tensor:
    """The labels as int64 `[n]`.

    Raises:
        BadInput: where a label is not one of 0 to `classes` - 1.
    """
    labels = torch.as_tensor(examples.labels, dtype=torch.int64)
    if bool(((labels < 0) | (labels >= classes)).any()):
        raise BadInput(
            f"expected labels from 0 to {classes - 1} as in task.options.classes, found one outside",
            hint="set classes to the number of classes in the data, or check the column of labels",
        )
    return labels
