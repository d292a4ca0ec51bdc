"""Training with persons as the unit: equal to its slow twin, and one patient with 500 rows moves it as one with 5."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import stats
from torch import nn
from twin import TASK, Case, private, sgd, trained, twin

from tacit import vector
from tacit.errors import BadInput
from tacit.models import CnnOptions, TransformerOptions, build_cnn, build_transformer
from tacit.privacy.accounting import epsilon
from tacit.privacy.mechanism import Mechanism, plan
from tacit.privacy.randomness import Randomness
from tacit.secagg.keys import Secret
from tacit.tasks.table import find
from tacit.tasks.task import Encoded
from tacit.wire import Ask, Update
from tacit_client.ledger import DataSet, Ledger
from tacit_client.masking import Standing
from tacit_client.partner import Site, take_part
from tacit_client.train import Shard, Trainer
from tacit_server.checkpoint import RunState
from tacit_server.result import result
from tacit_sim import known

torch.set_num_threads(1)

OWNERS = (3, 3, 3, 0, 1, 1, 3, 2, 2, 3, 4, 4, 4, 5, 3, 0)
BIG, SMALL, OTHERS = 500, 5, 8  # rows of one patient, rows of each other, other patients


def _images(*, n: int = 16) -> Encoded:
    generator = torch.Generator().manual_seed(5)
    return Encoded((torch.randn(n, 3, 8, 8, generator=generator),), torch.arange(n) % 3)


def _texts(*, n: int = 16, length: int = 6) -> Encoded:
    generator = torch.Generator().manual_seed(6)
    ids = torch.randint(0, 256, (n, length), generator=generator)
    mask = torch.arange(length)[None, :] < torch.randint(0, length + 1, (n,), generator=generator)[:, None]
    return Encoded((ids, torch.arange(length).expand(n, -1), mask), torch.arange(n) % 3)


def _network(kind: str) -> nn.Module:
    torch.manual_seed(3)
    if kind == "cnn":
        return build_cnn(CnnOptions(classes=3, shape=(8, 8, 3), layers="small"))
    return build_transformer(TransformerOptions(classes=3, width=8, depth=1, heads=2, length=6))


DATA = {"cnn": _images(), "transformer": _texts()}


@pytest.mark.parametrize("most", [1, 2, 4, 50])
@pytest.mark.parametrize("kind", ["cnn", "transformer"])
def test_training_equals_one_person_at_a_time(kind, most):
    mechanism = private(steps=5, sampling_rate=0.4, unit="patient_id")
    case = Case(_network(kind), DATA[kind], mechanism, sgd(momentum=0.9), seed=31, owners=OWNERS, most=most)
    expected = twin(case)
    assert np.abs(expected).max() > 0.01
    for chunk in (1, 3, 512):
        np.testing.assert_allclose(trained(case, max_physical_batch=chunk), expected, atol=1e-5)


def test_without_a_mechanism_a_person_counts_as_much():
    mechanism = Mechanism(
        kind="none",
        max_grad_norm=0.0,
        noise_multiplier=0.0,
        sampling_rate=0.6,
        expected_batch=4.0,
        steps=4,
        unit="patient_id",
    )
    case = Case(_network("cnn"), DATA["cnn"], mechanism, sgd(momentum=0.9), owners=OWNERS, most=2)
    for chunk in (1, 3, 512):
        np.testing.assert_allclose(trained(case, max_physical_batch=chunk), twin(case), atol=2e-5)


@settings(max_examples=20, deadline=None)
@given(sizes=st.lists(st.integers(1, 9), min_size=1, max_size=6), most=st.integers(1, 9), chunk=st.integers(1, 12))
def test_persons_of_any_sizes_equal_the_twin(sizes, most, chunk):
    owners = tuple(person for person, size in enumerate(sizes) for _ in range(size))
    generator = torch.Generator().manual_seed(len(owners))
    data = Encoded((torch.randn(len(owners), 4, generator=generator),), torch.arange(len(owners)) % 3)
    torch.manual_seed(8)
    network = nn.Sequential(nn.Linear(4, 5), nn.Tanh(), nn.Linear(5, 3))
    mechanism = private(steps=3, sampling_rate=0.7, max_grad_norm=0.3, unit="patient_id")
    case = Case(network, data, mechanism, sgd(), owners=owners, most=most)
    np.testing.assert_allclose(trained(case, max_physical_batch=chunk), twin(case), atol=1e-5)


@pytest.mark.parametrize(("of_data", "of_mechanism"), [("example", "patient_id"), ("patient_id", "example")])
def test_a_mechanism_for_another_unit_is_refused(of_data, of_mechanism):
    owners = None if of_data == "example" else OWNERS
    case = Case(_network("cnn"), DATA["cnn"], private(unit=of_data), sgd(), owners=owners)
    trainer = Trainer(case.network, task=TASK, private=True, device=torch.device("cpu"), max_physical_batch=64)
    with pytest.raises(BadInput, match=f"expected a mechanism for the unit {of_data}, found one for {of_mechanism}"):
        trainer.train(
            vector.flatten(case.network),
            case.shard,
            mechanism=private(unit=of_mechanism),
            training=case.training,
            learning_rate=0.1,
            sampling=case.stream("sampling"),
            noise=case.stream("noise"),
        )


def _patients(*, with_big: bool) -> tuple[Encoded, tuple[int, ...]]:
    """Patients with 5 rows of noise each, and one whose 500 rows all say the same."""
    generator = torch.Generator().manual_seed(2)
    x, y = torch.randn(OTHERS * SMALL, 4, generator=generator), torch.arange(OTHERS * SMALL) % 3
    owners = [person for person in range(OTHERS) for _ in range(SMALL)]
    if with_big:
        x = torch.cat([x, torch.full((BIG, 4), 2.0) + 0.1 * torch.randn(BIG, 4, generator=generator)])
        y = torch.cat([y, torch.zeros(BIG, dtype=torch.int64)])
        owners += [OTHERS] * BIG
    return Encoded((x,), y), tuple(owners)


def _sum(*, with_big: bool, unit: str, most: int = SMALL, noise: float = 0.0, seed: int = 1) -> np.ndarray:
    """The sum of clipped gradients of a step that takes everybody, float32 `[d]`."""
    torch.manual_seed(4)
    network = nn.Linear(4, 3)
    with torch.no_grad():  # weights of zero, so that no rounding of theirs hides what a step adds to them
        for parameter in network.parameters():
            parameter.zero_()
    data, owners = _patients(with_big=with_big)
    mechanism = private(unit=unit, sampling_rate=1.0, noise_multiplier=noise, expected_batch=1.0)
    by_person = None if unit == "example" else owners
    return trained(Case(network, data, mechanism, sgd(learning_rate=1.0), seed=seed, owners=by_person, most=most))


CLIP = private().max_grad_norm


@pytest.mark.parametrize("most", [SMALL, 100, BIG])
def test_a_patient_with_500_rows_moves_a_step_by_the_clip_norm_at_most(most):
    influence = _sum(with_big=True, unit="patient_id", most=most) - _sum(with_big=False, unit="patient_id", most=most)
    assert 0.5 * CLIP < np.linalg.norm(influence) <= CLIP * (1 + 1e-4)


def test_without_the_unit_the_same_patient_moves_it_by_hundreds():
    influence = _sum(with_big=True, unit="example") - _sum(with_big=False, unit="example")
    assert np.linalg.norm(influence) > 300 * CLIP


def _guesses(unit: str, *, noise: float, times: int) -> float:
    """How often a test that knows all other patients tells whether the big one was there, 0.5 to 1."""
    without, with_big = (_sum(with_big=big, unit=unit) for big in (False, True))
    line, middle = with_big - without, (with_big + without) / 2
    right = 0
    for i in range(times):
        there = i % 2 == 0
        seen = _sum(with_big=there, unit=unit, noise=noise, seed=100 + i)
        right += bool((seen - middle) @ line > 0) == there
    return right / times


@pytest.mark.statistical
def test_membership_of_that_patient_is_certain_without_the_unit_and_hidden_with_it():
    """The best test of two normals a distance of 1 / noise apart is right with chance Phi(1 / (2 noise))."""
    noise, times = 3.0, 240
    best = stats.norm.cdf(1 / (2 * noise))
    spread = math.sqrt(best * (1 - best) / times)
    assert _guesses("example", noise=noise, times=times) == 1.0
    assert abs(_guesses("patient_id", noise=noise, times=times) - best) < 4 * spread


WILD = st.sampled_from([0.0, 1e-30, 1.0, -1e6, 1e19, 3e38, -3e38, math.inf, -math.inf, math.nan])


@settings(max_examples=40, deadline=None)
@given(rows=st.lists(st.lists(WILD, min_size=4, max_size=4), min_size=1, max_size=4), most=st.integers(1, 4))
def test_no_person_moves_the_sum_by_more_than_the_clip_norm(rows, most):
    """Whatever its rows hold; and nobody else's part changes by it."""
    data, owners = _patients(with_big=False)
    more = Encoded(
        (torch.cat([data.inputs[0], torch.tensor(rows)]),), torch.cat([data.targets, data.targets[: len(rows)]])
    )
    network = nn.Linear(4, 3)
    with torch.no_grad():
        for parameter in network.parameters():
            parameter.zero_()
    mechanism = private(unit="patient_id", sampling_rate=1.0, noise_multiplier=0.0, expected_batch=1.0)
    both = [
        Case(network, data, mechanism, sgd(learning_rate=1.0), owners=owners, most=SMALL),
        Case(network, more, mechanism, sgd(learning_rate=1.0), owners=(*owners, *[OTHERS] * len(rows)), most=SMALL),
    ]
    without, with_it = (trained(case, max_physical_batch=7) for case in both)
    assert np.isfinite(with_it).all()
    assert np.linalg.norm(with_it - without) <= CLIP * (1 + 1e-4)


