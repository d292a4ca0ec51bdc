"""Everything a run needs to go on after a crash, in one file that is replaced in one rename.

With a key the file is sealed (`tacit.seal`); without one it carries a checksum, so that a damaged disk is noticed.
"""

from __future__ import annotations

import io
import json
import os
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np
from numpy.typing import NDArray

from tacit.errors import BadInput, JobFailed
from tacit.privacy.events import Event
from tacit.seal import CHUNK, Key, Sealer, Unsealer, is_sealed
from tacit_server import tensors
from tacit_server.tensors import Unmarked

__all__ = ["Best", "RunState", "peek", "read", "replacing", "write", "write_atomic"]

_VERSION = 2
_USE = "checkpoint"


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
        norm: L2 bound of the next round's updates, where `privacy.clip_quantile` has moved it.
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
    norm: float | None = None
    history: tuple[dict[str, Any], ...] = ()
    events: dict[str, tuple[Event, ...]] = field(default_factory=dict)


def write(path: Path, state: RunState, *, durable: bool = True, key: Key | None = None) -> None:
    """Put `state` in place of what was at `path`, at once or not at all; `durable` as in `write_atomic`.

    Guarantee: with a `key` nothing of the state is written in clear. One chunk is in memory beside the state.

    Raises:
        JobFailed: it can not be written; what was at `path` is there still.
    """
    arrays: dict[str, NDArray[Any]] = {"vector": state.vector}
    arrays |= {f"optimizer.{name}": array for name, array in state.optimizer.items()}
    if state.best_vector is not None:
        arrays["best_vector"] = state.best_vector
    facts = json.dumps(_facts(state))
    with replacing(path, durable=durable) as file:
        if key is None:
            tensors.write(file, arrays, facts=facts)
        else:
            with Sealer(file, key=key, use=_USE) as sealer:
                tensors.write(sealer, arrays, facts=facts)


def read(path: Path, *, job_hash: str, key: Key | None = None) -> RunState:
    """The state at `path`, for a new attempt at the round after it.

    Raises:
        BadInput: as `peek` does, or where the checkpoint is of another job.
        JobFailed: the new attempt can not be noted.
    """
    state = peek(path, key=key)
    if state.job_hash != job_hash:
        raise BadInput(
            f"expected a checkpoint of job {job_hash[:12]}, found one of {state.job_hash[:12]}",
            hint="resume with the job file, --set values and seed that the run began with",
        )
    state = replace(state, attempt=state.attempt + 1)
    write(path, state, key=key)  # the new attempt's number must survive a crash in its first round
    return state


def peek(path: Path, *, key: Key | None = None) -> RunState:
    """The state at `path` as it was written; the run that writes there is not disturbed.

    Guarantee: a file in which a bit differs is refused. With a `key`, so is one that was not sealed with it.

    Raises:
        BadInput: no checkpoint, a damaged one, one of another version, or one of another key.
    """
    try:
        with path.open("rb") as file:
            source = _source(file, key=key, path=path)
            arrays, text = tensors.read(source, size=os.fstat(file.fileno()).st_size)
        facts = json.loads(text)
        if facts["version"] != _VERSION:
            raise _another_version(f"found {facts['version']}", path=path)
        return _state(facts, arrays)
    except FileNotFoundError:
        raise BadInput(f"expected a checkpoint at {path}, found none", hint="run without --resume") from None
    except Unmarked:
        raise _another_version("found an older one", path=path) from None
    except (OSError, KeyError, TypeError, AttributeError, ValueError) as error:
        raise BadInput(
            f"expected a checkpoint at {path}, found a damaged file: {error}", hint="run anew in another folder"
        ) from None


def _source(file: io.BufferedReader, *, key: Key | None, path: Path) -> BinaryIO:
    """`file` in clear."""
    if key is not None:
        return io.BufferedReader(Unsealer(file, key=key, use=_USE, where=str(path)), CHUNK)
    if is_sealed(file.peek()):
        raise BadInput(
            f"expected a key for the sealed checkpoint at {path}, found none",
            hint="go on in the server's folder, whose keys/seal.key it was sealed with",
        )
    return file


def _another_version(found: str, *, path: Path) -> BadInput:
    return BadInput(
        f"expected a checkpoint of version {_VERSION}, {found} at {path}", hint="resume with the tacit that wrote it"
    )


def _facts(state: RunState) -> dict[str, Any]:
    return {
        "version": _VERSION,
        "run": state.run,
        "job_hash": state.job_hash,
        "round": state.round,
        "attempt": state.attempt,
        "best": vars(state.best) if state.best else None,
        "stale": state.stale,
        "failed": state.failed,
        **({} if state.norm is None else {"norm": state.norm}),
        "history": state.history,
        "events": {name: [event.to_json() for event in events] for name, events in state.events.items()},
    }


def _state(facts: dict[str, Any], arrays: dict[str, NDArray[Any]]) -> RunState:
    return RunState(
        run=facts["run"],
        job_hash=facts["job_hash"],
        vector=arrays["vector"],
        round=facts["round"],
        attempt=facts["attempt"],
        best_vector=arrays.get("best_vector"),
        best=Best(**facts["best"]) if facts["best"] else None,
        stale=facts["stale"],
        failed=facts["failed"],
        norm=facts.get("norm"),
        optimizer={k.removeprefix("optimizer."): v for k, v in arrays.items() if k.startswith("optimizer.")},
        history=tuple(facts["history"]),
        events={name: tuple(map(Event.from_json, events)) for name, events in facts["events"].items()},
    )


def write_atomic(path: Path, content: bytes, *, durable: bool = True) -> None:
    """Put `content` at `path` as `replacing` does. Raises JobFailed where it can not be written."""
    with replacing(path, durable=durable) as file:
        file.write(content)


@contextmanager
def replacing(path: Path, *, durable: bool = True) -> Iterator[BinaryIO]:
    """A file to write, which is at `path` once the context is left, so that a crash leaves the old file or the new one.

    Args:
        durable: sync to disk first, so that this holds when the machine loses power too.

    Raises:
        JobFailed: it can not be written, for instance on a full disk; what was at `path` is there still.
    """
    temporary = path.with_name(path.name + ".new")
    try:
        with temporary.open("wb") as file:
            yield file
            if durable:
                file.flush()
                os.fsync(file.fileno())
        temporary.replace(path)
        if durable:
            _sync(path.parent)
    except OSError as error:
        with suppress(OSError):
            temporary.unlink()  # half a file on a full disk helps nobody
        raise JobFailed(
            f"expected {path} to be written, found: {error.strerror or error}",
            hint="free space on that disk or mend it, then try again or resume the run; what was kept last is whole",
        ) from None


def _sync(folder: Path) -> None:
    """The rename too outlives a loss of power."""
    handle = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)
