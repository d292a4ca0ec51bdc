"""A partner's part in a round that protects it as a whole: what is written before what, and what leaves."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import nn
from twin import TASK

from tacit import vector
from tacit.errors import BadInput
from tacit.job import Job
from tacit.privacy.events import PARTNER, Event
from tacit.privacy.grid import Grid
from tacit.privacy.mechanism import local, plan
from tacit.privacy.quantile import clip, join, joint_norm
from tacit.privacy.randomness import Randomness
from tacit.privacy.shares import update_grid
from tacit.quantize import Ring
from tacit.secagg.keys import Secret
from tacit.tasks.task import Encoded
from tacit.wire import Ask, Update
from tacit_client import partner, whole
from tacit_client.ledger import DataSet, Ledger
from tacit_client.masking import Standing
from tacit_client.partner import Site
from tacit_client.train import Shard, Trainer

torch.set_num_threads(1)

KEY, DATA = Secret(bytes(32)), DataSet("0" * 64)
SERVER = ("privacy={mechanism='client', noise_multiplier=1.0, delta=1e-4, max_update_norm=0.25, noise_by='server'}",)
MOVES = (*SERVER, "privacy.clip_quantile=0.5")
EVENT = Event(kind="client", sampling_rate=1.0, noise_multiplier=1.0, steps=1, unit=PARTNER)
N = 64


def _network() -> nn.Module:
    torch.manual_seed(9)
    return nn.Sequential(nn.Linear(4, 6), nn.Tanh(), nn.Linear(6, 3))


D = vector.size(_network())


@pytest.fixture(scope="session")
def make_job(make_job):
    """Partners hold nothing out."""
    return lambda *changes, **rest: make_job("evaluation.partner_holdout=0.0", *changes, **rest)


def _trainer() -> Trainer:
    return Trainer(_network(), task=TASK, private=False, device=torch.device("cpu"), max_physical_batch=32)


def _site(path, *, n: int = N, chance: float = 1.0, seed: int = 1) -> Site:
    data = Encoded((torch.randn(N, 4, generator=torch.Generator().manual_seed(seed)),), torch.arange(N) % 3)
    return Site(
        name="p",
        train=Shard(data, torch.arange(n)),
        holdout=Shard(data, torch.arange(0)),
        ledger=Ledger(path, partner="p", key=KEY, dataset=DATA),
        randomness=Randomness(3),
        chance=chance,
    )


def _ask(job: Job, *, number: int = 1, attempt: int = 1, norm: float | None = None) -> Ask:
    start = vector.flatten(_network())
    return Ask(job=job, run="r", round=number, attempt=attempt, cohort=3, vector=start, norm=norm)


def _update(ask: Ask, site: Site, trainer: Trainer | None = None) -> Update:
    return whole.take_part(ask, site, trainer or _trainer(), Standing())[1]


def test_the_event_is_on_disk_before_training(tmp_path, make_job, monkeypatch):
    path, job = tmp_path / "ledger.db", make_job(*SERVER)
    seen = []

    def watch(self, start, *args, **rest):
        seen.append(Ledger(path, partner="p", key=KEY, dataset=DATA).events())
        return np.zeros_like(start)

    monkeypatch.setattr(Trainer, "train", watch)
    assert _update(_ask(job), _site(path)).events == (EVENT,)
    _update(_ask(job, number=2), _site(path))
    assert seen == [(EVENT,), (EVENT, EVENT)]


@pytest.mark.parametrize("error", [RuntimeError(), KeyboardInterrupt()])
def test_training_that_crashes_is_charged(tmp_path, make_job, monkeypatch, error):
    def fail(*args, **rest):
        raise error

    monkeypatch.setattr(Trainer, "train", fail)
    with pytest.raises(type(error)):
        _update(_ask(make_job(*SERVER)), _site(tmp_path / "l"))
    assert Ledger(tmp_path / "l", partner="p", key=KEY, dataset=DATA).events() == (EVENT,)


def _decoded(update: Update, *, norm: float) -> np.ndarray:
    return Ring(norm=norm, partners=3).decode(update.vector.update, weight=1.0)


@pytest.mark.parametrize("size", [1.0, 0.01])
def test_the_update_leaves_clipped_and_says_nothing_else(tmp_path, make_job, monkeypatch, size):
    """Guarantee: no count, no time and no note of clipping leaves beside the update."""
    delta = np.full(D, size, np.float32)
    monkeypatch.setattr(Trainer, "train", lambda *args, **rest: delta)
    update = _update(_ask(make_job(*SERVER)), _site(tmp_path / "l"))
    assert update.vector.counters.tolist() == [1, 0, 0]
    expected, _ = clip(delta, norm=0.25)
    np.testing.assert_allclose(_decoded(update, norm=0.25), expected, atol=1e-9, rtol=1e-6)
    assert np.linalg.norm(expected) == pytest.approx(min(0.25, np.linalg.norm(delta)))


@pytest.mark.parametrize(("size", "bit"), [(1.0, -0.5), (0.01, 0.5)])
def test_where_the_norm_moves_the_servers_one_counts_and_an_entry_more_leaves(
    tmp_path, make_job, monkeypatch, size, bit
):
    delta = np.full(D, size, np.float32)
    monkeypatch.setattr(Trainer, "train", lambda *args, **rest: delta)
    update = _update(_ask(make_job(*MOVES), norm=0.5), _site(tmp_path / "l"))
    found = _decoded(update, norm=joint_norm(0.5))
    assert len(found) == D + 1
    np.testing.assert_allclose(found[:-1], clip(delta, norm=0.5)[0], atol=1e-8, rtol=1e-6)
    assert found[-1] == pytest.approx(0.25 * bit, rel=1e-6)


@pytest.mark.parametrize("bad", ["nan", "diverged"])
def test_no_refusal_tells_of_the_data(tmp_path, make_job, monkeypatch, bad):
    """Guarantee: training that leaves the finite numbers is no refusal: the partner counts as zero."""

    def train(self, start, *args, **rest):
        if bad == "nan":
            return np.full_like(start, np.nan)
        raise BadInput("expected finite parameters after training, found NaN", hint="lower it")

    monkeypatch.setattr(Trainer, "train", train)
    update = _update(_ask(make_job(*SERVER)), _site(tmp_path / "l"))
    assert np.abs(_decoded(update, norm=0.25)).max() < 1e-8  # a step of the ring
    assert update.events == (EVENT,)


@pytest.mark.parametrize("n", [1, 5, 31, 33])
def test_a_partner_with_less_than_a_batch_takes_part(tmp_path, make_job, n):
    update = _update(_ask(make_job(*SERVER)), _site(tmp_path / "l", n=n))
    assert np.abs(_decoded(update, norm=0.25)).max() > 1e-4
    found = local(make_job(*SERVER), units=n)
    assert (found.kind, found.steps, found.expected_batch) == ("none", 2, min(n, 32))
    assert found.sampling_rate == min(1.0, 32 / n)


def test_training_learns_from_the_data(tmp_path, make_job):
    """The update is the trainer's, not zeros: what is caught above hides no fault of the code."""
    ask, site, trainer = _ask(make_job(*SERVER)), _site(tmp_path / "l"), _trainer()
    expected = trainer.train(
        ask.vector,
        site.train,
        mechanism=local(ask.job, units=N),
        training=ask.job.training,
        learning_rate=ask.job.training.learning_rate,
        sampling=site.randomness.stream("sampling", "p", 1, 1),
        noise=site.randomness.stream("unused"),
    )
    found = _decoded(_update(ask, site, trainer), norm=0.25)
    np.testing.assert_allclose(found, clip(expected, norm=0.25)[0], atol=1e-8, rtol=1e-5)


