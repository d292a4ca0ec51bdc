"""The real SuperLink with the real rounds: what is used of Flower without its promise; killed, and started anew."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import time
from collections.abc import Callable
from pathlib import Path

import httpx
import pytest

from tacit.errors import JobFailed
from tacit_server import runs, superlink
from tacit_server.folder import Folder
from tacit_server.proposal import resolve
from tacit_server.setup import init
from tacit_server.submit import Control
from tacit_server.superlink import HOST, Place

pytestmark = [pytest.mark.e2e, pytest.mark.skipif(not Path("/proc/self/cmdline").exists(), reason="needs /proc")]

PATIENCE = 60.0  # seconds, on a busy machine


def until(found: Callable[[], object], *, seconds: float = PATIENCE) -> None:
    """Wait until `found` is true."""
    deadline = time.monotonic() + seconds
    while not found():
        assert time.monotonic() < deadline, "it did not happen in time"
        time.sleep(0.05)


class _Link:
    """A SuperLink that is started, and killed, as often as a test wants."""

    def __init__(self, folder: Folder) -> None:
        self.folder = folder
        for place in (folder.state, folder.logs, folder.runs):
            place.mkdir(exist_ok=True)
        self.processes: list[subprocess.Popen[bytes]] = []

    def start(self) -> Control:
        process, port = superlink.start(self.folder)
        self.processes.append(process)
        superlink.note(self.folder, Place(port=port, pid=process.pid))
        control = Control(port)
        try:
            until(lambda: self._answers(control))
        except AssertionError as error:  # why stands in its log
            error.add_note(f"exit code {process.poll()}: {(self.folder.logs / 'superlink.log').read_text()[-3000:]}")
            raise
        return control

    def kill(self) -> None:
        self.processes[-1].kill()
        self.processes[-1].wait()

    def end(self) -> None:
        for process in self.processes:
            process.kill()
            process.wait()
            process.stdin.close()
        superlink.clear(self.folder)

    def _answers(self, control: Control) -> bool:
        try:
            control.alive()
        except JobFailed:
            return False
        return True


@pytest.fixture
def link(tmp_path):
    made = _Link(init(tmp_path / "srv", host="localhost"))
    yield made
    made.end()


@pytest.fixture
def run(link, make_job):
    labels = "task.labels=['a', 'b']"
    job = resolve(make_job(labels, "task.options.shape=[8, 8]", "aggregation.round_timeout=600.0"), None).job
    return runs.submit(link.folder.runs, job, name=None, test=None)


def test_killed_and_started_again_it_runs_the_rounds_anew(link, run):
    control = link.start()
    first = control.start(run.path)
    until(lambda: run.standing.phase == "waiting")
    assert run.live()
    assert run.standing.flower_run == first
    assert run.standing.message == "waiting for partners: 0 of 3"
    assert control.alive() == {first}
    left = superlink.remains(link.folder)
    assert len(left) == 3  # SuperLink, SuperExec, ServerApp
    assert _pid(run) in left

    link.kill()
    again = link.start()  # returns only once the old ones are gone
    assert not {pid for pid in left if Path(f"/proc/{pid}/exe").exists()}
    assert not run.live()
    assert run.standing.phase == "waiting"  # nobody claims that it ended
    for number in again.alive():
        again.stop(number)
    second = again.start(run.path)
    until(lambda: run.live() and run.standing.flower_run == second and run.standing.phase == "waiting")
    log = (run.path / "run.log").read_text()
    assert "attempt 1, from round 1 of 2" in log
    assert "attempt 2, from round 1 of 2" in log  # on from the checkpoint
    assert "Traceback" not in log

    again.stop(second)
    again.stop(second)  # over already: no error
    until(lambda: not run.live())
    assert run.standing.phase == "waiting"  # Flower's end of it is not the run's
    assert again.alive() == set()


def test_only_the_loopback_interface_hears_it_and_it_dies_without_its_superexec(link):
    link.start()
    place = superlink.place(link.folder)
    assert place is not None
    listening = {line.split()[1] for line in Path("/proc/net/tcp").read_text().splitlines()[1:] if " 0A " in line}
    assert f"0100007F:{place.port:04X}" in listening
    assert f"00000000:{place.port:04X}" not in listening
    assert httpx.get(f"http://{HOST}:{place.port}/").status_code == 404
    until(lambda: len(superlink.remains(link.folder)) == 2)
    (helper,) = set(superlink.remains(link.folder)) - {place.pid}
    os.kill(helper, signal.SIGKILL)
    assert link.processes[-1].wait(PATIENCE) is not None


def test_it_ends_with_its_parent_and_the_next_takes_its_port(link):
    link.start()
    first = superlink.place(link.folder)
    process = link.processes[-1]
    process.stdin.close()
    process.wait(PATIENCE)
    until(lambda: not superlink.remains(link.folder))
    link.start()
    assert superlink.place(link.folder).port == first.port
    assert json.loads(link.folder.superlink.read_text()).keys() == {"port", "pid"}


def _pid(run: runs.Run) -> int:
    return int(run.lock.read_text())
