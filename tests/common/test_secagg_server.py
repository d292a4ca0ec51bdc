"""The server against partners that lie: who does not stand up is set aside and named, and the rest add up."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from cohort import REQUEST, SMALL_ORDER, Drive, aborts, check_abort, make_round, plain_sum, secret_key

from tacit.secagg import client, server
from tacit.secagg.abort import Reason, Stage
from tacit.secagg.bindings import advert_text, presence_text
from tacit.secagg.keys import PublicKey, digest, public_of, sign
from tacit.secagg.messages import (
    Advert,
    Envelopes,
    MaskedVector,
    Presence,
    Roster,
    decode,
    encode,
)
from tacit.secagg.round import Round

N, THRESHOLD = 6, 5
NEW = make_round(N)
LATER = make_round(N, number=2)
BAD = 2


def _change(replies: dict[int, bytes], data: bytes) -> dict[int, bytes]:
    return {**replies, BAD: data}


def _only(rejected, stage: Stage, reason: Reason, *, who: int = BAD) -> None:
    assert list(rejected) == [who]
    check_abort(rejected[who], stage, reason)


def _advert(share_key: PublicKey, mask_key: PublicKey, *, by: int = BAD, sender: int = BAD, new=NEW) -> bytes:
    text = advert_text(new, sender=sender, share_key=share_key, mask_key=mask_key)
    return encode(Advert(sender, share_key, mask_key, sign(secret_key(by), text)), context=new.context)


ONE, TWO = public_of(secret_key(77)), public_of(secret_key(78))
ADVERTS = {
    "another's": (lambda r: r[3], Reason.NOT_LISTED),
    "signed by another": (lambda r: _advert(ONE, TWO, by=3), Reason.SIGNATURE),
    "signed for another round": (
        lambda r: encode(decode(Advert, _advert(ONE, TWO, new=LATER), context=LATER.context), context=NEW.context),
        Reason.SIGNATURE,
    ),
    "of another round": (lambda r: _advert(ONE, TWO, new=LATER), Reason.OTHER_ROUND),
    "cut short": (lambda r: r[BAD][:-1], Reason.MALFORMED),
    "nothing": (lambda r: b"", Reason.MALFORMED),
    "of another kind": (lambda r: encode(Roster(()), context=NEW.context), Reason.MALFORMED),
    "a share key of small order": (lambda r: _advert(SMALL_ORDER[0], TWO), Reason.KEY),
    "a mask key of small order": (lambda r: _advert(ONE, SMALL_ORDER[3]), Reason.KEY),
    "one key for both": (lambda r: _advert(ONE, ONE), Reason.DUPLICATE),
    "another's share key": (lambda r: _advert(_keys(r[0])[0], TWO), Reason.DUPLICATE),
    "another's mask key": (lambda r: _advert(ONE, _keys(r[0])[1]), Reason.DUPLICATE),
    "another's mask key as share key": (lambda r: _advert(_keys(r[1])[1], TWO), Reason.DUPLICATE),
}


def _keys(data: bytes, new: Round = NEW) -> tuple[PublicKey, PublicKey]:
    advert = decode(Advert, data, context=new.context)
    return advert.share_key, advert.mask_key


@pytest.fixture(scope="module")
def adverts() -> dict[int, bytes]:
    return Drive(NEW).to(Stage.SHARE).replies[Stage.ADVERTISE]


@pytest.mark.parametrize("name", ADVERTS)
def test_an_advert_that_does_not_stand_up(adverts, name):
    make, reason = ADVERTS[name]
    admitted, roster = server.admit(NEW, _change(adverts, make(adverts)))
    _only(admitted.rejected, Stage.ADVERTISE, reason)
    assert [advert.sender for advert in decode(Roster, roster, context=NEW.context).adverts] == [0, 1, 3, 4, 5]
    assert list(admitted.adverts) == [0, 1, 3, 4, 5]
    with aborts(Stage.ADVERTISE, Reason.TOO_FEW, match="at least 5 partners, found 4") as caught:
        server.admit(NEW, {i: data for i, data in _change(adverts, make(adverts)).items() if i != 5})
    _only(caught.value.rejected, Stage.ADVERTISE, reason)


def test_the_first_to_show_a_key_keeps_it():
    """And the keys of one that is set aside are not taken."""
    new = make_round(N, threshold=4)
    good = {i: _advert_of(new, i) for i in (0, 1, 5)}
    copied = _advert(ONE, _keys(good[0], new)[0], by=3, sender=3, new=new)
    fresh = _advert(ONE, TWO, by=4, sender=4, new=new)
    admitted, _ = server.admit(new, {**good, 3: copied, 4: fresh})
    assert list(admitted.adverts) == [0, 1, 4, 5]
    _only(admitted.rejected, Stage.ADVERTISE, Reason.DUPLICATE, who=3)


def _advert_of(new, i: int) -> bytes:
    return _advert(public_of(secret_key(100 + i)), public_of(secret_key(200 + i)), by=i, sender=i, new=new)


def _envelopes(data: bytes) -> Envelopes:
    return decode(Envelopes, data, context=NEW.context)


def _written(message) -> bytes:
    return encode(message, context=NEW.context)


ENVELOPES = {
    "another's": (lambda r: r[3], Reason.NOT_LISTED),
    "one missing": (
        lambda r: _written(replace(_envelopes(r[BAD]), sealed=_envelopes(r[BAD]).sealed[1:])),
        Reason.SHARE,
    ),
    "one for itself": (
        lambda r: _written(replace(_envelopes(r[BAD]), sealed=tuple((i, bytes(82)) for i in range(6)))),
        Reason.SHARE,
    ),
    "none": (lambda r: _written(replace(_envelopes(r[BAD]), sealed=())), Reason.SHARE),
    "of another round": (lambda r: encode(_envelopes(r[BAD]), context=LATER.context), Reason.OTHER_ROUND),
    "left over": (lambda r: r[BAD] + b"\0", Reason.MALFORMED),
}


@pytest.mark.parametrize("name", ENVELOPES)
def test_envelopes_that_do_not_stand_up(name):
    make, reason = ENVELOPES[name]
    drive = Drive(NEW).to(Stage.MASK)
    before = drive.at[Stage.SHARE].server
    replies = _change(drive.replies[Stage.SHARE], make(drive.replies[Stage.SHARE]))
    gathering, inboxes = server.route(before, replies, request=REQUEST)
    _only(gathering.rejected, Stage.SHARE, reason)
    assert list(inboxes) == [0, 1, 3, 4, 5]
    for i, data in inboxes.items():
        inbox = decode(client.Inbox, data, context=NEW.context)
        assert inbox.present == (0, 1, 3, 4, 5)
        assert [j for j, _ in inbox.sealed] == [j for j in (0, 1, 3, 4, 5) if j != i]
    with aborts(Stage.SHARE, Reason.TOO_FEW, match="at least 5 partners, found 4") as caught:
        server.route(before, {i: data for i, data in replies.items() if i != 5}, request=REQUEST)
    _only(caught.value.rejected, Stage.SHARE, reason)


def test_envelopes_of_one_that_was_not_admitted():
    drive = Drive(NEW, vanish={BAD: Stage.ADVERTISE}).to(Stage.MASK)
    replies = {**drive.replies[Stage.SHARE], BAD: b"anything"}
    gathering, inboxes = server.route(drive.at[Stage.SHARE].server, replies, request=REQUEST)
    assert not gathering.rejected
    assert BAD not in inboxes


@pytest.fixture
def gathering():
    """Stage 2 of five of six, with what they sign in it."""
    drive = Drive(NEW, vanish={BAD: Stage.SHARE}).to(Stage.AGREE)
    fresh, _ = server.route(drive.at[Stage.SHARE].server, drive.replies[Stage.SHARE], request=REQUEST)
    return fresh, drive.vectors, drive.replies[Stage.MASK]


def _untouched(state: server.Gathering) -> bool:
    return not (state.total.update.any() or state.total.counters.any() or state.survivors)


@pytest.mark.parametrize(
    "vector",
    [
        MaskedVector(np.ones(6, np.uint32), np.ones(3, np.uint64)),
        MaskedVector(np.ones(5, np.uint32), np.ones(4, np.uint64)),
        MaskedVector(np.ones(5, np.int32), np.ones(3, np.uint64)),
    ],
)
def test_a_vector_of_another_length_or_kind(gathering, vector):
    state, _, signed = gathering
    with aborts(Stage.MASK, Reason.VECTOR):
        server.gather(state, 0, vector, signed[0])
    assert _untouched(state)


def _presence(state: server.Gathering, *, by: int = 0, present=(0, 1, 3, 4, 5), request=REQUEST, new=NEW) -> bytes:
    text = presence_text(new, session=state.admitted.session, request=request, present=present)
    return _written(Presence(0, sign(secret_key(by), text)))


PRESENCES = {
    "another's": (lambda state, signed: signed[3], Reason.NOT_LISTED),
    "signed by another": (lambda state, _: _presence(state, by=3), Reason.SIGNATURE),
    "over another U2": (lambda state, _: _presence(state, present=(0, 1, 3, 4)), Reason.SIGNATURE),
    "over the cohort": (lambda state, _: _presence(state, present=range(6)), Reason.SIGNATURE),
    "over another request": (lambda state, _: _presence(state, request=digest(b"x")), Reason.SIGNATURE),
    "over another round": (lambda state, _: _presence(state, new=LATER), Reason.SIGNATURE),
    "of another round": (
        lambda _, signed: encode(decode(Presence, signed[0], context=NEW.context), context=LATER.context),
        Reason.OTHER_ROUND,
    ),
    "cut short": (lambda _, signed: signed[0][:-1], Reason.MALFORMED),
}


@pytest.mark.parametrize("name", PRESENCES)
def test_a_vector_with_a_signature_that_does_not_stand_up(gathering, name):
    state, vectors, signed = gathering
    make, reason = PRESENCES[name]
    with aborts(Stage.MASK, reason):
        server.gather(state, 0, vectors[0], make(state, signed))
    assert _untouched(state)
    server.gather(state, 0, vectors[0], _presence(state))
    assert list(state.survivors) == [0]


def test_vectors_of_whom_none_is_expected(gathering):
    state, vectors, signed = gathering
    with aborts(Stage.MASK, Reason.NOT_LISTED, match="one vector of a partner that shared keys"):
        server.gather(state, BAD, vectors[BAD], signed[0])
    assert _untouched(state)
    server.gather(state, 0, vectors[0], signed[0])
    with aborts(Stage.MASK, Reason.NOT_LISTED):
        server.gather(state, 0, vectors[0], signed[0])
    np.testing.assert_array_equal(state.total.update, vectors[0].update)
    np.testing.assert_array_equal(state.total.counters, vectors[0].counters)


def test_the_list_of_survivors(gathering):
    state, vectors, signed = gathering
    for i in (5, 1, 3, 0):
        server.gather(state, i, vectors[i], signed[i])
    with aborts(Stage.MASK, Reason.TOO_FEW, match="at least 5 partners, found 4") as caught:
        server.listing(state)
    assert caught.value.rejected == {}
    server.gather(state, 4, vectors[4], signed[4])
    listed, data = server.listing(state)
    assert listed.survivors == (0, 1, 3, 4, 5)
    presences = decode(client.Survivors, data, context=NEW.context).presences
    assert [encode(presence, context=NEW.context) for presence in presences] == [signed[i] for i in (0, 1, 3, 4, 5)]


def test_the_others_still_add_up():
    drive = Drive(NEW, vanish={BAD: Stage.SHARE}).to(Stage.MASK)
    replies = _change(drive.replies[Stage.SHARE], b"nonsense")
    gathering, inboxes = server.route(drive.at[Stage.SHARE].server, replies, request=REQUEST)
    _only(gathering.rejected, Stage.SHARE, Reason.MALFORMED)
    drive.at[Stage.MASK] = replace(drive.at[Stage.MASK], server=gathering, message=inboxes)
    found = drive.sum()
    assert found.survivors == (0, 1, 3, 4, 5)
    assert (found.update.tolist(), found.counters.tolist()) == plain_sum(drive.vectors, found.survivors)
