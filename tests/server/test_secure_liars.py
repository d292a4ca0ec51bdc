"""Partners that lie, refuse or talk nonsense in a secure round: each is named, none ends the run."""

from __future__ import annotations

import json
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
from real import Sent, mean
from scripted import D

from tacit.errors import JobFailed
from tacit.parcel import Parcel
from tacit.privacy.events import Event
from tacit.wire import ADVERTISE, AGREE, EVALUATE, SHARE, TRAIN, UNMASK, Letter, Refusal

SECURE = "aggregation.secure=true"
STAGES = (ADVERTISE, SHARE, TRAIN, AGREE, UNMASK)


def _changed(parcel: Parcel, array: str = "body", *, at: int = -1) -> Parcel:
    values = parcel.arrays[array].copy()
    values[at] ^= 1
    return Parcel({**parcel.arrays, array: values}, parcel.scalars)


def _with(parcel: Parcel, **scalars: Any) -> Parcel:
    return Parcel(parcel.arrays, {**parcel.scalars, **scalars})


def _holding(parcel: Parcel, **arrays: Any) -> Parcel:
    return Parcel({**parcel.arrays, **arrays}, parcel.scalars)


def _absurd(parcel: Parcel) -> Parcel:
    event = Event(kind="none", sampling_rate=0.5, noise_multiplier=0.0, steps=10**6)
    return _with(parcel, events=json.dumps([event.to_json()]))


LIES: dict[str, tuple[str, Callable[[Parcel], Parcel], str]] = {
    "keys with a bad signature": (ADVERTISE, _changed, "expected keys signed by their owner"),
    "keys of another": (ADVERTISE, lambda p: _changed(p, at=37), "expected a message of position 1, found one of 0"),
    "another version": (ADVERTISE, lambda p: _changed(p, at=0), "found"),
    "a letter of another's name": (
        ADVERTISE,
        lambda p: _with(p, name="p0"),
        "expected a letter of p1, found one of p0",
    ),
    "no bytes": (ADVERTISE, lambda p: Letter("p1", b"").pack(), "expected 1 bytes more, found 0"),
    "no letter": (ADVERTISE, lambda p: Parcel({}, {}), "expected fields"),
    "shares cut short": (SHARE, lambda p: Letter("p1", p.bytes("body")[:-1]).pack(), "expected"),
    "shares and more": (SHARE, lambda p: Letter("p1", p.bytes("body") + b"x").pack(), "expected the end"),
    "no bytes of shares": (SHARE, lambda p: Letter("p1", b"").pack(), "expected 1 bytes more"),
    "a short update": (TRAIN, lambda p: _holding(p, update=np.zeros(D - 1, np.uint32)), "expected"),
    "a long update": (TRAIN, lambda p: _holding(p, update=np.zeros(D + 1, np.uint32)), "expected"),
    "floats": (TRAIN, lambda p: _holding(p, update=np.zeros(D, np.float32)), "expected array update of uint32"),
    "more counters": (TRAIN, lambda p: _holding(p, counters=np.zeros(4, np.uint64)), "expected"),
    "an update of another": (TRAIN, lambda p: _with(p, name="p0"), "expected an update of p1, found one of p0"),
    "absurd events": (TRAIN, _absurd, "expected at most 2 steps in the events, found 1000000"),
    "a bad signature beside": (TRAIN, lambda p: _changed(p, "presence"), "expected a signature over those"),
    "no signature beside": (TRAIN, lambda p: _holding(p, presence=np.zeros(0, np.uint8)), "expected 1 bytes more"),
    "a bad agreement": (AGREE, _changed, "expected a signature over the survivors, found another"),
    "no agreement": (AGREE, lambda p: Letter("p1", b"").pack(), "expected 1 bytes more"),
    "too few shares": (UNMASK, lambda p: Letter("p1", p.bytes("body")[:-1]).pack(), "expected"),
    "no shares": (UNMASK, lambda p: Letter("p1", b"").pack(), "expected 1 bytes more"),
}


def _liar(kind: str, lie: Callable[[Parcel], Parcel], *, group: str = "1.1.train") -> Callable[[Sent], Parcel]:
    def meddle(sent: Sent) -> Parcel:
        lies = (sent.kind, sent.name, sent.group) == (kind, "p1", group)
        return lie(sent.parcel) if lies else sent.parcel

    return meddle


