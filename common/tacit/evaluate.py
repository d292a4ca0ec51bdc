"""Evaluation of a classifier as integer sums."""

from __future__ import annotations

import torch
from torch import nn

from tacit.metrics import LOSS_LIMIT, Counters
from tacit.tasks.task import Encoded, Task

__all__ = ["evaluate"]

_BATCH = 1024  # examples in memory at once; changes nothing but speed
_LEAST_ROWS = 32  # from there on a row's arithmetic was not seen to hang on how many there are


@torch.no_grad()
def evaluate(
    network: nn.Module,
    examples: Encoded,
    *,
    task: Task,
    classes: int,
    device: torch.device,
    most: float = LOSS_LIMIT,
) -> Counters:
    """The confusion and loss of `network` on `examples`, in evaluation mode; one example's loss is `most` at most."""
    was_training = network.training
    network.eval()
    total = Counters.zeros(classes)
    for start in range(0, len(examples), _BATCH):
        rows = torch.arange(start, min(start + _BATCH, len(examples)))
        batch = examples.take(rows).to(device)
        filled = examples.take(_filled(rows)).to(device)
        logits = network(*filled.inputs)[: len(rows)]
        total += Counters.from_predictions(
            batch.targets.cpu().numpy(),
            logits.argmax(dim=1).cpu().numpy(),
            task.loss(logits, batch.targets).double().cpu().numpy(),
            classes=classes,
            most=most,
        )
    network.train(was_training)
    return total


def _filled(rows: torch.Tensor) -> torch.Tensor:
    """Few rows with the first of them repeated, or what one is taken for could hang on whether it is alone."""
    return torch.cat([rows, rows[:1].expand(max(0, _LEAST_ROWS - len(rows)))])
