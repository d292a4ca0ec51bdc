"""Per-example gradients, their norms, and their sum with each of them clipped, or each person's mean of them.

A person's gradients are averaged before they are clipped, as in DP-SGD with user-level sampling (Charles et al. 2024,
arXiv:2407.07737v1): its influence is that of one vector, however many examples it gave.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import torch
from torch import Tensor

__all__ = ["Gradients", "Outer", "Rows", "clipped_sums", "whole"]

_TINY = 1e-6  # keeps the quotient of clip norm and norm finite; as in Opacus
_NO_DOUBLES = ("mps",)  # devices without float64
_AT_ONCE = 1 << 18  # numbers in float64 beside the gradients themselves: they stay in the processor's cache


@dataclass(frozen=True, repr=False)
class Outer:
    """Gradients of a linear layer's weight as `left[i] right[i]^T` for example i, never written out.

    Their norms and their weighted sums follow from the factors (Goodfellow 2015, arXiv:1510.01799v2).

    Attributes:
        left: gradients of the layer's outputs, `[n, outputs]`.
        right: the layer's inputs, `[n, inputs]`.
    """

    left: Tensor
    right: Tensor

    def __getitem__(self, i: int) -> Tensor:
        return torch.outer(self.left[i], self.right[i])


@dataclass(frozen=True, repr=False)
class Rows:
    """Gradients of an embedding's weight, which are zero but in the rows that an example looked up.

    What the places of one example that looked up one row say is added up before anything else, so that norms and
    sums are those of the whole gradient, to the bit that floats allow.

    Attributes:
        examples: int64 `[m]`, the example of each row that is not zero.
        rows: int64 `[m]`, its place in the weight; no pair of the two comes twice.
        values: `[m, width]`, the rows.
        shape: examples, rows of the weight.
    """

    examples: Tensor
    rows: Tensor
    values: Tensor
    shape: tuple[int, int]

    @classmethod
    def of(cls, ids: Tensor, gradients: Tensor, *, count: int) -> Rows:
        """From the ids looked up, int64 `[n, length]`, and the gradients there, `[n, length, width]`."""
        n, length = ids.shape
        examples = torch.arange(n, device=ids.device).repeat_interleave(length)
        pairs, place = torch.unique(examples * count + ids.flatten(), return_inverse=True)
        values = gradients.new_zeros(len(pairs), gradients.shape[2]).index_add_(0, place, gradients.flatten(0, 1))
        return cls(pairs // count, pairs % count, values, (n, count))

    def __getitem__(self, i: int) -> Tensor:
        mine = self.examples == i
        return self.values.new_zeros(self.shape[1], self.values.shape[1]).index_copy_(
            0, self.rows[mine], self.values[mine]
        )


Gradients = Tensor | Outer | Rows
"""One parameter's gradients, example by example: `[n, *shape]`, or something smaller from which they follow."""


def whole(gradients: Gradients) -> Tensor:
    """`[n, *shape]`."""
    if isinstance(gradients, Outer):
        return gradients.left.unsqueeze(2) * gradients.right.unsqueeze(1)
    if isinstance(gradients, Rows):
        return torch.stack([gradients[i] for i in range(gradients.shape[0])])
    return gradients


def clipped_sums(
    gradients: Sequence[Gradients], *, max_norm: float, persons: Tensor | None = None, exact: bool = False
) -> list[Tensor]:
    """The sum over units of each parameter's gradients, every unit's scaled to a norm of at most `max_norm`.

    Args:
        gradients: one for each parameter.
        max_norm: of a unit's gradients of all parameters together.
        persons: int64 `[n]`, rising from 0 without a gap: whose each example is. The unit is then the person, whose
            gradient is the mean of its examples'; None: the example.
        exact: with norms and sums in float64, whatever the gradients are in; they come back in float64, and on the CPU
            where their device has no such numbers.

    Guarantee: no unit moves the sums by more than `max_norm` in L2, whatever it and the model hold. Gradients that
    leave the finite numbers count as zero there, or one example could show itself by a NaN; they do so before a
    person's are averaged, and touch nobody else's. With `exact` this holds up to a part in 2^22, for up to 2^15 units
    and 2^30 parameters: the norm is that of the very numbers that are summed, and each operation is right to 2^-53.
    """
    dtype = torch.float64 if exact else None  # None: as they are
    gradients = [_finite(_near(found) if exact else found) for found in gradients]
    if persons is not None and not _alone(persons):
        if exact:  # how a mean is rounded hangs on who else is in the batch: by a part in 2^50 instead of one in 2^22
            gradients, persons = [_doubled(found) for found in gradients], _reachable(persons)
        gradients = [_finite(_means(found, persons)) for found in gradients]  # again: large numbers overflow in a mean
    norms = torch.stack([_norms(found, dtype) for found in gradients]).norm(dim=0)
    factors = (max_norm / (norms + _TINY)).clamp(max=1.0)
    # Of a huge norm the quotient may be too small a number to have all its digits: rounded up it would bound less.
    factors = torch.nextafter(factors, torch.zeros_like(factors))
    factors = factors.nan_to_num(nan=0.0)  # a norm that is no number bounds nothing: that example counts as zero
    return [_weighted_sum(found, factors) for found in gradients]


