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
from tacit.parcel import Parcel
from tacit.privacy.events import Event
from tacit.secagg.keys import PublicKey
from tacit.secagg.messages import MaskedVector
from tacit.wire import Ask, Hello, Invite, Letter, Refusal, Statement, Update

FLOATS = arrays.arrays(np.float32, st.integers(0, 20), elements=st.floats(width=32))
VECTORS = st.builds(
    MaskedVector, arrays.arrays(np.uint32, st.integers(0, 20)), arrays.arrays(np.uint64, st.integers(0, 20))
)
KEYS = st.binary(min_size=32, max_size=32).map(PublicKey)
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
    if isinstance(one, np.ndarray):
        return one.dtype == other.dtype and one.tobytes() == other.tobytes()
    if isinstance(one, Ask | Update | MaskedVector):
        return all(_equal(getattr(one, f.name), getattr(other, f.name)) for f in dataclasses.fields(one))
    return one == other


@given(NAMES, KEYS, VECTORS, EVENTS, st.binary(max_size=50))
def test_what_a_partner_says_unpacks_to_the_same(name, key, vector, events, body):
    messages = (
        Hello(f"p{len(name)} ü", key),
        Letter(name, body),
        Refusal(name, name[::-1]),
        Update(name, vector, events),
        Update(name, vector),
        Statement(name, events),
    )
    for message in messages:
        assert _equal(type(message).unpack(message.pack()), message)


@given(st.data(), NAMES, FLOATS, st.none() | st.binary(max_size=50))
def test_what_the_server_asks_unpacks_to_the_same(make_job, data, run, vector, inbox):
    job = make_job("privacy.noise_multiplier=1.234567890123456", "task.options.shape=[8,8]")
    number, attempt, cohort = (data.draw(st.integers(-(2**53), 2**53)) for _ in range(3))
    ask = Ask(job, run, number, attempt, cohort, vector, inbox)
    assert _equal(Ask.unpack(ask.pack()), ask)
    invite = Invite(job, run.encode())
    assert Invite.unpack(invite.pack()) == invite


def _ask(job: Any, **changes: Any) -> Ask:
    return dataclasses.replace(Ask(job, "run", 1, 1, 3, np.ones(3, np.float32)), **changes)


def test_a_request_is_of_all_that_is_asked_and_of_nothing_else(make_job):
    """Guarantee: partners who are asked different things have masks that do not cancel."""
    job = make_job()
    asked = _ask(job)
    others = (
        _ask(make_job("training.rounds=9")),
        _ask(job, run="other"),
        _ask(job, round=2),
        _ask(job, attempt=2),
        _ask(job, vector=np.array([1, 1, np.nextafter(np.float32(1), 2)], np.float32)),
        _ask(job, vector=np.ones(4, np.float32)),
        _ask(job, vector=np.ones(0, np.float32)),
    )
    assert len({asked.request(), *(other.request() for other in others)}) == 8
    assert len(asked.request()) == 32
    alike = _ask(job, inbox=b"its own shares"), Ask.unpack(asked.pack()), _ask(make_job("simulation.seed=9"))
    assert {other.request() for other in alike} == {asked.request()}


def test_a_request_keeps_its_parts_apart(make_job):
    one, other = (_ask(make_job(), run="a", round=0x62000000), _ask(make_job(), run="ab", round=0))
    assert one.request() != other.request()


@pytest.fixture(params=["ask", "sealed ask", "hello", "invite", "letter", "refusal", "update", "statement"])
def message(request, make_job) -> Any:
    return {
        "ask": _ask(make_job()),
        "sealed ask": _ask(make_job(), inbox=b"x"),
        "hello": Hello("p", PublicKey(bytes(32))),
        "invite": Invite(make_job(), b"x"),
        "letter": Letter("p", b"x"),
        "refusal": Refusal("p", "no"),
        "update": Update("p", MaskedVector(np.ones(3, np.uint32), np.ones(2, np.uint64)), (EVENT,)),
        "statement": Statement("p", (EVENT,)),
    }[request.param]


def _refused(unpack: Callable[[Parcel], Any], parcel: Parcel) -> None:
    with pytest.raises(BadInput, match=r"^expected .* found ") as caught:
        unpack(parcel)
    assert caught.value.hint


def test_a_missing_field_is_refused(message):
    parcel = message.pack()
    for name in parcel.arrays.keys() - {"inbox"}:  # which only secure jobs have
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
    assert tried >= 1 + (not isinstance(message, Invite))


def test_an_array_of_another_kind_is_refused(message):
    parcel, tried = message.pack(), 0
    for name, array in parcel.arrays.items():
        other = np.int64 if array.dtype == np.float32 else np.float32
        tried += 1
        for wrong in (array.astype(other), array.astype(np.float64), array.reshape(1, -1), np.array(1, array.dtype)):
            _refused(message.unpack, Parcel({**parcel.arrays, name: wrong}, parcel.scalars))
    assert tried == len(parcel.arrays)


@pytest.mark.parametrize("name", ["", "a\nb", "a\0", "\u202e", "a\u2028", "a" * 256])
def test_a_name_that_can_not_stand_in_a_log_is_refused(name):
    _refused(Hello.unpack, Hello(name, PublicKey(bytes(32))).pack())


@pytest.mark.parametrize("size", [0, 31, 33])
def test_an_identity_of_another_length_is_refused(size):
    _refused(Hello.unpack, Hello("p", PublicKey(bytes(size))).pack())


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
    parcel = _ask(make_job()).pack()
    with pytest.raises(BadInput, match=r"^expected "):
        Ask.unpack(Parcel(parcel.arrays, {**parcel.scalars, "job": text}))


def test_a_job_from_a_message_is_checked_like_one_from_a_file(make_job):
    parcel = _ask(make_job()).pack()
    for old, new in (('"noise_multiplier":1.0', '"noise_multiplier":0.0'), ('"secure":false', '"secure":false,"x":1')):
        job = str(parcel.scalars["job"])
        assert job.count(old) == 1
        _refused(Ask.unpack, Parcel(parcel.arrays, {**parcel.scalars, "job": job.replace(old, new)}))


def test_messages_show_no_numbers(make_job):
    """Guarantee: what was learned from examples, and what is sealed, is not printed with a message."""
    vector = MaskedVector(np.full(3, 31337, np.uint32), np.full(3, 31337, np.uint64))
    messages = (Update("p", vector), Letter("p", b"31337"), _ask(make_job(), inbox=b"31337"))
    for shown in (text for m in messages for text in (repr(m), str(m), repr(m.pack()), f"{[m]}")):
        assert "31337" not in shown
        assert "array" not in shown


def test_a_job_of_megabytes_is_refused_before_it_is_read(make_job):
    """It would be kept for every run, and repeated in refusals."""
    job = make_job()
    long = job.model_copy(update={"task": job.task.model_copy(update={"labels": ("a" * 2**20, "b")})})
    for packed, kind in (
        (Ask(long, "run", 1, 1, 3, np.zeros(1, np.float32)).pack(), Ask),
        (Invite(long, b"").pack(), Invite),
    ):
        with pytest.raises(BadInput, match="expected a job of at most 1048576 letters") as caught:
            kind.unpack(packed)
        assert len(caught.value.message) < 200
