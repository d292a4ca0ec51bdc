"""Private local training: the only place where a partner's examples meet the model.

DP-SGD as Abadi et al. 2016 (arXiv:1607.00133v2, Algorithm 1) with Poisson sampling: in every step each example is
taken independently with the mechanism's rate, its gradient is clipped in L2, the clipped gradients are summed, noise
is added once, and the sum is divided by the expected batch. Opacus makes the per-example gradients;
sampling, clipping, noise and divisor are ours, from the one `Mechanism`.
"""

from __future__ import annotations

import warnings
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from opacus import GradSampleModule
from opacus.optimizers import DPOptimizer
from torch import Tensor, nn

from tacit import vector as vectors
from tacit.errors import BadInput
from tacit.evaluate import evaluate
from tacit.job import TrainingSection
from tacit.metrics import Counters
from tacit.models.check import check_private
from tacit.privacy.mechanism import Mechanism
from tacit.privacy.randomness import Stream
from tacit.tasks.task import Encoded, Task
from tacit_client.clipping import Gradients, Outer, Rows, clipped_sums, whole
from tacit_client.memory import keep_freed_memory

__all__ = ["Shard", "Trainer", "pick_device"]

# Opacus hooks the first layer too, whose input, the data, has no gradient: torch wonders aloud, rightly, at no harm.
warnings.filterwarnings("ignore", message="Full backward hook is firing when gradients are computed")


@dataclass(frozen=True, repr=False)
class Shard:
    """One partner's examples: rows of a data set that may be shared with others in a simulation.

    Attributes:
        data: the encoded data set.
        rows: int64 `[n]`, this partner's rows of it.
    """

    data: Encoded
    rows: torch.Tensor

    def __len__(self) -> int:
        return len(self.rows)

    def __repr__(self) -> str:
        return f"Shard(n={len(self)})"

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
        max_physical_batch: examples whose gradients are in memory at once; changes no result but rounding.

    Raises:
        BadInput: a layer that mixes examples or has no per-example gradient.
    """

    def __init__(
        self, network: nn.Module, *, task: Task, private: bool, device: torch.device, max_physical_batch: int
    ) -> None:
        check_private(network)
        keep_freed_memory()
        self.network = _colours_last(network.to(device))
        self.device = device
        self._task = task
        self._max_physical_batch = max_physical_batch
        # Wrapped once for the job: Opacus refuses, or doubles its hooks, on a second wrapping.
        self._model = _PerExample(self.network, loss_reduction="sum") if private else self.network

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
            BadInput: a start of the wrong length, or training that leaves the finite numbers.

        Guarantee: under `dp-sgd` the returned vector depends on the examples only through `mechanism.steps`
        Poisson-sampled Gaussian mechanisms with the mechanism's rate and noise multiplier; it satisfies what
        `mechanism.event()` says.
        """
        vectors.load(self.network, start)
        self._model.train()
        optimizer = _optimizer(self.network, training, learning_rate)
        private = _PrivateOptimizer(optimizer, mechanism=mechanism, noise=noise) if mechanism.private else None
        for _ in range(mechanism.steps):
            batch = sampling.poisson_sample(len(shard), rate=mechanism.sampling_rate)
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

    def evaluate(self, start: NDArray[np.float32], shard: Shard, *, classes: int) -> Counters:
        """The model `start` (float32 `[d]`) on all of `shard`. Raises BadInput on a wrong length."""
        vectors.load(self.network, start)
        examples = shard.take(np.arange(len(shard)))
        return evaluate(self.network, examples, task=self._task, classes=classes, device=self.device)

    def _private_step(self, optimizer: _PrivateOptimizer, shard: Shard, batch: NDArray[np.int64]) -> None:
        optimizer.zero_grad(set_to_none=True)
        for chunk in self._chunks(batch):
            self._backward(shard, chunk)
            optimizer.accumulate()
        optimizer.release()

    def _plain_step(
        self, optimizer: torch.optim.Optimizer, shard: Shard, batch: NDArray[np.int64], *, divisor: float
    ) -> None:
        optimizer.zero_grad(set_to_none=True)
        for chunk in self._chunks(batch):
            self._backward(shard, chunk)
        for parameter in self.network.parameters():
            if parameter.grad is not None:
                parameter.grad /= divisor
        optimizer.step()

    def _backward(self, shard: Shard, indices: NDArray[np.int64]) -> None:
        examples = shard.take(indices).to(self.device)
        self._task.loss(self._model(*examples.inputs), examples.targets).sum().backward()  # type: ignore[no-untyped-call]  # torch's

    def _chunks(self, batch: NDArray[np.int64]) -> list[NDArray[np.int64]]:
        size = self._max_physical_batch
        return [batch[start : start + size] for start in range(0, len(batch), size)]


