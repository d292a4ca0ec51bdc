"""Whole runs in which every partner's evaluations have a price: history, result, report and what they cost."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from tacit.errors import BadInput
from tacit.privacy.accounting import epsilon
from tacit.privacy.events import Event
from tacit_sim.simulation import simulate

BARS = {"accuracy_std", "loss_std", "count_std"}
NAMES = [f"partner-{i}" for i in range(3)]


def _run(job: Any, out: Path) -> tuple[dict[str, Any], list[dict[str, Any]], str]:
    found = simulate(job, engine="inline", data=None, out=out)
    history = [json.loads(line) for line in (out / "history.jsonl").read_text().splitlines()]
    return found, history, (out / "report.html").read_text()


@pytest.mark.parametrize("secure", ["true", "false"])
def test_a_run_whose_evaluations_have_a_price(make_job, tmp_path, secure) -> None:
    priced = ("simulation.metrics_epsilon=2.0", "evaluation.partner_holdout=0.4", "evaluation.every=2")
    job = make_job("training.rounds=3", f"aggregation.secure={secure}", *priced)
    found, history, report = _run(job, tmp_path / "out")
    scores = [line["federated"] for line in history]
    assert scores[0] is None
    for each in scores[1:]:
        assert each.keys() == {"examples", "accuracy", "loss", "macro_f1", "confusion"} | BARS
        assert each["macro_f1"] is None  # ten classes of 58 examples do not stand out of such noise
        assert 0 < each["accuracy_std"] < 0.5
        assert abs(each["examples"] - 575) < 6 * 1.5 * each["count_std"]
    privacy = found["privacy"]
    for name in NAMES:
        events = [Event.model_validate(event) for event in privacy["events_by_partner"][name]]
        metrics = [event for event in events if event.kind == "metrics"]
        assert sum(event.steps for event in metrics) == 2
        assert 1.9 < privacy["metrics_epsilon_by_partner"][name] <= 2.0
        assert privacy["metrics_epsilon_by_partner"][name] == epsilon(metrics, delta=1e-4)
        assert privacy["epsilon_by_partner"][name] == epsilon(events, delta=1e-4)
        assert history[-1]["epsilon_by_partner"][name] == privacy["epsilon_by_partner"][name]
    assert history[1]["epsilon_by_partner"] != history[0]["epsilon_by_partner"]
    assert f"{100 * scores[-1]['accuracy']:.1f}% ± " in report
    assert "3 partners put noise on theirs, for an epsilon of at most 2.00 over all evaluations" in report
    assert "They are exact" not in report


def test_a_run_without_a_price_is_as_it_always_was(make_job, tmp_path) -> None:
    found, history, report = _run(make_job("training.rounds=1"), tmp_path / "out")
    assert history[0]["federated"].keys() == {"examples", "accuracy", "loss", "macro_f1", "confusion"}
    assert sum(map(sum, history[0]["federated"]["confusion"])) == history[0]["federated"]["examples"]
    assert "metrics_epsilon_by_partner" not in found["privacy"]
    assert {event["kind"] for events in found["privacy"]["events_by_partner"].values() for event in events} == {
        "dp-sgd"
    }
    assert "They are exact" in report
    assert " ± " not in report


def test_without_a_mechanism_the_price_is_told_and_no_epsilon(make_job, tmp_path) -> None:
    left_out = tuple(f"privacy.{key}" for key in ("noise_multiplier", "max_grad_norm", "delta"))
    job = make_job(
        'privacy.mechanism="none"', "training.rounds=1", "simulation.metrics_epsilon=8.0", without=left_out
    )  # fmt: skip
    found, history, report = _run(job, tmp_path / "out")
    assert history[0]["federated"] is None or history[0]["federated"].keys() >= {"accuracy_std"}
    assert found["privacy"]["metrics_epsilon_by_partner"] == dict.fromkeys(NAMES)
    assert found["privacy"]["epsilon"] is None
    assert "3 partners put noise on theirs;" in report


def test_prices_that_can_not_be_kept_are_refused_before_anything_begins(make_job, tmp_path) -> None:
    job = make_job("simulation.metrics_epsilon=1e-9", "privacy.delta=1e-6")
    with pytest.raises(BadInput, match="expected a metrics_epsilon that noise can reach over 2 evaluations"):
        simulate(job, engine="inline", data=None, out=tmp_path / "out")
    assert not (tmp_path / "out").exists()
