"""What goes wrong at honest partners and servers: data that vanishes, memory and disks that are full, wrong clocks."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any, NoReturn

import intruder
import pytest
import torch
from intruder import wait_until

from tacit.seal import read_key
from tacit_client import node, office
from tacit_client.office import Office
from tacit_client.site import Folder as PartnerFolder
from tacit_server import checkpoint
from tacit_server.folder import Folder
from tacit_server.output import CHECKPOINT
from tacit_server.runs import Run
from tacit_sim.rehearsal import Rehearsal

pytestmark = pytest.mark.e2e

HOUR = 3600


def _partner(federation, name: str, *, seed: int) -> Path:
    """The folder of a new partner that takes part in small open jobs."""
    federation.join(name, data=intruder.write_data(federation.folder / f"{name}.npz", seed=seed))
    site = federation.folder / name / "site.toml"
    text = site.read_text().replace('device = "auto"', 'device = "cpu"\nthreads = 1')
    text = text.replace("require_secure_aggregation = true", "require_secure_aggregation = false")
    site.write_text(text.replace("min_cohort = 3", "min_cohort = 1"))
    return federation.folder / name


@contextmanager
def _attending(place: Path) -> Iterator[None]:
    """The partner of a folder, in a thread of this process: what `tacit-client run` does after the command line."""
    stop, folder = threading.Event(), PartnerFolder.open(place)
    with Office(folder) as opened:
        thread = threading.Thread(target=node.run, args=(folder, opened), kwargs={"stop": stop}, daemon=True)
        thread.start()
        try:
            yield
        finally:
            stop.set()
            thread.join(60)
            assert not thread.is_alive()


class _Small(office.Trainer):
    """A trainer whose device has too little memory."""

    def train(self, *asked: object, **more: object) -> NoReturn:
        raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 20.00 GiB")


# one day on which three things go wrong


@pytest.fixture(scope="module")
def day(tmp_path_factory):
    """What is left of a federation after one round, in which two of four had bad luck and two clocks were wrong."""
    with Rehearsal(tmp_path_factory.mktemp("days")) as federation, pytest.MonkeyPatch.context() as patch:
        federation.init()
        federation.up()
        library = _clock(federation.folder)
        for name, shift, seed in (("ahead", HOUR, 1), ("behind", -HOUR, 2)):
            place = str(_partner(federation, name, seed=seed))
            program = str(Path(sys.executable).parent / "tacit-client")
            environment = [f"LD_PRELOAD={library}", f"TACIT_TEST_SHIFT={shift}"] if library else []
            federation.start(name, shutil.which("env") or "env", *environment, program, "run", place)
        patch.setattr(office, "Trainer", _Small)
        small, gone = _partner(federation, "small", seed=3), _partner(federation, "gone", seed=4)
        with _attending(small), _attending(gone):
            (federation.folder / "gone.npz").unlink()
            job = intruder.write_job(federation.folder / "job.toml", partners=4, threshold=2)
            federation.run("tacit-server", "run", str(federation.server), str(job), "--name", "day", "--wait")
    return federation


def _clock(folder: Path) -> Path | None:
    """The library that shifts a process's clock, or None where there is no compiler."""
    compiler = shutil.which("cc")
    if compiler is None:
        return None
    made, source = folder / "clock.so", Path(__file__).with_name("clock.c")
    subprocess.run([compiler, "-shared", "-fPIC", "-O1", "-o", str(made), str(source), "-ldl"], check=True)
    return made


def _history(run: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in (run / "history.jsonl").read_text().splitlines()]


def test_the_others_go_on_where_the_threshold_allows(day):
    (line,) = _history(day.server / "runs" / "day")
    assert (line["status"], line["asked"], line["answered"]) == ("done", 4, 2)
    assert set(line["refusals"]) == {"gone", "small"}
    assert sorted(line["epsilon_by_partner"]) == ["ahead", "behind"]


def test_who_lost_its_data_says_so_in_status_and_shows_no_path(day):
    shown = day.run("tacit-server", "status", str(day.server))
    (said,) = [line for line in shown.splitlines() if line.startswith("gone refused: ")]
    assert "expected" in said
    assert "/" not in said


def test_who_has_too_little_memory_says_what_to_lower(day):
    shown = day.run("tacit-server", "status", str(day.server))
    assert "small refused: expected enough device memory for a physical batch, found too little; lower" in shown


@pytest.mark.skipif(shutil.which("cc") is None, reason="needs a C compiler")
@pytest.mark.parametrize(("name", "off"), [("ahead", "+3600"), ("behind", "-3600")])
def test_a_wrong_clock_is_told_to_its_owner_and_trains(day, name, off):
    said = day.log(name).read_text()
    assert said.count(f"this machine's clock is {off} s off the server's; set it") == 1
    assert "answered train, round 1" in said


# a full disk


@pytest.fixture
def disk(tmp_path):
    """A disk of 24 MB."""
    place = tmp_path / "disk"
    place.mkdir()
    command = ["mount", "-t", "tmpfs", "-o", "size=24m", "tmpfs", str(place)]
    if os.geteuid() != 0 or subprocess.run(command, capture_output=True, check=False).returncode != 0:
        pytest.skip("needs the right to mount a disk")
    yield place
    subprocess.run(["umount", str(place)], check=True)


@pytest.mark.slow
def test_a_run_waits_while_the_disk_is_full_and_then_goes_on_by_itself(disk):
    with Rehearsal(disk) as federation:
        federation.init()
        federation.up()
        place = disk.parent / "fred"
        shutil.move(_partner(federation, "fred", seed=5), place)
        run = Run(federation.server / "runs" / "long")
        with _attending(place):
            job = intruder.write_job(federation.folder / "job.toml", partners=1, rounds=20)
            federation.run("tacit-server", "run", str(federation.server), str(job), "--name", "long")
            wait_until(lambda: run.path.exists() and run.standing.round >= 2, seconds=90, what="two rounds")
            _fill(disk / "full")
            federation.wait_for(
                "server", f"runs wait: expected {run.path / 'state.json'} to be written, found: No space"
            )
            before = _history(run.path)
            assert "long" in federation.run("tacit-server", "status", str(federation.server))
            (disk / "full").unlink()
            wait_until(lambda: run.standing.phase == "finished", seconds=150, what="the end of the run")
        history = _history(run.path)
        assert history[: len(before)] == before
        assert [line["round"] for line in history] == list(range(1, 21))
        assert {line["attempt"] for line in history} >= {1, 2}
        folder = Folder.open(federation.server)
        kept = checkpoint.read(run.path / CHECKPOINT, job_hash=run.job.hash(), key=read_key(folder.seal_key))
        assert list(kept.history) == history
        said = federation.log("server").read_text()
    assert said.count("runs wait: ") == 1
    assert "Traceback" not in said


def _fill(path: Path) -> None:
    """Write until there is no room."""
    with path.open("wb", buffering=0) as file, suppress(OSError):
        while file.write(bytes(4096)):
            pass
