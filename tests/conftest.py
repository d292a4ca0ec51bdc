"""One small job that most tests begin from."""

from __future__ import annotations

import copy
import signal
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import tomli_w
from hypothesis import HealthCheck, settings

from tacit.check import parse
from tacit.job import Job, override

# Seconds are measured by benchmarks; a test that fails on a busy machine says nothing.
settings.register_profile("tacit", deadline=None, suppress_health_check=[HealthCheck.too_slow])
settings.load_profile("tacit")

RAW: dict[str, Any] = {
    "name": "small",
    "task": {"kind": "image-classification", "model": "cnn"},
    "training": {"rounds": 2, "local_steps": 2, "batch_size": 32, "learning_rate": 0.5},
    "privacy": {"mechanism": "dp-sgd", "noise_multiplier": 1.0, "delta": 1e-4, "max_grad_norm": 1.0},
    "aggregation": {"secure": False},
    "simulation": {"partners": 3, "dataset": "digits", "device": "cpu"},
}


@pytest.fixture(scope="session")
def raw_job() -> Callable[..., dict[str, Any]]:
    """Makes the small job as read from TOML, with `key=value` overrides and sections left out by name."""

    def make(*overrides: str, without: tuple[str, ...] = ()) -> dict[str, Any]:
        raw = override(copy.deepcopy(RAW), overrides)
        for path in without:
            table = raw
            *sections, key = path.split(".")
            for section in sections:
                table = table[section]
            del table[key]
        return raw

    return make


@pytest.fixture(scope="session")
def make_job(raw_job) -> Callable[..., Job]:
    """Makes the small job, with overrides as on the command line."""

    def make(*overrides: str, without: tuple[str, ...] = ()) -> Job:
        return parse(Job, raw_job(*overrides, without=without), where="job.toml")

    return make


@pytest.fixture
def job_file(raw_job, tmp_path) -> Callable[..., Path]:
    """Writes the small job, with overrides, to a file."""

    def make(*overrides: str, without: tuple[str, ...] = ()) -> Path:
        path = tmp_path / "job.toml"
        path.write_text(tomli_w.dumps(raw_job(*overrides, without=without)), encoding="utf-8")
        return path

    return make


@pytest.fixture
def tacit_sim(capsys, monkeypatch, tmp_path) -> Callable[..., tuple[int, str, str]]:
    """Runs a command line in process; the folder it runs in is empty and the handler of Ctrl-C is put back."""
    (tmp_path / "cwd").mkdir()
    monkeypatch.chdir(tmp_path / "cwd")
    from tacit_sim.cli import main

    before = signal.getsignal(signal.SIGINT)

    def run(*argv: object) -> tuple[int, str, str]:
        capsys.readouterr()
        try:
            code = main([str(arg) for arg in argv])
        finally:
            signal.signal(signal.SIGINT, before)
        return code, *capsys.readouterr()

    return run
