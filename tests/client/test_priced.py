"""An evaluation with a price: charged before anything is judged, noise on all that leaves, in clear and masked."""

from __future__ import annotations

import math
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from circle import NAMES, Circle, open_round
from torch import nn
from twin import TASK

from tacit import vector
from tacit.errors import BadInput
from tacit.job import Job
from tacit.metrics import NOISY_LOSS_LIMIT, Counters
from tacit.privacy.accounting import epsilon
from tacit.privacy.metrics import Price
from tacit.privacy.randomness import Randomness, Stream
from tacit.secagg import server
from tacit.secagg.keys import Secret
from tacit.tasks.task import Encoded
from tacit.wire import Ask, Update
from tacit_client.budget import Budget
from tacit_client.config import PolicySection
from tacit_client.ledger import DataSet, Ledger
from tacit_client.masking import Standing
from tacit_client.partner import Site, judge
from tacit_client.persons import Persons
from tacit_client.train import Shard, Trainer

torch.set_num_threads(1)

KEY, N, CLASSES = Secret(bytes(32)), 60, 3
PRICE = Price(noise_multiplier=6.0)
EXACT = Counters(np.array([[500, 100], [200, 400]]), 77)


class _Given:
    """A trainer that answers with `EXACT`, and notes what it was asked for."""

    def __init__(self, note: Callable[[], object] = lambda: None) -> None:
        self.asked: list[tuple[list[int], float]] = []
        self._note = note

    def evaluate(self, start, shard, *, classes, rows=None, most=1024.0) -> Counters:
        self._note()
        self.asked.append((list(range(len(shard))) if rows is None else rows.tolist(), most))
        return EXACT


def _shard(persons: Persons | None = None) -> Shard:
    generator = torch.Generator().manual_seed(1)
    data = Encoded((torch.randn(N, 4, generator=generator),), torch.arange(N) % CLASSES)
    return Shard(data, torch.arange(N), persons)


def _site(
    ledger: Ledger, *, price: Price | None = PRICE, shard: Shard | None = None, randomness: Randomness | None = None
) -> Site:
    shard = _shard() if shard is None else shard
    return Site("p0", shard, shard, ledger, randomness or Randomness(), price=price)


def _ledger(path: Path, unit: str = "example") -> Ledger:
    return Ledger(path / "ledger.db", partner="p0", key=KEY, dataset=DataSet("0" * 64, unit))


def _ask(job: Job, *, number: int = 1, attempt: int = 1) -> Ask:
    return Ask(job, "run", number, attempt, 3, np.zeros(5, np.float32))


def _judged(ask: Ask, site: Site, trainer: object, *, classes: int = 2) -> Update:
    return judge(ask, site, trainer, Standing(), classes=classes)[1]


def test_the_event_is_on_disk_before_anything_is_judged_or_drawn(tmp_path, make_job) -> None:
    """Guarantee: an attempt that fails afterwards stays charged."""
    seen: list[int] = []

    def note() -> None:
        ledger = _ledger(tmp_path)
        seen.append(len(ledger.events()))
        ledger.close()

    class Watch(Randomness):
        def stream(self, *labels: str | int) -> Stream:
            note()
            return super().stream(*labels)

    update = _judged(_ask(make_job()), _site(_ledger(tmp_path), randomness=Watch(3)), _Given(note))
    assert seen == [1, 1, 1]  # the choice of rows, the judging, the noise
    assert update.events == (PRICE.event(),) == _ledger(tmp_path).events()

    class Broken:
        def evaluate(self, *args: object, **kwargs: object) -> Counters:
            raise BadInput("expected x, found y", hint="z")

    with pytest.raises(BadInput, match="expected x"):
        _judged(_ask(make_job(), number=2), _site(_ledger(tmp_path)), Broken())
    assert len(_ledger(tmp_path).events()) == 2


def test_every_attempt_is_charged_and_draws_anew(tmp_path, make_job) -> None:
    site, trainer = _site(_ledger(tmp_path)), _Given()
    found = [_judged(_ask(make_job()), site, trainer) for _ in range(3)]
    assert len({update.vector.counters[:-1].tobytes() for update in found}) == 3
    assert found[-1].events == (PRICE.event().model_copy(update={"steps": 3}),)


def test_without_a_price_counts_are_exact_and_nothing_is_charged(tmp_path, make_job) -> None:
    trainer = _Given()
    update = _judged(_ask(make_job()), _site(_ledger(tmp_path), price=None), trainer)
    assert update.vector.counters.tolist() == EXACT.to_vector().tolist()
    assert update.events == _ledger(tmp_path).events() == ()
    assert trainer.asked == [(list(range(N)), 1024.0)]


@pytest.mark.statistical
def test_what_is_released_in_clear_has_the_noise_of_the_price(tmp_path, make_job) -> None:
    """Two-sided: 15 % more or less is told from it; 4 standard deviations over 2400 draws."""
    ledger = Ledger(Path(":memory:"), partner="p0", key=KEY, dataset=DataSet("0" * 64))
    site, job, trainer = _site(ledger, randomness=Randomness(5)), make_job("training.rounds=400"), _Given()
    draws = []
    for number in range(1, 401):
        released = Counters.from_vector(_judged(_ask(job, number=number), site, trainer).vector.counters, classes=2)
        draws += [*(released.confusion - EXACT.confusion).ravel(), released.right - 900, released.wrong - 300]
        assert released.variance == PRICE.variance
    assert len(draws) == 2400
    square, spread = np.mean(np.square(draws)), math.sqrt(2 / 2400)
    off = {times: (square / (times**2 * PRICE.variance) - 1) / spread for times in (0.85, 1.0, 1.15)}
    assert abs(off[1.0]) < 4
    assert off[0.85] > 4
    assert off[1.15] < -4


