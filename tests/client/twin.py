"""DP-SGD the slow and obvious way: one unit at a time, float64, plain autograd. What the trainer must equal.

A unit is one example, or a person: then the mean gradient of the examples it gives.
"""

from __future__ import annotations

import copy
from dataclasses import dataclass

import numpy as np
import torch
from torch import nn
from torch.nn.functional import cross_entropy

from tacit import vector
from tacit.job import TrainingSection
from tacit.privacy.mechanism import Mechanism
from tacit.privacy.randomness import Randomness, Stream
from tacit.tasks.task import Encoded, Task
from tacit.tasks.task import cross_entropy as losses
from tacit_client.persons import Persons
from tacit_client.train import Shard, Trainer

__all__ = ["TASK", "Case", "batch_sizes", "private", "sgd", "trained", "twin"]

TASK = Task(kind="twin", models={}, encode=lambda options, examples: None, infer=lambda examples: {}, loss=losses)


@dataclass(frozen=True)
class Case:
    """One round of training."""

    network: nn.Module
    data: Encoded
    mechanism: Mechanism
    training: TrainingSection
    seed: int = 1
    task: Task = TASK
    owners: tuple[int, ...] | None = None  # whose each example is; None: each is a unit
    most: int = 1

    @property
    def shard(self) -> Shard:
        rows = torch.arange(len(self.data))
        if self.owners is None:
            return Shard(self.data, rows)
        return Shard(self.data, rows, Persons.of(np.array(self.owners), unit=self.mechanism.unit, most=self.most))

    def stream(self, purpose: str) -> Stream:
        return Randomness(self.seed).stream(purpose)


def sgd(**changes) -> TrainingSection:
    """A training section with the learning rate 0.5 unless told otherwise."""
    return TrainingSection(**{"rounds": 1, "local_steps": 1, "batch_size": 4, "learning_rate": 0.5} | changes)


def private(**changes) -> Mechanism:
    """A private mechanism of one step unless told otherwise."""
    usual = {
        "kind": "dp-sgd",
        "max_grad_norm": 0.7,
        "noise_multiplier": 0.9,
        "sampling_rate": 0.3,
        "expected_batch": 4.0,
        "steps": 1,
    }
    return Mechanism(**usual | changes)


def trained(case: Case, *, max_physical_batch: int = 512, trainer: Trainer | None = None) -> np.ndarray:
    """What the trainer gives, float32 `[d]`."""
    start = vector.flatten(case.network)
    trainer = trainer or Trainer(
        copy.deepcopy(case.network),
        task=case.task,
        private=case.mechanism.private,
        device=torch.device("cpu"),
        max_physical_batch=max_physical_batch,
    )
    return trainer.train(
        start,
        case.shard,
        mechanism=case.mechanism,
        training=case.training,
        learning_rate=case.training.learning_rate,
        sampling=case.stream("sampling"),
        noise=case.stream("noise"),
    )


def batch_sizes(case: Case) -> list[int]:
    """How many examples each step draws, where examples are the units."""
    stream, n, rate = case.stream("sampling"), len(case.data), case.mechanism.sampling_rate
    return [sum(u < rate for u in stream.uniform(n)) for _ in range(case.mechanism.steps)]


def twin(case: Case) -> np.ndarray:
    """What the trainer should give, float64 `[d]`."""
    network = copy.deepcopy(case.network).double().train()
    weights = list(network.parameters())
    before = _flat(weights)
    sampling, noise = case.stream("sampling"), case.stream("noise")
    memory = [(torch.zeros_like(w), torch.zeros_like(w)) for w in weights]
    for step in range(1, case.mechanism.steps + 1):
        total = [torch.zeros_like(w) for w in weights]
        for rows in _drawn(case, sampling):
            for t, g in zip(total, _clipped(network, case, rows), strict=True):
                t.add_(g)
        if case.mechanism.private:
            for t in total:
                draws = torch.from_numpy(noise.gaussian(t.numel())).double().view_as(t)
                t.add_(draws * case.mechanism.noise_multiplier * case.mechanism.max_grad_norm)
        for w, t, m in zip(weights, total, memory, strict=True):
            _descend(w, t / case.mechanism.expected_batch, m, case.training, step)
    return _flat(weights) - before


def _drawn(case: Case, sampling: Stream) -> list[list[int]]:
    """The examples that each unit of a step gives."""
    owners = range(len(case.data)) if case.owners is None else case.owners
    units = [[i for i, owner in enumerate(owners) if owner == unit] for unit in sorted(set(owners))]
    drawn = [
        unit for unit, u in zip(units, sampling.uniform(len(units)), strict=True) if u < case.mechanism.sampling_rate
    ]
    if case.owners is None:
        return drawn
    return [
        [row for _, row in sorted(zip(sampling.words(len(rows)), rows, strict=True))][: case.most] for rows in drawn
    ]


def _clipped(network: nn.Module, case: Case, rows: list[int]) -> list[torch.Tensor]:
    """The mean gradient of the examples at `rows`, scaled down to the clip norm where it is longer."""
    gradients = [_gradient(network, case, i) for i in rows]
    gradient = tuple(sum(parts) / len(rows) for parts in zip(*gradients, strict=True))
    if not case.mechanism.private:
        return list(gradient)
    norm = _norm(gradient)
    return [g * min(1.0, case.mechanism.max_grad_norm / norm) for g in gradient]


def _gradient(network: nn.Module, case: Case, i: int) -> tuple[torch.Tensor, ...]:
    inputs = [x[i : i + 1] for x in case.data.inputs]
    inputs = [x.double() if x.is_floating_point() else x for x in inputs]
    loss = cross_entropy(network(*inputs), case.data.targets[i : i + 1])
    return torch.autograd.grad(loss, list(network.parameters()))


def _norm(gradient: tuple[torch.Tensor, ...]) -> float:
    return float(torch.cat([g.reshape(-1) for g in gradient]).norm())


@torch.no_grad()
def _descend(w: torch.Tensor, g: torch.Tensor, memory: tuple, training: TrainingSection, step: int) -> None:
    first, second = memory
    if training.optimizer == "sgd":
        first.mul_(training.momentum).add_(g)
        w -= training.learning_rate * first
        return
    first.mul_(0.9).add_(0.1 * g)
    second.mul_(0.999).add_(0.001 * g**2)
    mean, square = first / (1 - 0.9**step), second / (1 - 0.999**step)
    w -= training.learning_rate * mean / (square.sqrt() + 1e-8)


def _flat(weights: list[nn.Parameter]) -> np.ndarray:
    return torch.cat([w.detach().reshape(-1) for w in weights]).numpy().copy()