def test_a_model_of_another_length_costs_nothing(tmp_path, make_job):
    ask = replace(_ask(make_job(*SERVER)), vector=np.zeros(D + 1, np.float32))
    with pytest.raises(BadInput, match=f"a model of {D} parameters, found {D + 1}"):
        _update(ask, _site(tmp_path / "l"))
    assert Ledger(tmp_path / "l", partner="p", key=KEY, dataset=DATA).events() == ()


def test_the_local_part_of_other_jobs_does_not_serve_it(tmp_path, make_job):
    """Guarantee: a job of `client` never goes the way of a job whose noise is in the local steps."""
    with pytest.raises(BadInput, match="a mechanism for the unit example, found one for partner"):
        partner.take_part(_ask(make_job(*SERVER)), _site(tmp_path / "l"), _trainer(), Standing())


def test_a_user_is_charged_for_rounds_in_which_it_was_not_drawn(tmp_path, make_job):
    """Guarantee: the chance of being drawn is in the event, so every round costs every user as much."""
    site, job = _site(tmp_path / "l", chance=0.25), make_job(*SERVER)

    def steps() -> int:
        events = site.ledger.totals(run="r")
        assert {(e.sampling_rate, e.unit) for e in events} <= {(0.25, PARTNER)}
        return sum(event.steps for event in events)

    _update(_ask(job, number=3), site)
    assert steps() == 3
    _update(_ask(job, number=4), site)
    assert steps() == 4
    _update(_ask(job, number=4, attempt=2), site)  # the same round again is one more
    assert steps() == 5
    whole.charge_rounds(_ask(job, number=9), site)
    assert steps() == 9
    whole.charge_rounds(_ask(job, number=9), site)
    assert steps() == 9


