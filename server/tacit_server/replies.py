"""What comes back from a round in which the server sees each partner's own answer."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable
from contextlib import suppress
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from tacit.errors import BadInput
from tacit.metrics import Counters
from tacit.privacy.events import Event
from tacit.wire import Ask, Parcel, Refusal, Score, Update
from tacit_server.transport import Failure
from tacit_server.update import Mean

__all__ = ["Answers", "Replies", "check_events", "collect", "tally"]

Answers = Iterable[tuple[str, Parcel | Failure]]


@dataclass
class Replies:
    """A round of training as the server knows it; filled as answers come.

    Attributes:
        deltas: what the server optimiser is handed: the mean alone, or every update where a strategy needs them; None
            where the round is abandoned.
        needed: replies without which it is.
        reason: why it is, where that is more than too few replies.
        counted: partners in the mean.
        events: what each partner has released in this run, as it said.
        refusals: why a partner declined.
        failures: why an answer counts for nothing.
        clipped: partners whose update was shrunk.
        seconds_training: of all partners together.
        seconds_adding: of the server, for sums and masks.
        seconds_secagg: from the first message of secure aggregation to its sum, but for the stage of training.
    """

    needed: int
    deltas: list[NDArray[np.floating]] | None = None
    reason: str | None = None
    counted: set[str] = field(default_factory=set)
    events: dict[str, tuple[Event, ...]] = field(default_factory=dict)
    refusals: dict[str, str] = field(default_factory=dict)
    failures: dict[str, str] = field(default_factory=dict)
    clipped: int = 0
    seconds_training: float = 0.0
    seconds_adding: float = 0.0
    seconds_secagg: float = 0.0

    def read(self, answers: Answers, take: Callable[[str, Parcel], None]) -> None:
        """Hand each answer to `take`, and note refusals and what can not be read."""
        for name, parcel in answers:
            if isinstance(parcel, Failure):
                self.failures[name] = str(parcel)
                continue
            try:
                if parcel.scalars.get("kind") == "refusal":
                    self.refusals[name] = Refusal.unpack(parcel).reason
                else:
                    take(name, parcel)
            except BadInput as error:
                self.failures[name] = error.message


def collect(answers: Answers, ask: Ask, *, needed: int, single: bool) -> Replies:
    """The mean of all updates, one in memory at a time; all of them where `single`."""
    replies, mean, all_of_them = Replies(needed), Mean(len(ask.vector)), dict[str, NDArray[np.float32]]()

    def take(name: str, parcel: Parcel) -> None:
        update = Update.unpack(parcel)
        _check(update, name=name, ask=ask)
        started = time.perf_counter()
        if single:
            all_of_them[name] = update.delta
        mean.add(update.delta, weight=int(update.counters[0]) if len(update.counters) else 1)
        replies.counted.add(name)
        replies.events[name] = update.events
        replies.clipped += update.clipped
        replies.seconds_training += update.seconds
        replies.seconds_adding += time.perf_counter() - started

    replies.read(answers, take)
    if len(replies.counted) >= needed:
        replies.deltas = [all_of_them[name] for name in sorted(all_of_them)] if single else [mean.value()]
    return replies


def tally(answers: Answers, *, classes: int) -> Counters:
    """The sum over the partners' held-out examples."""
    total = Counters.zeros(classes)
    for _, parcel in answers:
        if isinstance(parcel, Parcel) and parcel.scalars.get("kind") == "score":
            with suppress(BadInput):  # a score that can not be read counts no example
                total += Counters.from_vector(Score.unpack(parcel).counters, classes=classes)
    return total


def check_events(events: tuple[Event, ...], *, ask: Ask) -> None:
    """Raises BadInput where a partner tells of more steps than it was ever asked for."""
    most = ask.job.training.local_steps * ask.round * ask.attempt
    steps = sum(event.steps for event in events)
    if steps > most:
        raise BadInput(
            f"expected at most {most} steps in the events, found {steps}",
            hint="install the same version of tacit on both sides",
        )


def _check(update: Update, *, name: str, ask: Ask) -> None:
    """Raises BadInput where `update` is not what `ask` asked of the partner called `name`."""
    weights = 1 if ask.job.aggregation.weighting == "examples" else 0
    hint = "install the same version of tacit and of the task on both sides"
    if update.name != name:
        raise BadInput(f"expected an update of {name}, found one of {update.name}", hint=hint)
    if update.delta.shape != ask.vector.shape or not np.isfinite(update.delta).all():
        raise BadInput(
            f"expected an update of {len(ask.vector)} finite numbers, found {len(update.delta)} or others", hint=hint
        )
    if len(update.counters) != weights or not (update.counters > 0).all():
        raise BadInput(f"expected {weights} example counts above 0, found {update.counters.tolist()}", hint=hint)
    check_events(update.events, ask=ask)
