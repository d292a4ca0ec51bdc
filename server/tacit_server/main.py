"""The ServerApp that Flower loads: the rounds of one run, from its folder, on from its last checkpoint.

Flower starts it in a process of its own. Whatever ends that process, the supervisor has another started; the run's lock
keeps two of them apart.
"""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from types import TracebackType
from typing import Any, Self

import httpx
from flwr.app import Context
from flwr.serverapp import Grid, ServerApp
from flwr.supercore.run import RunNotRunningException

from tacit import commission
from tacit import vector as vectors
from tacit.errors import BadInput, TacitError
from tacit.job import Job
from tacit.link import keyfile
from tacit.lock import take
from tacit.privacy.randomness import Randomness
from tacit.seal import read_key
from tacit.secagg.keys import PublicKey
from tacit.terminal import plain
from tacit.wire import Hello
from tacit_server.changes import Changes
from tacit_server.checkpoint import RunState
from tacit_server.folder import Folder
from tacit_server.output import CHECKPOINT, Output
from tacit_server.proposal import Plan, plan
from tacit_server.result import result
from tacit_server.roster import Roster
from tacit_server.rounds import Setup, federate
from tacit_server.runs import Run, RunStanding
from tacit_server.shortcut import shorten
from tacit_server.statement import Close, attest
from tacit_server.status import line_words
from tacit_server.submit import FOLDER

__all__ = ["app", "serve"]

_log = logging.getLogger(__name__)

_LOOK = 0.5  # seconds between two looks at what the operator wants
_LOCK_PATIENCE = 10.0  # seconds for an earlier process of this run to let go
_FRESH = 1.0  # seconds for which the roster is believed without another look

app = ServerApp()


@app.main()
def _main(grid: Grid, context: Context) -> None:
    serve(grid, Path(str(context.run_config[FOLDER])), flower_run=context.run_id)


def serve(grid: Grid, path: Path, *, flower_run: int) -> None:
    """Run the rounds that the run in the folder `path` still lacks, and write where it stands.

    Returns when the run finished, failed or was stopped, and also when the SuperLink is gone: then the folder says that
    the run goes on, and it is started again.

    Guarantee: randomness, the first weights among it, is the operating system's and is never written but as a model.
    """
    run = Run(path)
    with _log_to(path / "run.log"):
        try:
            with _locked(run), _Noted():
                _serve(grid, run, flower_run=flower_run)
        except (httpx.HTTPError, RunNotRunningException) as error:
            _log.warning("the SuperLink is gone or has ended this run: %s", type(error).__name__)
        except BadInput as error:  # another process runs these rounds, or the folder is not there any more
            _log.warning("not begun: %s", error.message)


def _serve(grid: Grid, run: Run, *, flower_run: int) -> None:
    order = run.order
    desk = _Desk(run, run.standing.model_copy(update={"flower_run": flower_run}))
    if order.wanted == "stop":
        desk.write(phase="stopped", message="")
        return
    stop = threading.Event()
    threading.Thread(target=_watch, args=(run, stop), name="orders", daemon=True).start()
    try:
        _finish(_rounds(grid, run, desk, stop))
        desk.write(phase="finished", message="")
    except KeyboardInterrupt:
        if not stop.is_set():
            raise
        desk.write(phase="stopped", message="")
        _log.info("stopped")
    except TacitError as error:
        desk.write(phase="failed", message=f"{error.message}; {error.hint}")
        _log.error("%s", plain(f"failed: {error.message}; {error.hint}"))


@dataclass(frozen=True)
class _Done:
    """What the rounds leave; `wall_s` are the seconds that they took."""

    folder: Folder
    output: Output
    made: Plan
    state: RunState
    close: Close
    wall_s: float


def _rounds(grid: Grid, run: Run, desk: _Desk, stop: threading.Event) -> _Done:
    started, order = time.monotonic(), run.order
    made = plan(run.job, order.test)
    folder = Folder(run.path.parent.parent)
    shorten(grid, folder.flower_db)
    output, close = Output(run.path, key=read_key(folder.seal_key)), Close()
    state = _begin(output, made, run=order.run)
    _log.info("attempt %d, from round %d of %d", state.attempt, state.round + 1, made.job.training.rounds)
    desk.write(phase="running", message="", round=state.round)

    def save(new: RunState) -> None:
        output.keep(new)
        desk.write(phase="running", message="", round=new.round)
        _log.info("%s", line_words(new.history[-1]))

    setup = Setup(
        job=made.job,
        classes=made.options.classes,
        test=made.tester(device=order.device),
        randomness=Randomness(),
        save=save,
        stop=stop,
        waits=True,
        check=_checker(Roster(folder.roster_path)),
        news=Changes(folder.flower_db).replies,
        tell=desk.tell,
        commission=_commission(folder, made.job),
        hear=close.hear,
    )
    state = federate(grid, setup, state)
    return _Done(folder, output, made, state, close, time.monotonic() - started)


