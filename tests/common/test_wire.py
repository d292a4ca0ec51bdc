"""Messages: what is packed unpacks to an equal message; anything else is refused."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as arrays

from tacit.errors import BadInput
from tacit.privacy.events import Event
from tacit.wire import Ask, Hello, Parcel, Refusal, Score, Statement, Update

FLOATS = arrays.arrays(np.float32, st.integers(0, 20), elements=st.floats(width=32))
COUNTS = arrays.arrays(np.int64, st.integers(0, 20))
NAMES = st.text(max_size=20)
EVENTS = st.lists(
    st.builds(
        Event,
        kind=st.sampled_from(["none", "dp-sgd"]),
        sampling_rate=st.floats(1e-9, 1.0),
        noise_multiplier=st.floats(0.0, 1e6),
        steps=st.integers(1, 2**53),
    ),
    max_size=3,
).map(tuple)
EVENT = Event(kind="dp-sgd", sampling_rate=0.25, noise_multiplier=1.5, steps=7)


def _equal(one: Any, other: Any) -> bool:
    if type(one) is not type(other):
        return False
    for field in dataclasses.fields(one):
        a, b = getattr(one, field.name), getattr(other, field.name)
        if isinstance(a, np.ndarray):
            if a.dtype != b.dtype or a.tobytes() != b.tobytes():
                return False
        elif a != b:
            return False
    return True


@given(NAMES, FLOATS, COUNTS, EVENTS, st.floats(0, 1e9))
def test_what_a_partner_says_unpacks_to_the_same(name, delta, counts, events, seconds):
    messages = (
        Hello(name),
        Refusal(name, name[::-1]),
        Update(name, delta, counts, events, seconds),
        Score(name, counts),
        Statement(name, events),
    )
    for message in messages:
        assert _equal(type(message).unpack(message.pack()), message)


@given(NAMES, st.integers(-(2**53), 2**53), st.integers(1, 2**53), FLOATS)
def test_what_the_server_asks_unpacks_to_the_same(make_job, run, number, attempt, vector):
    job = make_job("privacy.noise_multiplier=1.234567890123456", "task.options.shape=[8,8]")
    ask = Ask(job, run, number, attempt, vector)
    assert _equal(Ask.unpack(ask.pack()), ask)


@pytest.fixture(params=["ask", "hello", "refusal", "update", "score", "statement"])
def message(request, make_job) -> Any:
    vector, counts = np.ones(3, np.float32), np.ones(2, np.int64)
    return {
        "ask": Ask(make_job(), "run", 1, 1, vector),
        "hello": Hello("p"),
        "refusal": Refusal("p", "no"),
        "update": Update("p", vector, counts, (EVENT,), 1.5),
        "score": Score("p", counts),
        "statement": Statement("p", (EVENT,)),
    }[request.param]


def _refused(unpack: Callable[[Parcel], Any], parcel: Parcel) -> None:
    with pytest.raises(BadInput, match=r"^expected .* found ") as caught:
        unpack(parcel)
    assert caught.value.hint


def test_a_missing_field_is_refused(message):
    parcel = message.pack()
    for name in parcel.arrays:
        _refused(message.unpack, Parcel({k: v for k, v in parcel.arrays.items() if k != name}, parcel.scalars))
    for name in parcel.scalars:
        _refused(message.unpack, Parcel(parcel.arrays, {k: v for k, v in parcel.scalars.items() if k != name}))
    assert len(parcel.arrays) + len(parcel.scalars) >= 2


def test_another_field_is_refused(message):
    parcel = message.pack()
    _refused(message.unpack, Parcel({**parcel.arrays, "more": np.ones(1, np.float32)}, parcel.scalars))
    _refused(message.unpack, Parcel(parcel.arrays, {**parcel.scalars, "more": 1}))


def test_a_scalar_of_another_type_is_refused(message):
    parcel = message.pack()
    tried = 0
    for name, value in parcel.scalars.items():
        if name == "kind":  # read before a message is unpacked, to know which it is
            continue
        wrong = [1, 1.5] if isinstance(value, str) else ["1", True, 1.5 if isinstance(value, int) else 1]
        for other in wrong:
            _refused(message.unpack, Parcel(parcel.arrays, {**parcel.scalars, name: other}))
            tried += 1
    assert tried >= 2


def test_an_array_of_another_kind_is_refused(message):
    parcel = message.pack()
    for name, array in parcel.arrays.items():
        other = np.int64 if array.dtype == np.float32 else np.float32
        for wrong in (array.astype(other), array.astype(np.float64), array.reshape(1, -1), np.array(1, array.dtype)):
            _refused(message.unpack, Parcel({**parcel.arrays, name: wrong}, parcel.scalars))


@pytest.mark.parametrize("seconds", [float("nan"), float("inf"), float("-inf")])
def test_a_number_that_is_not_finite_is_refused(seconds):
    parcel = Update("p", np.ones(1, np.float32), np.ones(0, np.int64), (), 1.0).pack()
    _refused(Update.unpack, Parcel(parcel.arrays, {**parcel.scalars, "seconds": seconds}))


@pytest.mark.parametrize(
    "text",
    [
        "",
        "[",
        "{}",
        "null",
        '"x"',
        "[1]",
        "[null]",
        "[[]]",
        "[{}]",
        json.dumps([{**EVENT.to_json(), "more": 1}]),
        json.dumps([{**EVENT.to_json(), "version": 2}]),
        json.dumps([{**EVENT.to_json(), "kind": "laplace"}]),
        json.dumps([{**EVENT.to_json(), "steps": 0}]),
        json.dumps([{**EVENT.to_json(), "steps": 1.0}]),
        json.dumps([{**EVENT.to_json(), "sampling_rate": 1.5}]),
        json.dumps([{**EVENT.to_json(), "noise_multiplier": -1.0}]),
        json.dumps([{**EVENT.to_json(), "noise_multiplier": float("nan")}]),
        json.dumps([EVENT.to_json()]) + "x",
        "[" * 100_000,
    ],
)
def test_events_that_are_none_are_refused(text):
    with pytest.raises(BadInput, match=r"^expected "):
        Statement.unpack(Parcel({}, {"kind": "statement", "name": "p", "events": text}))


@pytest.mark.parametrize("text", ["", "[]", "null", "{}", "{", '{"name": "x"}', "[" * 100_000])
def test_a_job_that_is_none_is_refused(make_job, text):
    parcel = Ask(make_job(), "run", 1, 1, np.ones(1, np.float32)).pack()
    with pytest.raises(BadInput, match=r"^expected "):
        Ask.unpack(Parcel(parcel.arrays, {**parcel.scalars, "job": text}))


def test_a_job_from_a_message_is_checked_like_one_from_a_file(make_job):
    parcel = Ask(make_job(), "run", 1, 1, np.ones(1, np.float32)).pack()
    for old, new in (('"noise_multiplier":1.0', '"noise_multiplier":0.0'), ('"secure":false', '"secure":false,"x":1')):
        job = str(parcel.scalars["job"])
        assert job.count(old) == 1
        _refused(Ask.unpack, Parcel(parcel.arrays, {**parcel.scalars, "job": job.replace(old, new)}))


def test_messages_show_no_numbers():
    """Guarantee: what was learned from examples is not printed with a message."""
    update = Update("p", np.full(3, 0.123, np.float32), np.ones(1, np.int64), (), 1.0)
    for shown in (repr(update), repr(update.pack()), repr(Score("p", np.ones(1, np.int64)))):
        assert "0.123" not in shown
        assert "array" not in shown
