"""A partner's part in a round: what is written before what, and what leaves."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch
from torch import nn
from twin import TASK

from tacit import vector
from tacit.errors import BadInput
from tacit.job import Job, PerformanceSection
from tacit.metrics import Counters
from tacit.parcel import Parcel
from tacit.privacy.mechanism import plan
from tacit.privacy.randomness import Randomness, Stream
from tacit.quantize import Ring
from tacit.secagg.keys import Secret
from tacit.secagg.messages import MaskedVector
from tacit.tasks.task import Encoded
from tacit.wire import Ask, Statement, Update
from tacit_client.ledger import DataSet, Ledger
from tacit_client.masking import Standing
from tacit_client.partner import Site, judge, state, take_part
from tacit_client.train import Shard, Trainer

KEY, DATA = Secret(bytes(32)), DataSet("0" * 64)

torch.set_num_threads(1)

N, HELD = 64, 7  # a tenth of them all, as the job says
SECRET = 31337.0  # planted in data, models and updates; must show nowhere


def _network() -> nn.Module:
    torch.manual_seed(9)
    return nn.Sequential(nn.Linear(4, 6), nn.Tanh(), nn.Linear(6, 3))


def _trainer(job: Job) -> Trainer:
    return Trainer(
        _network(),
        task=TASK,
        private=job.privacy.mechanism != "none",
        device=torch.device("cpu"),
        max_physical_batch=job.performance.max_physical_batch,
    )


def _site(path, *, name: str = "p", randomness: Randomness | None = None) -> Site:
    generator = torch.Generator().manual_seed(1)
    data = Encoded((torch.randn(N + HELD, 4, generator=generator),), torch.arange(N + HELD) % 3)
    return Site(
        name=name,
        train=Shard(data, torch.arange(N)),
        holdout=Shard(data, torch.arange(N, N + HELD)),
        ledger=Ledger(path, partner=name, key=KEY, dataset=DATA),
        randomness=randomness or Randomness(3),
    )


def _ask(job: Job, *, run: str = "run", number: int = 1, attempt: int = 1) -> Ask:
    return Ask(job=job, run=run, round=number, attempt=attempt, cohort=3, vector=vector.flatten(_network()))


def _update(ask: Ask, site: Site, trainer: Trainer) -> Update:
    standing, update = take_part(ask, site, trainer, Standing())
    assert standing == Standing()  # a job in clear leaves nothing behind
    return update


def _delta(update: Update, ask: Ask) -> np.ndarray:
    """What the update stands for, off by less than a step of the grid."""
    return Ring(norm=ask.job.aggregation.max_update_norm, partners=ask.cohort).decode(update.vector.update, weight=1)


class _Watch(Randomness):
    """Randomness that notes how many events were in the ledger, on disk, whenever a stream is asked for or drawn."""

    def __init__(self, path) -> None:
        super().__init__(3)
        object.__setattr__(self, "seen", [])
        object.__setattr__(self, "_path", path)

    def stream(self, *labels):
        watch, inner = self, super().stream(*labels)

        class Watched(Stream):
            def words(self, n):
                watch._note()
                return inner.words(n)

        self._note()
        return Watched(bytes(32))

    def _note(self) -> None:
        ledger = Ledger(self._path, partner="p", key=KEY, dataset=DATA)
        self.seen.append(len(ledger.events()))
        ledger.close()


def test_the_event_is_on_disk_before_anything_is_drawn(tmp_path, make_job):
    path, job = tmp_path / "ledger.db", make_job()
    watch = _Watch(path)
    _update(_ask(job), _site(path, randomness=watch), _trainer(job))
    assert len(watch.seen) >= 3 + job.training.local_steps * 2 + 1  # three streams, and every draw from them
    assert set(watch.seen) == {1}


@pytest.mark.parametrize("error", [BadInput("expected x, found y", hint="z"), RuntimeError(), KeyboardInterrupt()])
def test_training_that_fails_is_charged(tmp_path, make_job, monkeypatch, error):
    path, job = tmp_path / "ledger.db", make_job()

    def fail(self, *args, **kwargs):
        raise error

    monkeypatch.setattr(Trainer, "train", fail)
    with pytest.raises(type(error)):
        _update(_ask(job), _site(path), _trainer(job))
    assert Ledger(path, partner="p", key=KEY, dataset=DATA).events() == (plan(job, units=N + HELD).event(),)


def test_a_job_that_the_data_can_not_serve_costs_nothing(tmp_path, make_job):
    path, job = tmp_path / "ledger.db", make_job(f"training.batch_size={N + 1}")
    with pytest.raises(BadInput, match="batch_size"):
        _update(_ask(job), _site(path), _trainer(job))
    assert Ledger(path, partner="p", key=KEY, dataset=DATA).events() == ()


def test_a_ledger_that_can_not_be_written_stops_the_training(tmp_path, make_job, monkeypatch):
    path, job = tmp_path / "ledger.db", make_job()
    site = _site(path)
    site.ledger._book.db.execute("PRAGMA query_only = ON")
    monkeypatch.setattr(Trainer, "train", lambda self, *args, **kwargs: pytest.fail("trained without a ledger"))
    with pytest.raises(BadInput, match="privacy ledger"):
        _update(_ask(job), site, _trainer(job))


def test_an_update_states_every_release_of_the_run_and_of_no_other(tmp_path, make_job):
    path, job = tmp_path / "ledger.db", make_job()
    event, trainer = plan(job, units=N + HELD).event(), _trainer(job)
    _update(_ask(job, run="before"), _site(path), trainer)
    for done in (1, 2, 3):
        site = _site(path)  # as after a restart
        update = _update(_ask(job, number=done), site, trainer)
        assert update.events == (event.model_copy(update={"steps": done * event.steps}),)
        assert state(_ask(job), site).events == update.events
    assert state(_ask(job, run="before"), _site(path)).events == (event,)
    assert state(_ask(job, run="never"), _site(path)).events == ()


def test_every_attempt_draws_anew_and_is_charged_anew(tmp_path, make_job):
    path, job = tmp_path / "ledger.db", make_job()
    site, trainer = _site(path), _trainer(job)
    asks = (_ask(job), _ask(job, attempt=2), _ask(job, number=2))
    sent = [_update(ask, site, trainer).vector.update for ask in asks]
    other = _update(_ask(job), _site(path, name="q"), trainer).vector.update
    assert len({update.tobytes() for update in (*sent, other)}) == 4
    assert len(site.ledger.events()) == 3
    again = _update(_ask(job), site, trainer).vector.update
    np.testing.assert_array_equal(again, sent[0])  # a seed's noise can be recomputed
    assert len(site.ledger.events()) == 4


NOT_PRIVATE = ("privacy.noise_multiplier", "privacy.delta", "privacy.max_grad_norm")


def _plain(make_job, *overrides: str) -> Job:
    return make_job("privacy.mechanism=none", *overrides, without=NOT_PRIVATE)


def test_counts_leave_only_where_the_job_weighs_by_them(tmp_path, make_job):
    path = tmp_path / "ledger.db"
    for job, weight in (
        (make_job(), 1),
        (_plain(make_job), 1),
        (_plain(make_job, "aggregation.weighting=examples"), N),
        (_plain(make_job, "aggregation.weighting=examples", "aggregation.max_weight=50"), 50),
    ):
        counters = _update(_ask(job), _site(path), _trainer(job)).vector.counters
        assert (counters.dtype, counters.shape) == (np.uint64, (3,))
        assert counters[:2].tolist() == [weight, 0]
        assert 0 <= counters[2] < 60_000  # milliseconds


def test_an_update_is_multiplied_by_its_weight(tmp_path, make_job):
    job = _plain(make_job)
    weighed = _plain(make_job, "aggregation.weighting=examples", f"aggregation.max_weight={2 * N}")
    asks = _ask(job), _ask(weighed)
    one, half = (_delta(_update(ask, _site(tmp_path / "l.db"), _trainer(ask.job)), ask) for ask in asks)
    np.testing.assert_allclose(half, one / 2, atol=2 * 100 / (2**31 / 3))
    assert np.abs(one).max() > 1e-3


def test_a_long_update_is_shrunk_and_the_counter_says_so(tmp_path, make_job):
    plain, short = _plain(make_job), _plain(make_job, "aggregation.max_update_norm=0.01")
    whole, shrunk = (_update(_ask(job), _site(tmp_path / "l.db"), _trainer(job)) for job in (plain, short))
    assert (whole.vector.counters[1], shrunk.vector.counters[1]) == (0, 1)
    delta = _delta(whole, _ask(plain))
    np.testing.assert_allclose(_delta(shrunk, _ask(short)), 0.01 * delta / np.linalg.norm(delta), atol=1e-7)


def test_an_update_that_is_not_finite_is_charged_and_stays(tmp_path, make_job, monkeypatch):
    path, job = tmp_path / "ledger.db", make_job()
    monkeypatch.setattr(Trainer, "train", lambda self, start, *a, **k: np.full_like(start, np.nan))
    with pytest.raises(BadInput, match=r"^expected an update of finite numbers, found NaN or infinity$"):
        _update(_ask(job), _site(path), _trainer(job))
    assert Ledger(path, partner="p", key=KEY, dataset=DATA).events() == (plan(job, units=N + HELD).event(),)


def test_the_learning_rate_is_that_of_the_round(tmp_path, make_job):
    """Without noise or clipping to speak of, half the rate moves half as far in one step."""
    job = _plain(make_job, "training.schedule=linear", "training.local_steps=1", "training.batch_size=64")
    site, trainer = _site(tmp_path / "ledger.db"), _trainer(job)
    asks = _ask(job), _ask(job, number=2)
    first, second = (_delta(_update(ask, site, trainer), ask) for ask in asks)
    np.testing.assert_allclose(second, first / 2, atol=1e-6)


SPEED = {"max_physical_batch": (1, 7, 512)}


def test_fields_that_are_for_speed_change_nothing(tmp_path, make_job):
    assert set(SPEED) == set(PerformanceSection.model_fields)  # a new field needs its values here
    plain = make_job()
    expected = _update(_ask(plain), _site(tmp_path / "plain.db"), _trainer(plain))
    tried = 0
    for field, values in SPEED.items():
        for value in values:
            job = make_job(f"performance.{field}={value}")
            found = _update(_ask(job), _site(tmp_path / f"{field}-{value}.db"), _trainer(job))
            np.testing.assert_allclose(_delta(found, _ask(job)), _delta(expected, _ask(plain)), atol=1e-6)
            assert (found.name, found.events) == (expected.name, expected.events)
            assert found.vector.counters[:2].tolist() == [1, 0]
            assert job.hash() == plain.hash()
            tried += 1
    assert tried == 3


def test_judging_uses_the_held_out_examples_and_costs_nothing(tmp_path, make_job):
    job = make_job()
    site = _site(tmp_path / "ledger.db")
    _, score = judge(_ask(job), site, _trainer(job), Standing(), classes=3)
    network, right = _network().eval(), 0
    for row in range(N, N + HELD):
        right += int(network(site.holdout.data.inputs[0][row]).argmax()) == int(site.holdout.data.targets[row])
    assert (len(score.vector.update), score.events) == (0, ())
    counters = Counters.from_vector(score.vector.counters, classes=3)
    assert counters.confusion.sum() == HELD
    assert counters.confusion.trace() == right
    assert site.ledger.events() == ()


def test_messages_come_back_from_their_parcels(tmp_path, make_job):
    job = make_job()
    site = _site(tmp_path / "ledger.db")
    update = _update(_ask(job), site, _trainer(job))
    back = Update.unpack(update.pack())
    assert (back.name, back.events) == (update.name, update.events)
    for (_, one), (_, other) in zip(back.vector.channels(), update.vector.channels(), strict=True):
        np.testing.assert_array_equal(one, other)
    assert Statement.unpack(state(_ask(job), site).pack()) == state(_ask(job), site)


def test_no_repr_shows_values(tmp_path, make_job):
    planted = np.full(3, SECRET, np.float32)
    data = Encoded((torch.full((4, 2), SECRET),), torch.full((4,), int(SECRET)))
    key = b"31337-planted-key-of-32-bytes-31"
    shard = Shard(data, torch.tensor([1, 2]))
    shown = [
        Stream(key),
        shard,
        data,
        replace(_ask(make_job()), vector=planted),
        Update("p", MaskedVector(planted.astype(np.uint32), planted.astype(np.uint64))),
        MaskedVector(planted.astype(np.uint32), planted.astype(np.uint64)),
        Parcel({"model": planted}, {"secret": SECRET}),
        replace(_site(tmp_path / "ledger.db"), train=shard, holdout=shard),
    ]
    for value in shown:
        for text in (repr(value), str(value), f"{value}", repr([value]), repr({"x": value})):
            assert "31337" not in text, type(value)
            assert "tensor(" not in text, type(value)
            assert "array(" not in text, type(value)
