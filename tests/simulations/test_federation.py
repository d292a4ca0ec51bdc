"""Whole simulations in process: the real partners, ledgers and rounds on the digits."""

from __future__ import annotations

import json
import sqlite3
from collections import Counter
from contextlib import closing
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.numpy import load_file

from tacit import commission
from tacit.errors import BadInput, JobFailed
from tacit.job import Job
from tacit.privacy.accounting import epsilon
from tacit.privacy.events import Event
from tacit_client.app import Errand
from tacit_sim import federation
from tacit_sim.federation import Spec, build_network, prepare
from tacit_sim.grid import InlineGrid
from tacit_sim.identity import server_key
from tacit_sim.simulation import simulate


def _simulate(job: Job, out: Path, *, resume: bool = False) -> dict[str, Any]:
    return simulate(job, engine="inline", data=None, out=out, resume=resume)


def _prepare(job: Job, tmp_path: Path) -> federation.World:
    return prepare(Spec(job=job.model_dump_json(), data=None, ledger=tmp_path / "ledger.db"))


def _spent(out: Path) -> Counter[str]:
    """Rounds that each partner's ledger holds."""
    with closing(sqlite3.connect(out / "ledger.db")) as db:
        return Counter(name for (name,) in db.execute("SELECT partner FROM entry WHERE kind = 'reserved'"))


def _history(out: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in (out / "history.jsonl").read_text(encoding="utf-8").splitlines()]


def test_every_example_is_in_one_place(make_job, tmp_path):
    world = _prepare(make_job("simulation.partners=5", "evaluation.partner_holdout=0.25"), tmp_path)
    rows = torch.cat([part for parts in world.parts for part in parts])
    assert sorted(rows.tolist()) == list(range(len(world.train)))
    for train, held in world.parts:
        assert abs(len(held) - 0.25 * (len(train) + len(held))) < 0.1 * (len(train) + len(held))
    sizes = [(who["examples"], who["holdout"]) for who in world.description["partners"].values()]
    assert sizes == [(len(train), len(held)) for train, held in world.parts]


def test_the_job_is_resolved_by_the_data(make_job, tmp_path):
    world = _prepare(make_job(), tmp_path)
    assert world.job.task.options["classes"] == 10
    assert list(world.job.task.options["shape"]) == [8, 8]
    assert world.job.task.package == "tacit"


def test_the_first_network_follows_from_the_seed_and_leaves_torchs_alone(make_job, tmp_path):
    weights = []
    for seed in (3, 3, 4):
        world = _prepare(make_job(f"simulation.seed={seed}"), tmp_path)
        before = torch.get_rng_state()
        weights.append(torch.cat([p.detach().reshape(-1) for p in build_network(world).parameters()]))
        assert torch.equal(before, torch.get_rng_state())
    assert torch.equal(weights[0], weights[1])
    assert not torch.equal(weights[0], weights[2])


def test_a_partner_serves_its_own_job_only(make_job, tmp_path):
    spec = Spec(job=make_job().model_dump_json(), data=None, ledger=tmp_path / "ledger.db")
    key, other = server_key(prepare(spec).job), make_job("training.rounds=9")
    signed = commission.sign(key, run="run", job=other)
    with pytest.raises(BadInput, match=r"^expected the job that this simulation was started with, found another$"):
        federation._admit(spec, None, Errand("train", other, "run", 1, True, signed))
    with pytest.raises(BadInput, match=r"^expected a job signed for this run with the server's key, found another"):
        federation._admit(spec, None, Errand("train", other, "run-2", 1, True, signed))


def test_a_grid_too_coarse_for_the_cohort_is_refused_before_anything_begins(make_job, tmp_path):
    overrides = "simulation.partners=9", "aggregation.max_update_norm=1e5"
    with pytest.raises(BadInput, match=r"max_update_norm of at most 58254\.2 for 9 partners, found 100000"):
        _prepare(make_job(*overrides), tmp_path)
    _prepare(make_job(*overrides, "aggregation.cohort=5"), tmp_path)


