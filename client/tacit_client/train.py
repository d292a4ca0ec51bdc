"""Private local training: the only place where a partner's examples meet the model.

DP-SGD as Abadi et al. 2016 (arXiv:1607.00133v2, Algorithm 1) with Poisson sampling: in every step each example is
taken independently with the mechanism's rate, its gradient is clipped in L2, the clipped gradients are summed, noise
is added once, and the sum is divided by the expected batch. Where the shard knows persons, a person stands in an
example's place: it is taken with that rate, gives some of its examples, and their mean gradient is clipped. Opacus
makes the per-example gradients; sampling, clipping, noise and divisor are ours, from the one `Mechanism`.
"""

from __future__ import annotations

import warnings
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from tacit import vector as vectors
from tacit.errors import BadInput
from tacit.evaluate import evaluate
from tacit.job import TrainingSection
from tacit.metrics import LOSS_LIMIT, Counters
from tacit.models.check import check_private
from tacit.privacy.events import EXAMPLE
from tacit.privacy.mechanism import Mechanism
from tacit.privacy.randomness import Stream
from tacit.tasks.task import Encoded, Task
from tacit_client.clipping import clipped_sums
from tacit_client.gradients import PerExample
from tacit_client.memory import keep_freed_memory
from tacit_client.optimizer import PrivateOptimizer, handed_over
from tacit_client.persons import Batch, Persons

__all__ = ["Shard", "Trainer", "pick_device"]

# Opacus hooks the first layer too, whose input, the data, has no gradient: torch wonders aloud, rightly, at no harm.
warnings.filterwarnings("ignore", message="Full backward hook is firing when gradients are computed")

_LEAST_ROWS = 32
"""Rows that a private physical batch is filled up to: from there on a row's arithmetic was not seen to hang on how many
there are. Of two rows instead of one, others' gradients were seen to move by twice the clip norm, at weights chosen for
it."""


@dataclass(frozen=True, repr=False)
class Shard:
    """One partner's examples: rows of a data set that may be shared with others in a simulation.

    Attributes:
        data: the encoded data set.
        rows: int64 `[n]`, this partner's rows of it.
        persons: whose they are, where persons are the unit of privacy; None: each example is a unit.
    """

    data: Encoded
    rows: torch.Tensor
    persons: Persons | None = None

    def __len__(self) -> int:
        return len(self.rows)

    def __repr__(self) -> str:
        return f"Shard(n={len(self)})"

    @property
    def unit(self) -> str:
        """What a step draws: `example`, or the column that names the person."""
        return EXAMPLE if self.persons is None else self.persons.unit

    @property
    def units(self) -> int:
        """How many of them there are."""
        return len(self) if self.persons is None else len(self.persons)

    def draw(self, sampling: Stream, *, rate: float) -> Batch:
        """A step's examples: every unit is in it with chance `rate`, independently of all others."""
        if self.persons is None:
            return Batch(sampling.poisson_sample(len(self), rate=rate))
        return self.persons.draw(sampling, rate=rate)

    @property
    def most(self) -> int:
        """Examples that one unit gives to a step or an evaluation, at most."""
        return 1 if self.persons is None else self.persons.most

    def take(self, indices: NDArray[np.int64]) -> Encoded:
        """The examples at `indices` (int64 `[m]`) of this shard."""
        return self.data.take(self.rows[torch.from_numpy(indices)])


