"""One small job that most tests begin from."""

from __future__ import annotations

import copy
from collections.abc import Callable
from typing import Any

import pytest

from tacit.check import parse
from tacit.job import Job, override

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
