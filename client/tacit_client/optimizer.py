"""Clipping, noise and divisor of one mechanism, before the step of a plain optimiser.

The noise is drawn in one of two ways. In integers it is exact, and what it hides shows in no digit of what is released
(Mironov 2012, doi:10.1145/2382196.2382264): this is what a partner does. In float32 it is quicker and serves
simulations, in which nobody has to be protected.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from opacus.optimizers import DPOptimizer
from torch import Tensor

from tacit.errors import BadInput
from tacit.privacy.grid import noised_sum
from tacit.privacy.mechanism import Mechanism
from tacit.privacy.randomness import Stream
from tacit_client.clipping import Gradients, clipped_sums

__all__ = ["PrivateOptimizer", "handed_over"]


class PrivateOptimizer(DPOptimizer):  # type: ignore[misc]  # opacus ships no types
    """Takes the steps of `optimizer` on noised sums of clipped gradients.

    A step is any number of `accumulate` calls, none for an empty batch, and then one `release`.

    Args:
        optimizer: over the parameters that are trained.
        mechanism: gives clip, noise and divisor.
        noise: where the noise comes from.
        hardened: whether the noise is added in integers.
    """

    def __init__(
        self, optimizer: torch.optim.Optimizer, *, mechanism: Mechanism, noise: Stream, hardened: bool
    ) -> None:
        super().__init__(
            optimizer,
            noise_multiplier=mechanism.noise_multiplier,
            max_grad_norm=mechanism.max_grad_norm,
            expected_batch_size=None,
            loss_reduction="sum",
        )
        self._mechanism = mechanism
        self._noise = noise
        self._hardened = hardened

    def accumulate(self, *, persons: Tensor | None = None) -> None:
        """Clip the gradients of one physical batch, each example's or each person's, add them up and let go of them.

        Args:
            persons: as for `clipped_sums`; all examples of theirs in this step are in this physical batch.

        Guarantee: no unit moves the sum by more than `mechanism.max_grad_norm`, whatever it and the model hold:
        gradients that leave the finite numbers count as zero there, or one example could show itself by a NaN.

        Raises:
            BadInput: a trainable parameter that the network does not use.
        """
        found = handed_over(self.params)
        sums = clipped_sums(found, max_norm=self._mechanism.max_grad_norm, persons=persons, exact=self._hardened)
        for parameter, clipped in zip(self.params, sums, strict=True):
            parameter.summed_grad = clipped if parameter.summed_grad is None else parameter.summed_grad + clipped

    def release(self) -> None:
        """Add the noise, divide by the expected batch, and take the optimiser's step.

        Guarantee: every trainable parameter gets noise of standard deviation `mechanism.noise_std` in every step,
        also where the batch was empty, and parameters without dimensions too. Hardened, the step depends on the
        examples only through integers with the exact noise of `noised_sum`; all that follows is post-processing.
        """
        if self._hardened:
            self._release_exactly()
        else:
            self._release_quickly()
        self.original_optimizer.step()

    def _release_exactly(self) -> None:
        sizes = [parameter.numel() for parameter in self.params]
        total = np.concatenate([_total(parameter) for parameter in self.params])
        mechanism = self._mechanism
        noised = noised_sum(
            total, clip=mechanism.max_grad_norm, noise_multiplier=mechanism.noise_multiplier, noise=self._noise
        )
        noised /= mechanism.expected_batch
        for parameter, part in zip(self.params, torch.split(torch.from_numpy(noised), sizes), strict=True):
            parameter.grad = part.to(parameter.dtype).to(parameter.device).view_as(parameter)

    def _release_quickly(self) -> None:
        for parameter in self.params:
            noise = torch.from_numpy(self._noise.gaussian(parameter.numel())).to(parameter.device)
            total = noise.view_as(parameter).mul_(self._mechanism.noise_std)
            if parameter.summed_grad is not None:
                total += parameter.summed_grad.view_as(parameter)
            parameter.grad = total.div_(self._mechanism.expected_batch)


def handed_over(parameters: Iterable[Any]) -> list[Gradients]:
    """The gradients that hang on each parameter, example by example; they hang there no longer.

    Raises:
        BadInput: a parameter that the network does not use.
    """
    kept = list(parameters)
    found = [parameter.grad_sample for parameter in kept]
    for parameter, gradients in zip(kept, found, strict=True):
        if gradients is None:
            raise BadInput(
                f"expected a network that uses its parameters, found one of {list(parameter.shape)} left out",
                hint="remove that layer, or set requires_grad=False on it",
            )
        parameter.grad_sample = None
    return found


def _total(parameter: Any) -> NDArray[np.float64]:
    """The sum of one parameter, in its order of rows; zeros for an empty batch."""
    if parameter.summed_grad is None:
        return np.zeros(parameter.numel(), dtype=np.float64)
    summed: NDArray[np.float64] = parameter.summed_grad.reshape(-1).cpu().numpy()
    return summed
