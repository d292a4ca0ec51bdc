"""Runs as folders: what the operator wants of each, and where it stands. Plain files, so that every process may look.

runs/NAME/run.json      written by the operator's commands
runs/NAME/state.json    written by the rounds while they hold the lock, else by the supervisor
runs/NAME/lock          held by the process that runs the rounds
runs/NAME/...           the output folder (tacit_server.output), which holds the resolved job from the beginning
"""

from __future__ import annotations

import fcntl
import json
import os
import re
import secrets
import shutil
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Literal, Self

from pydantic import BaseModel, ConfigDict

from tacit.check import parse
from tacit.errors import BadInput
from tacit.job import Job, load
from tacit_server.checkpoint import write_atomic

__all__ = [
    "ENDED",
    "Run",
    "RunOrder",
    "RunStanding",
    "TestSet",
    "find",
    "held",
    "list_runs",
    "resume",
    "stop",
    "submit",
]

Phase = Literal["queued", "starting", "waiting", "running", "finished", "failed", "stopped"]
ENDED = frozenset({"finished", "failed", "stopped"})
"""Phases that only the operator ends."""

_MOST = 10**6  # runs of one name
_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,63}")  # as of a job


class _Record(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid", strict=True)

    schema_: Literal[1] = 1

    @classmethod
    def read(cls, path: Path) -> Self:
        """What stands at `path`. Raises BadInput."""
        try:
            raw = json.loads(path.read_bytes())
            return parse(cls, {"schema_": raw.pop("schema"), **raw}, where=str(path))
        except (OSError, ValueError, KeyError, AttributeError, TypeError) as error:
            raise BadInput(f"expected a file of a run at {path}, found {error}", hint="submit the run anew") from None

    def write(self, path: Path) -> None:
        """Put it at `path`, at once or not at all."""
        facts = self.model_dump(mode="json")
        write_atomic(path, json.dumps({"schema": facts.pop("schema_"), **facts}, indent=1).encode())


class TestSet(BaseModel):
    """The server's own test set, as `tacit.data.files.read` takes it."""

    __test__ = False  # no test of pytest's

    model_config = ConfigDict(frozen=True, extra="forbid", strict=True)

    path: str
    input: str | None = None
    label: str | None = None


class RunOrder(_Record):
    """`run.json`: what the operator wants.

    Attributes:
        run: id, 32 hex digits.
        name: of the folder.
        submitted: when, in UTC.
        wanted: whether the run is to go on.
        test: the test set, or None.
        device: on which the model is evaluated on it: auto, cpu, mps or cuda:N.
    """

    run: str
    name: str
    submitted: str
    wanted: Literal["run", "stop"] = "run"
    test: TestSet | None = None
    device: str = "auto"


class RunStanding(_Record):
    """`state.json`: where the run stands.

    Attributes:
        phase: of its life.
        message: why it waits, failed or stopped; else empty.
        round: the last that was finished or abandoned.
        attempts: starts so far.
        stalls: starts in a row that brought no new round.
        flower_run: Flower's id of the last start.
        updated: when this was written, in UTC.
    """

    phase: Phase = "queued"
    message: str = ""
    round: int = 0
    attempts: int = 0
    stalls: int = 0
    flower_run: int | None = None
    updated: str = ""


@dataclass(frozen=True)
class Run:
    """The run in the folder `path`."""

    path: Path

    @property
    def name(self) -> str:
        """Of the folder."""
        return self.path.name

    @property
    def lock(self) -> Path:
        """Held while the rounds run."""
        return self.path / "lock"

    @property
    def order(self) -> RunOrder:
        """What is wanted. Raises BadInput."""
        return RunOrder.read(self.path / "run.json")

    @property
    def standing(self) -> RunStanding:
        """Where it stands. Raises BadInput."""
        return RunStanding.read(self.path / "state.json")

    @property
    def job(self) -> Job:
        """The resolved job. Raises BadInput."""
        from tacit_server.output import RESOLVED  # with it come the report's charts, a second to load

        return load(self.path / RESOLVED)

    def want(self, wanted: Literal["run", "stop"]) -> None:
        """Change what is wanted."""
        self.order.model_copy(update={"wanted": wanted}).write(self.path / "run.json")

    def stand(self, standing: RunStanding) -> None:
        """Change where it stands; the time is noted."""
        standing.model_copy(update={"updated": _now()}).write(self.path / "state.json")

    def live(self) -> bool:
        """Whether a process runs the rounds now."""
        return held(self.lock)


def held(lock: Path) -> bool:
    """Whether a process holds the lock (`tacit.lock`) at this path."""
    try:
        handle = os.open(lock, os.O_RDWR | os.O_CLOEXEC)
    except FileNotFoundError:
        return False
    try:
        fcntl.flock(handle, fcntl.LOCK_SH | fcntl.LOCK_NB)
    except BlockingIOError:
        return True
    finally:
        os.close(handle)
    return False


def submit(runs: Path, job: Job, *, name: str | None, test: TestSet | None, device: str = "auto") -> Run:
    """Make the folder of a new run, complete at once or not at all, to be started by the supervisor.

    Args:
        runs: the folder of all runs.
        job: resolved.
        name: of the folder; None: the job's, with a number where it is taken.

    Raises:
        BadInput: a name that is taken or none, or a folder that can not be written.
    """
    if name is not None and not _NAME.fullmatch(name):
        raise BadInput(f"expected a name of letters, digits, . _ and -, found {name!r}", hint="choose another --name")
    from tacit_server.output import Output

    runs.mkdir(mode=0o700, parents=True, exist_ok=True)
    made = runs / f".{secrets.token_hex(8)}"
    try:
        Output(made).create(job)
        for number in range(1, _MOST):
            chosen = name or (job.name if number == 1 else f"{job.name}-{number}")
            order = RunOrder(run=secrets.token_hex(16), name=chosen, submitted=_now(), test=test, device=device)
            order.write(made / "run.json")
            Run(made).stand(RunStanding())
            if _claim(made, runs / chosen):
                return Run(runs / chosen)
            if name:
                break
    finally:
        shutil.rmtree(made, ignore_errors=True)
    raise BadInput(f"expected a new name, found a run {name} in {runs}", hint="choose another --name")


def stop(run: Run) -> None:
    """Ask the run to end after the message at hand. Raises BadInput where it is over."""
    if run.standing.phase in ENDED and not run.live():
        raise BadInput(f"expected a run that goes on, found {run.name} {run.standing.phase}", hint="see status")
    run.want("stop")


def resume(run: Run) -> None:
    """Let a run that was stopped or failed go on from its checkpoint. Raises BadInput where it finished."""
    standing = run.standing
    if standing.phase == "finished":
        raise BadInput(f"expected a run that did not finish, found {run.name} finished", hint="submit it anew")
    run.want("run")
    if standing.phase in ENDED:
        run.stand(standing.model_copy(update={"phase": "queued", "message": "", "stalls": 0}))


def list_runs(runs: Path) -> list[Run]:
    """All runs, the oldest first. Folders that are no runs are passed over."""
    found = [Run(path) for path in runs.glob("*/") if not path.name.startswith(".") and (path / "run.json").is_file()]
    return sorted(found, key=lambda run: (run.order.submitted, run.name))


def find(runs: Path, name: str | None) -> Run:
    """The run called `name`, or the newest. Raises BadInput where there is none."""
    everything = list_runs(runs)
    found = [run for run in everything if name in (None, run.name)]
    if not found:
        names = ", ".join(run.name for run in everything) or "none"
        asked = "a run" if name is None else f"the run {name}"
        raise BadInput(f"expected {asked} in {runs}, found {names}", hint="submit one with tacit-server run")
    return found[-1]


def _claim(made: Path, wanted: Path) -> bool:
    """Give the folder its name, unless it is taken: a rename puts no folder in place of one that holds something."""
    try:
        made.rename(wanted)
    except OSError:
        if wanted.exists():
            return False
        raise
    return True


def _now() -> str:
    return datetime.now(UTC).isoformat(timespec="milliseconds")