def test_vanished_partners_leave_a_round_done_and_their_cost_counted(make_job, tmp_path):
    out = tmp_path / "out"
    job = make_job(
        "simulation.partners=5",
        "simulation.dropout=0.4",
        "simulation.seed=2",
        "training.rounds=4",
        "aggregation.threshold=2",
    )
    found = _simulate(job, out)
    history = _history(out)
    lost = [len(line["dropouts"]) for line in history]
    assert sum(lost) == found["aggregation"]["dropouts"] > 0
    for line in history:
        assert line["answered"] + len(line["dropouts"]) == line["asked"] == 5
        assert line["status"] == ("done" if line["answered"] >= 2 else "abandoned")
        assert set(line["failures"].values()) <= {"vanished"}
    answered = Counter(f"partner-{i}" for line in history for i in range(5) if f"partner-{i}" not in line["dropouts"])
    spent = _spent(out)
    assert all(answered[name] <= spent[name] <= 4 for name in spent)
    assert spent.total() > answered.total()  # somebody vanished after its noise was drawn, and was charged
    events = found["privacy"]["events_by_partner"]
    assert {name: sum(event["steps"] for event in of) for name, of in events.items()} == {
        name: 2 * count for name, count in spent.items()
    }


def test_secure_rounds_lose_partners_at_any_stage_and_count_what_was_spent(make_job, tmp_path):
    out = tmp_path / "out"
    job = make_job(
        "aggregation.secure=true",
        "simulation.partners=5",
        "simulation.dropout=0.25",
        "simulation.seed=3",
        "training.rounds=8",
        "training.max_failed_rounds=8",
        "evaluation.every=8",
    )
    found = _simulate(job, out)
    ended: Counter[str] = Counter()
    for line in _history(out):
        ended[line["status"]] += 1
        assert (line["needed"], line["refusals"]) == (4, {})
        assert set(line["failures"].values()) <= {"vanished"}
        assert set(line["dropouts"]) <= set(line["failures"])
        if line["status"] == "done":
            assert line["answered"] + len(line["dropouts"]) == 5
            assert line["answered"] >= 4
        else:
            assert line["answered"] == 5 - len(line["dropouts"]) < 4
            assert "expected at least 4 partners, found " in line["reason"]
            assert len(line["failures"]) >= 2
    assert min(ended["done"], ended["abandoned"]) >= 2
    assert found["rounds_completed"] == ended["done"]
    assert found["aggregation"]["threshold"] == 4
    assert found["timing"]["secagg_s"] > 0
    spent = _spent(out)
    assert 0 < spent.total() < 5 * 8
    for name, of in found["privacy"]["events_by_partner"].items():
        assert sum(event["steps"] for event in of) == 2 * spent[name]


@pytest.mark.parametrize("secure", ["true", "false"])
def test_an_abandoned_round_leaves_the_model_and_keeps_the_cost(make_job, tmp_path, secure):
    out = tmp_path / "out"
    seed = {"true": 4, "false": 1}[secure]  # of which somebody works before it vanishes
    job = make_job(
        "simulation.dropout=0.9", "training.rounds=3", f"simulation.seed={seed}", f"aggregation.secure={secure}"
    )
    found = _simulate(job, out)
    assert [line["status"] for line in _history(out)] == ["abandoned"] * 3
    network = build_network(_prepare(job, tmp_path))
    model = load_file(out / "model.safetensors")
    for name, parameter in network.named_parameters():
        np.testing.assert_array_equal(model[name], parameter.detach().numpy())
    assert found["rounds_completed"] == 0
    spent = _spent(out)
    assert spent.total() > 0
    assert found["privacy"]["epsilon"] > 0
    for name, of in found["privacy"]["events_by_partner"].items():
        assert sum(event["steps"] for event in of) == 2 * spent[name]


def test_too_many_failures_fail_the_job_and_keep_the_checkpoint(make_job, tmp_path):
    out = tmp_path / "out"
    job = make_job("simulation.dropout=0.9", "simulation.seed=1", "training.rounds=9", "training.max_failed_rounds=1")
    with pytest.raises(JobFailed, match=r"of 2 rounds in a row \(partner-\d: vanished\)$") as caught:
        _simulate(job, out)
    assert caught.value.exit_code == 1
    assert len(_history(out)) == 2
    assert not (out / "result.json").exists()


def test_a_refusal_shows_by_name(make_job, tmp_path, monkeypatch):
    real = federation._site

    def site(spec, context):
        if context.node_config["partition-id"] == 1:
            raise BadInput("expected a budget, found none left", hint="ask for less")
        return real(spec, context)

    monkeypatch.setattr(federation, "_site", site)
    found = _simulate(make_job("aggregation.threshold=2"), tmp_path / "out")
    for line in _history(tmp_path / "out"):
        assert line["refusals"] == {"partner-1": "expected a budget, found none left; ask for less"}
        assert (line["answered"], line["status"], line["dropouts"]) == (2, "done", [])
    assert sorted(found["privacy"]["epsilon_by_partner"]) == ["partner-0", "partner-2"]