def test_under_the_mask_the_sum_has_everybodys_noise(tmp_path, make_job) -> None:
    """Negative sums come through modulo 2^64."""
    circle = Circle(make_job("aggregation.secure=true"))
    price, small = Price(noise_multiplier=40.0), Counters(np.array([[3, 0], [0, 4]]), 9)
    trainer = _Given()
    trainer.evaluate = lambda *args, **kwargs: small
    totals = []
    for number in range(1, 9):
        new = open_round(circle.job, number=number, purpose="evaluate", update=0, counters=Counters.length(2))
        gathering, asks = circle.begin(new)
        for i, name in enumerate(NAMES):
            ledger = Ledger(tmp_path / "all.db", partner=name, key=KEY, dataset=DataSet("0" * 64))
            site = Site(name, _shard(), _shard(), ledger, Randomness(), price=price)
            circle.standings[name], answer = judge(asks[name], site, trainer, circle.standings[name], classes=2)
            server.gather(gathering, i, answer.vector, answer.presence)
        totals.append(Counters.from_vector(circle.finish(gathering).counters, classes=2))
    assert {total.variance for total in totals} == {3 * price.variance}
    noise = np.concatenate([total.to_vector()[[0, 1, 2, 3, 5, 6]] for total in totals])
    noise = noise - np.tile([9, 0, 0, 12, 21, 0], 8)
    assert noise.min() < 0 < noise.max()
    assert 0.5 < np.std(noise) / math.sqrt(3 * price.variance) < 1.6
    assert np.abs([total.loss_sum for total in totals]).min() > 1000  # of noise, or of what wrapped


def _persons(most: int) -> tuple[Shard, np.ndarray]:
    owners = np.repeat(np.arange(12), [1, 1, 2, 2, 3, 3, 4, 4, 10, 10, 10, 10])
    return _shard(Persons.of(owners, unit="patient", most=most)), owners


@pytest.mark.parametrize("most", [1, 3])
def test_of_a_person_so_many_rows_are_judged_as_the_price_is_for(tmp_path, make_job, most) -> None:
    shard, owners = _persons(most)
    price, trainer = Price(noise_multiplier=6.0, unit="patient", most=most), _Given()
    site = _site(_ledger(tmp_path, "patient"), price=price, shard=shard)
    for number in (1, 2):
        update = _judged(_ask(make_job(), number=number), site, trainer)
    (first, limit), (second, _) = trainer.asked
    for rows in (first, second):
        assert len(set(rows)) == len(rows)
        assert np.bincount(owners[rows]).tolist() == np.minimum(np.bincount(owners), most).tolist()
    assert first != second  # chosen anew
    assert limit == NOISY_LOSS_LIMIT
    assert update.events[0].unit == "patient"
    assert Counters.from_vector(update.vector.counters, classes=2).variance == 3 * 36 * most**2 + 4


def test_a_price_for_other_units_than_those_judged_is_refused(tmp_path, make_job) -> None:
    shard, _ = _persons(3)
    trainer = _Given()
    for price in (PRICE, Price(noise_multiplier=6.0, unit="patient", most=2)):
        site = _site(_ledger(tmp_path, "patient"), price=price, shard=shard)
        with pytest.raises(BadInput, match="expected a price for 3 rows of one patient"):
            _judged(_ask(make_job()), site, trainer)
    assert trainer.asked == []
    assert _ledger(tmp_path, "patient").events() == ()


def test_an_evaluation_beyond_the_limit_is_refused_and_judges_nothing(tmp_path, make_job) -> None:
    limit = epsilon([PRICE.event()] * 3, delta=1e-5)
    policy = PolicySection(epsilon_limit=limit + 1e-9, delta=1e-5, max_rounds_per_day=1)  # evaluations are no rounds
    budget = Budget(tmp_path / "l.db", partner="p0", key=KEY, dataset=DataSet("0" * 64), policy=policy)
    site, trainer = _site(budget), _Given()
    for number in (1, 2, 3):
        _judged(_ask(make_job(), number=number), site, trainer)
    with pytest.raises(BadInput, match="with 1 evaluation more, of which 0 would fit"):
        _judged(_ask(make_job(), number=4), site, trainer)
    assert len(trainer.asked) == 3
    assert len(budget.events()) == 3
    assert budget.today() == 0


def test_a_real_trainer_judges_the_rows_it_is_given(make_job) -> None:
    torch.manual_seed(9)
    network = nn.Sequential(nn.Linear(4, 6), nn.Tanh(), nn.Linear(6, CLASSES))
    start = vector.flatten(network) * 1000  # so sure of itself that many losses are beyond 8 nats
    trainer = Trainer(network, task=TASK, private=True, device=torch.device("cpu"), max_physical_batch=16)
    shard = _shard()
    whole = trainer.evaluate(start, shard, classes=CLASSES)
    rows = [np.arange(0, 20), np.arange(20, N)]
    parts = [trainer.evaluate(start, shard, classes=CLASSES, rows=some) for some in rows]
    assert (parts[0] + parts[1]).to_vector().tolist() == whole.to_vector().tolist()
    bounded = trainer.evaluate(start, shard, classes=CLASSES, most=NOISY_LOSS_LIMIT)
    assert np.array_equal(bounded.confusion, whole.confusion)
    assert 0 < bounded.loss_sum < whole.loss_sum
    assert bounded.loss_sum <= N * 8 * 2**16
    none = trainer.evaluate(start, shard, classes=CLASSES, rows=np.arange(0))
    assert not none.to_vector().any()
