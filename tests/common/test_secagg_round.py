"""The round, its one encoding, who may join it, and who was in it already."""

from __future__ import annotations

from dataclasses import fields, replace

import pytest
from cohort import make_parties, make_round, name_of, wrong_key
from hypothesis import given, settings
from hypothesis import strategies as st

from tacit.codec import Malformed
from tacit.errors import BadInput
from tacit.secagg.keys import PublicKey, digest
from tacit.secagg.labels import label
from tacit.secagg.round import Member, Round, Seen

PLAIN = make_round(4)


@settings(max_examples=50)
@given(
    st.integers(2, 6).flatmap(lambda n: st.tuples(st.just(n), st.integers(n // 2 + 1, n))),
    st.integers(0, 2**40),
    st.integers(1, 2**32 - 1),
    st.sampled_from(["train", "evaluate"]),
    st.text(max_size=5).filter(lambda text: text.isprintable()),
)
def test_a_round_reads_as_written(size, entries, number, purpose, run):
    n, threshold = size
    new = replace(
        make_round(n, threshold=threshold, update=entries, counters=2**40 - entries, attempt=number, purpose=purpose),
        number=2**32 - number,
        run=run,
    )
    found = Round.decode(new.encode())
    assert found == new
    assert found.encode() == new.encode()
    assert found.context == new.context == digest(label("round", new.encode()))


def test_the_bytes_of_a_round():
    new = Round("r", "0f" * 32, 7, 2, "evaluate", PLAIN.members[:2], 2, 5, 3)
    expected = b"\1" + b"\0\0\0\1r" + b"\x0f" * 32 + b"\0\0\0\7" + b"\0\0\0\2" + b"\1" + b"\0\0\0\2"
    for member in new.members:
        expected += b"\0\0\0\x0b" + member.name.encode() + member.identity
    assert new.encode() == expected + b"\0\0\0\2" + b"\1\0" + (5).to_bytes(8, "big") + (3).to_bytes(8, "big")


def test_every_field_changes_the_context():
    changed = {
        "run": "other",
        "job": "cd" * 32,
        "number": 2,
        "attempt": 2,
        "purpose": "evaluate",
        "members": (*PLAIN.members[:3], Member(name_of(3), wrong_key())),
        "threshold": 4,
        "update": 6,
        "counters": 4,
    }
    found = {replace(PLAIN, **{name: value}).context for name, value in changed.items()}
    sparse = make_round(70, edges=255).context, make_round(70, edges=254).context
    assert {field.name for field in fields(Round)} == {*changed, "edges"}
    assert len(found | {PLAIN.context}) == len(changed) + 1
    assert len(set(sparse)) == 2


def _members(*positions: int) -> tuple[Member, ...]:
    return tuple(PLAIN.members[i] for i in positions)


@pytest.mark.parametrize(
    ("change", "expected"),
    [
        ({"number": 0}, "expected round from 1 to 4294967295, found 0"),
        ({"number": 2**32}, "expected round from 1 to 4294967295, found 4294967296"),
        ({"attempt": 0}, "expected attempt from 1 to 4294967295, found 0"),
        ({"attempt": 2**32}, "expected attempt from 1 to 4294967295, found 4294967296"),
        ({"update": -1}, "expected entries of the update from 0 to 1099511627776, found -1"),
        ({"update": 2**40 + 1}, "expected entries of the update from 0 to 1099511627776, found 1099511627777"),
        ({"counters": -1}, "expected entries of the counters from 0 to 1099511627776, found -1"),
        ({"counters": 2**40 + 1}, "expected entries of the counters from 0 to 1099511627776, found 1099511627777"),
        ({"members": _members(0)}, "expected partners in the cohort from 2 to 65536, found 1"),
        ({"members": ()}, "expected partners in the cohort from 2 to 65536, found 0"),
        ({"threshold": 2}, "expected a threshold above half of the cohort of 4 and within it, found 2"),
        ({"threshold": 5}, "expected a threshold above half of the cohort of 4 and within it, found 5"),
        ({"members": _members(0, 1, 3, 2)}, "expected members in the order of their names, each with a key of its own"),
        ({"members": _members(0, 1, 2, 2)}, "expected members in the order of their names"),
        ({"members": (*_members(0, 1, 2), Member("z", PLAIN.members[0].identity))}, "with a key of its own"),
        ({"members": (*_members(0, 1, 2), Member("z", PublicKey(bytes(31))))}, "with a key of its own"),
        ({"members": (*_members(0, 1, 2), Member("z", PublicKey(bytes(33))))}, "with a key of its own"),
        (
            {"members": (*_members(0, 1, 2), Member("z\nz", wrong_key()))},
            "expected printable names of the run and of all",
        ),
        ({"members": (*_members(0, 1, 2), Member("z\u202e", wrong_key()))}, "expected printable names"),
        ({"run": "\x1b[2J"}, "expected printable names"),
        ({"purpose": "predict"}, "expected a purpose train or evaluate .* found predict"),
        ({"job": "ab" * 31}, "a job's SHA-256 in hex"),
        ({"job": "AB" * 32}, "a job's SHA-256 in hex"),
        ({"job": "ab" * 32 + "\n"}, "a job's SHA-256 in hex"),
        ({"edges": 255}, "expected a chance of edges from 256 to 256 in 256, found 255"),
        ({"edges": 257}, "expected a chance of edges from 256 to 256 in 256, found 257"),
    ],
)
def test_a_round_that_nobody_should_join(change, expected):
    with pytest.raises(BadInput, match=expected) as caught:
        replace(PLAIN, **change)
    assert caught.value.hint.startswith("change aggregation.cohort")


@pytest.mark.parametrize(("edges", "n", "threshold"), [(246, 70, 47), (255, 64, 43), (255, 70, 46)])
def test_fewer_edges_than_protect(edges, n, threshold):
    least = 247 if (n, threshold) == (70, 47) else 256
    assert make_round(n, threshold=threshold, edges=least).edges == least
    with pytest.raises(BadInput, match=f"from {least} to 256 in 256, found {edges}"):
        make_round(n, threshold=threshold, edges=edges)


def test_the_limits_themselves_are_allowed():
    edge = replace(PLAIN, number=2**32 - 1, attempt=2**32 - 1, update=2**40, counters=0, threshold=4)
    assert Round.decode(edge.encode()) == edge
    assert make_round(2, threshold=2).threshold == 2
    assert make_round(5, threshold=3).threshold == 3


def test_every_truncation_is_malformed():
    whole = PLAIN.encode()
    for cut in range(len(whole)):
        with pytest.raises(Malformed):
            Round.decode(whole[:cut])
    with pytest.raises(Malformed, match="found 1 bytes more"):
        Round.decode(whole + b"\0")


def _at(offset: int, value: bytes) -> bytes:
    whole = PLAIN.encode()
    return whole[:offset] + value + whole[offset + len(value) :]


AFTER_JOB = 1 + 4 + len("run") + 32


@pytest.mark.parametrize(
    ("data", "expected"),
    [
        (_at(0, b"\2"), "expected version 1 of the protocol, found 2"),
        (_at(0, b"\0"), "expected version 1 of the protocol, found 0"),
        (_at(AFTER_JOB + 8, b"\2"), "expected a purpose below 2, found 2"),
        (_at(AFTER_JOB + 9, b"\0\1\0\1"), "expected at most 65536 members, found 65537"),
        (_at(AFTER_JOB + 9, b"\0\1\0\0"), "bytes more, found"),
        (_at(5, b"\xff"), "expected a text in UTF-8"),
    ],
)
def test_other_bytes(data, expected):
    with pytest.raises(Malformed, match=expected):
        Round.decode(data)


def test_a_decoded_round_is_validated():
    with pytest.raises(BadInput, match="expected round from 1"):
        Round.decode(_at(AFTER_JOB, bytes(4)))


@settings(max_examples=150)
@given(st.binary(max_size=80), st.booleans())
def test_random_bytes_raise_nothing_else(data, headed):
    try:
        found = Round.decode(b"\1" + data if headed else data)
    except (Malformed, BadInput):
        return
    assert found.encode() == b"\1" + data


def test_positions_are_those_of_the_cohort():
    assert [PLAIN.position(name_of(i)) for i in range(5)] == [0, 1, 2, 3, None]


PLACES = st.tuples(st.integers(1, 3), st.integers(1, 3), st.sampled_from(["train", "evaluate"]))


@given(st.lists(PLACES, max_size=8))
def test_rounds_only_go_up(places):
    seen, last = Seen(), None
    for number, attempt, purpose in places:
        place = attempt, number, purpose == "evaluate"
        found = seen.after(make_round(3, number=number, attempt=attempt, purpose=purpose))
        if last is not None and place <= last:
            assert found is None
        else:
            assert found is not None
            seen, last = found, place
    assert len(seen.last) == bool(places)


def test_runs_are_counted_apart():
    new = make_round(3)
    one = Seen().after(new)
    assert one is not None
    assert one.after(new) is None
    both = one.after(replace(new, run="another"))
    assert both is not None
    assert set(both.last) == {"run", "another"}
    assert both.after(new) is None
    assert Seen().last == {}


def test_the_identity_is_the_public_half():
    assert [party.identity for party in make_parties(PLAIN).values()] == [m.identity for m in PLAIN.members]