@pytest.mark.parametrize("what", LIES)
def test_a_hostile_partner_is_named_and_left_out(run, make_partners, what):
    kind, lie, reason = LIES[what]
    partners = make_partners(meddle=_liar(kind, lie))
    state, saved = run(partners, SECURE, "training.rounds=2", partners=4)
    line, counted = state.history[0], kind in (AGREE, UNMASK)
    assert line["status"] == "done"
    assert list(line["failures"]) == ["p1"]
    assert reason in line["failures"]["p1"]
    assert line["refusals"] == {}
    names = [f"p{i}" for i in range(4) if counted or i != 1]
    assert line["answered"] == len(names)
    np.testing.assert_array_equal(saved[0].vector, mean(partners, "1.1.train", names, cohort=4).astype(np.float32))
    assert (state.history[1]["answered"], state.history[1]["failures"]) == (4, {})


@pytest.mark.parametrize("kind", STAGES)
def test_a_refusal_at_any_stage_is_named(run, make_partners, kind):
    partners = make_partners(meddle=_liar(kind, lambda parcel: Refusal("p1", "no budget left").pack()))
    state, _ = run(partners, SECURE, partners=4)
    line = state.history[0]
    assert (line["status"], line["refusals"], line["failures"]) == ("done", {"p1": "no budget left"}, {})
    assert (line["answered"], line["dropouts"]) == (4 if kind in (AGREE, UNMASK) else 3, [])


def test_a_wrong_share_stops_the_round_and_takes_nothing_off(run, make_partners):
    """Guarantee: the survivors' exact sum or an error, never a wrong sum."""
    partners = make_partners(meddle=_liar(UNMASK, _changed))
    state, saved = run(partners, SECURE, partners=4)
    line = state.history[0]
    assert (line["status"], line["answered"], line["dropouts"]) == ("abandoned", 4, [])
    assert "stage unmask: expected the secret that p" in line["reason"]
    assert not saved[0].vector.any()
    assert (state.history[1]["status"], state.history[1]["reason"]) == ("done", None)


def test_a_run_that_ends_with_enough_answers_says_what_was_wrong(run, make_partners):
    words = r"^expected a sum that stands up, found none in the last of 1 rounds in a row \(.*the secret that p"
    with pytest.raises(JobFailed, match=words):
        run(make_partners(meddle=_liar(UNMASK, _changed)), SECURE, "training.max_failed_rounds=0", partners=4)


def test_sums_of_no_examples_are_no_scores(run, make_partners):
    """A partner behind its mask may send any numbers; the others' sum is then lost, not the run."""

    def spoil(sent: Sent) -> Parcel:
        if (sent.kind, sent.name) != (EVALUATE, "p1"):
            return sent.parcel
        counters = sent.parcel.arrays["counters"].copy()
        counters[:1] += np.uint64(2**63)
        return _holding(sent.parcel, counters=counters)

    state, _ = run(make_partners(meddle=spoil), SECURE, partners=4)
    assert [(line["status"], line["federated"]) for line in state.history] == [("done", None)] * 2


@pytest.mark.parametrize("change", [-5, 2**63, 40])
def test_a_sum_of_weights_that_no_partners_have_ends_the_round(run, make_partners, change):
    """A lie about the weight behind the mask is seen where the sum can not be."""

    def spoil(sent: Sent) -> Parcel:
        if (sent.kind, sent.name) != (TRAIN, "p1"):
            return sent.parcel
        counters = sent.parcel.arrays["counters"].copy()
        counters[:1] += np.uint64(change % 2**64)
        return _holding(sent.parcel, counters=counters)

    state, _ = run(make_partners(meddle=spoil), SECURE, "training.rounds=1", partners=4)
    line = state.history[0]
    assert line["status"] == "abandoned"
    assert line["reason"] == f"expected weights that add up to 4 to 4, found {(4 + change) % 2**64}"
    assert not state.vector.any()


@pytest.mark.parametrize("kind", [ADVERTISE, SHARE, AGREE])
def test_a_liar_without_whom_the_round_is_abandoned_is_named_too(run, make_partners, kind):
    lie = _changed if kind != SHARE else lambda parcel: Letter("p1", parcel.bytes("body")[:-1]).pack()
    state, _ = run(make_partners(meddle=_liar(kind, lie)), SECURE, partners=3)
    line = state.history[0]
    assert (line["status"], list(line["failures"])) == ("abandoned", ["p1"])
    assert "expected at least 3 partners, found 2" in line["reason"]
