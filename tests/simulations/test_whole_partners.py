"""Whole runs from the command line that protect whole partners: what the result says is what the ledgers hold."""

from __future__ import annotations

import json
import sqlite3
from contextlib import closing
from pathlib import Path
from typing import Any

import dp_accounting
import pytest
from dp_accounting.pld import PLDAccountant

CLIENT = "privacy={mechanism='client', noise_multiplier=1.5, delta=1e-3, max_update_norm=1.0"
SHARES = (f"{CLIENT}}}", "aggregation.secure=true", "aggregation.min_cohort=4", "simulation.partners=4")
USERS = (
    f"{CLIENT}, noise_by='server', clip_quantile=0.5}}",
    "aggregation.secure=false",
    "simulation.partners=15",
    "simulation.user_rate=0.3",
    "training.rounds=3",
    "evaluation.partner_holdout=0.0",
    "evaluation.monitor=test",
)


@pytest.fixture
def ran(tacit_sim, job_file, tmp_path):
    def run(*overrides: str) -> tuple[dict[str, Any], list[dict[str, Any]], dict[str, int]]:
        out = tmp_path / "out"
        code, _, err = tacit_sim("run", job_file(*overrides), "--out", out)
        assert (code, err) == (0, "")
        history = [json.loads(line) for line in (out / "history.jsonl").read_text(encoding="utf-8").splitlines()]
        return json.loads((out / "result.json").read_text(encoding="utf-8")), history, _ledger(out)

    return run


def _ledger(out: Path) -> dict[str, int]:
    steps: dict[str, int] = {}
    with closing(sqlite3.connect(out / "ledger.db")) as db:
        for partner, event in db.execute("SELECT partner, event FROM entry WHERE kind = 'reserved'"):
            steps[partner] = steps.get(partner, 0) + json.loads(event)["steps"]
    return steps


def _epsilon(rate: float, steps: int) -> float:
    accountant = PLDAccountant()
    accountant.compose(dp_accounting.PoissonSampledDpEvent(rate, dp_accounting.GaussianDpEvent(1.5)), steps)
    return float(accountant.get_epsilon(1e-3))


def test_partners_share_the_noise_of_a_secure_run(ran):
    result, history, ledger = ran(*SHARES)
    privacy = result["privacy"]
    assert (privacy["unit"], privacy["noise_by"], privacy["sampling"]) == ("partner", "partners", "none")
    assert privacy["epsilon"] == pytest.approx(_epsilon(1.0, 2), rel=2e-3)
    assert ledger == {f"partner-{i}": 2 for i in range(4)}
    assert [(line["answered"], line["clipped"], line["norm"]) for line in history] == [(4, 0, None)] * 2


def test_users_are_drawn_and_all_of_them_charged(ran):
    result, history, ledger = ran(*USERS)
    privacy = result["privacy"]
    assert (privacy["noise_by"], privacy["sampling"], privacy["secure_noise"]) == ("server", "poisson", False)
    assert privacy["holds_against"] == ["other partners", "outsiders"]
    assert privacy["epsilon"] == pytest.approx(_epsilon(0.3, 3), rel=2e-3)
    assert privacy["epsilon"] < 0.9 * _epsilon(1.0, 3)
    assert ledger == {f"partner-{i}": 3 for i in range(15)}
    assert len({line["norm"] for line in history}) == 3
    assert sum(line["asked"] for line in history) < 3 * 15


def test_a_job_whose_sum_has_no_grid_is_refused_before_anything_is_written(tacit_sim, job_file, tmp_path):
    out = tmp_path / "out"
    code, _, err = tacit_sim("run", job_file(*SHARES, "privacy.noise_multiplier=1e6"), "--out", out)
    assert code == 2
    assert "to fit in 32 bits" in err
    assert not out.exists()
