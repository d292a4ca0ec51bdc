"""A partner's part in a block of steps under a common noise: check, reserve once, and then for every step sum, add a
share of the noise, mask, answer.

Nothing of it is private by one partner's doing: the share of the noise that a partner adds is enough only together with
those of the other honest survivors. Masks see to it that nobody sees less than that sum.
"""

from __future__ import annotations

from dataclasses import replace

import numpy as np

from tacit.privacy.mechanism import Mechanism, plan
from tacit.privacy.shares import step_grid
from tacit.secagg import client
from tacit.secagg.messages import MaskedVector
from tacit.step import Step
from tacit.wire import Invite, Update
from tacit_client.ledger import Release
from tacit_client.masking import Standing, announced, at_hand, enter_step
from tacit_client.partner import Site
from tacit_client.train import Trainer

__all__ = ["take_step"]


def take_step(asked: Step, site: Site, trainer: Trainer, standing: Standing) -> tuple[Standing, Update]:
    """One step of the block at hand.

    Raises:
        BadInput: a job that this partner's data can not serve, when nothing was released.
        Abort: another block or step than those that were begun, or a peer's share that does not open.

    Guarantee: the event of the whole block is in the ledger, on disk, before the first example of its first step is
    sampled; steps that never come stay charged. Every step draws new examples and new noise. What is encoded leaves in
    this answer, masked, or never.
    """
    standing, opened = enter_step(asked, standing)
    invite = at_hand(standing)
    mechanism = plan(invite.job, units=site.units, unit=site.train.unit)
    cohort = len(announced(invite).members)
    grid = step_grid(invite.job, mechanism, cohort=cohort, length=len(asked.vector))
    standing = _reserve(standing, invite, asked, site, mechanism)
    labels = (site.name, asked.round, asked.attempt, asked.step)
    total = trainer.clipped_sum(
        asked.vector, site.train, mechanism=mechanism, sampling=site.randomness.stream("sampling", *labels)
    )
    update = grid.encode(total, noise=site.randomness.stream("noise", *labels))
    if asked.step == mechanism.steps and standing.release is not None:
        site.ledger.confirm(standing.release)
    vector = MaskedVector(update, np.empty(0, dtype=np.uint64))
    state, presence = client.mask(opened, vector, request=asked.request(invite.job))
    return replace(standing, state=state), Update(site.name, vector, site.ledger.totals(run=asked.run), presence)


def _reserve(standing: Standing, invite: Invite, asked: Step, site: Site, mechanism: Mechanism) -> Standing:
    """Charge the block, once."""
    if standing.release is not None:
        return standing
    release = Release(asked.run, asked.round, asked.attempt, mechanism.event(), job=invite.job.hash())
    site.ledger.reserve(release)
    return replace(standing, release=release)
