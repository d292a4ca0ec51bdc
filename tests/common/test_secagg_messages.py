"""Every message: one encoding each, and nothing else decodes."""

from __future__ import annotations

import numpy as np
import pytest
from cohort import OTHER_SPELLINGS, aborts, check_abort, make_round
from hypothesis import given, settings
from hypothesis import strategies as st

from tacit.codec import Malformed
from tacit.secagg.abort import Abort, Reason, Stage
from tacit.secagg.keys import Digest, PublicKey, Secret, Signature
from tacit.secagg.messages import (
    Advert,
    Agreement,
    Envelopes,
    Inbox,
    MaskedVector,
    Presence,
    Quorum,
    Reveal,
    Roster,
    Survivors,
    decode,
    encode,
)

CONTEXT = make_round(3).context
OTHER = make_round(3, number=2).context
POSITIONS = st.integers(0, 2**32 - 1)
RISING = st.lists(POSITIONS, max_size=4, unique=True).map(sorted)


def _bytes(size: int):
    return st.binary(min_size=size, max_size=size)


def _pairs(size: int, kind=bytes):
    return RISING.flatmap(lambda at: st.tuples(*(st.tuples(st.just(i), _bytes(size).map(kind)) for i in at)))


X25519 = st.integers(0, 2**255 - 20).map(lambda number: PublicKey(number.to_bytes(32, "little")))


def _adverts(position):
    return st.builds(Advert, position, X25519, X25519, _bytes(64).map(Signature))


def _agreements(position):
    return st.builds(Agreement, position, _bytes(64).map(Signature))


def _presences(position):
    return st.builds(Presence, position, _bytes(64).map(Signature))


def _many(strategy):
    return RISING.flatmap(lambda at: st.tuples(*(strategy(st.just(i)) for i in at)))


MESSAGES = {
    Advert: _adverts(POSITIONS),
    Roster: st.builds(Roster, _many(_adverts)),
    Envelopes: st.builds(Envelopes, POSITIONS, _bytes(32).map(Digest), _pairs(82)),
    Inbox: st.builds(Inbox, RISING.map(tuple), _pairs(82)),
    Survivors: st.builds(Survivors, _many(_presences)),
    Agreement: _agreements(POSITIONS),
    Quorum: st.builds(Quorum, _many(_agreements)),
    Reveal: st.builds(Reveal, POSITIONS, _pairs(33, Secret)),
    Presence: _presences(POSITIONS),
}
KINDS = list(MESSAGES)
STAGES = {
    Advert: Stage.ADVERTISE,
    Roster: Stage.SHARE,
    Envelopes: Stage.SHARE,
    Inbox: Stage.MASK,
    Survivors: Stage.AGREE,
    Agreement: Stage.AGREE,
    Quorum: Stage.UNMASK,
    Reveal: Stage.UNMASK,
    Presence: Stage.MASK,
}
ONE = Advert(5, PublicKey(b"k" * 32), PublicKey(b"m" * 32), Signature(b"s" * 64))
ANY_KIND = pytest.mark.parametrize("kind", KINDS, ids=lambda kind: kind.__name__)


def _keys():
    return PublicKey(b"a" * 32), PublicKey(b"b" * 32), Signature(b"c" * 64)


AT = (3, 2**32 - 1)
SAMPLES = {
    Advert: ONE,
    Roster: Roster(tuple(Advert(i, *_keys()) for i in AT)),
    Envelopes: Envelopes(7, Digest(b"d" * 32), tuple((i, b"e" * 82) for i in AT)),
    Inbox: Inbox(AT, tuple((i, b"e" * 82) for i in AT)),
    Survivors: Survivors(tuple(Presence(i, Signature(b"p" * 64)) for i in AT)),
    Agreement: Agreement(7, Signature(b"s" * 64)),
    Quorum: Quorum(tuple(Agreement(i, Signature(b"s" * 64)) for i in AT)),
    Reveal: Reveal(7, tuple((i, Secret(b"r" * 33)) for i in AT)),
    Presence: Presence(7, Signature(b"p" * 64)),
}