def test_the_best_model_is_kept_beside_the_last(make_job, tmp_path):
    out = tmp_path / "out"
    job = make_job(
        "training.rounds=9", "evaluation.patience=1", "evaluation.monitor=test", "training.learning_rate=3.0"
    )
    found = _simulate(job, out)
    scores = [line["test"]["accuracy"] for line in _history(out)]
    best = found["metrics"]["best"]
    assert best["accuracy"] == max(scores) == scores[best["round"] - 1]
    assert len(scores) == best["round"] + 1 <= 9  # one evaluation without a better score, then the end
    one, last = (load_file(out / f"{name}.safetensors") for name in ("best", "model"))
    assert one.keys() == last.keys()
    assert any(not np.array_equal(one[name], last[name]) for name in one)


@pytest.mark.parametrize("secure", ["true", "false"])
def test_an_interrupted_run_goes_on_and_counts_both_attempts(make_job, tmp_path, monkeypatch, secure):
    """Guarantee: a round tried twice is charged twice, and both charges are in the run's epsilon."""
    out, job, answers = tmp_path / "out", make_job("training.rounds=4", f"aggregation.secure={secure}"), []
    real = InlineGrid._answer

    def answer(grid: InlineGrid, message: Any) -> Any:
        found = real(grid, message)
        answers.append(message.metadata.message_type)
        if answers.count("train") == 5:  # two of the three partners in round 2 have released their update
            raise KeyboardInterrupt
        return found

    with monkeypatch.context() as patched:
        patched.setattr(InlineGrid, "_answer", answer)
        with pytest.raises(KeyboardInterrupt):
            _simulate(job, out)
    assert [line["round"] for line in _history(out)] == [1]
    found = _simulate(job, out, resume=True)

    assert [(line["round"], line["attempt"]) for line in _history(out)] == [(1, 1), (2, 2), (3, 2), (4, 2)]
    assert found["rounds_completed"] == 4
    spent = _spent(out)
    assert sorted(spent.values()) == [4, 5, 5]
    events = {
        name: [Event.from_json(event) for event in of] for name, of in found["privacy"]["events_by_partner"].items()
    }
    assert {name: sum(event.steps for event in of) for name, of in events.items()} == {
        name: 2 * count for name, count in spent.items()
    }
    twice = {name: of[0] for name, of in events.items() if spent[name] == 5}
    five, four = (
        max(epsilon([one.model_copy(update={"steps": 2 * count})], delta=1e-4) for one in twice.values())
        for count in (5, 4)
    )
    assert found["privacy"]["epsilon"] == pytest.approx(five)
    assert five > four


def test_a_resumed_run_draws_fresh_noise(make_job, tmp_path, monkeypatch):
    """Guarantee: the noise of an attempt is not that of the attempt before, though the seed is one."""
    whole = _simulate(make_job(), tmp_path / "whole")

    def stop(job: Job, state: Any) -> None:
        raise KeyboardInterrupt

    out = tmp_path / "out"
    with pytest.raises(KeyboardInterrupt):
        simulate(make_job(), engine="inline", data=None, out=out, progress=stop)
    again = _simulate(make_job(), out, resume=True)
    assert whole["privacy"]["epsilon"] == again["privacy"]["epsilon"]
    one, other = (load_file(tmp_path / name / "model.safetensors") for name in ("whole", "out"))
    assert any(not np.array_equal(one[name], other[name]) for name in one)


def test_a_run_of_another_job_is_not_resumed(make_job, tmp_path):
    _simulate(make_job("training.rounds=1"), tmp_path / "out")
    with pytest.raises(BadInput, match=r"^expected a checkpoint of job "):
        _simulate(make_job("training.rounds=2"), tmp_path / "out", resume=True)


def test_performance_keys_change_nothing_that_is_released(make_job, tmp_path):
    """Guarantee: `[performance]` is speed only, up to the order of float additions."""
    models = []
    for size in (512, 7):
        out = tmp_path / str(size)
        _simulate(make_job(f"performance.max_physical_batch={size}"), out)
        models.append(load_file(out / "model.safetensors"))
    for name, array in models[0].items():
        np.testing.assert_allclose(array, models[1][name], rtol=0, atol=1e-5)