def test_a_partner_who_is_not_drawn_by_chance_is_charged_for_its_rounds_alone(tmp_path, make_job):
    site, job = _site(tmp_path / "l"), make_job(*SERVER)
    _update(_ask(job, number=7), site)
    assert site.ledger.totals(run="r") == (EVENT,)


SHARES = "privacy={mechanism='client', noise_multiplier=1.0, delta=1e-4, max_update_norm=1.0}"
VECTORS = st.lists(st.floats(-1e3, 1e3, width=32), min_size=6, max_size=6)


@given(st.lists(VECTORS, min_size=0, max_size=4), VECTORS, st.floats(1e-3, 1e3), st.booleans())
def test_one_partner_moves_the_sum_by_at_most_the_sensitivity(others, one, norm, moves):
    """Guarantee: with and without a partner, whatever it holds, the sums of integers are as far apart as said."""
    length = 7 if moves else 6
    ring = Ring(norm=joint_norm(norm) if moves else norm, partners=5)

    def encoded(update: list[float], place: int) -> np.ndarray:
        vector, within = clip(np.array(update, np.float32), norm=norm)
        vector = join(vector, norm=norm, within=within) if moves else vector
        rounding = Randomness(1).stream("rounding", place)
        return ring.encode(vector.astype(np.float32), weight=1.0, rounding=rounding)[0]

    rest = sum((encoded(o, i) for i, o in enumerate(others)), np.zeros(length, np.uint32))
    moved = (rest + encoded(one, 9)).view(np.int32).astype(np.float64) - rest.view(np.int32)
    most = ring.norm + np.sqrt(length) * ring.step
    assert np.linalg.norm(moved) * ring.step <= most * (1 + 2.0**-20)


@given(VECTORS, st.floats(1e-3, 1e3))
def test_one_partner_moves_the_grid_of_shares_by_at_most_its_sensitivity(one, norm):
    grid = Grid(clip=norm, length=6, partners=5, honest=3, noise_multiplier=1.0, most=1.0)
    vector, _ = clip(np.array(one, np.float32), norm=norm)
    exact = np.rint(vector / grid.unit)
    assert np.linalg.norm(exact) <= grid.sensitivity
    noise = Randomness(1).stream("noise")
    encoded = grid.encode(vector, noise=noise).view(np.int32)
    assert np.abs(encoded - exact).max() < 31 * grid.share_std + 1000


def test_the_shares_are_sized_for_the_threshold_less_the_colluders(make_job):
    job = make_job(SHARES, "aggregation.secure=true", "aggregation.min_cohort=10", "aggregation.max_colluders=2")
    mechanism = plan(job, units=5)
    assert (mechanism.event().colluders, mechanism.event().sampling_rate, mechanism.unit) == (2, 1.0, PARTNER)
    grid = update_grid(job, mechanism, cohort=10, length=100, norm=None)
    assert (grid.clip, grid.honest, grid.most) == (1.0, 5, 1.0)
    assert update_grid(job, mechanism, cohort=10, length=101, norm=2.0).clip == joint_norm(2.0)


def test_the_plan_counts_rounds_not_steps_and_the_chance_it_is_given(make_job):
    overrides = ("privacy.epsilon=2.0", "training.rounds=30", "training.local_steps=50")
    job = make_job(
        "privacy={mechanism='client', epsilon=2.0, delta=1e-4, max_update_norm=1.0, noise_by='server'}", *overrides
    )
    each, drawn = plan(job, units=5), plan(job, units=5, chance=0.1)
    assert (each.steps, each.sampling_rate, drawn.sampling_rate) == (1, 1.0, 0.1)
    assert each.noise_multiplier > 3 * drawn.noise_multiplier
    assert plan(job, units=10**6) == each  # nothing of the data is in it