def _commission(folder: Folder, job: Job) -> Callable[[str], bytes]:
    """Signs the job for a run. Raises BadInput where the key can not be read."""
    key = keyfile.read(folder.signing_key)
    return lambda run: commission.sign(key, run=run, job=job)


def _begin(output: Output, made: Plan, *, run: str) -> RunState:
    if (output.path / CHECKPOINT).is_file():
        return output.last(made.job)
    state = RunState(run=run, job_hash=made.job.hash(), vector=vectors.flatten(made.network()))
    output.keep(state)
    return state


def _finish(done: _Done) -> None:
    made, state = done.made, done.state
    network = made.network()
    summary = result(
        made.job,
        state,
        engine="federation",
        seed=None,
        parameters=vectors.size(network),
        secure_noise=True,
        data={"classes": list(made.job.task.labels)},
        wall_s=done.wall_s,
    )
    best = None if state.best_vector is None else vectors.named(network, state.best_vector)
    identities = {row.name: row.identity for row in Roster(done.folder.roster_path).partners() if row.identity}
    done.output.finish(
        made.job,
        state,
        result=summary,
        model=vectors.named(network, state.vector),
        best=best,
        attest=lambda model: attest(
            made.job,
            state,
            result=summary,
            close=done.close,
            identities=identities,
            model=model,
            key=keyfile.read_key(done.folder.signing_key),
            now=datetime.now(UTC),
        ),
    )
    _log.info("finished after round %d", state.round)


class _Desk:
    """Where the run stands, kept in its folder."""

    def __init__(self, run: Run, standing: RunStanding) -> None:
        self._run, self._standing = run, standing

    def write(self, **changes: Any) -> None:
        """Note changes of the standing."""
        new = self._standing.model_copy(update=changes)
        if new.round > self._standing.round:
            new = new.model_copy(update={"stalls": 0})
        if new != self._standing:
            self._standing = new
            self._run.stand(new)

    def tell(self, text: str) -> None:
        """Note what the run waits for, or that it goes on."""
        if text and text != self._standing.message:
            _log.info("%s", text)
        self.write(phase="waiting" if text else "running", message=text)


def _watch(run: Run, stop: threading.Event) -> None:
    while not stop.wait(_LOOK):
        with suppress(BadInput):  # somebody edits it
            if run.order.wanted == "stop":
                stop.set()


def _checker(roster: Roster) -> Callable[[int, Hello], None]:
    """Compares what a partner says of itself with what the gateway knows of its node."""
    known: dict[int, tuple[str, PublicKey]] = {}
    read = float("-inf")

    def check(node: int, partner: Hello) -> None:
        nonlocal known, read
        if time.monotonic() - read > _FRESH:
            known, read = roster.nodes(), time.monotonic()
        name, identity = known.get(node, ("nobody", None))
        if (partner.name, partner.identity) != (name, identity):
            raise BadInput(
                f"expected {name} with its own key at node {node}, found one that calls itself {partner.name}",
                hint="see tacit-server partners",
            )

    return check


@contextmanager
def _locked(run: Run) -> Iterator[None]:
    """The run's lock; an earlier process that is about to end is waited for."""
    deadline = time.monotonic() + _LOCK_PATIENCE
    while run.live() and time.monotonic() < deadline:
        time.sleep(0.1)
    with take(run.lock, what=f"the run {run.name}"):
        yield


@contextmanager
def _log_to(path: Path) -> Iterator[None]:
    """What is logged here goes to `path`; of other libraries, what is more than chatter."""
    path.touch(mode=0o600)
    handler = logging.FileHandler(path, encoding="utf-8")
    handler.setFormatter(logging.Formatter("%(asctime)s %(levelname)s %(message)s"))
    handler.addFilter(lambda record: record.name.startswith("tacit") or record.levelno >= logging.WARNING)
    root = logging.getLogger()
    root.addHandler(handler)
    root.setLevel(logging.INFO)
    try:
        yield
    finally:
        root.removeHandler(handler)
        handler.close()


class _Noted:
    """Whatever nobody foresaw is in the run's log too, with its traceback, before it goes on its way."""

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, _: TracebackType | None) -> None:
        if isinstance(error, Exception) and not isinstance(error, httpx.HTTPError):
            _log.error("ended by %s", type(error).__name__, exc_info=error)
