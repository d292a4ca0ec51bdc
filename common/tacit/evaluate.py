"""Evaluation of a classifier as integer sums."""

from __future__ import annotations

import torch
from torch import nn

from tacit.metrics import LOSS_LIMIT, Counters
from tacit.tasks.task import Encoded, Task

__all__ = ["evaluate"]

_BATCH = 1024  # examples in memory at once; changes nothing but speed


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
        batch = examples.take(torch.arange(start, min(start + _BATCH, len(examples)))).to(device)
        logits = network(*batch.inputs)
        total += Counters.from_predictions(
            batch.targets.cpu().numpy(),
            logits.argmax(dim=1).cpu().numpy(),
            task.loss(logits, batch.targets).double().cpu().numpy(),
            classes=classes,
            most=most,
        )
    network.train(was_training)
    return total
