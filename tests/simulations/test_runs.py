"""Whole runs from the command line: only our lines, Ctrl-C and --resume, and one model under both engines."""

from __future__ import annotations

import json
import os
import re
import shutil
import signal
import sqlite3
import subprocess
import sys
from contextlib import closing
from pathlib import Path

import numpy as np
import pytest
from safetensors.numpy import load_file

from tacit.job import load
from tacit.privacy.accounting import epsilon
from tacit.privacy.events import Event
from tacit_server import checkpoint
from tacit_server.checkpoint import RunState
from tacit_server.output import CHECKPOINT
from tacit_sim import federation

ROOT = Path(__file__).resolve().parents[2]
ENV = {
    **os.environ,
    "PYTHONPATH": os.pathsep.join(str(ROOT / f) for f in ("common", "client", "server", "simulations")),
}


LINE = re.compile(
    r"round \d+/\d+  \d+ of \d+ partners(  abandoned)?(  accuracy [\d.]+ %)?(  epsilon [\d.]+)?  [\d.]+ s"
)
SUMMARY = ["rounds", "accuracy", "epsilon", "report"]


def _only_our_lines(out: str, *, rounds: int) -> None:
    lines = out.splitlines()
    assert [bool(LINE.fullmatch(line)) for line in lines[:-4]] == [True] * rounds, out
    assert [line.split()[0] for line in lines[-4:]] == SUMMARY


def _ledger_steps(out: Path) -> dict[str, int]:
    """Steps that each partner's ledger holds."""
    steps: dict[str, int] = {}
    with closing(sqlite3.connect(out / "ledger.db")) as db:
        for partner, event in db.execute("SELECT partner, event FROM entry WHERE kind = 'reserved'"):
            steps[partner] = steps.get(partner, 0) + json.loads(event)["steps"]
    return steps


