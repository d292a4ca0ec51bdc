"""Canaries in a partner's real steps: how they are dealt, drawn, clipped and seen, and what a run shows of them."""

from __future__ import annotations

import json

import numpy as np
import pytest
import torch
from scipy import stats
from torch import nn

from tacit import vector
from tacit.errors import BadInput
from tacit.privacy.mechanism import Mechanism
from tacit.privacy.randomness import Randomness
from tacit.sections import TrainingSection
from tacit.tasks.task import Encoded, Task
from tacit_sim.audit import FAULTS, audit, plain, text, write
from tacit_sim.audit.canaries import Canaries, CanaryShard, hatch
from tacit_sim.audit.trainer import AuditedTrainer
from tacit_sim.audit.watch import Watch, evidence, spread

torch.set_num_threads(1)

SIZES = [30, 5, 1, 200]
FLAT = Task("flat", {}, lambda o, e: None, lambda e: {}, lambda logits, targets: 0.0 * logits.sum(dim=1))
"""A loss without gradient: a step releases canaries and noise and nothing else."""


@pytest.mark.parametrize("count", [4, 50, 236])
def test_canaries_are_in_every_parameter_and_in_entries_of_their_own(count):
    found = hatch(count, sizes=SIZES, partners=3, stream=Randomness(1).stream("audit"))
    assert len(set(found.entries.tolist())) == len(found) == count
    layers = np.searchsorted(np.cumsum(SIZES), found.entries, side="right")
    assert set(layers.tolist()) == {0, 1, 2, 3}
    assert np.ptp(np.bincount(found.partners, minlength=3)) <= 1
    assert sorted(np.concatenate([found.of(i) for i in range(3)]).tolist()) == list(range(count))


@pytest.mark.parametrize("count", [3, 237])
def test_too_few_or_too_many_canaries(count):
    with pytest.raises(BadInput, match="from 4 canaries, one for each parameter"):
        hatch(count, sizes=SIZES, partners=3, stream=Randomness(1).stream("audit"))


@pytest.mark.statistical
def test_coins_are_fair():
    coins = hatch(4000, sizes=[4000], partners=1, stream=Randomness(2).stream("audit")).coins
    assert stats.binomtest(int(coins.sum()), 4000, 0.5).pvalue > 1e-3
    assert stats.binomtest(int(coins.sum()), 4000, 0.6).pvalue < 1e-6


@pytest.mark.statistical
def test_examples_and_canaries_are_drawn_alike():
    data = Encoded((torch.zeros(200, 1),), torch.zeros(200, dtype=torch.int64))
    shard = CanaryShard(data, torch.arange(200), planted=np.arange(50, 90))
    assert shard.units == 200
    sampling, rows, canaries = Randomness(3).stream("sampling"), 0, 0
    for _ in range(300):
        drawn = shard.draw(sampling, rate=0.2)
        rows, canaries = rows + len(drawn.rows), canaries + len(drawn.canaries)
        assert set(drawn.canaries.tolist()) <= set(range(50, 90))
        assert drawn is shard.drawn[-1]
    for found, units in ((rows, 200), (canaries, 40)):
        assert stats.binomtest(found, units * 300, 0.2).pvalue > 1e-3
        assert stats.binomtest(found, units * 300, 0.23).pvalue < 1e-6


def test_the_evidence_is_the_likelihood_ratio():
    seen, noise, rate = np.array([[0.3, 1.4], [-0.2, 2.0]]), np.array([1.1, 0.7]), 0.25
    normal = stats.norm.pdf
    ratio = (1 - rate) + rate * normal(seen, 1, noise) / normal(seen, 0, noise)
    np.testing.assert_allclose(evidence(seen, rate=rate, noise=noise), np.log(ratio).sum(axis=0))
    whole = (2 * seen - 1) / (2 * noise**2)
    np.testing.assert_allclose(evidence(seen, rate=1.0, noise=noise), whole.sum(axis=0))


def test_the_spread_is_measured_by_group():
    rng = np.random.default_rng(4)
    noise = np.repeat([0.5, 2.0, 0.0], 40)
    found = spread(noise * rng.standard_normal((500, 120)), np.repeat([0, 1, 2], 40))
    np.testing.assert_allclose(found, np.maximum(noise, 1e-3), rtol=0.05)
    assert len(set(found.tolist())) == 3