class _PerExample(GradSampleModule):  # type: ignore[misc]  # opacus ships no types
    """Opacus's per-example gradients, handed over without its copy into a zeroed buffer.

    That copy serves packed sequences, whose layers see batches of several sizes; no layer that `check_private`
    accepts makes such batches. The weight of a linear layer that sees one row an example gets an `Outer`, that of an
    embedding `Rows`.
    """

    def capture_backprops_hook(
        self, module: nn.Module, _inputs: Any, outputs: Any, loss_reduction: str, batch_first: bool
    ) -> None:
        """Called by torch in the backward pass of every layer with parameters."""
        activations, backprops = self.rearrange_grad_samples(
            module=module, backprops=outputs[0].detach(), loss_reduction=loss_reduction, batch_first=batch_first
        )
        del module.max_batch_len
        # Opacus's convolutions read their input by strides and take it to be contiguous; ours is channels-last.
        activations = [tensor.contiguous() for tensor in activations]
        for parameter, gradients in self._gradients(module, activations, backprops):
            before = parameter.grad_sample  # not None where the network uses the layer twice
            parameter.grad_sample = gradients if before is None else whole(before) + whole(gradients)

    def _gradients(
        self, module: nn.Module, activations: list[Tensor], backprops: Tensor
    ) -> list[tuple[Any, Gradients]]:
        """Each trainable parameter of the layer, on which Opacus hangs attributes that torch's types lack."""
        if isinstance(module, nn.Embedding) and backprops.dim() == 3:
            return [(module.weight, Rows.of(activations[0], backprops, count=module.num_embeddings))]
        if not isinstance(module, nn.Linear) or backprops.dim() != 2:
            return list(self.GRAD_SAMPLERS[type(module)](module, activations, backprops).items())
        both = ((module.weight, Outer(backprops, activations[0])), (module.bias, backprops))
        return [(p, found) for p, found in both if p is not None and p.requires_grad]


class _PrivateOptimizer(DPOptimizer):  # type: ignore[misc]  # opacus ships no types
    """Clipping, noise and divisor of one `Mechanism` before the step of a plain optimiser.

    A step is any number of `accumulate` calls, none for an empty batch, and then one `release`.
    """

    def __init__(self, optimizer: torch.optim.Optimizer, *, mechanism: Mechanism, noise: Stream) -> None:
        super().__init__(
            optimizer,
            noise_multiplier=mechanism.noise_multiplier,
            max_grad_norm=mechanism.max_grad_norm,
            expected_batch_size=None,
            loss_reduction="sum",
        )
        self._mechanism = mechanism
        self._noise = noise

    def accumulate(self) -> None:
        """Clip the per-example gradients of one physical batch, add them up and let go of them.

        Guarantee: no example moves the sum by more than `mechanism.max_grad_norm`, whatever it and the model hold:
        gradients that leave the finite numbers count as zero there, or one example could show itself by a NaN.

        Raises:
            BadInput: a trainable parameter that the network does not use.
        """
        for parameter in self.params:
            if parameter.grad_sample is None:
                raise BadInput(
                    f"expected a network that uses its parameters, found one of {list(parameter.shape)} left out",
                    hint="remove that layer, or set requires_grad=False on it",
                )
        gradients = [parameter.grad_sample for parameter in self.params]
        sums = clipped_sums(gradients, max_norm=self._mechanism.max_grad_norm)
        for parameter, clipped in zip(self.params, sums, strict=True):
            parameter.summed_grad = clipped if parameter.summed_grad is None else parameter.summed_grad + clipped
        for parameter in self.params:
            parameter.grad_sample = None

    def release(self) -> None:
        """Add the noise, divide by the expected batch, and take the optimiser's step.

        Guarantee: every trainable parameter gets noise of standard deviation `mechanism.noise_std` in every step,
        also where the batch was empty, and parameters without dimensions too.
        """
        for parameter in self.params:
            noise = torch.from_numpy(self._noise.gaussian(parameter.numel())).to(parameter.device)
            total = noise.view_as(parameter).mul_(self._mechanism.noise_std)
            if parameter.summed_grad is not None:
                total += parameter.summed_grad.view_as(parameter)
            parameter.grad = total.div_(self._mechanism.expected_batch)
        self.original_optimizer.step()


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
