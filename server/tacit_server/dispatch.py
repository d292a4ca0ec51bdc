"""Which run is started, and which is stopped: one at a time, in the order in which they were submitted."""

from __future__ import annotations

import time
from collections.abc import Callable
from pathlib import Path
from typing import Protocol

from tacit.errors import TacitError
from tacit_server.logfile import last_lines
from tacit_server.runs import ENDED, Run, RunStanding, list_runs

__all__ = ["Dispatcher", "Starter"]

_MOST_STALLS = 5  # starts in a row that bring no new round
_LATE = 60.0  # seconds after which a start that never took the run's lock counts as dead
_LOOK = 2.0  # seconds between two questions to Flower whether it is over
_POLITE = 30.0  # seconds in which the rounds may end by themselves once the operator wants it
_LINES = 5  # of the log, told as the reason of a failure


class Starter(Protocol):
    """What is asked of the SuperLink (`tacit_server.submit.Control`). Each call may raise JobFailed."""

    def start(self, folder: Path) -> int:
        """Start a Flower run for a run folder; gives its id."""

    def stop(self, run: int) -> None:
        """End a Flower run."""

    def alive(self) -> set[int]:
        """Ids of the Flower runs that have not ended."""


class Dispatcher:
    """Starts and stops the runs in the folder `runs`, a step a call.

    Args:
        runs: the folder of all runs.
        tell: told in one line what happens to a run.
        clock: seconds.
    """

    def __init__(self, runs: Path, *, tell: Callable[[str], None], clock: Callable[[], float] = time.monotonic) -> None:
        self._runs, self._tell, self._clock = runs, tell, clock
        self._started: tuple[Path, int, float] | None = None  # a run that has not taken its lock yet
        self._looked = 0.0  # when Flower was asked last about it
        self._asked: float | None = None  # since when the run that goes on is to stop

    def begin(self, starter: Starter) -> None:
        """A new SuperLink begins: what the last one had started is over, and that is not the runs' fault.

        Flower keeps what was started and not begun, and would begin it now, beside what is started anew.
        """
        self._started = self._asked = None
        for flower_run in starter.alive():
            starter.stop(flower_run)
        for run in list_runs(self._runs):
            standing = run.standing
            if standing.stalls and standing.phase not in ENDED and not run.live():
                run.stand(standing.model_copy(update={"stalls": 0}))

    def tend(self, starter: Starter) -> None:
        """Look at every run, and do the next thing. Raises JobFailed where the SuperLink does not answer."""
        waiting = [run for run in list_runs(self._runs) if run.live() or run.standing.phase not in ENDED]
        alive = [run for run in waiting if run.live()]
        if alive:
            self._started = None
            self._end(alive[0], starter)
        elif not self._begins(starter):
            self._asked = None
            self._next(waiting, starter)

    def _end(self, run: Run, starter: Starter) -> None:
        """Where the run that goes on is to stop and does not, have Flower end it."""
        if run.order.wanted != "stop":
            self._asked = None
            return
        self._asked = self._clock() if self._asked is None else self._asked
        flower_run = run.standing.flower_run
        if self._clock() - self._asked > _POLITE and flower_run is not None:
            self._asked = self._clock()
            self._tell(f"run {run.name} did not stop by itself; ending it")
            starter.stop(flower_run)

    def _begins(self, starter: Starter) -> bool:
        """Whether a run that was started may still take its lock."""
        if self._started is None:
            return False
        path, flower_run, since = self._started
        if self._clock() - self._looked < _LOOK:
            return True
        self._looked = self._clock()
        over = flower_run not in starter.alive() or path.name not in [run.name for run in list_runs(self._runs)]
        late = self._clock() - since > _LATE
        if late and not over:
            starter.stop(flower_run)
        if late or over:
            self._started = None
        return self._started is not None

    def _next(self, waiting: list[Run], starter: Starter) -> None:
        for run in waiting:
            standing = run.standing
            if standing.phase in ENDED:  # it ended between two looks
                continue
            if run.order.wanted == "stop":
                run.stand(standing.model_copy(update={"phase": "stopped", "message": ""}))
                self._tell(f"run {run.name} stopped")
            elif standing.stalls >= _MOST_STALLS:
                self._give_up(run, standing)
            else:
                self._start(run, standing, starter)
                return

    def _start(self, run: Run, standing: RunStanding, starter: Starter) -> None:
        # Written first: once it is started, the rounds write here.
        more = {"attempts": standing.attempts + 1, "stalls": standing.stalls + 1}
        run.stand(standing.model_copy(update={"phase": "starting", "message": "", **more}))
        try:
            if standing.flower_run in starter.alive():  # killed: partners would be handed, and train for, what it asked
                starter.stop(standing.flower_run)
            flower_run = starter.start(run.path)
        except TacitError:
            run.stand(standing)
            raise
        self._started = run.path, flower_run, self._clock()
        self._tell(f"run {run.name} started" + (f" (attempt {standing.attempts + 1})" if standing.attempts else ""))

    def _give_up(self, run: Run, standing: RunStanding) -> None:
        reason = last_lines(run.path / "run.log", lines=_LINES) or "no word; see superlink.log"
        message = f"expected a new round in {_MOST_STALLS} starts, found none; the log ends with: {reason}"
        run.stand(standing.model_copy(update={"phase": "failed", "message": message}))
        self._tell(f"run {run.name} failed; see {run.path / 'run.log'}")