@ANY_KIND
@settings(max_examples=25)
@given(st.data())
def test_a_message_reads_as_written(kind, data):
    message = data.draw(MESSAGES[kind])
    encoded = encode(message, context=CONTEXT)
    found = decode(kind, encoded, context=CONTEXT)
    assert found == message
    assert encode(found, context=CONTEXT) == encoded


def test_kinds_are_told_apart():
    assert [kind.KIND for kind in KINDS] == [1, 2, 3, 4, 5, 6, 7, 8, 9]
    assert {kind: kind.STAGE for kind in KINDS} == STAGES
    tried = 0
    for kind in KINDS:
        for other in KINDS:
            if kind is not other:
                with aborts(STAGES[other], Reason.MALFORMED, match=f"kind {other.KIND}, found 1 and {kind.KIND}$"):
                    decode(other, encode(SAMPLES[kind], context=CONTEXT), context=CONTEXT)
                tried += 1
    assert tried == 72


@ANY_KIND
def test_every_truncation_is_malformed(kind):
    whole = encode(SAMPLES[kind], context=CONTEXT)
    for cut in range(len(whole)):
        with aborts(STAGES[kind], Reason.MALFORMED):
            decode(kind, whole[:cut], context=CONTEXT)
    with aborts(STAGES[kind], Reason.MALFORMED):
        decode(kind, whole + b"\0", context=CONTEXT)


@ANY_KIND
def test_another_version_or_round(kind):
    whole = encode(SAMPLES[kind], context=CONTEXT)
    assert whole[0] == 1
    with aborts(STAGES[kind], Reason.MALFORMED, match="expected version 1 and kind ., found 2 and ."):
        decode(kind, b"\2" + whole[1:], context=CONTEXT)
    with aborts(STAGES[kind], Reason.OTHER_ROUND):
        decode(kind, whole, context=OTHER)
    for at in (2, 33):
        changed = whole[:at] + bytes([whole[at] ^ 1]) + whole[at + 1 :]
        with aborts(STAGES[kind], Reason.OTHER_ROUND):
            decode(kind, changed, context=CONTEXT)


@pytest.mark.parametrize("positions", [(1, 1), (2, 1), (0, 2, 1), (0, 3, 3)])
def test_positions_twice_or_out_of_order(positions):
    signature, envelope, share = Signature(b"s" * 64), b"e" * 82, Secret(b"r" * 33)
    messages = [
        Roster(tuple(Advert(i, *_keys()) for i in positions)),
        Envelopes(0, Digest(bytes(32)), tuple((i, envelope) for i in positions)),
        Inbox(positions, ()),
        Inbox((), tuple((i, envelope) for i in positions)),
        Survivors(tuple(Presence(i, signature) for i in positions)),
        Quorum(tuple(Agreement(i, signature) for i in positions)),
        Reveal(0, tuple((i, share) for i in positions)),
    ]
    for message in messages:
        with aborts(STAGES[type(message)], Reason.DUPLICATE):
            decode(type(message), encode(message, context=CONTEXT), context=CONTEXT)
    assert len(messages) == 7


@pytest.mark.parametrize("spelling", OTHER_SPELLINGS)
def test_keys_have_one_spelling(spelling):
    for keys in ((spelling, ONE.mask_key), (ONE.share_key, spelling)):
        data = encode(Advert(5, *keys, ONE.signature), context=CONTEXT)
        with aborts(Stage.ADVERTISE, Reason.MALFORMED, match="expected a canonical X25519 key"):
            decode(Advert, data, context=CONTEXT)
    greatest = Advert(5, PublicKey((2**255 - 20).to_bytes(32, "little")), ONE.mask_key, ONE.signature)
    assert decode(Advert, encode(greatest, context=CONTEXT), context=CONTEXT) == greatest


def test_a_list_of_survivors_by_position():
    assert SAMPLES[Survivors].positions == AT
    assert Survivors(()).positions == ()


def test_the_bytes_of_an_advert():
    head = b"\1\1" + CONTEXT
    assert encode(ONE, context=CONTEXT) == head + b"\0\0\0\5" + b"k" * 32 + b"m" * 32 + b"s" * 64


