"""The rounds of a run, read top to bottom in the order in which they happen."""

from __future__ import annotations

import math
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import suppress
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np
from flwr.serverapp import Grid
from numpy.typing import NDArray

from tacit.errors import BadInput, JobFailed
from tacit.job import Job
from tacit.metrics import Counters, Scores
from tacit.privacy.accounting import epsilon
from tacit.privacy.events import Event
from tacit.privacy.randomness import Randomness
from tacit.wire import EVALUATE, HELLO, STATEMENT, TRAIN, Ask, Hello, Parcel, Refusal, Score, Statement, Update
from tacit_server.checkpoint import Best, RunState
from tacit_server.transport import Failure, exchange, wait_for_nodes
from tacit_server.update import Mean, ServerOptimizer

__all__ = ["Setup", "federate"]

_GREETING_TIMEOUT = 300.0  # seconds for partners to appear and to say their names: a cold machine loads torch first


@dataclass(frozen=True)
class Setup:
    """What stays the same over a run.

    Attributes:
        job: the resolved job.
        classes: number of classes.
        test: scores a model on the server's test set, or None.
        randomness: for the choice of cohorts.
        patience: factor on the job's timeouts: an engine that calls partners in turn needs one turn each.
        stop: set from outside to leave at the next opportunity.
        save: keeps the state after every round.
    """

    job: Job
    classes: int
    test: Callable[[NDArray[np.float32]], Counters] | None
    randomness: Randomness
    save: Callable[[RunState], None]
    patience: float = 1.0
    stop: threading.Event = field(default_factory=threading.Event)

    @property
    def timeout(self) -> float:
        """Seconds for the replies of one exchange."""
        return self.job.aggregation.round_timeout * self.patience


def federate(grid: Grid, setup: Setup, state: RunState) -> RunState:
    """Every round that `state` still lacks.

    Raises:
        JobFailed: too few partners, or more than `max_failed_rounds` rounds abandoned in a row.
    """
    job = setup.job
    roster = _greet(grid, setup)
    optimizer = ServerOptimizer(job.training, state.vector)
    optimizer.restore(state.optimizer)
    while state.round < job.training.rounds and not _patience_is_over(job, state):
        state = _round(grid, setup, state, roster, optimizer)
        setup.save(state)
        if state.failed > job.training.max_failed_rounds:
            raise _too_many_failures(job, state)
    return _close(grid, setup, state, roster)


def _round(grid: Grid, setup: Setup, state: RunState, roster: dict[int, str], optimizer: ServerOptimizer) -> RunState:
    number, started = state.round + 1, time.perf_counter()
    cohort = _choose(setup, roster, number)

    ask = Ask(setup.job, state.run, number, state.attempt, state.vector)
    replies = _train(grid, setup, ask, cohort, optimizer)
    trained = time.perf_counter()

    done = len(replies.events) >= setup.job.aggregation.threshold
    vector = optimizer.step(number, state.vector, replies.deltas()) if done else state.vector
    updated = time.perf_counter()

    due = number % setup.job.evaluation.every == 0 or number == setup.job.training.rounds
    test = setup.test(vector).summary() if due and setup.test else None
    federated = _judge(grid, setup, replace(ask, vector=vector), cohort) if due else None
    evaluated = time.perf_counter()

    events = state.events | replies.events
    line: dict[str, Any] = {
        "round": number,
        "attempt": state.attempt,
        "status": "done" if done else "abandoned",
        "asked": len(cohort),
        "answered": len(replies.events),
        "dropouts": sorted(set(cohort.values()) - set(replies.events) - set(replies.refusals)),
        "failures": replies.failures,
        "refusals": replies.refusals,
        "test": _json(test),
        "federated": _json(federated),
        "epsilon_by_partner": _epsilons(setup.job, events),
        "seconds": {
            "train": trained - started - replies.seconds_adding,
            "aggregate": updated - trained + replies.seconds_adding,
            "evaluate": evaluated - updated,
        },
        "round_seconds": evaluated - started,
        "partner_seconds": replies.seconds_training,
    }
    state = replace(
        state,
        round=number,
        vector=vector,
        failed=0 if done else state.failed + 1,
        optimizer=optimizer.state(),
        history=(*state.history, line),
        events=events,
    )
    return _follow(setup.job, state, line) if due and done else state


