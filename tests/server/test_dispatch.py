"""Runs are started one at a time and in order, again when they die, and given up when nothing comes of it."""

from __future__ import annotations

from contextlib import ExitStack
from dataclasses import dataclass, field
from pathlib import Path

import pytest

from tacit.errors import JobFailed
from tacit.lock import take
from tacit_server import runs
from tacit_server.dispatch import Dispatcher
from tacit_server.runs import Run, RunStanding


@dataclass
class _Starter:
    started: list[str] = field(default_factory=list)
    stopped: list[int] = field(default_factory=list)
    over: set[int] = field(default_factory=set)
    deaf: bool = False

    def start(self, folder: Path) -> int:
        if self.deaf:
            raise JobFailed("expected an answer, found none", hint="x")
        self.started.append(folder.name)
        return len(self.started)

    def stop(self, run: int) -> None:
        self.stopped.append(run)
        self.over.add(run)

    def alive(self) -> set[int]:
        return set(range(1, len(self.started) + 1)) - self.over


class _Play:
    """A dispatcher with a clock; a run is begun by taking its lock, as its rounds do."""

    def __init__(self, folder: Path, make_job) -> None:
        self.folder, self._job = folder, make_job()
        self.now, self.told, self.starter, self._locks = 0.0, [], _Starter(), {}
        self.dispatcher = Dispatcher(folder, tell=self.told.append, clock=lambda: self.now)

    def submit(self, name: str) -> Run:
        return runs.submit(self.folder, self._job, name=name, test=None)

    def tend(self, *, seconds: float = 3.0) -> None:
        self.now += seconds
        self.dispatcher.tend(self.starter)

    def begin(self, run: Run, **changes) -> None:
        self._locks[run.name] = stack = ExitStack()
        stack.enter_context(take(run.lock, what="x"))
        standing = run.standing
        run.stand(standing.model_copy(update={"phase": "running", "flower_run": len(self.starter.started), **changes}))

    def die(self, run: Run, **changes) -> None:
        if changes:
            run.stand(run.standing.model_copy(update=changes))
        self._locks.pop(run.name).close()
        self.starter.over.add(len(self.starter.started))


@pytest.fixture
def play(tmp_path, make_job):
    return _Play(tmp_path / "runs", make_job)


def test_one_at_a_time_in_order(play):
    first, second = play.submit("b"), play.submit("a")
    for _ in range(3):
        play.tend()
    assert play.starter.started == ["b"]
    assert (first.standing.phase, first.standing.attempts, second.standing.phase) == ("starting", 1, "queued")
    play.begin(first)
    play.tend(seconds=1000.0)
    assert play.starter.started == ["b"]
    play.die(first, phase="finished")
    play.tend()
    assert play.starter.started == ["b", "a"]


def test_a_run_that_died_is_started_again(play):
    run = play.submit("a")
    play.tend()
    play.begin(run)
    play.die(run, round=2, stalls=0)
    play.tend()
    assert play.starter.started == ["a", "a"]
    assert (run.standing.phase, run.standing.attempts, run.standing.round) == ("starting", 2, 2)
    assert play.told == ["run a started", "run a started (attempt 2)"]


def test_what_a_killed_start_asked_of_partners_is_asked_no_more(play):
    run = play.submit("a")
    play.tend()
    play.begin(run)
    play.tend()
    play.die(run, round=1)
    play.starter.over.clear()  # Flower takes a minute to notice
    play.tend()
    assert (play.starter.started, play.starter.stopped) == (["a", "a"], [1])
    play.begin(run)
    play.die(run)
    play.tend()
    assert (play.starter.started, play.starter.stopped) == (["a", "a", "a"], [1])  # it has noticed


def test_a_start_that_never_takes_the_lock_counts_as_dead(play):
    play.submit("a")
    play.tend()
    play.tend(seconds=30.0)
    assert play.starter.started == ["a"]
    play.tend(seconds=31.0)
    assert (play.starter.started, play.starter.stopped) == (["a", "a"], [1])


def test_a_start_that_flower_says_is_over_is_repeated_at_once(play):
    play.submit("a")
    play.tend()
    play.starter.over.add(1)
    play.tend()
    assert play.starter.started == ["a", "a"]


def test_five_starts_without_a_round_are_a_failure_with_the_end_of_the_log(play):
    run = play.submit("a")
    (run.path / "run.log").write_text("one\ntwo\nboom\n")
    for _ in range(12):
        play.tend()
        play.starter.over |= play.starter.alive()
    assert play.starter.started == ["a"] * 5
    assert run.standing.phase == "failed"
    assert run.standing.message.endswith("one\ntwo\nboom")
    runs.resume(run)
    play.tend()
    assert len(play.starter.started) == 6


def test_a_round_in_between_makes_good(play):
    run = play.submit("a")
    for number in range(12):
        play.tend()
        play.begin(run)
        play.die(run, round=number // 3, stalls=run.standing.stalls if number % 3 else 0)
    assert run.standing.phase == "running"
    assert len(play.starter.started) == 12


def test_a_lost_superlink_is_not_the_runs_fault_and_ends_what_it_had_started(play):
    run = play.submit("a")
    for _ in range(20):
        play.tend()
        play.dispatcher.begin(play.starter)
    assert run.standing.phase == "starting"
    assert len(play.starter.started) == 20
    assert play.starter.stopped == list(range(1, 21))


def test_a_queued_run_that_is_to_stop_is_never_started(play):
    run, other = play.submit("a"), play.submit("b")
    runs.stop(run)
    play.tend()
    assert (run.standing.phase, play.starter.started) == ("stopped", ["b"])
    assert other.standing.phase == "starting"
    runs.resume(run)
    assert run.standing.phase == "queued"


def test_a_run_that_does_not_stop_is_ended_after_half_a_minute(play):
    run = play.submit("a")
    play.tend()
    play.begin(run)
    runs.stop(run)
    play.tend()
    play.tend(seconds=29.0)
    assert play.starter.stopped == []
    play.tend(seconds=2.0)
    assert play.starter.stopped == [1]
    play.tend(seconds=2.0)
    assert play.starter.stopped == [1]  # once; then it has its time again
    play.die(run)
    play.tend()
    assert run.standing.phase == "stopped"


def test_a_superlink_that_does_not_answer_costs_no_attempt(play):
    run = play.submit("a")
    play.starter.deaf = True
    for _ in range(20):
        with pytest.raises(JobFailed):
            play.tend()
    assert (run.standing.attempts, run.standing.stalls, run.standing.phase) == (0, 0, "queued")


def test_what_ended_is_left_alone(play):
    for phase in ("finished", "failed", "stopped"):
        play.submit(phase).stand(RunStanding(phase=phase))
    play.tend()
    assert play.starter.started == []
