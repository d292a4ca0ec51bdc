"""Distributed DP-SGD, whole runs in process: what it computes, how much noise is in it, what drop-outs change."""

from __future__ import annotations

import json
import sqlite3
from contextlib import closing
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from flwr.supercore.task_identity import TaskIdentity
from safetensors.numpy import load_file
from scipy import stats

from tacit import vector
from tacit.errors import BadInput
from tacit.job import Job
from tacit.privacy import grid as grids
from tacit.privacy.accounting import epsilon
from tacit.privacy.events import Event
from tacit.privacy.grid import Grid
from tacit.privacy.mechanism import plan
from tacit.privacy.shares import step_grid
from tacit_client.train import Trainer
from tacit_server.update import ServerOptimizer
from tacit_sim.federation import Spec, World, build_network, prepare
from tacit_sim.simulation import simulate

JOB = (
    "privacy.mechanism=distributed-dp-sgd",
    "privacy.max_grad_norm=0.5",
    "privacy.delta=1e-5",
    "training.population=1300",
    "training.batch_size=64",
    "training.momentum=0.9",
    "training.local_steps=3",
    "aggregation.secure=true",
    "evaluation.partner_holdout=0.0",
)
FIVE = ("simulation.partners=5", "aggregation.min_cohort=5", "aggregation.threshold=4")


def _run(job: Job, out: Path, *, resume: bool = False) -> dict[str, Any]:
    return simulate(job, engine="inline", data=None, out=out, resume=resume)


def _world(job: Job, out: Path) -> World:
    return prepare(Spec(job=job.model_dump_json(), data=None, ledger=out / "ledger.db"))


def _history(out: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in (out / "history.jsonl").read_text(encoding="utf-8").splitlines()]


def _model(out: Path, network: torch.nn.Module) -> np.ndarray:
    found = load_file(out / "model.safetensors")
    return np.concatenate([found[name].reshape(-1) for name, _ in network.named_parameters()])


def _no_noise(monkeypatch) -> None:
    monkeypatch.setattr(grids, "discrete_gaussian", lambda stream, n, *, sigma: np.zeros(n, dtype=np.int64))


def _pooled(world: World, *, momentum: float) -> np.ndarray:
    """DP-SGD without noise on all partners' examples in one place, an example at a time, by torch's own SGD."""
    job, network = world.job, build_network(world)
    optimizer = torch.optim.SGD(network.parameters(), lr=job.training.learning_rate, momentum=momentum)
    rate = job.training.batch_size / (job.training.population or 0)
    for number in range(1, job.training.rounds + 1):
        for step in range(1, job.training.local_steps + 1):
            total = [torch.zeros_like(p) for p in network.parameters()]
            for i, (rows, _) in enumerate(world.parts):
                stream = world.randomness.stream("sampling", f"partner-{i}", number, 1, step)
                for row in rows[torch.from_numpy(stream.poisson_sample(len(rows), rate=rate))]:
                    total = [
                        one + other for one, other in zip(total, _clipped(world, network, row.view(1)), strict=True)
                    ]
            for parameter, summed in zip(network.parameters(), total, strict=True):
                parameter.grad = summed / job.training.batch_size
            optimizer.step()
    return vector.flatten(network)


def _clipped(world: World, network: torch.nn.Module, row: torch.Tensor) -> list[torch.Tensor]:
    example = world.train.take(row)
    loss = world.task.loss(network(*example.inputs), example.targets).sum()
    found = torch.autograd.grad(loss, list(network.parameters()))
    norm = torch.cat([part.reshape(-1) for part in found]).norm().item()
    clip = world.job.privacy.max_grad_norm or 0.0
    return [part * min(1.0, clip / norm) for part in found]