def _interrupted(command: list[str], out: Path, *, copy: Path) -> RunState:
    """Starts `command`, sends Ctrl-C after two rounds, and gives the state it left."""
    process = subprocess.Popen(command, env=ENV, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    shown = [process.stdout.readline(), process.stdout.readline()]
    process.send_signal(signal.SIGINT)
    rest, err = process.communicate(timeout=60)
    assert [line.startswith("round ") for line in shown] == [True, True], (shown, err)
    assert process.returncode == 130, (rest, err)
    assert [line.partition(": ")[0] for line in err.splitlines()] == ["error", "hint"], err
    assert "--resume" in err
    assert all(LINE.fullmatch(line) for line in rest.splitlines()), rest
    assert not (out / "result.json").exists()
    shutil.copy(out / CHECKPOINT, copy)  # reading counts as an attempt
    return checkpoint.read(copy, job_hash=load(out / "job.resolved.toml").hash())


def _resumed(command: list[str], out: Path, *, kept: RunState, rounds: int) -> None:
    done = subprocess.run([*command, "--resume"], env=ENV, capture_output=True, text=True, check=False, timeout=200)
    assert (done.returncode, done.stderr) == (0, "")
    _only_our_lines(done.stdout, rounds=rounds - kept.round)
    history = [json.loads(line) for line in (out / "history.jsonl").read_text(encoding="utf-8").splitlines()]
    assert [line["round"] for line in history] == list(range(1, rounds + 1))
    assert [line["attempt"] for line in history] == [1] * kept.round + [2] * (rounds - kept.round)
    found = json.loads((out / "result.json").read_text(encoding="utf-8"))
    assert found["rounds_completed"] == rounds
    events = found["privacy"]["events_by_partner"]
    spent = _ledger_steps(out)
    assert {name: sum(event["steps"] for event in of) for name, of in events.items()} == spent
    assert len(spent) == 3
    assert rounds <= min(spent.values()) <= max(spent.values()) <= rounds + 1  # one round at most was lost
    again = max(epsilon([Event.from_json(event) for event in of], delta=1e-4) for of in events.values())
    assert found["privacy"]["epsilon"] == pytest.approx(again)


@pytest.mark.e2e
@pytest.mark.parametrize("engine", ["inline", pytest.param("ray", marks=pytest.mark.slow)])
def test_interrupted_and_resumed(job_file, tmp_path, engine):
    out, rounds = tmp_path / "out", 25
    job = str(job_file(f"training.rounds={rounds}", "training.local_steps=1"))
    command = [sys.executable, "-m", "tacit_sim.cli", "run", job, "--engine", engine, "--out", str(out)]
    kept = _interrupted(command, out, copy=tmp_path / "copy")
    assert 2 <= kept.round < rounds
    assert len(kept.history) == kept.round
    _resumed(command, out, kept=kept, rounds=rounds)


def _model(out: Path) -> np.ndarray:
    tensors = load_file(out / "model.safetensors")
    return np.concatenate([tensors[name].ravel() for name in sorted(tensors)])


def test_equal_seeds_give_equal_bits_and_other_seeds_others(tacit_sim, job_file, tmp_path):
    job, models = job_file("simulation.dropout=0.3", "aggregation.threshold=1", "aggregation.min_cohort=1"), {}
    for name, seed in (("a", 5), ("b", 5), ("c", 6)):
        code, out, err = tacit_sim("run", job, "--seed", seed, "--out", tmp_path / name)
        assert (code, err) == (0, "")
        _only_our_lines(out, rounds=2)
        models[name] = (tmp_path / name / "model.safetensors").read_bytes()
        _forget_the_process()
    assert models["a"] == models["b"] != models["c"]


def _forget_the_process() -> None:
    """Worlds, trainers and ledgers are kept once a process; a second run of one job begins without them here."""
    for cached in (federation.world, federation._trainer, federation._ledger):
        cached.cache_clear()


@pytest.mark.e2e
def test_both_engines_give_one_model_and_say_nothing_else(tacit_sim, job_file, tmp_path):
    job = job_file("training.rounds=3")
    command = [sys.executable, "-m", "tacit_sim.cli", "run", str(job), "--engine", "ray", "--out", str(tmp_path / "r")]
    home = tmp_path / "home"
    home.mkdir()
    environment = {**ENV, "HOME": str(home)}
    done = subprocess.run(command, env=environment, capture_output=True, text=True, check=False, timeout=200)
    assert (done.returncode, done.stderr) == (0, "")
    assert not (home / ".flwr").exists()
    _only_our_lines(done.stdout, rounds=3)
    code, out, err = tacit_sim("run", job, "--out", tmp_path / "i")
    assert (code, err) == (0, "")
    _only_our_lines(out, rounds=3)
    assert np.abs(_model(tmp_path / "i") - _model(tmp_path / "r")).max() < 1e-5
    inline, ray = (json.loads((tmp_path / name / "result.json").read_text()) for name in "ir")
    assert (inline["engine"], ray["engine"]) == ("inline", "ray")
    assert inline["job_hash"] == ray["job_hash"]
    assert inline["privacy"] == ray["privacy"]
    assert inline["privacy"]["epsilon"] > 0
    assert inline["metrics"] == ray["metrics"]


@pytest.mark.e2e
@pytest.mark.slow
def test_a_failed_job_under_ray_exits_with_1(job_file, tmp_path):
    job = str(job_file("simulation.dropout=0.99", "training.max_failed_rounds=0"))
    command = [sys.executable, "-m", "tacit_sim.cli", "run", job, "--engine", "ray", "--out", str(tmp_path / "out")]
    done = subprocess.run(command, env=ENV, capture_output=True, text=True, check=False, timeout=200)
    assert done.returncode == 1, (done.stdout, done.stderr)
    assert [line.partition(": ")[0] for line in done.stderr.splitlines()] == ["error", "hint"], done.stderr
    assert "rounds in a row (partner-" in done.stderr
