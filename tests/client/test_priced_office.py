"""Real offices whose site.toml gives evaluations a price: what is planned, charged and refused; and those without."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import replace

import numpy as np
import pytest
import torch
from folders import change
from offices import NAMES, Federation, N

from tacit.metrics import Counters
from tacit.privacy.accounting import epsilon
from tacit.privacy.events import Event
from tacit.privacy.mechanism import plan
from tacit.privacy.metrics import price
from tacit.wire import ADVERTISE, EVALUATE, STATEMENT, Statement, Update
from tacit_client import agenda
from tacit_client.audit import Audit
from tacit_client.statement import entries

torch.set_num_threads(1)

PRICE, DELTA = 1.0, 1e-5


@pytest.fixture
def priced(make) -> Callable[..., Federation]:
    """Offices of which those named have a price, or all of them."""

    def build(*overrides: str, names: tuple[str, ...] = NAMES, limit: float = 8.0) -> Federation:
        federation = make(*overrides, started=False)
        for name in names:
            path = federation.folders[name].path
            change(path, "# metrics_epsilon = 1.0", f"metrics_epsilon = {min(PRICE, limit)}")
            change(path, "epsilon_limit = 8.0", f"epsilon_limit = {limit}")
        federation.start()
        return federation

    return build


def _ledger(federation: Federation, name: str = "p0") -> tuple[Event, ...]:
    return federation.offices[name]._budget.events()


def _event(federation: Federation) -> Event:
    return price(federation.job, epsilon=PRICE, delta=DELTA).event()


def _training(federation: Federation) -> Event:
    return plan(federation.job, units=N).event()


def test_a_whole_run_costs_what_was_granted(priced) -> None:
    federation = priced(names=("p0", "p1"))
    for number in (1, 2):
        federation.whole(federation.open(number=number))
        judged = federation.whole(federation.open(purpose="evaluate", number=number))
        counters = Counters.from_vector(judged.counters, classes=2)
        assert counters.variance == 2 * price(federation.job, epsilon=PRICE, delta=DELTA).variance  # p2 adds none
        assert abs(counters.right + counters.wrong - 3 * N // 4) < 6 * math.sqrt(2 * counters.variance)
    found = _ledger(federation)
    assert found == (_training(federation), _event(federation)) * 2
    assert 0.95 * PRICE < epsilon([event for event in found if event.kind == "metrics"], delta=DELTA) <= PRICE
    (granted,) = [e.facts for e in Audit.of(federation.folders["p0"]).entries() if e.event == "job-granted"]
    assert (granted["rounds"], granted["evaluations"]) == (2, 2)
    assert granted["cost"]["planned"] == pytest.approx(epsilon(found, delta=DELTA))
    assert {event.kind for event in _ledger(federation, "p2")} == {"dp-sgd"}
    ask = federation.ask(federation.open(number=2)).pack()
    said = Statement.unpack(federation.send(STATEMENT, ask, to="p0"))
    assert sum(event.steps for event in said.events if event.kind == "metrics") == 2
    assert [entry.releases for entry in entries(federation.folders["p0"])] == [4]


def test_a_job_is_refused_at_its_start_where_only_its_training_would_fit(priced) -> None:
    federation = priced()
    both = epsilon([*[_training(federation)] * 2, *[_event(federation)] * 2], delta=DELTA)
    training = epsilon([_training(federation)] * 2, delta=DELTA)
    assert training < both - 0.01
    federation.stop()
    for limit, fits in ((both + 1e-6, True), (both - 0.01, False)):
        for folder in federation.folders.values():
            text = (folder.path / "site.toml").read_text()
            (line,) = (line for line in text.splitlines() if line.startswith("epsilon_limit"))
            change(folder.path, line, f"epsilon_limit = {limit}")
        federation.start()
        run = f"run-{fits}"
        if fits:
            federation.letters(ADVERTISE, federation.invite(federation.open(run=run)))
        else:
            reason = federation.refusal(ADVERTISE, federation.invite(federation.open(run=run)))
            assert "with 2 rounds and 2 evaluations more, of which 1 would fit" in reason
            again = federation.refusal(ADVERTISE, federation.invite(federation.open(run=run, number=2)))
            assert "with 2 rounds and 2 evaluations more" in again  # one refusal holds for the run
        assert _ledger(federation) == ()
        federation.stop()


def test_a_server_that_judges_again_and_again_is_charged_until_the_budget_is_out(priced) -> None:
    """Every attempt is charged; the refusal comes before the next."""
    federation = priced("training.rounds=2", "evaluation.every=2", "aggregation.secure=false", limit=4.0)
    for folder in federation.folders.values():
        change(folder.path, "require_secure_aggregation = true", "require_secure_aggregation = false")
    federation.stop()
    federation.start()
    ask = replace(federation.ask(federation.open(number=2)), round=2)
    told: list[np.ndarray] = []
    while len(told) < 50:
        answer = federation.send(EVALUATE, ask.pack(), to="p0")
        if answer.scalars["kind"] == "refusal":
            break
        told.append(Update.unpack(answer).vector.counters)
    events = _ledger(federation)
    assert 2 < len(told) == len(events) < 50
    assert epsilon(events, delta=DELTA) <= 4.0 < epsilon([*events, events[0]], delta=DELTA)
    assert "1 evaluation more, of which 0 would fit" in str(answer.scalars["reason"])
    assert len({counters[:-1].tobytes() for counters in told}) == len(told)


def test_exact_counts_are_told_as_often_as_the_job_plans(make, monkeypatch) -> None:
    monkeypatch.setattr(agenda, "REPEATS", 1)
    federation = make("training.rounds=4", "evaluation.every=3")
    for number in (1, 2, 3):
        judged = federation.whole(federation.open(purpose="evaluate", number=number))
        assert Counters.from_vector(judged.counters, classes=2).variance == 0
    words = "expected at most 3 evaluations with exact counts in this run, found one more asked for"
    later = federation.open(purpose="evaluate", number=4)
    assert words in federation.refusal(ADVERTISE, federation.invite(later))
    assert words in federation.refusal(EVALUATE, federation.ask(later).pack())
    federation.stop()
    federation.start()  # the audit log remembers
    assert words in federation.refusal(ADVERTISE, federation.invite(later))
    federation.whole(federation.open(number=4))  # training goes on
    federation.whole(federation.open(purpose="evaluate", run="run-2"))
    assert _ledger(federation) == (_training(federation),)