class Trainer:
    """A network on a device, ready for the rounds of one job. Holds no data and nothing of a round.

    Args:
        network: as built by the task.
        task: gives the loss.
        private: whether gradients are taken per example.
        device: where to compute.
        max_physical_batch: examples whose gradients are in memory at once, or one person's where it gives more; changes
            no result but rounding.
        hardened: whether the noise of `dp-sgd` is drawn and added in integers (`tacit.privacy.grid.noised_sum`), so
            that no digit of a float gives away what it hides; else it is the quick noise of float32, for simulations.

    Raises:
        BadInput: a layer that mixes examples or has no per-example gradient.
    """

    def __init__(
        self,
        network: nn.Module,
        *,
        task: Task,
        private: bool,
        device: torch.device,
        max_physical_batch: int,
        hardened: bool = False,
    ) -> None:
        check_private(network)
        keep_freed_memory()
        self.network = _colours_last(network.to(device))
        self.device = device
        self.hardened = hardened
        if hardened:  # of TF32's ten bits others' gradients would move more when one example comes or goes
            torch.backends.cuda.matmul.allow_tf32 = torch.backends.cudnn.allow_tf32 = False
        self._task = task
        self._max_physical_batch = max_physical_batch
        self._least = min(_LEAST_ROWS, max_physical_batch) if hardened else 0
        # Wrapped once for the job: Opacus refuses, or doubles its hooks, on a second wrapping.
        self._model = PerExample(self.network, loss_reduction="sum") if private else self.network

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
        """`mechanism.steps` local steps from the global model `start` (float32 `[d]`).

        Returns:
            Trained minus global parameters, float32 `[d]`.

        Raises:
            BadInput: a start of the wrong length, a mechanism for another unit, or training that leaves the finite
                numbers.

        Guarantee: under `dp-sgd` the returned vector depends on the examples only through `mechanism.steps`
        Poisson-sampled Gaussian mechanisms with the mechanism's rate and noise multiplier; it satisfies what
        `mechanism.event()` says, for the unit that it names. With `hardened` this is so for the numbers that leave;
        without it, for the real numbers of which they are roundings.
        """
        self._check_unit(mechanism, shard)
        vectors.load(self.network, start)
        self._model.train()
        optimizer = _optimizer(self.network, training, learning_rate)
        private = self._private(optimizer, mechanism=mechanism, noise=noise) if mechanism.private else None
        for _ in range(mechanism.steps):
            batch = shard.draw(sampling, rate=mechanism.sampling_rate)
            if private is None:
                self._plain_step(optimizer, shard, batch, divisor=mechanism.expected_batch)
            else:
                self._private_step(private, shard, batch)
        delta = vectors.flatten(self.network) - start
        if not np.isfinite(delta).all():
            raise BadInput(
                "expected finite parameters after training, found NaN or infinity",
                hint="lower training.learning_rate",
            )
        return delta

    def clipped_sum(
        self, start: NDArray[np.float32], shard: Shard, *, mechanism: Mechanism, sampling: Stream
    ) -> NDArray[np.float64]:
        """One step's sum of clipped gradients at the model `start` (float32 `[d]`), without any noise: float64 `[d]`.

        Raises:
            BadInput: a start of the wrong length, a mechanism for another unit, or a network with parameters that are
                not trained.

        Guarantee: one unit more or less moves the sum by at most `mechanism.max_grad_norm` in L2, up to the rounding of
        float64. The sum itself protects nobody: the caller adds noise to it before it leaves (`tacit_client.block`).
        """
        self._check_unit(mechanism, shard)
        parameters: list[Any] = list(self.network.parameters())  # Opacus hangs attributes on them
        if not all(parameter.requires_grad for parameter in parameters):
            raise BadInput(
                "expected a network whose parameters are all trained with distributed-dp-sgd, found one that is not",
                hint="set requires_grad=True on it, or use dp-sgd",
            )
        vectors.load(self.network, start)
        self._model.train()
        total = np.zeros(len(start), dtype=np.float64)
        for part in shard.draw(sampling, rate=mechanism.sampling_rate).chunks(self._max_physical_batch):
            chunk = part.padded(self._least)
            self._losses(shard, chunk)[: len(part.rows)].sum().backward()  # type: ignore[no-untyped-call]  # torch's
            persons = None if chunk.persons is None else torch.from_numpy(chunk.persons).to(self.device)
            found = handed_over(parameters)
            sums = clipped_sums(found, max_norm=mechanism.max_grad_norm, persons=persons, exact=True)
            total += np.concatenate([part.reshape(-1).cpu().numpy() for part in sums])
            for parameter in parameters:
                parameter.grad = None
        return total

    def evaluate(
        self,
        start: NDArray[np.float32],
        shard: Shard,
        *,
        classes: int,
        rows: NDArray[np.int64] | None = None,
        most: float = LOSS_LIMIT,
    ) -> Counters:
        """The model `start` (float32 `[d]`) on `rows` (int64 `[m]`) of `shard`, or all of it; a loss is `most` at most.

        Raises BadInput on a wrong length.
        """
        vectors.load(self.network, start)
        examples = shard.take(np.arange(len(shard)) if rows is None else rows)
        return evaluate(self.network, examples, task=self._task, classes=classes, device=self.device, most=most)

    def _check_unit(self, mechanism: Mechanism, shard: Shard) -> None:
        if mechanism.unit != shard.unit:
            raise BadInput(
                f"expected a mechanism for the unit {shard.unit}, found one for {mechanism.unit}",
                hint="plan it for the data that is trained on",
            )

    def _private(self, optimizer: torch.optim.Optimizer, *, mechanism: Mechanism, noise: Stream) -> PrivateOptimizer:
        return PrivateOptimizer(optimizer, mechanism=mechanism, noise=noise, hardened=self.hardened)

    def _private_step(self, optimizer: PrivateOptimizer, shard: Shard, batch: Batch) -> None:
        optimizer.zero_grad(set_to_none=True)
        for part in batch.chunks(self._max_physical_batch):
            chunk = part.padded(self._least)
            self._losses(shard, chunk)[: len(part.rows)].sum().backward()  # type: ignore[no-untyped-call]  # torch's
            persons = chunk.persons
            optimizer.accumulate(persons=None if persons is None else torch.from_numpy(persons).to(self.device))
        optimizer.release()

    def _plain_step(self, optimizer: torch.optim.Optimizer, shard: Shard, batch: Batch, *, divisor: float) -> None:
        optimizer.zero_grad(set_to_none=True)
        for chunk in batch.chunks(self._max_physical_batch):
            losses = self._losses(shard, chunk)
            if chunk.persons is not None:  # a person counts as much without a mechanism as with one
                losses = losses / torch.from_numpy(np.bincount(chunk.persons)[chunk.persons]).to(losses)
            losses.sum().backward()  # type: ignore[no-untyped-call]  # torch's
        for parameter in self.network.parameters():
            if parameter.grad is not None:
                parameter.grad /= divisor
        optimizer.step()

    def _losses(self, shard: Shard, chunk: Batch) -> Tensor:
        examples = shard.take(chunk.rows).to(self.device)
        return self._task.loss(self._model(*examples.inputs), examples.targets)