def test_without_noise_it_is_pooled_training(make_job, tmp_path, monkeypatch):
    _no_noise(monkeypatch)
    job = make_job(*JOB)
    world = _world(job, tmp_path)
    _run(job, tmp_path / "out")
    network, expected = build_network(world), _pooled(world, momentum=0.9)
    found, start = _model(tmp_path / "out", network), vector.flatten(network)
    assert np.linalg.norm(expected - start) > 0.1
    assert np.linalg.norm(found - expected) < 1e-4 * np.linalg.norm(expected - start)
    assert np.linalg.norm(found - _pooled(world, momentum=0.0)) > 0.1 * np.linalg.norm(expected - start)


@pytest.mark.parametrize("dropout", [0.0, 0.2])
def test_the_noise_is_that_of_the_worst_case_or_more(make_job, tmp_path, monkeypatch, dropout):
    """Five partners, of whom four may be all and one of them may collude: each adds the noise of a third."""
    job = make_job(*JOB, *FIVE, f"simulation.dropout={dropout}", "training.rounds=8", "training.learning_rate=0.01")
    monkeypatch.setattr(Trainer, "clipped_sum", lambda self, start, *rest, **more: np.zeros(len(start)))
    seen: list[tuple[int, np.ndarray]] = []
    monkeypatch.setattr(Grid, "decode", _recording(Grid.decode, seen))
    _run(job, tmp_path / "out")
    lines = _history(tmp_path / "out")
    steps = sum(line["steps"] for line in lines)
    assert len(seen) == steps
    missed = sum(sum(line["missed"].values()) for line in lines)
    assert (missed == 0) == (dropout == 0.0)
    least = 1.0 * 0.5 * np.sqrt(1 / 3)  # multiplier times clip, of one of three honest shares
    stds = [values.std() / least for _, values in seen]
    for std, (length, _) in zip(stds, seen, strict=True):
        partners = round(std**2)
        assert 4 <= partners <= 5
        assert std**2 == pytest.approx(partners, rel=5 * np.sqrt(2 / length)), "of whole shares"
    assert {round(std**2) for std in stds} == ({5} if dropout == 0.0 else {4, 5})
    first = seen[0][1] / seen[0][1].std()
    assert 1e-4 < stats.kstest(first, "norm").pvalue < 1 - 1e-4


def _recording(decode: Any, seen: list[tuple[int, np.ndarray]]) -> Any:
    def record(self: Grid, total: np.ndarray) -> np.ndarray:
        values = decode(self, total)
        seen.append((len(values), values))
        return values

    return record


def test_the_ledger_charges_the_block_once_before_it_begins(make_job, tmp_path):
    job = make_job(*JOB, "training.rounds=3")
    result = _run(job, tmp_path / "out")
    events = [Event.from_json(raw | {"version": 1}) for raw in result["privacy"]["events_by_partner"]["partner-0"]]
    assert [(e.kind, e.steps, e.sampling_rate, e.colluders) for e in events] == [
        ("distributed-dp-sgd", 9, 64 / 1300, 1)
    ]
    alone = Event(kind="dp-sgd", sampling_rate=64 / 1300, noise_multiplier=1.0, steps=9)
    assert result["privacy"]["epsilon"] == pytest.approx(epsilon([alone], delta=1e-5), rel=1e-6)
    assert result["privacy"]["holds_against"] == ["server", "up to 1 partner working with it", "outsiders"]
    with closing(sqlite3.connect(tmp_path / "out" / "ledger.db")) as db:
        kinds = [kind for (kind,) in db.execute("SELECT kind FROM entry WHERE partner = 'partner-0' ORDER BY seq")]
    assert kinds == ["reserved", "confirmed"] * 3


def test_a_partner_that_vanishes_in_a_step_is_back_in_the_next(make_job, tmp_path):
    job = make_job(*JOB, *FIVE, "simulation.dropout=0.15", "training.rounds=5", "simulation.seed=2")
    result = _run(job, tmp_path / "out")
    lines = _history(tmp_path / "out")
    assert result["rounds_completed"] == 5
    assert 0 < sum(line["steps"] for line in lines) <= 15
    missed = [steps for line in lines for steps in line["missed"].values()]
    assert missed
    assert max(missed) < 3 or min(missed) < 3