def _greet(grid: Grid, setup: Setup) -> dict[int, str]:
    """The partners' names by node, once enough of them are there."""
    least = setup.job.aggregation.min_cohort
    nodes = wait_for_nodes(grid, least=least, timeout=_GREETING_TIMEOUT)
    timeout = _GREETING_TIMEOUT * setup.patience
    answers = exchange(grid, Parcel({}, {}), kind=HELLO, nodes=nodes, timeout=timeout, group="hello", stop=setup.stop)
    roster: dict[int, str] = {}
    for node, parcel in answers:
        if isinstance(parcel, Parcel):
            with suppress(BadInput):  # whoever can not say its name is not there
                roster[node] = Hello.unpack(parcel).name
    if len(set(roster.values())) != len(roster):
        raise JobFailed("expected partners with names of their own, found one twice", hint="rename one partner")
    if len(roster) < least:
        raise JobFailed(
            f"expected at least {least} partners to answer, found {len(roster)}",
            hint="see the partners' logs, or lower aggregation.min_cohort",
        )
    return roster


def _choose(setup: Setup, roster: dict[int, str], number: int) -> dict[int, str]:
    """This round's cohort, drawn uniformly by name so that node numbers do not matter."""
    names = {name: node for node, name in roster.items()}
    order = sorted(names)
    size = min(setup.job.aggregation.cohort or len(order), len(order))
    chosen = setup.randomness.stream("cohort", number).choose(len(order), k=size)
    return {names[order[i]]: order[i] for i in chosen}


@dataclass
class _Replies:
    """What came back from a round of training; filled as it comes, so that one update is in memory at a time."""

    mean: Mean
    events: dict[str, tuple[Event, ...]] = field(default_factory=dict)
    refusals: dict[str, str] = field(default_factory=dict)
    failures: dict[str, str] = field(default_factory=dict)
    single: dict[str, NDArray[np.float32]] | None = None
    seconds_training: float = 0.0
    seconds_adding: float = 0.0

    def add(self, update: Update) -> None:
        started = time.perf_counter()
        if self.single is not None:
            self.single[update.name] = update.delta
        self.mean.add(update.delta, weight=int(update.counters[0]) if len(update.counters) else 1)
        self.events[update.name] = update.events
        self.seconds_training += update.seconds
        self.seconds_adding += time.perf_counter() - started

    def deltas(self) -> list[NDArray[np.floating]]:
        if self.single is not None:
            return [self.single[name] for name in sorted(self.single)]
        return [self.mean.value()]


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
    _check_events(update.events, ask=ask)


def _check_events(events: tuple[Event, ...], *, ask: Ask) -> None:
    """Raises BadInput where a partner tells of more steps than it was ever asked for."""
    most = ask.job.training.local_steps * ask.round * ask.attempt
    steps = sum(event.steps for event in events)
    if steps > most:
        raise BadInput(
            f"expected at most {most} steps in the events, found {steps}",
            hint="install the same version of tacit on both sides",
        )


def _train(grid: Grid, setup: Setup, ask: Ask, cohort: dict[int, str], optimizer: ServerOptimizer) -> _Replies:
    replies = _Replies(Mean(len(ask.vector)), single={} if optimizer.single else None)
    for name, parcel in _answers(grid, setup, ask, TRAIN, cohort):
        if isinstance(parcel, Failure):
            replies.failures[name] = str(parcel)
            continue
        try:
            if parcel.scalars.get("kind") == "refusal":
                replies.refusals[name] = Refusal.unpack(parcel).reason
            else:
                update = Update.unpack(parcel)
                _check(update, name=name, ask=ask)
                replies.add(update)
        except BadInput as error:
            replies.failures[name] = error.message
    return replies


