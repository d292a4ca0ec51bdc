"""The noise of one step in shares: how both sides come to one grid from the job."""

from __future__ import annotations

from tacit.job import Job
from tacit.privacy.grid import Grid
from tacit.privacy.mechanism import Mechanism

__all__ = ["step_grid"]

_LEAST = 16.0
"""Clip norms that one entry of a partner's sum may come to, however small the batch."""


def step_grid(job: Job, mechanism: Mechanism, *, cohort: int, length: int) -> Grid:
    """The grid of one step of `distributed-dp-sgd`.

    An entry of a partner's sum may come to twice its even part of the expected batch, times the clip: only gradients
    that all point along one axis, at a partner with far more data than the others, are cut off there.

    Args:
        job: says how many of the cohort are honest.
        mechanism: of the job, the same for all partners.
        cohort: partners in the round.
        length: parameters of the model.

    Raises:
        BadInput: a sum that could wrap round, or would be too coarse.
    """
    return Grid(
        clip=mechanism.max_grad_norm,
        length=length,
        partners=cohort,
        honest=job.aggregation.honest(cohort),
        noise_multiplier=mechanism.noise_multiplier,
        most=max(_LEAST, 2 * mechanism.expected_batch / cohort),
    )
