"""`tacit-sim audit` as it is typed: what it prints, what it writes, its exit code; both mechanisms."""

from __future__ import annotations

import json

import pytest
import torch

torch.set_num_threads(1)

SHARED = (
    "training.population=1400",
    "training.batch_size=140",
    "training.momentum=0.5",
    "training.schedule=linear",
    "privacy.mechanism=distributed-dp-sgd",
    "privacy.noise_multiplier=1.0",
    "aggregation.secure=true",
    "evaluation.partner_holdout=0.0",
)


def _set(*settings: str) -> list[str]:
    return [word for setting in settings for word in ("--set", setting)]


def test_the_sum_of_all_partners_is_audited_by_the_models_that_it_leads_to(tacit_sim, job_file, tmp_path):
    few = _set(*SHARED, "training.rounds=2", "training.local_steps=6", "privacy.delta=1e-5")
    flags = ("--canaries", "600", "--json", tmp_path / "a.json", "--out", tmp_path / "out")
    code, out, err = tacit_sim("audit", job_file(), *few, *flags)
    assert (code, err) == (0, "")
    assert "passes: the bound is below the claim" in out
    found = json.loads((tmp_path / "a.json").read_text())
    assert found["steps"] == 12
    assert 0.0 < found["bound"] < found["claim"]
    assert found["guesses"]["right"] > 0.6 * found["guesses"]["made"]
    assert (tmp_path / "out" / "report.html").is_file()


def test_a_fault_that_is_not_the_mechanisms(tacit_sim, job_file):
    code, _, err = tacit_sim("audit", job_file(), *_set(*SHARED, "privacy.delta=1e-5"), "--fault", "half-noise")
    assert code == 2
    assert "expected dp-sgd for the fault half-noise" in err
    code, _, err = tacit_sim("audit", job_file(), "--fault", "typo")
    assert (code, "hint: use one of: half-noise, bare-layer, last-round" in err) == (2, True)


@pytest.mark.parametrize("fault", ["last-round"])
def test_exit_code_1_where_it_fails(tacit_sim, job_file, fault):
    few = _set(
        "training.batch_size=470",
        "training.rounds=12",
        "training.local_steps=1",
        "privacy.noise_multiplier=2.0",
        "privacy.delta=1e-5",
        "evaluation.partner_holdout=0.0",
        "evaluation.every=12",
    )
    code, out, _ = tacit_sim("audit", job_file(), *few, "--canaries", "1500", "--fault", fault)
    assert code == 1
    assert "FAILS: the bound is above the claim" in out
    assert "the last round alone" in out
