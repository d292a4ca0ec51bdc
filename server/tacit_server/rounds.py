"""The rounds of a run, read top to bottom in the order in which they happen."""

from __future__ import annotations

import math
import threading
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np
from flwr.serverapp import Grid
from numpy.typing import NDArray

from tacit.errors import JobFailed
from tacit.job import Job
from tacit.metrics import Counters
from tacit.parcel import Parcel
from tacit.privacy.accounting import epsilon
from tacit.privacy.events import Event
from tacit.privacy.randomness import Randomness
from tacit.quantize import Ring
from tacit.wire import EVALUATE, STATEMENT, TRAIN, Ask, Hello, Statement
from tacit_server.block import train_block
from tacit_server.checkpoint import Best, RunState
from tacit_server.replies import Answers, Judged, Replies, collect, listen, tally
from tacit_server.roll import Roster, ask_names, present
from tacit_server.secagg import Cohort, collect_masked, tally_masked
from tacit_server.transport import News, exchange, wait_for_nodes
from tacit_server.update import ServerOptimizer
from tacit_server.whole import Users, first_norm, release

__all__ = ["Setup", "federate"]

_GREETING_TIMEOUT = 300.0  # seconds for partners to appear and to say their names: a cold machine loads torch first
_SILENT = "did not answer in time"
_LOOK = 0.5  # seconds between two looks at who is there


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
        waits: whether partners come and go, so that who is missing is waited for; else all are there at the start.
        check: what is known of the partner at a node; raises BadInput where it says something else of itself.
        tell: told what the run waits for, and nothing once it goes on.
        news: a cheap look at the answers that wait, as in `exchange`.
        commission: the server's signature under the job and a run's id.
        hear: told what each partner states at the end, or why it states nothing.
        chance: with which each partner is drawn for a round, independently of all others; None where the job's number
            of them is. In simulations only: there this side is the trusted server that draws them.
    """

    job: Job
    classes: int
    test: Callable[[NDArray[np.float32]], Counters] | None
    randomness: Randomness
    save: Callable[[RunState], None]
    patience: float = 1.0
    stop: threading.Event = field(default_factory=threading.Event)
    waits: bool = False
    check: Callable[[int, Hello], None] = lambda node, hello: None
    tell: Callable[[str], None] = lambda text: None
    news: News = lambda: None
    commission: Callable[[str], bytes] = lambda run: b""
    hear: Callable[[Hello, Statement | str], None] = lambda partner, said: None
    chance: float | None = None

    def timeout(self, *, working: bool) -> float:
        """Seconds for the replies of one exchange, in which partners train or evaluate or only answer."""
        job = self.job.aggregation
        return (job.round_timeout if working else job.stage_timeout) * self.patience


def federate(grid: Grid, setup: Setup, state: RunState) -> RunState:
    """Every round that `state` still lacks.

    Raises:
        JobFailed: too few partners, or more than `max_failed_rounds` rounds abandoned in a row.
    """
    job = setup.job
    roster = Roster() if setup.waits else _greet(grid, setup)
    stepwise = job.privacy.mechanism == "distributed-dp-sgd"
    optimizer = ServerOptimizer(job.training, state.vector, stepwise=stepwise)
    optimizer.restore(state.optimizer)
    while state.round < job.training.rounds and not _patience_is_over(job, state):
        roster = _refresh(grid, setup, roster)
        state = _round(grid, setup, state, roster, optimizer)
        setup.save(state)
        if state.failed > job.training.max_failed_rounds:
            raise _too_many_failures(job, state)
    return _close(grid, setup, state, present(grid, roster, check=setup.check, stop=setup.stop, news=setup.news))


def _round(grid: Grid, setup: Setup, state: RunState, roster: Roster, optimizer: ServerOptimizer) -> RunState:
    number, started = state.round + 1, time.perf_counter()
    cohort = _choose(setup, roster, number)
    drawn = setup.chance is not None

    ask = _ask(setup, state, number, cohort=len(roster if drawn else cohort))
    replies = _train(grid, setup, ask, cohort, optimizer) if cohort or drawn else _nobody(setup.job, roster)
    trained = time.perf_counter()

    done = replies.vector is not None or replies.deltas is not None
    vector = _updated(state, replies, optimizer)
    updated = time.perf_counter()

    due = number % setup.job.evaluation.every == 0 or number == setup.job.training.rounds
    test = setup.test(vector).summary() if due and setup.test else None
    judged = _judge(grid, setup, replace(ask, vector=vector), cohort) if due and cohort else Judged(None, {})
    federated = judged.scores()
    evaluated = time.perf_counter()

    events = state.events | replies.events | judged.events
    line: dict[str, Any] = {
        "round": number,
        "attempt": state.attempt,
        "status": "done" if done else "abandoned",
        "reason": replies.reason,
        "asked": len(cohort),
        "needed": replies.needed,
        "answered": replies.answered,
        "norm": ask.norm,
        "clipped": replies.clipped,
        "dropouts": replies.lost(partner.name for partner in cohort.values()),
        "failures": replies.failures,
        "refusals": replies.refusals,
        "steps": replies.steps,
        "missed": replies.missed,
        "test": None if test is None else test.to_json(),
        "federated": None if federated is None else federated.to_json(),
        "epsilon_by_partner": _epsilons(setup.job, events),
        "seconds": {
            "train": trained - started - replies.seconds_adding - replies.seconds_secagg,
            "secagg": replies.seconds_secagg,
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
        norm=state.norm if replies.norm is None else replies.norm,
        history=(*state.history, line),
        events=events,
    )
    return _follow(setup.job, state, line) if due and done else state


def _greet(grid: Grid, setup: Setup) -> Roster:
    """The partners by node, once enough of them are there."""
    least = setup.job.aggregation.min_cohort
    nodes = wait_for_nodes(grid, least=least, timeout=_GREETING_TIMEOUT)
    roster = ask_names(grid, nodes, timeout=_GREETING_TIMEOUT * setup.patience, stop=setup.stop)
    if any(len({getattr(p, key) for p in roster.values()}) != len(roster) for key in ("name", "identity")):
        raise JobFailed(
            "expected partners with names and keys of their own, found one twice",
            hint="rename one partner, or join it anew",
        )
    if len(roster) < least:
        raise JobFailed(
            f"expected at least {least} partners to answer, found {len(roster)}",
            hint="see the partners' logs, or lower aggregation.min_cohort",
        )
    size = min(setup.job.aggregation.cohort or len(roster), len(roster))
    Ring(norm=setup.job.aggregation.max_update_norm, partners=size)  # raises where their sum could wrap
    return roster


def _refresh(grid: Grid, setup: Setup, roster: Roster) -> Roster:
    """The partners who are there now; where that is too few, and the run waits, for as long as a round may last."""
    least, deadline = setup.job.aggregation.min_cohort, time.monotonic() + setup.timeout(working=True)
    while True:
        roster = present(grid, roster, check=setup.check, stop=setup.stop, news=setup.news)
        if len(roster) >= least or not setup.waits or time.monotonic() > deadline:
            setup.tell("")
            return roster
        setup.tell(f"waiting for partners: {len(roster)} of {least}")
        if setup.stop.wait(_LOOK):
            raise KeyboardInterrupt


def _ask(setup: Setup, state: RunState, number: int, *, cohort: int) -> Ask:
    commission = setup.commission(state.run)
    norm = state.norm if state.norm is not None else first_norm(setup.job)
    return Ask(setup.job, state.run, number, state.attempt, cohort, state.vector, commission=commission, norm=norm)


def _choose(setup: Setup, roster: Roster, number: int) -> Roster:
    """This round's cohort, drawn uniformly by name so that node numbers do not matter; empty if too few are there, or
    if nobody is drawn of users who are drawn one by one."""
    if len(roster) < setup.job.aggregation.min_cohort:
        return {}
    names = {partner.name: node for node, partner in roster.items()}
    order, drawing = sorted(names), setup.randomness.stream("cohort", number)
    if setup.chance is not None:
        chosen = drawing.poisson_sample(len(order), rate=setup.chance)
    else:
        chosen = drawing.choose(len(order), k=min(setup.job.aggregation.cohort or len(order), len(order)))
    return {names[order[i]]: roster[names[order[i]]] for i in chosen}


def _nobody(job: Job, roster: Roster) -> Replies:
    """What comes of a round for which too few partners are there."""
    least = job.aggregation.min_cohort
    reason = f"expected at least {least} partners, found {len(roster)}"
    return Replies(job.aggregation.needed(least), reason=reason)


def _updated(state: RunState, replies: Replies, optimizer: ServerOptimizer) -> NDArray[np.float32]:
    """The next global model; the same one where the round was abandoned."""
    if replies.vector is not None:
        return replies.vector
    return state.vector if replies.deltas is None else optimizer.step(state.round + 1, state.vector, replies.deltas)


def _train(grid: Grid, setup: Setup, ask: Ask, cohort: Roster, optimizer: ServerOptimizer) -> Replies:
    if setup.job.privacy.mechanism == "distributed-dp-sgd":
        return train_block(_cohort(grid, setup, ask, TRAIN, cohort), ask, optimizer)
    if setup.job.aggregation.secure:
        replies = collect_masked(_cohort(grid, setup, ask, TRAIN, cohort), ask)
    else:
        needed = None if setup.chance is None else min(1, len(cohort))  # nobody drawn is a round of noise alone
        answers = _answers(grid, setup, ask, TRAIN, cohort)
        replies = collect(answers, ask, single=optimizer.single, needed=needed)
    if setup.job.privacy.mechanism == "client":
        noise = setup.randomness.stream("server noise", ask.round, ask.attempt)
        release(replies, ask, users=None if setup.chance is None else Users(ask.cohort, setup.chance), noise=noise)
    return replies


def _judge(grid: Grid, setup: Setup, ask: Ask, cohort: Roster) -> Judged:
    """The sum over the cohort's held-out examples."""
    if not setup.job.evaluation.partner_holdout:
        return Judged(None, {})
    if setup.job.aggregation.secure:
        return tally_masked(_cohort(grid, setup, ask, EVALUATE, cohort), ask, classes=setup.classes)
    return tally(_answers(grid, setup, ask, EVALUATE, cohort), ask, classes=setup.classes)


