"""Accounting events: strict to read, and merged without changing what was released."""

from __future__ import annotations

import json
import math
from collections import Counter

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import ValidationError

from tacit.errors import BadInput
from tacit.privacy.events import Event, merge

GOOD = {"version": 1, "kind": "dp-sgd", "sampling_rate": 0.1, "noise_multiplier": 1.0, "steps": 5}

EVENTS = st.builds(
    Event,
    kind=st.sampled_from(["dp-sgd", "none"]),
    sampling_rate=st.sampled_from([0.01, 0.1, 1.0]),
    noise_multiplier=st.sampled_from([0.0, 0.9, 1.1]),
    steps=st.integers(1, 1000),
    unit=st.sampled_from(["example", "patient_id", "Patient Nr. 患者"]),
)


@given(EVENTS)
def test_an_event_comes_back_from_json(event):
    assert Event.from_json(json.loads(json.dumps(event.to_json()))) == event


def test_the_written_form_is_fixed():
    """Ledgers of years ago must read the same."""
    assert Event.from_json(GOOD).to_json() == GOOD
    assert Event.from_json(GOOD).unit == "example"
    by_person = GOOD | {"unit": "patient_id"}
    assert Event.from_json(by_person).to_json() == by_person


@pytest.mark.parametrize(
    ("key", "value"),
    [
        ("version", 2),
        ("version", 0),
        ("version", "1"),
        ("kind", "gaussian"),
        ("kind", "DP-SGD"),
        ("kind", None),
        ("sampling_rate", 0.0),
        ("sampling_rate", -0.1),
        ("sampling_rate", 1.0001),
        ("sampling_rate", "0.1"),
        ("sampling_rate", math.nan),
        ("noise_multiplier", -1.0),
        ("noise_multiplier", math.inf),
        ("noise_multiplier", math.nan),
        ("noise_multiplier", True),
        ("steps", 0),
        ("steps", -5),
        ("steps", 1.5),
        ("steps", "5"),
        ("unit", ""),
        ("unit", " "),
        ("unit", "a\nb"),
        ("unit", "\u202egnp"),
        ("unit", "x" * 65),
        ("unit", None),
        ("person", "patient_id"),
    ],
)
def test_what_is_not_an_event_is_refused(key, value):
    with pytest.raises(BadInput, match=f"{key}.* in an accounting event|an accounting event, found {key}"):
        Event.from_json(GOOD | {key: value})


@pytest.mark.parametrize("key", ["kind", "sampling_rate", "noise_multiplier", "steps"])
def test_a_missing_field_is_refused(key):
    with pytest.raises(BadInput, match=f"expected {key} in an accounting event, found nothing"):
        Event.from_json({k: v for k, v in GOOD.items() if k != key})


def test_an_event_can_not_be_changed():
    event = Event.from_json(GOOD)
    with pytest.raises(ValidationError):
        event.steps = 1
    assert event.steps == 5


def _released(events) -> Counter:
    steps: Counter = Counter()
    for event in events:
        steps[event.kind, event.sampling_rate, event.noise_multiplier, event.unit] += event.steps
    return steps


@given(st.lists(EVENTS, max_size=12))
def test_merging_keeps_every_step_and_lists_each_mechanism_once(events):
    merged = merge(events)
    assert _released(merged) == _released(events)
    assert len(merged) == len(_released(events))
    assert merge(merged) == merged
    assert [e.model_copy(update={"steps": 1}) for e in merged] == list(
        dict.fromkeys(e.model_copy(update={"steps": 1}) for e in events)
    )