def _alone(persons: Tensor) -> bool:
    """Whether every person gave one example only, so that examples are persons already."""
    return len(persons) == 0 or int(persons[-1]) == len(persons) - 1


def _means(gradients: Gradients, persons: Tensor) -> Gradients:
    """Each person's mean over its examples, in place of them.

    Guarantee: the mean itself is written out, and its norm taken of what is summed. The norm of a mean of `Outer`s
    follows from products of the factors too, but where examples cancel rounding would make it too small.
    """
    counts = torch.bincount(persons)
    if isinstance(gradients, Rows):
        return _row_means(gradients, persons, counts)
    shares = 1.0 / counts[persons]
    if isinstance(gradients, Outer):
        places = torch.arange(len(persons), device=persons.device) - (counts.cumsum(0) - counts)[persons]
        left, right = (
            factor.new_zeros(len(counts), int(counts.max()), factor.shape[1]).index_put_((persons, places), factor)
            for factor in (gradients.left * shares.to(gradients.left.dtype).unsqueeze(1), gradients.right)
        )
        return left.transpose(1, 2) @ right
    weighted = gradients * shares.to(gradients.dtype).view(-1, *[1] * (gradients.dim() - 1))
    return gradients.new_zeros(len(counts), *gradients.shape[1:]).index_add_(0, persons, weighted)


def _row_means(gradients: Rows, persons: Tensor, counts: Tensor) -> Rows:
    owners, count = persons[gradients.examples], gradients.shape[1]
    pairs, place = torch.unique(owners * count + gradients.rows, return_inverse=True)
    weighted = gradients.values / counts[owners].unsqueeze(1)
    values = weighted.new_zeros(len(pairs), weighted.shape[1]).index_add_(0, place, weighted)
    return Rows(pairs // count, pairs % count, values, (len(counts), count))


def _near(gradients: Gradients) -> Gradients:
    """The same, on the CPU where their device has no float64."""
    if isinstance(gradients, Outer):
        return Outer(_reachable(gradients.left), _reachable(gradients.right))
    if isinstance(gradients, Rows):
        examples, rows, values = map(_reachable, (gradients.examples, gradients.rows, gradients.values))
        return Rows(examples, rows, values, gradients.shape)
    return _reachable(gradients)


def _reachable(tensor: Tensor) -> Tensor:
    return tensor.cpu() if tensor.device.type in _NO_DOUBLES else tensor


def _doubled(gradients: Gradients) -> Gradients:
    if isinstance(gradients, Outer):
        return Outer(gradients.left.double(), gradients.right.double())
    if isinstance(gradients, Rows):
        return replace(gradients, values=gradients.values.double())
    return gradients.double()


def _finite(gradients: Gradients) -> Gradients:
    """The same with zeros for what is not finite; factors come back with the size of the gradient all in `left`.

    The square or the product of a tiny number vanishes in float32, and would hide the large factor beside it.
    """
    if isinstance(gradients, Outer):
        left, right = _zeroed(gradients.left), _zeroed(gradients.right)
        size = right.abs().amax(dim=1, keepdim=True).clamp(min=torch.finfo(right.dtype).tiny)
        return Outer(_zeroed(left * size), right / size)
    if isinstance(gradients, Rows):
        return replace(gradients, values=_zeroed(gradients.values))
    # The sum tells without a copy of them all; a sum that overflows costs a copy and changes nothing.
    return gradients if gradients.sum().isfinite() else _zeroed(gradients)


def _zeroed(tensor: Tensor) -> Tensor:
    return tensor.nan_to_num(nan=0.0, posinf=0.0, neginf=0.0)


def _norms(gradients: Gradients, dtype: torch.dtype | None) -> Tensor:
    """Each unit's L2 norm, `[n]`."""
    if isinstance(gradients, Outer):
        return _lengths(gradients.left, dtype) * _lengths(gradients.right, dtype)
    if isinstance(gradients, Rows):
        norms = _lengths(gradients.values, dtype)
        total = norms.new_zeros(gradients.shape[0]).index_add_(0, gradients.examples, norms.square())
        return total.sqrt()
    return _lengths(gradients.reshape(len(gradients), -1), dtype)


def _lengths(rows: Tensor, dtype: torch.dtype | None) -> Tensor:
    lengths: Tensor = torch.linalg.vector_norm(rows, dim=1, dtype=dtype)
    return lengths


def _weighted_sum(gradients: Gradients, weights: Tensor) -> Tensor:
    """In the weights' precision."""
    if isinstance(gradients, Outer):
        return (gradients.left.to(weights) * weights.unsqueeze(1)).T @ gradients.right.to(weights)
    if isinstance(gradients, Rows):
        scaled = gradients.values.to(weights) * weights[gradients.examples].unsqueeze(1)
        return scaled.new_zeros(gradients.shape[1], scaled.shape[1]).index_add_(0, gradients.rows, scaled)
    if gradients.dtype == weights.dtype:
        return torch.einsum("i,i...", weights, gradients)
    total = weights.new_zeros(gradients.shape[1:])
    count = max(1, _AT_ONCE // max(1, total.numel()))
    for part, share in zip(torch.split(gradients, count), torch.split(weights, count), strict=True):
        total += torch.einsum("i,i...", share, part.to(weights))
    return total