def _close(grid: Grid, setup: Setup, state: RunState, roster: Roster) -> RunState:
    """Ask every partner's ledger, so that a round whose reply was lost is counted too."""
    ask = _ask(setup, state, max(state.round, 1), cohort=len(roster))
    ask = replace(ask, vector=np.empty(0, dtype=np.float32))  # nobody computes anything for it
    said = listen(_answers(grid, setup, ask, STATEMENT, roster), ask=ask)
    for partner in roster.values():
        setup.hear(partner, said.get(partner.name, _SILENT))
    events = state.events | {name: told.events for name, told in said.items() if isinstance(told, Statement)}
    return replace(state, events={name: found for name, found in sorted(events.items()) if found})


def _answers(grid: Grid, setup: Setup, ask: Ask, kind: str, cohort: Roster) -> Answers:
    parcels = dict.fromkeys((partner.name for partner in cohort.values()), ask.pack())
    return _send(grid, setup, cohort, parcels, kind, group=_group(ask, kind), working=True)


def _cohort(grid: Grid, setup: Setup, ask: Ask, purpose: str, cohort: Roster) -> Cohort:
    return Cohort(
        identities={partner.name: partner.identity for partner in cohort.values()},
        send=lambda parcels, kind, working, step=0: _send(
            grid, setup, cohort, parcels, kind, group=_group(ask, purpose, step=step), working=working
        ),
    )