def _colours_last(network: nn.Module) -> nn.Module:
    """The network with colours beside each other in memory: on a CPU a step of a small CNN is half again as quick.

    A volume's weights have five dimensions, which torch refuses in this order: such a network stays as it is.
    """
    if all(p.dim() != 5 for p in network.parameters()):
        network.to(memory_format=torch.channels_last)  # type: ignore[call-overload]  # not in its types
    return network


def _optimizer(network: nn.Module, training: TrainingSection, learning_rate: float) -> torch.optim.Optimizer:
    parameters = [p for p in network.parameters() if p.requires_grad]
    match training.optimizer:
        case "sgd":
            return torch.optim.SGD(parameters, lr=learning_rate, momentum=training.momentum)
        case "adam":
            return torch.optim.Adam(parameters, lr=learning_rate)


def pick_device(name: str) -> torch.device:
    """The device for `auto | cpu | cuda | cuda:N | mps`; auto takes the first accelerator there is.

    Raises:
        BadInput: a device that this machine does not have.
    """
    if name == "auto":
        name = "cuda" if torch.cuda.is_available() else "mps" if torch.backends.mps.is_available() else "cpu"
    device = torch.device(name)
    count = {"cuda": torch.cuda.device_count(), "mps": int(torch.backends.mps.is_available()), "cpu": 1}[device.type]
    if (device.index or 0) >= count:
        raise BadInput(f"expected a device {name} on this machine, found {count} of {device.type}", hint="use auto")
    return device
