"""The presets: each loads and says what to expect; on real data they reach what their headers promise."""

from __future__ import annotations

import json
import os
from pathlib import Path

import dp_accounting
import pytest
from dp_accounting.pld import PLDAccountant

from tacit.job import load
from tacit_sim import known

PRESETS = Path(__file__).resolve().parents[2] / "simulations" / "tacit_sim" / "presets"
NAMES = sorted(path.stem for path in PRESETS.glob("*.toml"))

on_real_data = pytest.mark.skipif(not os.environ.get("TACIT_DATA"), reason="TACIT_DATA names no folder of data sets")


def test_there_are_presets():
    assert len(NAMES) >= 10


@pytest.mark.parametrize("name", NAMES)
def test_a_preset_loads_under_its_own_name_and_says_what_to_expect(name):
    job = load(PRESETS / f"{name}.toml")
    assert job.name == name
    assert job.simulation.dataset in known.names()
    header = (PRESETS / f"{name}.toml").read_text(encoding="utf-8").split("\n\n", 1)[0]
    for word in ("# measured:", "two cores", "# status:"):
        assert word in header, word


def _run(tacit_sim, out: Path, name: str, *overrides: str) -> dict:
    sets = [word for override in overrides for word in ("--set", override)]
    code, _, err = tacit_sim("run", PRESETS / f"{name}.toml", "--out", out, *sets)
    assert (code, err) == (0, "")
    return json.loads((out / "result.json").read_text(encoding="utf-8"))


def _recomputed(privacy: dict) -> float:
    spent = []
    for events in privacy["events_by_partner"].values():
        accountant = PLDAccountant()
        for e in events:
            gaussian = dp_accounting.GaussianDpEvent(e["noise_multiplier"])
            accountant.compose(dp_accounting.PoissonSampledDpEvent(e["sampling_rate"], gaussian), e["steps"])
        spent.append(accountant.get_epsilon(privacy["delta"]))
    return max(spent)


@on_real_data
@pytest.mark.e2e
def test_a_few_rounds_of_mnist_learn_under_privacy(tacit_sim, tmp_path):
    result = _run(tacit_sim, tmp_path / "out", "mnist-dp-sgd", "training.rounds=3", "simulation.seed=1")
    assert result["metrics"]["test"]["accuracy"] > 0.5
    privacy = result["privacy"]
    assert privacy["epsilon"] <= 3.0
    assert privacy["epsilon"] == pytest.approx(_recomputed(privacy), rel=5e-3)


@on_real_data
@pytest.mark.slow
@pytest.mark.timeout(1800)
def test_mnist_over_three_seeds_at_epsilon_3(tacit_sim, tmp_path):
    results = [_run(tacit_sim, tmp_path / str(seed), "mnist-dp-sgd", f"simulation.seed={seed}") for seed in (1, 2, 3)]
    for result in results:
        assert result["privacy"]["epsilon"] <= 3.0
        assert result["privacy"]["epsilon"] == pytest.approx(_recomputed(result["privacy"]), rel=5e-3)
    assert sum(result["metrics"]["test"]["accuracy"] for result in results) / 3 >= 0.94


@on_real_data
@pytest.mark.slow
@pytest.mark.timeout(1800)
@pytest.mark.parametrize(
    ("name", "score", "least"),
    [
        ("mnist-central-dp-sgd", "accuracy", 0.975),
        ("mnist-plain", "accuracy", 0.988),
        ("mnist-by-writer-client-dp", "accuracy", 0.94),
        ("sst2-transformer", "accuracy", 0.77),
        ("sms-spam-transformer", "macro_f1", 0.93),
    ],
)
def test_a_preset_reaches_what_it_promises(tacit_sim, tmp_path, name, score, least):
    assert _run(tacit_sim, tmp_path / "out", name)["metrics"]["test"][score] >= least
