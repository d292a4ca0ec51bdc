"""A partner's part in a round that protects it as a whole: check, reserve, train, clip the update, add a share of the
noise, mask, answer.

McMahan, Ramage, Talwar, Zhang 2018 (arXiv:1710.06963v3, Algorithm 1), with the noise in integers. Training itself is
without noise: the unit is all that the partner holds, so the clip of the whole update is what counts.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from tacit import vector as vectors
from tacit.errors import BadInput
from tacit.privacy.mechanism import Mechanism, local, plan
from tacit.privacy.quantile import clip, join, joint_norm
from tacit.privacy.shares import update_grid
from tacit.quantize import Ring
from tacit.secagg.messages import MaskedVector
from tacit.wire import TRAINING_COUNTERS, Ask, Update
from tacit_client.ledger import Release
from tacit_client.masking import Standing, cover, enter
from tacit_client.partner import Site
from tacit_client.train import Trainer

__all__ = ["charge_rounds", "take_part"]


def take_part(ask: Ask, site: Site, trainer: Trainer, standing: Standing) -> tuple[Standing, Update]:
    """One round of a job with mechanism `client`.

    Raises:
        BadInput: a job whose sum has no grid, or a model of another length, when nothing was released.
        Abort: as `tacit_client.partner.take_part`.

    Guarantee: the event of the round is in the ledger, on disk, before the first example is sampled. What leaves is a
    vector of at most the round's norm in L2, on a grid, with this partner's share of the noise where partners add it,
    and the number 1: no count, no time, and no refusal that depends on the examples.
    """
    opened = enter(ask, standing, purpose="train", counters=TRAINING_COUNTERS)
    mechanism = plan(ask.job, units=site.units, chance=site.chance)
    _check(ask, mechanism, trainer)
    release = _reserve(ask, site, mechanism)
    update = _train(ask, site, trainer)
    encoded = _encode(ask, site, mechanism, update)
    site.ledger.confirm(release)
    vector = MaskedVector(encoded, np.array([1, 0, 0], dtype=np.uint64))
    standing, presence = cover(opened, ask, vector, standing)
    return standing, Update(site.name, vector, site.ledger.totals(run=ask.run), presence)


def charge_rounds(ask: Ask, site: Site) -> None:
    """Charge a simulated user for the rounds so far in which it was not drawn.

    Guarantee: a round costs every user the same, drawn or not: the chance of being drawn is in the event.
    """
    if ask.job.privacy.mechanism == "client" and ask.round > _charged(ask, site):
        _reserve(ask, site, plan(ask.job, units=site.units, chance=site.chance))


def _check(ask: Ask, mechanism: Mechanism, trainer: Trainer) -> None:
    """All that can be refused is refused here, before the data is looked at."""
    if ask.job.shares_noise:
        update_grid(ask.job, mechanism, cohort=ask.cohort, length=ask.entries, norm=ask.norm)
    else:
        Ring(norm=_bound(ask, mechanism), partners=ask.cohort)
    vectors.load(trainer.network, ask.vector)


def _reserve(ask: Ask, site: Site, mechanism: Mechanism) -> Release:
    """Charge the round; where users are drawn by chance, also those before it that are not charged yet."""
    event = mechanism.event()
    if site.chance < 1.0:
        event = event.model_copy(update={"steps": max(1, ask.round - _charged(ask, site))})
    release = Release(ask.run, ask.round, ask.attempt, event, job=ask.job.hash())
    site.ledger.reserve(release)
    return release


def _charged(ask: Ask, site: Site) -> int:
    return sum(event.steps for event in site.ledger.totals(run=ask.run) if event.kind == "client")


def _train(ask: Ask, site: Site, trainer: Trainer) -> NDArray[np.float32]:
    """Trained minus global parameters; zeros where these are not finite: to say so would tell of the data."""
    training, labels = ask.job.training, (site.name, ask.round, ask.attempt)
    try:
        return trainer.train(
            ask.vector,
            site.train,
            mechanism=local(ask.job, units=site.units, unit=site.train.unit),
            training=training,
            learning_rate=training.learning_rate_at(ask.round),
            sampling=site.randomness.stream("sampling", *labels),
            noise=site.randomness.stream("unused", *labels),
        )
    except BadInput:
        return np.zeros_like(ask.vector)


def _encode(ask: Ask, site: Site, mechanism: Mechanism, update: NDArray[np.float32]) -> NDArray[np.uint32]:
    """The update, clipped, with its entry for the norm, on the round's grid."""
    labels = (site.name, ask.round, ask.attempt)
    norm = mechanism.max_grad_norm if ask.norm is None else ask.norm
    vector, within = clip(update, norm=norm)
    if ask.norm is not None:
        vector = join(vector, norm=norm, within=within)
    if ask.job.shares_noise:
        grid = update_grid(ask.job, mechanism, cohort=ask.cohort, length=ask.entries, norm=ask.norm)
        return grid.encode(vector, noise=site.randomness.stream("noise", *labels))
    ring = Ring(norm=_bound(ask, mechanism), partners=ask.cohort)
    encoded, _ = ring.encode(
        vector.astype(np.float32), weight=1.0, rounding=site.randomness.stream("rounding", *labels)
    )
    return encoded


def _bound(ask: Ask, mechanism: Mechanism) -> float:
    """L2 bound of what is sent."""
    return mechanism.max_grad_norm if ask.norm is None else joint_norm(ask.norm)
