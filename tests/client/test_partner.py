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
from tacit.privacy.mechanism import plan
from tacit.privacy.randomness import Randomness, Stream
from tacit.tasks.task import Encoded
from tacit.wire import Ask, Parcel, Score, Statement, Update
from tacit_client.ledger import Ledger
from tacit_client.partner import Site, judge, state, take_part
from tacit_client.train import Shard, Trainer

torch.set_num_threads(1)

N = 64
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
    data = Encoded((torch.randn(N + 10, 4, generator=generator),), torch.arange(N + 10) % 3)
    return Site(
        name=name,
        train=Shard(data, torch.arange(N)),
        holdout=Shard(data, torch.arange(N, N + 10)),
        ledger=Ledger(path, partner=name),
        randomness=randomness or Randomness(3),
    )


def _ask(job: Job, *, run: str = "run", number: int = 1, attempt: int = 0) -> Ask:
    return Ask(job=job, run=run, round=number, attempt=attempt, vector=vector.flatten(_network()))


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
        ledger = Ledger(self._path, partner="p")
        self.seen.append(len(ledger.events()))
        ledger.close()


def test_the_event_is_on_disk_before_anything_is_drawn(tmp_path, make_job):
    path, job = tmp_path / "ledger.db", make_job()
    watch = _Watch(path)
    take_part(_ask(job), _site(path, randomness=watch), _trainer(job))
    assert len(watch.seen) >= 2 + job.training.local_steps * 2  # two streams, and every draw from them
    assert set(watch.seen) == {1}


@pytest.mark.parametrize("error", [BadInput("expected x, found y", hint="z"), RuntimeError(), KeyboardInterrupt()])
def test_training_that_fails_is_charged(tmp_path, make_job, monkeypatch, error):
    path, job = tmp_path / "ledger.db", make_job()

    def fail(self, *args, **kwargs):
        raise error

    monkeypatch.setattr(Trainer, "train", fail)
    with pytest.raises(type(error)):
        take_part(_ask(job), _site(path), _trainer(job))
    assert Ledger(path, partner="p").events() == (plan(job, examples=N).event(),)


def test_a_job_that_the_data_can_not_serve_costs_nothing(tmp_path, make_job):
    path, job = tmp_path / "ledger.db", make_job(f"training.batch_size={N + 1}")
    with pytest.raises(BadInput, match="batch_size"):
        take_part(_ask(job), _site(path), _trainer(job))
    assert Ledger(path, partner="p").events() == ()


def test_a_ledger_that_can_not_be_written_stops_the_training(tmp_path, make_job, monkeypatch):
    path, job = tmp_path / "ledger.db", make_job()
    site = _site(path)
    site.ledger._db.execute("PRAGMA query_only = ON")
    monkeypatch.setattr(Trainer, "train", lambda self, *args, **kwargs: pytest.fail("trained without a ledger"))
    with pytest.raises(BadInput, match="privacy ledger"):
        take_part(_ask(job), site, _trainer(job))


def test_an_update_states_every_release_of_the_run_and_of_no_other(tmp_path, make_job):
    path, job = tmp_path / "ledger.db", make_job()
    event, trainer = plan(job, examples=N).event(), _trainer(job)
    take_part(_ask(job, run="before"), _site(path), trainer)
    for done in (1, 2, 3):
        site = _site(path)  # as after a restart
        update = take_part(_ask(job, number=done), site, trainer)
        assert update.events == (event.model_copy(update={"steps": done * event.steps}),)
        assert state("run", site).events == update.events
    assert state("before", _site(path)).events == (event,)
    assert state("never", _site(path)).events == ()


def test_every_attempt_draws_anew_and_is_charged_anew(tmp_path, make_job):
    path, job = tmp_path / "ledger.db", make_job()
    site, trainer = _site(path), _trainer(job)
    asks = (_ask(job), _ask(job, attempt=1), _ask(job, number=2))
    deltas = [take_part(ask, site, trainer).delta for ask in asks]
    other = take_part(_ask(job), _site(path, name="q"), trainer).delta
    assert len({delta.tobytes() for delta in (*deltas, other)}) == 4
    assert len(site.ledger.events()) == 3
    again = take_part(_ask(job), site, trainer).delta
    np.testing.assert_array_equal(again, deltas[0])  # a seed's noise can be recomputed
    assert len(site.ledger.events()) == 4


