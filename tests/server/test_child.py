"""A process that is kept alive: started again after a pause that doubles, and is short again after a long life."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from tacit_server.child import Child, environment, launch


class _Clock:
    def __init__(self) -> None:
        self.now = 0.0

    def __call__(self) -> float:
        return self.now


@pytest.fixture
def made(tmp_path):
    """A child whose processes end as soon as `end` is called, on a clock of its own."""
    clock, told, started = _Clock(), [], []

    def start() -> subprocess.Popen[bytes]:
        process = subprocess.Popen(["sleep", "60"], stdin=subprocess.PIPE, start_new_session=True)
        started.append(process)
        return process

    child = Child("thing", start, log=tmp_path / "a.log", tell=told.append, clock=clock)
    yield child, clock, told, started
    for process in started:
        if process.poll() is None:
            process.kill()
        process.wait()
        process.stdin.close()


def _end(started: list[subprocess.Popen[bytes]]) -> None:
    started[-1].kill()
    started[-1].wait()


def test_pauses_double_to_ten_seconds_and_begin_anew_after_a_long_life(made):
    child, clock, told, started = made
    assert child.tend()
    pauses = []
    for _ in range(8):
        _end(started)
        child.tend()
        before = clock.now
        while not child.tend():
            clock.now += 0.1
        pauses.append(clock.now - before)
    assert pauses == pytest.approx([0.2, 0.4, 0.8, 1.6, 3.2, 6.4, 10.0, 10.0], abs=0.11)  # the clock's step
    clock.now += 61.0
    _end(started)
    child.tend()
    clock.now += 0.25
    assert child.tend()
    assert len(told) == 9
    assert told[0].startswith("thing ended (signal 9) after 0 s; new start in 0.2 s")


def test_a_process_that_lives_is_left_alone(made):
    child, clock, told, started = made
    child.tend()
    clock.now += 1000.0
    assert not child.tend()
    assert child.pid == started[0].pid
    assert (len(started), told) == (1, [])


def test_the_end_is_asked_for_and_comes_at_once_from_one_that_obeys(made):
    child, _, _, started = made
    child.tend()
    child.end()
    assert started[0].poll() == -signal.SIGTERM
    assert child.pid is None
    child.end()


def test_a_launched_process_leads_its_group_and_sees_our_end(tmp_path):
    code = "import os, sys; print(os.getpgrp() == os.getpid(), flush=True); sys.stdin.read(); print('alone')"
    process = launch([sys.executable, "-c", code], log=tmp_path / "a.log", env=dict(os.environ))
    assert process.stdin is not None
    process.stdin.close()
    assert process.wait(20) == 0
    assert (tmp_path / "a.log").read_text() == "True\nalone\n"


def test_the_environment_has_what_flower_needs(tmp_path, monkeypatch):
    monkeypatch.setenv("OMP_NUM_THREADS", "3")
    found = environment(Path("/somewhere/bin/python"), home=tmp_path)
    assert found["PATH"].split(os.pathsep)[0] == "/somewhere/bin"
    assert (found["FLWR_HOME"], found["FLWR_TELEMETRY_ENABLED"]) == (str(tmp_path), "0")
    assert (found["FLWR_DISABLE_UPDATE_CHECK"], found["OMP_NUM_THREADS"]) == ("1", "3")


def test_a_group_ends_with_the_parent_that_held_its_input(tmp_path):
    code = "from tacit_server.parent import end_with_parent; import subprocess, sys, time; end_with_parent()\n"
    code += "print(subprocess.Popen(['sleep', '60']).pid, flush=True); time.sleep(60)"
    process = launch([sys.executable, "-c", code], log=tmp_path / "a.log", env=dict(os.environ))
    deadline = time.monotonic() + 20
    while not (tmp_path / "a.log").read_text().strip() and time.monotonic() < deadline:
        time.sleep(0.05)
    grandchild = int((tmp_path / "a.log").read_text())
    assert process.stdin is not None
    process.stdin.close()
    assert process.wait(10) == -signal.SIGTERM
    while Path(f"/proc/{grandchild}").exists() and time.monotonic() < deadline:
        time.sleep(0.05)
    assert not Path(f"/proc/{grandchild}/exe").exists()
