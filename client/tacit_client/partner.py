"""A partner's part in a round, read top to bottom: check, reserve, train, mask, answer."""

from __future__ import annotations

import time
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from tacit.metrics import Counters
from tacit.privacy.mechanism import plan, weight
from tacit.privacy.randomness import Randomness
from tacit.quantize import Ring, clip
from tacit.secagg.messages import MaskedVector
from tacit.wire import Ask, MaskedUpdate, Score, Statement, Update
from tacit_client.ledger import Ledger, Release
from tacit_client.masking import COUNTERS, Standing, cover, enter
from tacit_client.train import Shard, Trainer

__all__ = ["Site", "judge", "judge_masked", "state", "take_part", "take_part_masked"]


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


@dataclass(frozen=True, repr=False)
class _Trained:
    delta: NDArray[np.float32]
    weight: int
    seconds: float


def take_part(ask: Ask, site: Site, trainer: Trainer) -> Update:
    """One round of training in a job without secure aggregation: the server sees this partner's update.

    Raises:
        BadInput: a job that this partner's data can not serve; nothing was released then.
    """
    trained = _train(ask, site, trainer)
    delta, clipped = clip(trained.delta, norm=ask.job.aggregation.max_update_norm)
    weighted = ask.job.aggregation.weighting == "examples"
    return Update(
        name=site.name,
        delta=delta,
        counters=np.array([trained.weight] if weighted else [], dtype=np.int64),
        clipped=clipped,
        events=site.ledger.totals(run=ask.run),
        seconds=trained.seconds,
    )


def take_part_masked(ask: Ask, site: Site, trainer: Trainer, standing: Standing) -> tuple[Standing, MaskedUpdate]:
    """One round of training under secure aggregation: what leaves is masked.

    Raises:
        BadInput: as `take_part`, or an update that is not finite.
        Abort: what is asked is not what the round began with, or a peer's share does not open.

    Guarantee: every check of the protocol comes before the ledger is charged and an example is sampled.
    """
    opened = enter(ask, standing, purpose="train", counters=COUNTERS)
    job = ask.job.aggregation
    ring = Ring(norm=job.max_update_norm, partners=len(opened.shared.session.begun.round.members))
    trained = _train(ask, site, trainer)
    share = trained.weight / (job.max_weight if job.weighting == "examples" else 1)
    rounding = site.randomness.stream("rounding", site.name, ask.round, ask.attempt)
    update, clipped = ring.encode(trained.delta, weight=share, rounding=rounding)
    counters = np.array([trained.weight, clipped, round(1000 * trained.seconds)], dtype=np.int64)
    masked = cover(opened, ask, update=update, counters=counters)
    answer = MaskedUpdate(site.name, MaskedVector(update, counters.view(np.uint64)), site.ledger.totals(run=ask.run))
    return replace(standing, state=masked), answer


def _train(ask: Ask, site: Site, trainer: Trainer) -> _Trained:
    """Reserve, train, confirm.

    Guarantee: the accounting event is in the ledger, on disk, before the first example is sampled or any noise is
    drawn. Every attempt draws fresh noise and is charged anew; the update is returned and kept nowhere.
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
    return _Trained(delta, weight(job, examples=len(site.train)), seconds)


def judge_masked(
    ask: Ask, site: Site, trainer: Trainer, standing: Standing, *, classes: int
) -> tuple[Standing, MaskedUpdate]:
    """The global model on the held-out examples, as masked integer sums. Raises Abort."""
    opened = enter(ask, standing, purpose="evaluate", counters=len(Counters.zeros(classes).to_vector()))
    counters = trainer.evaluate(ask.vector, site.holdout, classes=classes).to_vector()
    update = np.empty(0, dtype=np.uint32)
    masked = cover(opened, ask, update=update, counters=counters)
    return replace(standing, state=masked), MaskedUpdate(
        site.name, MaskedVector(update, counters.view(np.uint64)), events=()
    )


def judge(ask: Ask, site: Site, trainer: Trainer, *, classes: int) -> Score:
    """The global model on the held-out examples, as integer sums."""
    return Score(site.name, trainer.evaluate(ask.vector, site.holdout, classes=classes).to_vector())


def state(run: str, site: Site) -> Statement:
    """What the ledger holds of `run`."""
    return Statement(site.name, site.ledger.totals(run=run))
