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
from tacit.parcel import Parcel
from tacit.privacy.events import Event, merge
from tacit.quantize import Ring
from tacit.scores import Scores
from tacit.secagg.abort import Abort, Stage
from tacit.secagg.messages import MaskedVector
from tacit.wire import TRAINING_COUNTERS, Ask, Refusal, Statement, Update
from tacit_server.transport import Failure

__all__ = ["Answers", "Judged", "Replies", "check_events", "collect", "listen", "mean", "tally"]

Answers = Iterable[tuple[str, Parcel | Failure]]

_WORDS = 1000  # letters of a partner's words, which every round's line keeps and every checkpoint has in it
_MOST_KINDS = 16  # mechanisms of one partner in a run: of training, of evaluation, others where its data changed


@dataclass
class Replies:
    """A round of training as the server knows it; filled as answers come.

    Attributes:
        deltas: what the server optimiser is handed: the mean alone, or every update where a strategy needs them; None
            where the round is abandoned.
        vector: the model after a block of steps; None where none of them was taken.
        total: the sum of clipped updates with mechanism `client`, before `tacit_server.whole` has looked at it.
        norm: the L2 bound of the next round's updates, where it moves.
        needed: replies without which it is.
        reason: why it is, where that is more than too few replies.
        counted: partners in the mean.
        stayed: partners who answered the last stage of secure aggregation that was reached.
        events: what each partner has released in this run, as it said.
        refusals: why a partner declined.
        failures: why an answer counts for nothing.
        clipped: partners whose update was shrunk.
        steps: of a block that were taken.
        missed: steps of a block, by partner, in whose sum it was not.
        seconds_training: of all partners together.
        seconds_adding: of the server, for sums and masks.
        seconds_secagg: from the first message of secure aggregation to its sum, but for the stage of training.
    """

    needed: int
    deltas: list[NDArray[np.floating]] | None = None
    vector: NDArray[np.float32] | None = None
    total: MaskedVector | None = None
    norm: float | None = None
    reason: str | None = None
    counted: set[str] = field(default_factory=set)
    stayed: set[str] = field(default_factory=set)
    events: dict[str, tuple[Event, ...]] = field(default_factory=dict)
    refusals: dict[str, str] = field(default_factory=dict)
    failures: dict[str, str] = field(default_factory=dict)
    clipped: int = 0
    steps: int = 0
    missed: dict[str, int] = field(default_factory=dict)
    seconds_training: float = 0.0
    seconds_adding: float = 0.0
    seconds_secagg: float = 0.0

    @property
    def answered(self) -> int:
        """Partners in the mean; where secure aggregation ended before its sum, those who got as far as it did."""
        return len(self.counted or self.stayed - set(self.failures))

    def lost(self, cohort: Iterable[str]) -> list[str]:
        """Those of `cohort` who dropped out: not those who refused, nor those whom an abandoned round left waiting."""
        return sorted(set(cohort) - self.counted - (self.stayed - set(self.failures)) - set(self.refusals))

    def settle(self, total: MaskedVector, ask: Ask) -> None:
        """Take the sum over the partners counted."""
        if ask.job.privacy.mechanism == "client":
            self.total = total
            return
        self.deltas = [mean(total, ask)]
        self.clipped, self.seconds_training = int(total.counters[1]), int(total.counters[2]) / 1000

    def read(self, answers: Answers, take: Callable[[str, Parcel], None]) -> None:
        """Hand each answer to `take`, and note refusals and what can not be read."""
        for name, parcel in answers:
            if isinstance(parcel, Failure):
                self.failures[name] = str(parcel)[:_WORDS]
                continue
            try:
                if parcel.scalars.get("kind") == "refusal":
                    self.refusals[name] = Refusal.unpack(parcel).reason[:_WORDS]
                else:
                    take(name, parcel)
            except BadInput as error:
                self.failures[name] = error.message[:_WORDS]


def collect(answers: Answers, ask: Ask, *, single: bool, needed: int | None = None) -> Replies:
    """The mean of all updates, added as they come; each of them besides where `single`.

    Args:
        answers: of the partners.
        ask: what they were asked.
        single: whether a strategy needs every update.
        needed: replies without which there is no mean; the job's number where left out.
    """
    replies = Replies(ask.job.aggregation.needed(ask.cohort) if needed is None else needed)
    all_of_them = dict[str, NDArray[np.float64]]()
    total = MaskedVector(np.zeros(ask.entries, dtype=np.uint32), np.zeros(TRAINING_COUNTERS, dtype=np.uint64))

    def take(name: str, parcel: Parcel) -> None:
        update = Update.unpack(parcel)
        _check(update, name=name, ask=ask)
        started = time.perf_counter()
        if single:
            all_of_them[name] = mean(update.vector, ask)
        np.add(total.update, update.vector.update, out=total.update)
        np.add(total.counters, update.vector.counters, out=total.counters)
        replies.counted.add(name)
        replies.events[name] = update.events
        replies.seconds_adding += time.perf_counter() - started

    replies.read(answers, take)
    if len(replies.counted) >= replies.needed:
        replies.settle(total, ask)
    if single and replies.deltas is not None:
        replies.deltas = [all_of_them[name] for name in sorted(all_of_them)]
    return replies


