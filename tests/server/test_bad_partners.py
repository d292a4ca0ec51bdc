"""Partners that crash, lie or talk nonsense: each is named, none ends the run."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from scripted import EVENT, D, Script, score, update

from tacit.wire import Ask, Hello, Parcel, Refusal, Score, Statement


def _with(parcel: Parcel, **scalars: Any) -> Parcel:
    return Parcel(parcel.arrays, {**parcel.scalars, **scalars})


BAD = {
    "nan": lambda n, a: update(n, delta=float("nan")),
    "infinite": lambda n, a: update(n, delta=float("inf")),
    "short": lambda n, a: update(n, length=D - 1),
    "long": lambda n, a: update(n, length=D + 1),
    "weighs more than the others": lambda n, a: update(n, counters=(1000,)),
    "speaks for another": lambda n, a: update("p0"),
    "other message": lambda n, a: Hello(n),
    "unknown field": lambda n, a: _with(update(n).pack(), more=1),
    "bad events": lambda n, a: _with(update(n).pack(), events="[{}]"),
    "crash": lambda n, a: 1 / 0,
}


@pytest.mark.parametrize("fault", BAD)
def test_one_bad_partner_is_named_and_left_out(run, fault):
    script = Script(train=lambda name, ask: BAD[fault](name, ask) if name == "p1" else update(name))
    state, _ = run(script, "aggregation.threshold=2")
    assert state.vector.tolist() == [2.0] * D
    for line in state.history:
        assert (line["status"], line["answered"], line["dropouts"]) == ("done", 2, ["p1"])
        assert list(line["failures"]) == ["p1"]
    assert len(state.history) == 2


@pytest.mark.parametrize("counters", [(), (0,), (-5,), (1, 1)])
def test_a_weight_that_is_none_is_left_out(run, counters):
    def train(name: str, ask: Ask) -> Any:
        return update(name, delta=9.0, counters=counters) if name == "p1" else update(name, counters=(7,))

    overrides = "privacy={mechanism='none'}", "aggregation.weighting=examples", "aggregation.threshold=2"
    state, _ = run(Script(train=train), *overrides, "training.rounds=1")
    assert state.vector.tolist() == [1.0] * D
    assert list(state.history[0]["failures"]) == ["p1"]


@pytest.mark.parametrize(
    "said",
    [
        lambda n: Score(n, np.ones(3, np.int64)),
        lambda n: Score(n, -np.ones(5, np.int64)),
        lambda n: _with(score(n).pack(), more=1),
        lambda n: Refusal(n, "no"),
        lambda n: 1 / 0,
    ],
    ids=range(5),
)
def test_a_score_that_can_not_be_read_is_left_out(run, said):
    script = Script(score=lambda name, ask: said(name) if name == "p1" else score(name))
    state, _ = run(script)
    assert [line["federated"]["examples"] for line in state.history] == [20, 20]


def test_a_bad_statement_leaves_what_the_replies_said(run):
    more, absurd = ((EVENT.model_copy(update={"steps": steps}),) for steps in (3, 10**9))
    said = {
        "p0": lambda n: Statement(n, more),
        "p1": lambda n: _with(Statement(n, more).pack(), events="[{}]"),
        "p2": lambda n: Statement(n, absurd),
    }
    state, _ = run(Script(statement=lambda name, ask: said[name](name)))
    assert state.events == {"p0": more, "p1": (EVENT,), "p2": (EVENT,)}


def test_a_crash_at_the_statement_leaves_what_the_replies_said(run):
    state, _ = run(Script(statement=lambda name, ask: 1 / 0))
    assert state.events == {"p0": (EVENT,), "p1": (EVENT,), "p2": (EVENT,)}
