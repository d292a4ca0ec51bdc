"""A partner's part in a round, read top to bottom: check, reserve, train, mask, answer."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

from tacit.errors import BadInput
from tacit.job import Job
from tacit.metrics import NOISY_LOSS_LIMIT, Counters
from tacit.privacy.events import Event
from tacit.privacy.mechanism import plan, weight
from tacit.privacy.metrics import Price
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
        price: of an evaluation; None where the partner gives exact counts.
        judged: counts an evaluation with exact counts, before it is made; a virtual partner, whose data is the
            researcher's, counts none.
        chance: with which a trusted server draws the partner for a round, in simulations; 1.0 where it chooses freely.
    """

    name: str
    train: Shard
    holdout: Shard
    ledger: Ledger
    randomness: Randomness
    state: Callable[[str, Job], bytes] = lambda run, job: b""
    price: Price | None = None
    judged: Callable[[Ask], None] = lambda ask: None
    chance: float = 1.0

    @property
    def units(self) -> int:
        """Examples or persons, those held out among them."""
        return self.train.units + self.holdout.units


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
    mechanism = plan(job, units=site.units, unit=site.train.unit)
    counted = weight(job, units=site.units)
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
    """The global model on the held-out examples, as integer sums, with noise where they have a price.

    Raises:
        BadInput, Abort: as `take_part`; nothing was released then.

    Guarantee: where the site has a price, its event is in the ledger, on disk, before any example is judged or any
    noise is drawn; every attempt draws fresh noise and is charged anew. Sums without that noise leave in no answer.
    Without a price the site has counted the evaluation before any example is judged.
    """
    opened = enter(ask, standing, purpose="evaluate", counters=Counters.length(classes))
    events: tuple[Event, ...] = ()
    if site.price is None:
        site.judged(ask)
        counters = trainer.evaluate(ask.vector, site.holdout, classes=classes)
    else:
        counters = _priced(ask, site, trainer, site.price, classes=classes)
        events = site.ledger.totals(run=ask.run)
    sums = counters.to_vector().astype(np.uint64)  # negative ones modulo 2^64
    vector = MaskedVector(np.empty(0, dtype=np.uint32), sums)
    standing, presence = cover(opened, ask, vector, standing)
    return standing, Update(site.name, vector, events, presence)


def _priced(ask: Ask, site: Site, trainer: Trainer, price: Price, *, classes: int) -> Counters:
    """Charge, judge at most as many rows of a unit as the price is for, and add the noise."""
    if (price.unit, price.most) != (site.holdout.unit, site.holdout.most):
        raise BadInput(
            f"expected a price for {site.holdout.most} rows of one {site.holdout.unit}, found one for {price.most} of "
            f"one {price.unit}",
            hint="price the evaluation for the data that is judged",
        )
    release = Release(ask.run, ask.round, ask.attempt, price.event(), job=ask.job.hash())
    site.ledger.reserve(release)
    labels = (site.name, ask.round, ask.attempt)
    rows = site.holdout.draw(site.randomness.stream("metrics-rows", *labels), rate=1.0).rows
    exact = trainer.evaluate(ask.vector, site.holdout, classes=classes, rows=rows, most=NOISY_LOSS_LIMIT)
    counters = price.cover(exact, noise=site.randomness.stream("metrics-noise", *labels))
    site.ledger.confirm(release)
    return counters


def state(ask: Ask, site: Site) -> Statement:
    """What the ledger holds of the run that `ask` names, and the partner's signed statement about it."""
    return Statement(site.name, site.ledger.totals(run=ask.run), site.state(ask.run, ask.job))
