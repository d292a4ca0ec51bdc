"""Everything a run needs to go on after a crash, in one file that is replaced in one rename."""

from __future__ import annotations

import json
import os
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from safetensors import SafetensorError, safe_open
from safetensors.numpy import save

from tacit.errors import BadInput
from tacit.privacy.events import Event

__all__ = ["Best", "RunState", "read", "write", "write_atomic"]

_VERSION = 1


@dataclass(frozen=True)
class Best:
    """The best evaluation so far by the monitored accuracy."""

    round: int
    accuracy: float


@dataclass(frozen=True, repr=False)
class RunState:
    """A run between two rounds.

    Attributes:
        run: id, the same over restarts.
        job_hash: of the job that the run belongs to.
        round: the last round that was finished or abandoned.
        attempt: 1, and one more for every restart: no round is ever tried twice under one number.
        vector: the global model, float32 `[d]`.
        best_vector: the model of the best evaluation, float32 `[d]`.
        best: that evaluation.
        stale: evaluations since.
        failed: rounds abandoned in a row.
        optimizer: the server optimiser's state.
        history: one JSON object a round.
        events: what each partner has released in this run, as last heard.
    """

    run: str
    job_hash: str
    vector: NDArray[np.float32]
    round: int = 0
    attempt: int = 1
    best_vector: NDArray[np.float32] | None = None
    best: Best | None = None
    stale: int = 0
    failed: int = 0
    optimizer: dict[str, NDArray[np.floating]] = field(default_factory=dict)
    history: tuple[dict[str, Any], ...] = ()
    events: dict[str, tuple[Event, ...]] = field(default_factory=dict)


def write(path: Path, state: RunState, *, durable: bool = True) -> None:
    """Put `state` in place of what was at `path`, at once or not at all; `durable` as in `write_atomic`."""
    arrays: dict[str, NDArray[Any]] = {"vector": state.vector}
    arrays |= {f"optimizer.{name}": np.ascontiguousarray(array) for name, array in state.optimizer.items()}
    if state.best_vector is not None:
        arrays["best_vector"] = state.best_vector
    facts = {
        "version": _VERSION,
        "run": state.run,
        "job_hash": state.job_hash,
        "round": state.round,
        "attempt": state.attempt,
        "best": vars(state.best) if state.best else None,
        "stale": state.stale,
        "failed": state.failed,
        "history": state.history,
        "events": {name: [event.to_json() for event in events] for name, events in state.events.items()},
    }
    write_atomic(path, save(arrays, metadata={"state": json.dumps(facts)}), durable=durable)


def read(path: Path, *, job_hash: str) -> RunState:
    """The state at `path`, for a new attempt at the round after it.

    Raises:
        BadInput: no checkpoint, a damaged one, or one of another job.
    """
    try:
        with safe_open(path, framework="numpy") as file:
            facts = json.loads(file.metadata()["state"])
            arrays = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118  # not a mapping
        _check(facts["version"], facts["job_hash"], job_hash=job_hash)
        state = _state(facts, arrays)
    except FileNotFoundError:
        raise BadInput(f"expected a checkpoint at {path}, found none", hint="run without --resume") from None
    except (OSError, SafetensorError, KeyError, TypeError, json.JSONDecodeError) as error:
        raise BadInput(
            f"expected a checkpoint at {path}, found a damaged file: {error}", hint="run anew in another folder"
        ) from None
    write(path, state)  # the new attempt's number must survive a crash in its first round
    return state


def _check(version: int, found: str, *, job_hash: str) -> None:
    if version != _VERSION:
        raise BadInput(
            f"expected a checkpoint of version {_VERSION}, found {version}", hint="resume with the tacit that wrote it"
        )
    if found != job_hash:
        raise BadInput(
            f"expected a checkpoint of job {job_hash[:12]}, found one of {found[:12]}",
            hint="resume with the job file, --set values and seed that the run began with",
        )


def _state(facts: dict[str, Any], arrays: dict[str, NDArray[Any]]) -> RunState:
    return RunState(
        run=facts["run"],
        job_hash=facts["job_hash"],
        vector=arrays["vector"],
        round=facts["round"],
        attempt=facts["attempt"] + 1,
        best_vector=arrays.get("best_vector"),
        best=Best(**facts["best"]) if facts["best"] else None,
        stale=facts["stale"],
        failed=facts["failed"],
        optimizer={k.removeprefix("optimizer."): v for k, v in arrays.items() if k.startswith("optimizer.")},
        history=tuple(facts["history"]),
        events={name: tuple(map(Event.from_json, events)) for name, events in facts["events"].items()},
    )


def write_atomic(path: Path, content: bytes, *, durable: bool = True) -> None:
    """Put `content` at `path` so that a crash leaves the old file or the new one.

    Args:
        durable: sync to disk first, so that this holds when the machine loses power too.
    """
    temporary = path.with_name(path.name + ".new")
    with temporary.open("wb") as file:
        file.write(content)
        if durable:
            file.flush()
            os.fsync(file.fileno())
    temporary.replace(path)