def _judge(grid: Grid, setup: Setup, ask: Ask, cohort: dict[int, str]) -> Scores | None:
    """Federated scores: the sum over the cohort's held-out examples, or None where nobody holds any."""
    if not setup.job.evaluation.partner_holdout:
        return None
    total = Counters.zeros(setup.classes)
    for _, parcel in _answers(grid, setup, ask, EVALUATE, cohort):
        if isinstance(parcel, Parcel) and parcel.scalars.get("kind") == "score":
            with suppress(BadInput):  # a score that can not be read counts no example
                total += Counters.from_vector(Score.unpack(parcel).counters, classes=setup.classes)
    return total.summary() if total.confusion.sum() else None


def _close(grid: Grid, setup: Setup, state: RunState, roster: dict[int, str]) -> RunState:
    """Ask every partner's ledger, so that a round whose reply was lost is counted too."""
    ask = Ask(setup.job, state.run, max(state.round, 1), state.attempt, state.vector)
    events = dict(state.events)
    for name, parcel in _answers(grid, setup, ask, STATEMENT, roster):
        if isinstance(parcel, Parcel) and parcel.scalars.get("kind") == "statement":
            with suppress(BadInput):  # then what its replies said stands
                told = Statement.unpack(parcel).events
                _check_events(told, ask=ask)
                events[name] = told
    return replace(state, events={name: found for name, found in sorted(events.items()) if found})


def _answers(
    grid: Grid, setup: Setup, ask: Ask, kind: str, cohort: dict[int, str]
) -> Iterator[tuple[str, Parcel | Failure]]:
    answers = exchange(
        grid,
        ask.pack(),
        kind=kind,
        nodes=list(cohort),
        timeout=setup.timeout,
        group=str(ask.round),
        stop=setup.stop,
    )
    for node, parcel in answers:
        yield cohort[node], parcel


def _follow(job: Job, state: RunState, line: dict[str, Any]) -> RunState:
    """Keep the best model by the monitored accuracy, and count the evaluations since."""
    score = line[job.evaluation.monitor] or line["test"]
    if score is None:
        return state
    if state.best is None or score["accuracy"] > state.best.accuracy:
        best = Best(round=state.round, accuracy=score["accuracy"])
        return replace(state, best=best, best_vector=state.vector, stale=0)
    return replace(state, stale=state.stale + 1)


def _patience_is_over(job: Job, state: RunState) -> bool:
    return 0 < job.evaluation.patience <= state.stale


def _json(scores: Scores | None) -> dict[str, Any] | None:
    if scores is None:
        return None
    return {
        "examples": scores.examples,
        "accuracy": scores.accuracy,
        "loss": scores.loss,
        "macro_f1": scores.macro_f1,
        "confusion": [list(row) for row in scores.confusion],
    }


def _epsilons(job: Job, events: dict[str, tuple[Event, ...]]) -> dict[str, float]:
    if job.privacy.delta is None:
        return {}
    found = {name: epsilon(released, delta=job.privacy.delta) for name, released in sorted(events.items())}
    return {name: value for name, value in found.items() if math.isfinite(value)}


def _too_many_failures(job: Job, state: RunState) -> JobFailed:
    last = state.history[-1]
    reasons = [f"{name}: {text}" for name, text in {**last["failures"], **last["refusals"]}.items()]
    return JobFailed(
        f"expected at least {job.aggregation.threshold} replies in a round, found {last['answered']} in the last of "
        f"{state.failed} rounds in a row" + (f" ({reasons[0]})" if reasons else ""),
        hint="mend the partners, or lower aggregation.threshold; the checkpoint of the last round is kept",
    )
