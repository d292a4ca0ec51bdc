"""A partner's part in a round, read top to bottom: plan, reserve, train, answer."""

from __future__ import annotations

import time
from dataclasses import dataclass

import numpy as np

from tacit.privacy.mechanism import plan
from tacit.privacy.randomness import Randomness
from tacit.wire import Ask, Score, Statement, Update
from tacit_client.ledger import Ledger, Release
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
    """

    name: str
    train: Shard
    holdout: Shard
    ledger: Ledger
    randomness: Randomness


def take_part(ask: Ask, site: Site, trainer: Trainer) -> Update:
    """One round of training.

    Raises:
        BadInput: a job that this partner's data can not serve; nothing was released then.

    Guarantee: the accounting event is in the ledger, on disk, before the first example is sampled or any noise is
    drawn. Every attempt draws fresh noise and is charged anew.
    """
    job = ask.job
    mechanism = plan(job, examples=len(site.train))
    release = Release(run=ask.run, round=ask.round, attempt=ask.attempt, event=mechanism.event())
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
    seconds = time.perf_counter() - started
    site.ledger.confirm(release)
    weight = [len(site.train)] if job.aggregation.weighting == "examples" else []
    return Update(
        name=site.name,
        delta=delta,
        counters=np.array(weight, dtype=np.int64),
        events=site.ledger.totals(run=ask.run),
        seconds=seconds,
    )


def judge(ask: Ask, site: Site, trainer: Trainer, *, classes: int) -> Score:
    """The global model on the held-out examples, as integer sums."""
    return Score(site.name, trainer.evaluate(ask.vector, site.holdout, classes=classes).to_vector())


def state(run: str, site: Site) -> Statement:
    """What the ledger holds of `run`."""
    return Statement(site.name, site.ledger.totals(run=run))
