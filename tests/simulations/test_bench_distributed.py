"""The benchmark of steps in a small form: what is added up, and its job. No duration is asserted."""

from __future__ import annotations

import json
from dataclasses import replace

import pytest

from tacit.check import parse
from tacit.errors import BadInput
from tacit.job import Job
from tacit_sim.bench import bench, distributed, measure_distributed
from tacit_sim.bench.distributed import CASES

SMALL = replace(CASES[0], name="small", partners=3, examples=60, rounds=2, steps=2, batch=12)


def test_what_a_step_is_made_of(monkeypatch, tmp_path):
    """Evaluation is taken off, and the block that comes first."""
    lines = [
        {"round_seconds": seconds, "steps": 4, "seconds": {"evaluate": 2.0, "secagg": 1.0}} for seconds in (10.0, 14.0)
    ]
    monkeypatch.setattr(distributed, "_run", lambda case, folder: distributed._Run(lines, server=4.0, partners=12.0))
    monkeypatch.setattr(distributed, "_gradients", _half)
    table = measure_distributed([SMALL])
    (row,) = table.rows
    assert set(table.columns) <= set(row)
    assert (row["step_s"], row["gradients_s"], row["protocol"]) == (2.5, 0.5, 0.8)
    assert (row["secagg_s"], row["server_cpu_s"], row["partner_cpu_s"], row["steps"]) == (0.25, 0.5, 0.5, 8)
    table.write(tmp_path / "distributed.json")
    assert len(json.loads((tmp_path / "distributed.json").read_text())["rows"]) == 1


def _half(given: tuple[distributed.Case, int]) -> float:
    return 0.5


def test_the_command_finds_it(monkeypatch):
    asked = []
    monkeypatch.setattr("tacit_sim.bench.measure_distributed", lambda cases, repeats: asked.append((cases, repeats)))
    bench("distributed", repeats=2)
    assert asked == [(list(CASES), 2)]
    with pytest.raises(BadInput, match="expected --only to fit a name"):
        bench("distributed", only="none such")


@pytest.mark.parametrize("case", [SMALL, *CASES], ids=lambda case: case.name)
def test_its_job_is_one_that_partners_grant(case):
    job = parse(Job, distributed._job(case), where="job")
    assert job.training.local_steps * case.rounds == (200 if case in CASES else 4)
    assert job.shares_noise
    assert job.aggregation.secure
    assert job.privacy.delta <= 1e-5


def test_the_gradients_alone():
    assert distributed._gradients((SMALL, 0)) > 0.0


@pytest.mark.e2e
@pytest.mark.timeout(600)
def test_a_small_case_in_real_processes():
    (row,) = measure_distributed([SMALL], repeats=1).rows
    assert row["steps"] == 2
    assert row["step_s"] > 0.0
    assert row["server_cpu_s"] > 0.0
    assert row["partner_cpu_s"] > 0.0