def _group(ask: Ask, purpose: str, *, step: int = 0) -> str:
    """Flower's group id: what a message belongs to, for logs and for simulated faults."""
    return f"{ask.round}.{ask.attempt}.{f'{step}.' if step else ''}{purpose}"


def _send(
    grid: Grid, setup: Setup, cohort: Roster, parcels: Mapping[str, Parcel], kind: str, *, group: str, working: bool
) -> Answers:
    by_node = {node: parcels[partner.name] for node, partner in cohort.items() if partner.name in parcels}
    timeout, stop, news = setup.timeout(working=working), setup.stop, setup.news
    for node, parcel in exchange(grid, by_node, kind=kind, timeout=timeout, group=group, stop=stop, news=news):
        yield cohort[node].name, parcel


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


def _epsilons(job: Job, events: dict[str, tuple[Event, ...]]) -> dict[str, float]:
    if job.privacy.delta is None:
        return {}
    found = {name: epsilon(released, delta=job.privacy.delta) for name, released in sorted(events.items())}
    return {name: value for name, value in found.items() if math.isfinite(value)}


def _too_many_failures(job: Job, state: RunState) -> JobFailed:
    last = state.history[-1]
    reasons = [f"{name}: {text}" for name, text in {**last["failures"], **last["refusals"]}.items()]
    reasons += [last["reason"]] if last["reason"] else []
    needed, found = f"at least {last['needed']} replies in a round", str(last["answered"])
    if last["answered"] >= last["needed"]:
        needed, found = "a sum that stands up", "none"
    return JobFailed(
        f"expected {needed}, found {found} in the last of {state.failed} rounds in a row"
        + (f" ({reasons[0]})" if reasons else ""),
        hint="mend the partners, or lower aggregation.threshold; the checkpoint of the last round is kept",
    )
