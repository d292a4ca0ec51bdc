"""Partners that crash, lie or talk nonsense: each is named, none ends the run."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import pytest
from scripted import EVENT, D, Script, hello, score, sums, update

from tacit.parcel import Parcel
from tacit.privacy.events import Event
from tacit.wire import Ask, Refusal, Statement


def _with(parcel: Parcel, **scalars: Any) -> Parcel:
    return Parcel(parcel.arrays, {**parcel.scalars, **scalars})


def _holding(parcel: Parcel, **arrays: Any) -> Parcel:
    return Parcel({**parcel.arrays, **arrays}, parcel.scalars)


BAD = {
    "short": lambda n, a: update(n, length=D - 1),
    "long": lambda n, a: update(n, length=D + 1),
    "floats": lambda n, a: _holding(update(n).pack(), update=np.ones(D, np.float32)),
    "no update": lambda n, a: sums(n, [1, 0, 100]),
    "few counters": lambda n, a: _holding(update(n).pack(), counters=np.ones(2, np.uint64)),
    "many counters": lambda n, a: _holding(update(n).pack(), counters=np.ones(4, np.uint64)),
    "signed counters": lambda n, a: _holding(update(n).pack(), counters=np.ones(3, np.int64)),
    "weighs nothing": lambda n, a: _holding(update(n).pack(), counters=np.array([0, 0, 1], np.uint64)),
    "weighs more than the others": lambda n, a: update(n, weight=1000, full=1000),
    "weighs less than nothing": lambda n, a: _holding(
        update(n).pack(), counters=np.array([2**64 - 5, 0, 1], np.uint64)
    ),
    "speaks for another": lambda n, a: update("p0"),
    "other message": lambda n, a: hello(n),
    "unknown field": lambda n, a: _with(update(n).pack(), more=1),
    "bad events": lambda n, a: _with(update(n).pack(), events="[{}]"),
    "crash": lambda n, a: 1 / 0,
}


@pytest.mark.parametrize("fault", BAD)
def test_one_bad_partner_is_named_and_left_out(run, fault):
    script = Script(train=lambda name, ask: BAD[fault](name, ask) if name == "p1" else update(name))
    state, _ = run(script, "aggregation.threshold=2")
    np.testing.assert_allclose(state.vector, 2.0, rtol=1e-6)
    for line in state.history:
        assert (line["status"], line["answered"], line["dropouts"]) == ("done", 2, ["p1"])
        assert list(line["failures"]) == ["p1"]
    assert len(state.history) == 2


@pytest.mark.parametrize(("weight", "answered"), [(1, 3), (50, 3), (51, 2)])
def test_nobody_weighs_more_than_the_job_allows(run, weight, answered):
    def train(name: str, ask: Ask) -> Any:
        return update(name, weight=weight, full=max(weight, 50)) if name == "p1" else update(name, weight=7, full=50)

    overrides = "privacy={mechanism='none'}", "aggregation.weighting=examples", "aggregation.max_weight=50"
    state, _ = run(Script(train=train), *overrides, "aggregation.threshold=2", "training.rounds=1")
    assert state.history[0]["answered"] == answered
    assert list(state.history[0]["failures"]) == ["p1"] * (3 - answered)
    np.testing.assert_allclose(state.vector, 1.0, rtol=1e-5)


@pytest.mark.parametrize(
    "said",
    [
        lambda n: sums(n, np.ones(3)),
        lambda n: sums(n, -np.ones(5, np.int64)),  # modulo 2^64
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


TOLD = {
    "noise beyond numbers": [EVENT.model_copy(update={"noise_multiplier": 1.7e308})],
    "a rate beyond numbers": [EVENT.model_copy(update={"sampling_rate": 5e-324})],
    "unprotected": [Event(kind="none", sampling_rate=0.5, noise_multiplier=0.0, steps=1)],
    "of several units": [EVENT.model_copy(update={"steps": 1, "unit": unit}) for unit in ("example", "patient")],
}


@pytest.mark.parametrize("what", TOLD)
def test_whatever_a_partner_says_it_released_the_rounds_go_on(run, what):
    def train(name: str, ask: Ask) -> Any:
        return replace(update(name), events=tuple(TOLD[what])) if name == "p1" else update(name)

    state, _ = run(Script(train=train, statement=lambda n, a: Statement(n, tuple(TOLD[what]))))
    assert [line["status"] for line in state.history] == ["done", "done"]


def test_a_partner_that_tells_of_a_hundred_mechanisms_is_left_out(run):
    """Each takes seconds to account for, in every round."""
    many = tuple(EVENT.model_copy(update={"steps": 1, "noise_multiplier": 1.0 + i / 1000}) for i in range(100))

    def train(name: str, ask: Ask) -> Any:
        return replace(update(name), events=many) if name == "p1" else update(name)

    state, _ = run(Script(train=train), "aggregation.threshold=2", "training.local_steps=100")
    for line in state.history:
        assert line["failures"] == {"p1": "expected at most 16 mechanisms in the events, found 100"}


def test_a_partners_words_do_not_fill_the_history(run):
    """Every checkpoint has all of them in it."""
    long = "x" * 100_000
    answers = {
        "p0": update,
        "p1": lambda name: Refusal(name, long),
        "p2": lambda name: _with(update(name).pack(), **{long: 1}),
    }
    state, _ = run(Script(train=lambda name, ask: answers[name](name)), "training.max_failed_rounds=9")
    assert len(state.history) == 2
    for line in state.history:
        assert (len(line["refusals"]["p1"]), len(line["failures"]["p2"])) == (1000, 1000)