def test_counts_leave_only_where_the_job_weighs_by_them(tmp_path, make_job):
    path = tmp_path / "ledger.db"
    private = make_job()
    assert take_part(_ask(private), _site(path), _trainer(private)).counters.tolist() == []
    parts = ("privacy.noise_multiplier", "privacy.delta", "privacy.max_grad_norm")
    weighed = make_job("privacy.mechanism=none", "aggregation.weighting=examples", without=parts)
    assert take_part(_ask(weighed), _site(path), _trainer(weighed)).counters.tolist() == [N]


def test_the_learning_rate_is_that_of_the_round(tmp_path, make_job):
    """Without noise or clipping to speak of, half the rate moves half as far in one step."""
    parts = ("privacy.noise_multiplier", "privacy.delta", "privacy.max_grad_norm")
    settings = (
        "privacy.mechanism=none",
        "training.schedule=linear",
        "training.local_steps=1",
        "training.batch_size=64",
    )
    job = make_job(*settings, without=parts)
    site, trainer = _site(tmp_path / "ledger.db"), _trainer(job)
    first, second = (take_part(_ask(job, number=number), site, trainer).delta for number in (1, 2))
    np.testing.assert_allclose(second, first / 2, atol=1e-6)


SPEED = {"max_physical_batch": (1, 7, 512)}


def test_fields_that_are_for_speed_change_nothing(tmp_path, make_job):
    assert set(SPEED) == set(PerformanceSection.model_fields)  # a new field needs its values here
    plain = make_job()
    expected = take_part(_ask(plain), _site(tmp_path / "plain.db"), _trainer(plain))
    tried = 0
    for field, values in SPEED.items():
        for value in values:
            job = make_job(f"performance.{field}={value}")
            found = take_part(_ask(job), _site(tmp_path / f"{field}-{value}.db"), _trainer(job))
            np.testing.assert_allclose(found.delta, expected.delta, atol=1e-6)
            assert (found.name, found.events, found.counters.tolist()) == (expected.name, expected.events, [])
            assert job.hash() == plain.hash()
            tried += 1
    assert tried == 3


def test_judging_uses_the_held_out_examples_and_costs_nothing(tmp_path, make_job):
    job = make_job()
    site = _site(tmp_path / "ledger.db")
    score = judge(_ask(job), site, _trainer(job), classes=3)
    network, right = _network().eval(), 0
    for row in range(N, N + 10):
        right += int(network(site.holdout.data.inputs[0][row]).argmax()) == int(site.holdout.data.targets[row])
    counters = Counters.from_vector(score.counters, classes=3)
    assert counters.confusion.sum() == 10
    assert counters.confusion.trace() == right
    assert site.ledger.events() == ()


def test_messages_come_back_from_their_parcels(tmp_path, make_job):
    job = make_job()
    site = _site(tmp_path / "ledger.db")
    update = take_part(_ask(job), site, _trainer(job))
    back = Update.unpack(update.pack())
    assert (back.name, back.events, back.seconds) == (update.name, update.events, update.seconds)
    np.testing.assert_array_equal(back.delta, update.delta)
    assert Statement.unpack(state("run", site).pack()) == state("run", site)


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
        Update(name="p", delta=planted, counters=planted.astype(np.int64), events=(), seconds=1.0),
        Score("p", planted.astype(np.int64)),
        Parcel({"model": planted}, {"secret": SECRET}),
        replace(_site(tmp_path / "ledger.db"), train=shard, holdout=shard),
    ]
    for value in shown:
        for text in (repr(value), str(value), f"{value}", repr([value]), repr({"x": value})):
            assert "31337" not in text, type(value)
            assert "tensor(" not in text, type(value)
            assert "array(" not in text, type(value)
