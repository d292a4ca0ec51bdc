"""Per-example gradients, as they come from one backward pass."""

from __future__ import annotations

from typing import Any

from opacus import GradSampleModule
from torch import Tensor, nn

from tacit_client.clipping import Gradients, Outer, Rows, whole

__all__ = ["PerExample"]


class PerExample(GradSampleModule):  # type: ignore[misc]  # opacus ships no types
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