def test_event_ledger_update_and_result_name_the_unit(tmp_path, make_job):
    data, owners = _patients(with_big=True)
    job = make_job(
        "training.batch_size=4", "privacy.delta=1e-3", "aggregation.secure=false", "evaluation.partner_holdout=0.0"
    )
    shard = Case(nn.Linear(4, 3), data, private(unit="patient_id"), sgd(), owners=owners, most=2).shard
    ledger = Ledger(
        tmp_path / "ledger.db", partner="p", key=Secret(bytes(32)), dataset=DataSet("f" * 64, unit="patient_id")
    )
    site = Site("p", shard, Shard(data, torch.arange(0)), ledger, Randomness(3))
    trainer = Trainer(nn.Linear(4, 3), task=TASK, private=True, device=torch.device("cpu"), max_physical_batch=64)
    ask = Ask(job=job, run="run", round=1, attempt=1, cohort=3, vector=np.zeros(15, np.float32))
    _, update = take_part(ask, site, trainer, Standing())
    planned = plan(job, units=OTHERS + 1, unit="patient_id").event()
    assert (planned.unit, planned.sampling_rate) == ("patient_id", 4 / (OTHERS + 1))  # of 9 persons, not of 540 rows
    assert ledger.events() == (planned,)
    heard = Update.unpack(update.pack())
    assert heard.events == (planned,)
    state = RunState(
        run="run", job_hash=job.hash(), vector=ask.vector, history=(), events={"p": heard.events}, best=None
    )
    found = result(job, state, engine="x", seed=1, parameters=15, secure_noise=False, data={}, wall_s=1.0)["privacy"]
    assert (found["unit"], found["unit_by_partner"]) == ("patient_id", {"p": "patient_id"})
    assert found["events_by_partner"]["p"][0]["unit"] == "patient_id"
    assert found["epsilon"] == epsilon([planned], delta=1e-3)


def test_patients_of_five_pictures_each_are_learnt_from():
    train, test = known.load("digits", data=None)
    options = CnnOptions(classes=10, shape=(8, 8), layers="small")
    task = find("image-classification").task
    torch.manual_seed(1)
    network = build_cnn(options)
    owners = tuple(i // 5 for i in range(len(train)))
    mechanism = private(
        unit="patient_id", steps=60, sampling_rate=0.2, noise_multiplier=1.0, max_grad_norm=1.0, expected_batch=58.0
    )
    case = Case(
        network, task.encode(options, train), mechanism, sgd(learning_rate=1.0), owners=owners, most=2, task=task
    )
    trainer = Trainer(network, task=task, private=True, device=torch.device("cpu"), max_physical_batch=256)
    held = Shard(task.encode(options, test), torch.arange(len(test)))
    start = vector.flatten(network)
    after = start + trained(case, trainer=trainer)
    before, now = (trainer.evaluate(model, held, classes=10).summary() for model in (start, after))
    assert now.loss < 0.6 * before.loss
    assert now.accuracy > 0.6 > before.accuracy