def test_the_bytes_of_the_others():
    def body(message) -> bytes:
        whole = encode(message, context=CONTEXT)
        assert whole[:34] == bytes([1, message.KIND]) + CONTEXT
        return whole[34:]

    four = b"\0\0\0\4"
    assert body(Survivors((Presence(4, Signature(b"s" * 64)),))) == b"\0\0\0\1" + four + b"s" * 64
    assert body(Presence(4, Signature(b"s" * 64))) == four + b"s" * 64
    assert body(Agreement(4, Signature(b"s" * 64))) == four + b"s" * 64
    assert body(Quorum((Agreement(4, Signature(b"s" * 64)),))) == b"\0\0\0\1" + four + b"s" * 64
    assert body(Envelopes(4, Digest(b"d" * 32), ((4, b"e" * 82),))) == four + b"d" * 32 + b"\0\0\0\1" + four + b"e" * 82
    assert body(Inbox((4,), ((4, b"e" * 82),))) == b"\0\0\0\1" + four + b"\0\0\0\1" + four + b"e" * 82
    assert body(Reveal(4, ((4, Secret(b"r" * 33)),))) == four + b"\0\0\0\1" + four + b"r" * 33


@pytest.mark.parametrize(
    "message",
    [
        Advert(1, PublicKey(b"k" * 31), ONE.mask_key, ONE.signature),
        Advert(1, ONE.share_key, PublicKey(b"m" * 33), ONE.signature),
        Agreement(1, Signature(b"s" * 63)),
        Presence(1, Signature(b"s" * 65)),
        Envelopes(1, Digest(b"d" * 32), ((1, b"e" * 81),)),
        Reveal(1, ((1, Secret(b"r" * 34)),)),
    ],
    ids=lambda message: type(message).__name__,
)
def test_a_message_of_other_sizes_is_not_written(message):
    with pytest.raises(Malformed):
        encode(message, context=CONTEXT)


@settings(max_examples=150)
@given(st.sampled_from(KINDS), st.binary(max_size=120), st.integers(0, 3))
def test_random_bytes_raise_nothing_else(kind, data, headed):
    head = [b"", b"\1", bytes([1, kind.KIND]), bytes([1, kind.KIND]) + CONTEXT][headed]
    try:
        found = decode(kind, head + data, context=CONTEXT)
    except Abort as error:
        check_abort(error, STAGES[kind], error.reason)
        return
    assert encode(found, context=CONTEXT) == head + data


@pytest.mark.parametrize(
    ("update", "counters", "found"),
    [
        (np.zeros(4, np.uint32), np.zeros(2, np.uint64), r"3 uint32, found \[4\] uint32"),
        (np.zeros(2, np.uint32), np.zeros(2, np.uint64), r"3 uint32, found \[2\] uint32"),
        (np.zeros(3, np.int32), np.zeros(2, np.uint64), r"3 uint32, found \[3\] int32"),
        (np.zeros(3, np.float32), np.zeros(2, np.uint64), r"3 uint32, found \[3\] float32"),
        (np.zeros((3, 1), np.uint32), np.zeros(2, np.uint64), r"3 uint32, found \[3, 1\] uint32"),
        (np.zeros(3, np.uint32), np.zeros(1, np.uint64), r"2 uint64, found \[1\] uint64"),
        (np.zeros(3, np.uint32), np.zeros(2, np.uint32), r"2 uint64, found \[2\] uint32"),
        (np.zeros(3, ">u4"), np.zeros(2, np.uint64), r"3 uint32, found \[3\] >u4"),
        (np.zeros(3, np.uint32), np.zeros((), np.uint64), r"2 uint64, found \[\] uint64"),
    ],
)
def test_a_vector_of_another_length_or_kind(update, counters, found):
    with aborts(Stage.MASK, Reason.VECTOR, match=found):
        MaskedVector(update, counters).check(update=3, counters=2, stage=Stage.MASK)


def test_a_vector_as_expected():
    vector = MaskedVector(np.zeros(3, np.uint32), np.zeros(0, np.uint64))
    vector.check(update=3, counters=0, stage=Stage.MASK)
    assert [name for name, _ in vector.channels()] == ["update", "counters"]
    assert [values.dtype for _, values in vector.channels()] == [np.uint32, np.uint64]
