"""The partner's own training with canaries put in where gradients are, and an eye on what each step releases.

Clip, sum, noise, divisor and optimiser are the product's: a canary's gradient, ten clip norms long, takes the place of
a network's in `accumulate`, and what is seen is what the optimiser is given, times the public divisor, less the sum
over the examples: the guarantee holds against those who know all other units, and which of them were drawn.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import replace
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from tacit.privacy.mechanism import Mechanism
from tacit.privacy.randomness import Stream
from tacit.sections import TrainingSection
from tacit.tasks.task import Task
from tacit_client.clipping import clipped_sums
from tacit_client.optimizer import PrivateOptimizer
from tacit_client.persons import Batch
from tacit_client.train import Shard, Trainer
from tacit_sim.audit.canaries import CanaryShard, Sample
from tacit_sim.audit.watch import Watch

__all__ = ["FAULTS", "AuditedTrainer"]

FAULTS = {
    "half-noise": "every step adds half of the noise that is counted",
    "bare-layer": "one parameter, the largest, gets no noise",
    "last-round": "epsilon is counted for the last round alone",
}
"""Mistakes that an audit can be told to make, to see it fail."""

_LENGTH = 10.0  # of a canary's gradient, in clip norms: it is the clip that makes it one


class AuditedTrainer(Trainer):
    """A partner's trainer under audit. Its shards are `CanaryShard`s.

    Args:
        network, task, device, max_physical_batch: as for `Trainer`.
        watch: is told what is seen.
        fault: one of `FAULTS`, to be made on purpose; None: everything is as in the product.
    """

    def __init__(
        self,
        network: nn.Module,
        *,
        task: Task,
        device: torch.device,
        max_physical_batch: int,
        watch: Watch,
        fault: str | None,
    ) -> None:
        super().__init__(network, task=task, private=True, device=device, max_physical_batch=max_physical_batch)
        self._watch, self._fault = watch, fault
        self._claimed: Mechanism

    def train(
        self,
        start: NDArray[np.float32],
        shard: Shard,
        *,
        mechanism: Mechanism,
        training: TrainingSection,
        learning_rate: float,
        sampling: Stream,
        noise: Stream,
    ) -> NDArray[np.float32]:
        """As the product's, with the fault where one is asked for."""
        self._claimed = mechanism
        if self._fault == "half-noise":
            mechanism = replace(mechanism, noise_multiplier=mechanism.noise_multiplier / 2)
        return super().train(
            start,
            shard,
            mechanism=mechanism,
            training=training,
            learning_rate=learning_rate,
            sampling=sampling,
            noise=noise,
        )

    def clipped_sum(
        self, start: NDArray[np.float32], shard: Shard, *, mechanism: Mechanism, sampling: Stream
    ) -> NDArray[np.float64]:
        """As the product's, with the canaries drawn in the sum. Its noise is added where the product adds it."""
        total = super().clipped_sum(start, shard, mechanism=mechanism, sampling=sampling)
        if not isinstance(shard, CanaryShard):
            raise TypeError(f"expected a CanaryShard, found {shard!r}")
        self._watch.follow(start, rest=total, rate=mechanism.sampling_rate)
        drawn = shard.drawn[-1].canaries
        if len(drawn):
            clip = mechanism.max_grad_norm
            gradients = _gradients(drawn, self.network.parameters(), length=_LENGTH * clip)
            sums = clipped_sums(gradients, max_norm=clip, exact=True)
            total += np.concatenate([part.reshape(-1).cpu().numpy() for part in sums])
        return total

    def _private_step(self, optimizer: PrivateOptimizer, shard: Shard, batch: Batch) -> None:
        if not isinstance(shard, CanaryShard) or not isinstance(batch, Sample):
            raise TypeError(f"expected a CanaryShard and a Sample of it, found {shard!r}")
        planting = _Planting(optimizer, batch, clip=self._claimed.max_grad_norm)
        see = optimizer.original_optimizer.register_step_pre_hook(lambda *_: self._see(optimizer, planting, shard))
        super()._private_step(planting, shard, batch)  # type: ignore[arg-type]  # as much of it as a step uses
        see.remove()

    def _see(self, optimizer: PrivateOptimizer, planting: _Planting, shard: CanaryShard) -> None:
        """Before the optimiser's step: what it is given is what the step releases."""
        claimed = self._claimed
        if self._fault == "bare-layer":
            bare = max(optimizer.params, key=Tensor.numel)
            clean = torch.zeros_like(bare) if bare.summed_grad is None else bare.summed_grad.view_as(bare)
            bare.grad = clean.to(bare) / claimed.expected_batch
        released = torch.cat([p.grad.reshape(-1) for p in optimizer.params]).double().cpu().numpy()
        seen = released[shard.watched] * claimed.expected_batch - planting.rest[shard.watched]
        self._watch.tell(shard.partner, seen / claimed.max_grad_norm, rate=claimed.sampling_rate)


class _Planting:
    """An optimiser that is given the gradients of a step's canaries after those of its examples.

    Attributes:
        rest: the examples' sum, float64 `[d]`, once the canaries' turn has come.
    """

    def __init__(self, optimizer: PrivateOptimizer, sample: Sample, *, clip: float) -> None:
        self._optimizer, self._sample, self._length = optimizer, sample, _LENGTH * clip
        self.zero_grad, self.accumulate = optimizer.zero_grad, optimizer.accumulate

    def release(self) -> None:
        """The canaries' turn, and then the step's release."""
        self.rest = np.concatenate([_sum(parameter) for parameter in self._optimizer.params])
        if len(self._sample.canaries):
            self._plant()
            self._optimizer.accumulate()
        self._optimizer.release()

    def _plant(self) -> None:
        gradients = _gradients(self._sample.canaries, self._optimizer.params, length=self._length)
        for parameter, found in zip(self._optimizer.params, gradients, strict=True):
            parameter.grad_sample = found


def _sum(parameter: Any) -> NDArray[np.float64]:
    """What was accumulated for one parameter: Opacus hangs it there, and nothing for an empty batch."""
    if parameter.summed_grad is None:
        return np.zeros(parameter.numel())
    found: NDArray[np.float64] = parameter.summed_grad.reshape(-1).double().cpu().numpy()
    return found


def _gradients(canaries: NDArray[np.int64], parameters: Iterable[Tensor], *, length: float) -> list[Tensor]:
    """The canaries' gradients, `[c, *shape]` for each parameter: `length` in each canary's entry, and zeros."""
    start, rows, found = 0, torch.arange(len(canaries)), []
    for parameter in parameters:
        entries = torch.from_numpy(canaries - start)
        mine = (entries >= 0) & (entries < parameter.numel())
        gradients = torch.zeros(len(rows), parameter.numel())
        gradients[rows[mine], entries[mine]] = length
        found.append(gradients.view(len(rows), *parameter.shape).to(parameter.device))
        start += parameter.numel()
    return found
