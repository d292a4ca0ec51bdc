"""The supervisor as a process: one a folder, whatever it keeps alive comes back, and nothing outlives it."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from tacit.errors import BadInput
from tacit_server import runs, superlink
from tacit_server.proposal import resolve
from tacit_server.setup import init
from tacit_server.up import up
from tacit_sim.rehearsal import free_port

pytestmark = [pytest.mark.e2e, pytest.mark.skipif(not Path("/proc/self/cmdline").exists(), reason="needs /proc")]

GATEWAY = """
import os, pathlib, socket, sys, time, tomllib
folder = pathlib.Path(sys.argv[1])
time.sleep(1.0)
folder.joinpath('gateway.pid').write_text(str(os.getpid()))
port = tomllib.loads(folder.joinpath('server.toml').read_text())['port']
with socket.create_server(('127.0.0.1', port)):
    sys.stdin.read()
"""
UP = (
    "import sys, pathlib; from tacit_server.up import up\n"
    "up(pathlib.Path(sys.argv[1]), gateway=[sys.executable, '-c', sys.argv[2]], "
    "show=lambda text: print(text, flush=True))"
)


def until(found: Callable[[], object], *, seconds: float = 60.0) -> None:
    """Wait until `found` is true."""
    deadline = time.monotonic() + seconds
    while not found():
        assert time.monotonic() < deadline, "it did not happen in time"
        time.sleep(0.05)


class _Up:
    def __init__(self, folder) -> None:
        self.folder, self.out = folder, folder.path / "up.out"
        self.gateway = folder.path / "gateway.pid"
        self.process: subprocess.Popen[bytes] | None = None

    def start(self) -> None:
        command = [sys.executable, "-c", UP, str(self.folder.path), GATEWAY]
        with self.out.open("wb") as out:
            self.process = subprocess.Popen(command, stdout=out, stderr=out)
        until(lambda: "ready\n" in self.told())
        assert self.gateway.exists()  # before partners can reach it, a server is not ready

    def told(self) -> str:
        return self.out.read_text()

    def pids(self) -> set[int]:
        return {*superlink.remains(self.folder), int(self.gateway.read_text())}


@pytest.fixture
def server(tmp_path):
    made = _Up(init(tmp_path / "srv", host="localhost", port=free_port()))
    yield made
    if made.process and made.process.poll() is None:
        made.process.kill()
        made.process.wait()
    superlink.clear(made.folder)


def _alive(pids: set[int]) -> set[int]:
    return {pid for pid in pids if Path(f"/proc/{pid}/exe").exists()}


def test_both_come_back_and_the_run_goes_on_and_sigterm_ends_all(server, make_job):
    server.start()
    told = server.told().splitlines()
    assert [line.split()[0] for line in told] == ["address", "logs", "ready"]
    job = resolve(make_job("task.labels=['a', 'b']", "task.options.shape=[8, 8]"), None).job
    run = runs.submit(server.folder.runs, job, name=None, test=None)
    until(lambda: run.standing.phase == "waiting")
    with pytest.raises(BadInput, match=f"found process {server.process.pid} that holds"):
        up(server.folder.path)

    first = superlink.place(server.folder)
    os.kill(first.pid, signal.SIGKILL)
    os.kill(int(server.gateway.read_text()), signal.SIGKILL)
    server.gateway.unlink()
    until(lambda: run.live() and run.standing.attempts == 2 and superlink.place(server.folder).pid != first.pid)
    until(lambda: server.gateway.exists() and run.standing.phase == "waiting")
    assert "SuperLink ended (signal 9) after" in server.told()
    assert "gateway ended (signal 9) after" in server.told()

    pids = server.pids()
    assert len(pids) == 4  # SuperLink, SuperExec, ServerApp, gateway
    server.process.send_signal(signal.SIGTERM)
    assert server.process.wait(60) == 0
    assert server.told().endswith("stopped\n")
    assert _alive(pids) == set()
    assert run.standing.phase == "waiting"  # it goes on with the next supervisor
    assert (server.folder.logs / "up.log").read_text().count("ready") == 1


def test_nothing_outlives_a_killed_supervisor_and_the_next_one_starts(server):
    server.start()
    pids = server.pids()
    assert len(pids) == 3
    server.process.kill()
    server.process.wait()
    until(lambda: not _alive(pids), seconds=30.0)
    server.gateway.unlink()
    server.start()
    assert not _alive(pids)


def test_no_server_folder_is_served(tmp_path):
    with pytest.raises(BadInput, match=r"found no server\.toml"):
        up(tmp_path)
    assert not any(tmp_path.iterdir())
