"""A partner's part in a round, read top to bottom: check, reserve, train, mask, answer."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

from tacit.job import Job
from tacit.metrics import Counters
from tacit.privacy.mechanism import plan, weight
from tacit.privacy.randomness import Randomness
from tacit.quantize import Ring
from tacit.secagg.messages import MaskedVector
from tacit.wire import TRAINING_COUNTERS, Ask, Statement, Update
from tacit_client.ledger import Ledger, Release
from tacit_client.masking import Standing, cover, enter
from tacit_client.train import Shard, Trainer

__all__ = ["Site", "judge", "state", "take_part"]


@dataclass(frozen=True)
class Site:
    """What a partner owns.

    Attributes:
        name: as the other parties know it.
        train: examples to train on.
        holdout: examples that are never trained on.
        ledger: of this data set.
        randomness: for sampling and noise.
        state: makes the signed statement about a run and its job; a virtual partner, whose key is nobody's, makes none.
    """

    name: str
    train: Shard
    holdout: Shard
    ledger: Ledger
    randomness: Randomness
    state: Callable[[str, Job], bytes] = lambda run, job: b""


def take_part(ask: Ask, site: Site, trainer: Trainer, standing: Standing) -> tuple[Standing, Update]:
    """One round of training.

    Raises:
        BadInput: a job that this partner's data can not serve, when nothing was released; an update with NaN.
        Abort: under secure aggregation, a round other than the one that was begun, or a peer's share that does not
            open; nothing was charged then.

    Guarantee: the accounting event is in the ledger, on disk, before the first example is sampled or any noise is
    drawn. Every attempt draws fresh noise and is charged anew. What is encoded leaves in this answer, masked where
    the job is secure, or never: it is kept nowhere.
    """
    opened = enter(ask, standing, purpose="train", counters=TRAINING_COUNTERS)
    job = ask.job
    ring = Ring(norm=job.aggregation.max_update_norm, partners=ask.cohort)
    mechanism = plan(job, units=site.train.units, unit=site.train.unit)
    counted = weight(job, units=site.train.units)
    release = Release(ask.run, ask.round, ask.attempt, mechanism.event(), job=job.hash())
    site.ledger.reserve(release)
    labels = (site.name, ask.round, ask.attempt)
    started = time.perf_counter()
    delta = trainer.train(
        ask.vector,
        site.train,
        mechanism=mechanism,
        training=job.training,
        learning_rate=job.training.learning_rate_at(ask.round),
        sampling=site.randomness.stream("sampling", *labels),
        noise=site.randomness.stream("noise", *labels),
    )
    milliseconds = round(1000 * (time.perf_counter() - started))
    share, rounding = counted / job.aggregation.full_weight, site.randomness.stream("rounding", *labels)
    update, clipped = ring.encode(delta, weight=share, rounding=rounding)
    site.ledger.confirm(release)
    vector = MaskedVector(update, np.array([counted, clipped, milliseconds], dtype=np.uint64))
    standing, presence = cover(opened, ask, vector, standing)
    return standing, Update(site.name, vector, site.ledger.totals(run=ask.run), presence)


def judge(ask: Ask, site: Site, trainer: Trainer, standing: Standing, *, classes: int) -> tuple[Standing, Update]:
    """The global model on the held-out examples, as integer sums. Raises Abort, as `take_part`."""
    opened = enter(ask, standing, purpose="evaluate", counters=Counters.length(classes))
    counters = trainer.evaluate(ask.vector, site.holdout, classes=classes).to_vector()
    vector = MaskedVector(np.empty(0, dtype=np.uint32), counters.astype(np.uint64))
    standing, presence = cover(opened, ask, vector, standing)
    return standing, Update(site.name, vector, presence=presence)


def state(ask: Ask, site: Site) -> Statement:
    """What the ledger holds of the run that `ask` names, and the partner's signed statement about it."""
    return Statement(site.name, site.ledger.totals(run=ask.run), site.state(ask.run, ask.job))
