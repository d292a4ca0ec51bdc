"""What a run came to, as one JSON object (CONTRACT: the keys here are read by other people's scripts)."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from typing import Any

from tacit.job import Job
from tacit.privacy.accounting import epsilon
from tacit.privacy.events import EXAMPLE, Event
from tacit.statement import MIXED, cost, holds_against
from tacit_server.checkpoint import RunState

__all__ = ["result"]

_SCHEMA = 1


def result(
    job: Job,
    state: RunState,
    *,
    engine: str,
    seed: int | None,
    parameters: int,
    secure_noise: bool,
    data: Mapping[str, Any],
    wall_s: float,
) -> dict[str, Any]:
    """The result of a finished run.

    Args:
        job: as resolved.
        state: after the last round.
        engine: what carried the messages.
        seed: of a simulation, or None.
        parameters: of the model.
        secure_noise: whether the noise came from the operating system.
        data: what a simulation knows of the data and its split; empty where partners hold the data.
        wall_s: seconds of this attempt.

    Guarantee: epsilon is the worst partner's, composed over every event of the run; without a mechanism it is null.
    `unit` is what every partner's events protect, or `mixed`, and then each partner's epsilon is about its own unit.
    `metrics_epsilon_by_partner`, there where a partner gave its evaluations a price, is the part of them in it.
    """
    done = [line for line in state.history if line["status"] == "done"]
    return {
        "schema": _SCHEMA,
        "name": job.name,
        "engine": engine,
        "seed": seed,
        "job_hash": job.hash(),
        "rounds_completed": len(done),
        "rounds_failed": len(state.history) - len(done),
        "model": {"kind": job.task.model, "parameters": parameters},
        "metrics": {
            "test": _last(state, "test"),
            "federated": _last(state, "federated"),
            "best": vars(state.best) if state.best else None,
        },
        "privacy": _privacy(job, state, secure_noise=secure_noise),
        "aggregation": {
            "secure": job.aggregation.secure,
            "dropouts": sum(len(line["dropouts"]) for line in state.history),
            "threshold": max((line["needed"] for line in state.history), default=None),
            "clipped": sum(line["clipped"] for line in state.history),
            **_steps(job, state),
        },
        "data": dict(data),
        "timing": {
            "wall_s": wall_s,
            "train_s": sum(line["seconds"]["train"] for line in state.history),
            "secagg_s": sum(line["seconds"]["secagg"] for line in state.history),
            "evaluate_s": sum(line["seconds"]["evaluate"] for line in state.history),
        },
    }


def _steps(job: Job, state: RunState) -> dict[str, Any]:
    """Of rounds that are blocks: the steps taken, those lost to drop-outs, and in how many a partner was missing."""
    if job.privacy.mechanism != "distributed-dp-sgd":
        return {}
    taken = sum(line["steps"] for line in state.history)
    missed = sum(sum(line["missed"].values()) for line in state.history)
    return {"steps": {"taken": taken, "lost": len(state.history) * job.training.local_steps - taken, "missed": missed}}


def _privacy(job: Job, state: RunState, *, secure_noise: bool) -> dict[str, Any]:
    mechanism, delta = job.privacy.mechanism, job.privacy.delta
    found = {} if delta is None else {n: epsilon(events, delta=delta) for n, events in state.events.items()}
    finite = {name: value if math.isfinite(value) else None for name, value in found.items()}
    worst = max(found.values(), default=0.0)
    units = {} if mechanism == "none" else {name: _unit(events) for name, events in state.events.items() if events}
    return {
        "mechanism": mechanism,
        "unit": None if mechanism == "none" else _common(units.values()),
        "unit_by_partner": units,
        "adjacency": None if mechanism == "none" else "add-remove",
        "delta": delta,
        "epsilon_target": job.privacy.epsilon,
        "epsilon": worst if delta is not None and math.isfinite(worst) else None,
        "epsilon_by_partner": finite,
        **_metrics(state, delta=delta),
        "events_by_partner": {
            name: [event.model_dump(mode="json", exclude={"version"}) for event in events]
            for name, events in state.events.items()
        },
        "accountant": None if mechanism == "none" else "pld",
        "secure_noise": secure_noise,
        **_of_client(job),
        "holds_against": list(holds_against(job)),
    }


def _of_client(job: Job) -> dict[str, str]:
    """With `client`: who adds the noise, and whether epsilon counts on a draw of the users by the trusted server."""
    if job.privacy.mechanism != "client":
        return {}
    drawn = job.simulation.user_rate is not None
    return {"noise_by": job.privacy.noise_by, "sampling": "poisson" if drawn else "none"}


def _metrics(state: RunState, *, delta: float | None) -> dict[str, Any]:
    """What the counts of evaluations cost by themselves, where partners gave them a price."""
    told = {name: [event for event in events if event.kind == "metrics"] for name, events in state.events.items()}
    found = {name: cost(events, delta=delta) for name, events in told.items() if events}
    return {"metrics_epsilon_by_partner": found} if found else {}


def _unit(events: Iterable[Event]) -> str:
    """What all of `events` protect, or `mixed`."""
    return _common(event.unit for event in events)


def _common(units: Iterable[str]) -> str:
    found = set(units) or {EXAMPLE}
    return found.pop() if len(found) == 1 else MIXED


def _last(state: RunState, key: str) -> dict[str, Any] | None:
    return next((line[key] for line in reversed(state.history) if line[key]), None)