def test_as_many_vanish_in_every_step_as_are_told(make_job, tmp_path):
    job = make_job(*JOB, *FIVE, "simulation.vanishing=1", "training.rounds=6")
    _run(job, tmp_path / "out")
    lines = _history(tmp_path / "out")
    assert [line["steps"] for line in lines] == [3] * 6, "four of five are enough"
    missed = [sum(line["missed"].values()) for line in lines]
    assert 0 < sum(missed) <= 18, "who vanishes after its sum came is in it"
    assert len({name for line in lines for name in line["missed"]}) > 2, "others every time"


def test_a_run_goes_on_where_it_stopped(make_job, tmp_path, monkeypatch):
    """The optimiser's velocity is in the checkpoint."""
    _no_noise(monkeypatch)
    whole, short = make_job(*JOB, "training.rounds=3"), make_job(*JOB, "training.rounds=3")
    _run(whole, tmp_path / "whole")
    saved: list[int] = []
    with pytest.raises(KeyboardInterrupt):
        simulate(short, engine="inline", data=None, out=tmp_path / "cut", progress=_stop_after(2, saved))
    assert saved == [1, 2]
    _run(short, tmp_path / "cut", resume=True)
    network = build_network(_world(whole, tmp_path))
    start = vector.flatten(network)
    one, other = _model(tmp_path / "whole", network), _model(tmp_path / "cut", network)
    # The last round's samples are others, as it is another attempt: close, and closer than without velocity.
    assert np.linalg.norm(one - other) < 0.5 * np.linalg.norm(one - start)
    assert not np.array_equal(one, other)


def _stop_after(rounds: int, saved: list[int]) -> Any:
    def progress(job: Job, state: Any) -> None:
        if state.round:
            saved.append(state.round)
        if state.round == rounds:
            raise KeyboardInterrupt

    return progress


def test_a_sum_that_could_wrap_is_refused_before_anything_is_written(make_job, tmp_path):
    job = make_job(*JOB, "training.population=40000", "training.batch_size=16384", "privacy.noise_multiplier=9000.0")
    with pytest.raises(BadInput, match=r"^expected .* found "):
        _run(job, tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_both_optimisers_take_torchs_steps(make_job):
    TaskIdentity.run_id, TaskIdentity.node_id, TaskIdentity.task_id = 1, 0, 0  # as in a launched ServerApp
    generator = np.random.default_rng(1)
    start = generator.normal(size=50).astype(np.float32)
    for overrides, optimiser in (
        (("training.momentum=0.9",), lambda p: torch.optim.SGD(p, lr=0.5, momentum=0.9)),
        (("training.momentum=0.0",), lambda p: torch.optim.SGD(p, lr=0.5)),
        (("training.momentum=0.0", "training.optimizer=adam"), lambda p: torch.optim.Adam(p, lr=0.5)),
    ):
        ours = ServerOptimizer(make_job(*JOB, *overrides).training, start, stepwise=True)
        parameter = torch.nn.Parameter(torch.from_numpy(start.copy()))
        theirs, model = optimiser([parameter]), start
        for count in range(1, 6):
            gradient = generator.normal(size=50)
            model = ours.descend(count, model, gradient, learning_rate=0.5)
            parameter.grad = torch.from_numpy(gradient.astype(np.float32))
            theirs.step()
        np.testing.assert_allclose(model, parameter.detach().numpy(), rtol=1e-4, atol=1e-5)


def test_the_default_scale_costs_next_to_nothing(make_job):
    """At MNIST's size the rounding is less than a thousandth of the sensitivity."""
    job = make_job(*JOB, "training.population=60000", "training.batch_size=512", *FIVE)
    grid = step_grid(job, plan(job, units=12000), cohort=5, length=26010)
    assert 1.0 < grid.sensitivity * grid.unit / 0.5 < 1.001
