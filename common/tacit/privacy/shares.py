"""The noise of one sum in shares: how both sides come to one grid from the job."""

from __future__ import annotations

from tacit.job import Job
from tacit.privacy.grid import Grid
from tacit.privacy.mechanism import Mechanism, plan
from tacit.privacy.quantile import joint_norm
from tacit.quantize import Ring

__all__ = ["check_step", "step_grid", "update_grid"]

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


def update_grid(job: Job, mechanism: Mechanism, *, cohort: int, length: int, norm: float | None) -> Grid:
    """The grid of one round of `client` with noise by partners.

    Args:
        job: says how many of the cohort are honest.
        mechanism: of the job, the same for all partners.
        cohort: partners in the round.
        length: entries of an update.
        norm: of the round, where `privacy.clip_quantile` moves it: updates then have one entry more.

    Raises:
        BadInput: a sum that could wrap round, or would be too coarse.
    """
    return Grid(
        clip=mechanism.max_grad_norm if norm is None else joint_norm(norm),
        length=length,
        partners=cohort,
        honest=job.aggregation.honest(cohort),
        noise_multiplier=mechanism.noise_multiplier,
        most=1.0,
    )


def check_step(job: Job, *, cohort: int, length: int) -> None:
    """Whether the sums of a job have a grid whose noise comes with the sum; says nothing of other jobs.

    Raises:
        BadInput: a sum over `cohort` partners that could wrap round, or would be too coarse.
    """
    if job.privacy.mechanism == "distributed-dp-sgd":
        step_grid(job, plan(job, units=job.training.population or 0), cohort=cohort, length=length)
    elif job.privacy.mechanism == "client" and not job.shares_noise:
        Ring(norm=joint_norm(plan(job, units=0).max_grad_norm), partners=cohort)
    elif job.shares_noise:
        update_grid(job, plan(job, units=0), cohort=cohort, length=length + 1, norm=job.privacy.max_update_norm)