def mean(total: MaskedVector, ask: Ask) -> NDArray[np.float64]:
    """The weighted mean, float64 `[d]`, from the sum of updates and counters."""
    job = ask.job.aggregation
    ring = Ring(norm=job.max_update_norm, partners=ask.cohort)
    return ring.decode(total.update, weight=int(total.counters[0]) / job.full_weight)


@dataclass(frozen=True)
class Judged:
    """What comes back from an evaluation.

    Attributes:
        counters: the sum over the partners' held-out examples, with the noise of those who add any; None where there is
            none.
        events: what each partner that adds noise has released in this run, as it said.
    """

    counters: Counters | None
    events: dict[str, tuple[Event, ...]]

    def scores(self) -> Scores | None:
        """None where nobody holds any example, or noise hides how many."""
        with suppress(BadInput):
            return None if self.counters is None else self.counters.summary()
        return None


def tally(answers: Answers, ask: Ask, *, classes: int) -> Judged:
    """The sum over the partners' held-out examples."""
    total, events = Counters.zeros(classes), dict[str, tuple[Event, ...]]()
    for name, parcel in answers:
        if isinstance(parcel, Parcel) and parcel.scalars.get("kind") == "update":
            with suppress(BadInput):  # a score that can not be read counts no example
                answer = Update.unpack(parcel)
                check_events(answer.events, ask=ask)
                total += Counters.from_vector(answer.vector.counters, classes=classes)
                events |= {name: answer.events} if answer.events else {}
    return Judged(total, events)


def listen(answers: Answers, *, ask: Ask) -> dict[str, Statement | str]:
    """What each partner states at the end of a run, or why it states nothing."""
    said: dict[str, Statement | str] = {}
    for name, parcel in answers:
        try:
            said[name] = _stated(parcel, name=name, ask=ask)
        except BadInput as error:  # then what its replies said stands
            said[name] = error.message
    return said


def _stated(parcel: Parcel | Failure, *, name: str, ask: Ask) -> Statement | str:
    if isinstance(parcel, Failure):
        return str(parcel)
    if parcel.scalars.get("kind") == "refusal":
        return Refusal.unpack(parcel).reason
    told = Statement.unpack(parcel)
    check_events(told.events, ask=ask)
    if told.name != name:
        raise BadInput(f"expected a statement of {name}, found one of {told.name}", hint="rename one partner")
    return told


def check_events(events: tuple[Event, ...], *, ask: Ask) -> None:
    """Raises BadInput where a partner tells of more steps, or evaluations, than it was ever asked for, or of so many
    mechanisms that to account for them would keep everybody waiting."""
    if (kinds := len(merge(events))) > _MOST_KINDS:
        raise BadInput(
            f"expected at most {_MOST_KINDS} mechanisms in the events, found {kinds}",
            hint="install the same version of tacit on both sides",
        )
    rounds = ask.round * ask.attempt
    judged = sum(event.steps for event in events if event.kind == "metrics")
    steps = sum(event.steps for event in events) - judged
    each = 1 if ask.job.privacy.mechanism == "client" else ask.job.training.local_steps
    for found, most, what in ((steps, each * rounds, "steps"), (judged, rounds, "evaluations")):
        if found > most:
            raise BadInput(
                f"expected at most {most} {what} in the events, found {found}",
                hint="install the same version of tacit on both sides",
            )


def _check(update: Update, *, name: str, ask: Ask) -> None:
    """Raises BadInput where `update` is not what `ask` asked of the partner called `name`."""
    hint = "install the same version of tacit and of the task on both sides"
    if update.name != name:
        raise BadInput(f"expected an update of {name}, found one of {update.name}", hint=hint)
    try:
        update.vector.check(update=ask.entries, counters=TRAINING_COUNTERS, stage=Stage.MASK)
    except Abort as error:
        raise BadInput(error.message, hint=hint) from None
    weight, most = int(update.vector.counters[0]), ask.job.aggregation.full_weight
    if not 1 <= weight <= most:
        raise BadInput(f"expected a weight from 1 to {most}, found {weight}", hint=hint)
    check_events(update.events, ask=ask)