STEEP = Task("steep", {}, lambda o, e: None, lambda e: {}, lambda logits, targets: 1e3 * logits[:, 0])
"""A loss whose gradient every clip norm cuts."""


@pytest.mark.parametrize("schedule", ["constant", "linear"])
def test_sums_follow_from_the_models_that_torch_steps_to(schedule):
    """Two rounds of three steps: the noised sums come back, less the two partners' examples."""
    training = TrainingSection(
        rounds=2, local_steps=3, batch_size=8, learning_rate=0.5, momentum=0.9, schedule=schedule
    )
    rng, weights = np.random.default_rng(9), torch.zeros(10)
    sums, rests = rng.standard_normal((6, 10)), rng.standard_normal((6, 2, 10))
    entries = np.array([7, 0, 3])
    watch = Watch(Canaries(entries, np.zeros(3, dtype=np.int64), np.array([True, False, True])))
    optimizer = torch.optim.SGD([weights], lr=0.5, momentum=training.momentum)
    for step in range(6):
        for rest in rests[step]:
            watch.follow(weights.numpy().copy(), rest=rest, rate=0.2)
        optimizer.param_groups[0]["lr"] = training.learning_rate_at(1 + step // 3)
        weights.grad = torch.from_numpy((sums + rests.sum(axis=1))[step] / 8).float()
        optimizer.step()
    watch.close(weights.numpy(), training=training, clip=0.1)
    seen = sums[:, entries] / 0.1
    expected = evidence(seen, rate=0.2, noise=spread(seen, np.zeros(3, dtype=np.int64)))
    assert watch.steps == 6
    np.testing.assert_allclose(watch.scores(sizes=[10]), expected, rtol=1e-3)


def _steps(
    *, fault: str | None = None, noise: float = 1e-6, rate: float = 1.0, steps: int = 3, task: Task = FLAT
) -> np.ndarray:
    """What is seen of the 126 canaries, the first half of them in, of one partner with 20 examples."""
    torch.manual_seed(0)
    network = nn.Sequential(nn.Linear(20, 5), nn.Tanh(), nn.Linear(5, 3, bias=False), nn.LayerNorm(3))
    entries = np.arange(126)
    watch = Watch(Canaries(entries, np.zeros(126, dtype=np.int64), entries < 63))
    seen: list[np.ndarray] = []
    watch.tell = lambda partner, found, *, rate: seen.append(found)
    trainer = AuditedTrainer(
        network, task=task, device=torch.device("cpu"), max_physical_batch=8, watch=watch, fault=fault
    )
    mechanism = Mechanism(
        kind="dp-sgd", max_grad_norm=0.3, noise_multiplier=noise, sampling_rate=rate, expected_batch=7.0, steps=steps
    )
    data = Encoded((torch.randn(20, 20),), torch.zeros(20, dtype=torch.int64))
    shard = CanaryShard(data, torch.arange(20), watched=entries, planted=entries[:63])
    trainer.train(
        vector.flatten(network),
        shard,
        mechanism=mechanism,
        training=TrainingSection(rounds=1, local_steps=steps, batch_size=7, learning_rate=1e-3),
        learning_rate=1e-3,
        sampling=Randomness(1).stream("sampling"),
        noise=Randomness(1).stream("noise"),
    )
    return np.stack(seen)


@pytest.mark.parametrize("task", [FLAT, STEEP], ids=["flat", "steep"])
def test_a_canary_adds_one_clip_norm_to_its_own_entry_and_nothing_else(task):
    found = _steps(task=task)
    assert found.shape == (3, 126)
    np.testing.assert_allclose(found[:, :63], 1.0, atol=2e-4)
    np.testing.assert_allclose(found[:, 63:], 0.0, atol=2e-4)


def test_a_canary_is_in_as_many_steps_as_it_is_drawn():
    found = np.round(_steps(rate=0.3, steps=60))
    drawn = int(found[:, :63].sum())
    assert set(np.unique(found)) == {0.0, 1.0}
    assert found[:, 63:].sum() == 0
    assert stats.binomtest(drawn, 60 * 63, 0.3).pvalue > 1e-3


@pytest.mark.statistical
def test_the_noise_seen_is_the_mechanisms_and_the_faults_are_made():
    whole, half = _steps(noise=2.0, steps=40), _steps(noise=2.0, steps=40, fault="half-noise")
    bare = _steps(noise=2.0, steps=40, fault="bare-layer")
    assert whole[:, 63:].std() == pytest.approx(2.0, rel=0.05)
    assert half[:, 63:].std() == pytest.approx(1.0, rel=0.05)
    np.testing.assert_allclose(bare[:, :100].std(axis=0), 0.0, atol=1e-4)
    assert bare[:, 100:].std() == pytest.approx(2.0, rel=0.08)


FEW = (
    "training.rounds=2",
    "training.local_steps=20",
    "training.batch_size=16",
    "training.learning_rate=0.1",
    "privacy.noise_multiplier=0.8",
    "privacy.delta=1e-5",
    "privacy.max_grad_norm=0.1",
    "aggregation.secure=false",
    "evaluation.partner_holdout=0.0",
)


@pytest.fixture(scope="module")
def found(make_job):
    return audit(make_job(*FEW), canaries=1000, data=None)


def test_a_right_run_passes(found):
    assert found.passes
    assert 0.0 < found.bound <= found.claim < 10
    assert found.steps == 3 * 2 * 20
    assert found.guesses.made == found.ideal.guesses
    assert np.median(found.scores[found.canaries.coins]) > np.median(found.scores[~found.canaries.coins])
    assert found.accuracy is not None
    assert "passes: the bound is below the claim" in text(found)


def test_the_report(found, tmp_path):
    assert json.loads(json.dumps(plain(found)))["bound"] == found.bound
    write(tmp_path / "new", found)
    page = (tmp_path / "new" / "report.html").read_text(encoding="utf-8")
    assert page.count("<svg") == 2
    assert "passes: the bound is below the claim." in page
    (tmp_path / "file").write_text("")
    with pytest.raises(BadInput, match="expected to make"):
        write(tmp_path / "file" / "new", found)


def test_the_claim_is_that_of_the_events(found):
    from tacit.privacy.accounting import epsilon
    from tacit.privacy.events import Event

    event = Event(kind="dp-sgd", sampling_rate=16 / 470, noise_multiplier=0.8, steps=40)
    assert found.claim == pytest.approx(epsilon((event,), delta=1e-5), rel=0.05)


FAULTY = {
    "half-noise": (),
    "bare-layer": (),
    "last-round": (
        "training.batch_size=470",
        "training.rounds=12",
        "training.local_steps=1",
        "privacy.noise_multiplier=2.0",
        "evaluation.every=12",
    ),
}


def test_every_fault_is_tried():
    assert FAULTY.keys() == FAULTS.keys()


@pytest.mark.parametrize("fault", FAULTY)
def test_a_fault_is_found(make_job, fault):
    found = audit(make_job(*FEW, *FAULTY[fault]), canaries=2500, data=None, fault=fault)
    assert not found.passes, (found.bound, found.claim, found.guesses)
    assert "FAILS" in text(found)
    assert f"FAULT     {fault}" in text(found)


@pytest.mark.parametrize(
    ("settings", "named", "words"),
    [
        ((), {"fault": "typo"}, "expected a fault, found typo"),
        ((), {"canaries": 5}, "at least 20 canaries"),
        (("simulation.dropout=0.1",), {}, "simulation.dropout = 0 in an audit"),
    ],
)
def test_what_can_not_be_audited(make_job, settings, named, words):
    with pytest.raises(BadInput, match=words):
        audit(make_job(*FEW, *settings), **{"canaries": 100, "data": None, **named})


def test_a_job_without_mechanism_can_not_be_audited(make_job):
    without = ("privacy.noise_multiplier", "privacy.delta", "privacy.max_grad_norm")
    with pytest.raises(BadInput, match=r"a job whose privacy\.mechanism is dp-sgd or distributed-dp-sgd, found none"):
        audit(make_job("privacy.mechanism=none", without=without), canaries=100, data=None)
