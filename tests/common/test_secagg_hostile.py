"""The hostile server in stages 0 to 2, against the real states of a partner: every lie is refused for its reason."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from cohort import (
    OTHER_SPELLINGS,
    REQUEST,
    SMALL_ORDER,
    Coins,
    Drive,
    aborts,
    make_round,
    make_vectors,
    roster_with,
    secret_key,
)

from tacit.secagg import client
from tacit.secagg.abort import Reason, Stage
from tacit.secagg.bindings import advert_text, share_address
from tacit.secagg.keys import PublicKey, Secret, Signature, agree, derive, public_of, seal, sign
from tacit.secagg.messages import (
    Advert,
    Inbox,
    MaskedVector,
    Roster,
    decode,
    encode,
)

N, THRESHOLD = 6, 5
NEW = make_round(N)
LATER = make_round(N, number=2)
JOB = replace(NEW, job="cd" * 32)
RETRY = make_round(N, attempt=2)


@pytest.fixture(scope="module")
def honest() -> Drive:
    return Drive(NEW).to(Stage.UNMASK)


def _adverts(drive: Drive) -> dict[int, Advert]:
    adverts = decode(Roster, drive.at[Stage.SHARE].message, context=drive.round.context).adverts
    return {advert.sender: advert for advert in adverts}


def _signed(new, i: int, share_key: PublicKey, mask_key: PublicKey, *, by: int | None = None) -> Advert:
    text = advert_text(new, sender=i, share_key=share_key, mask_key=mask_key)
    return Advert(i, share_key, mask_key, sign(secret_key(i if by is None else by), text))


def _servers_keys() -> tuple[PublicKey, PublicKey]:
    return public_of(secret_key(77)), public_of(secret_key(78))


def _share(drive: Drive, roster: bytes, *, me: int = 0):
    return client.share(drive.at[Stage.SHARE].states[me], roster, random=Coins())


FORGED = {
    "another's share key, old signature": lambda a: {1: replace(a[1], share_key=_servers_keys()[0])},
    "another's mask key, old signature": lambda a: {1: replace(a[1], mask_key=_servers_keys()[1])},
    "keys signed by the server": lambda a: {1: _signed(NEW, 1, *_servers_keys(), by=77)},
    "keys signed by another member": lambda a: {1: _signed(NEW, 1, *_servers_keys(), by=2)},
    "share and mask key exchanged": lambda a: {1: replace(a[1], share_key=a[1].mask_key, mask_key=a[1].share_key)},
    "two partners exchanged": lambda a: {1: replace(a[2], sender=1), 2: replace(a[1], sender=2)},
    "keys of another round": lambda a: {1: _signed(LATER, 1, *_servers_keys())},
    "keys of another attempt": lambda a: {1: _signed(RETRY, 1, *_servers_keys())},
    "keys for another job": lambda a: {1: _signed(JOB, 1, *_servers_keys())},
    "no signature": lambda a: {1: replace(a[1], signature=Signature(bytes(64)))},
    "the last one's": lambda a: {N - 1: replace(a[N - 1], signature=a[1].signature)},
}


@pytest.mark.parametrize("name", FORGED)
def test_swapped_keys(honest, name):
    forged = roster_with(NEW, honest.at[Stage.SHARE].message, FORGED[name](_adverts(honest)))
    with aborts(Stage.SHARE, Reason.SIGNATURE, match="expected keys signed by partner-00[125]"):
        _share(honest, forged)


OWN_CHANGED = {
    "missing": lambda a: None,
    "another share key": lambda a: replace(a, share_key=_servers_keys()[0]),
    "another mask key": lambda a: replace(a, mask_key=_servers_keys()[1]),
    "other keys, signed with the own identity": lambda a: _signed(NEW, 0, *_servers_keys()),
    "another signature": lambda a: replace(a, signature=Signature(bytes(64))),
}


@pytest.mark.parametrize("name", OWN_CHANGED)
def test_own_keys_changed(honest, name):
    changed = {0: OWN_CHANGED[name](_adverts(honest)[0])}
    with aborts(Stage.SHARE, Reason.OWN_KEYS):
        _share(honest, roster_with(NEW, honest.at[Stage.SHARE].message, changed))


def test_an_empty_roster(honest):
    with aborts(Stage.SHARE, Reason.OWN_KEYS):
        _share(honest, encode(Roster(()), context=NEW.context))


@pytest.mark.parametrize("order", [(0, 1, 1, 2, 3, 4, 5), (0, 2, 1, 3, 4, 5), (1, 2, 3, 4, 5, 0), (0, 0, 1, 2, 3, 4)])
def test_keys_repeated_or_reordered(honest, order):
    adverts = _adverts(honest)
    with aborts(Stage.SHARE, Reason.DUPLICATE):
        _share(honest, encode(Roster(tuple(adverts[i] for i in order)), context=NEW.context))


def test_keys_missing(honest):
    whole = honest.at[Stage.SHARE].message
    _share(honest, roster_with(NEW, whole, {5: None}))
    with aborts(Stage.SHARE, Reason.TOO_FEW, match="at least 5 partners, found 4$"):
        _share(honest, roster_with(NEW, whole, {4: None, 5: None}))


def test_a_party_outside_the_cohort(honest):
    outsider = _signed(NEW, N, *_servers_keys())
    with aborts(Stage.SHARE, Reason.NOT_LISTED, match=f"below {N}, found {N}$"):
        _share(honest, roster_with(NEW, honest.at[Stage.SHARE].message, {N: outsider}))


@pytest.mark.parametrize("shown", ["share and share", "share and mask", "mask and mask", "one for both"])
def test_one_key_twice(honest, shown):
    """A colluding partner signs the key of another, or one key for both uses."""
    victim, (one, two) = _adverts(honest)[2], _servers_keys()
    keys = {
        "share and share": (victim.share_key, two),
        "share and mask": (one, victim.share_key),
        "mask and mask": (one, victim.mask_key),
        "one for both": (one, one),
    }[shown]
    with aborts(Stage.SHARE, Reason.DUPLICATE, match="found one twice"):
        _share(honest, roster_with(NEW, honest.at[Stage.SHARE].message, {1: _signed(NEW, 1, *keys)}))


@pytest.mark.parametrize("point", SMALL_ORDER)
def test_keys_that_give_no_secret(honest, point):
    """A share key is met in stage 1, a mask key in stage 2."""
    whole = honest.at[Stage.SHARE].message
    with aborts(Stage.SHARE, Reason.KEY, match="a key of partner-001 that gives a secret"):
        _share(honest, roster_with(NEW, whole, {1: _signed(NEW, 1, point, _servers_keys()[1])}))
    roster = roster_with(NEW, whole, {1: _signed(NEW, 1, _servers_keys()[0], point)})
    shared = {i: _share(honest, roster, me=i) for i in range(N) if i != 1}
    envelopes = {i: decode(client.Envelopes, data, context=NEW.context) for i, (_, data) in shared.items()}
    sealed = tuple((i, dict(e.sealed)[0]) for i, e in envelopes.items() if i != 0)
    # The colluder's share need not open: its seal is made by its own share key.
    address = share_address(shared[0][0].session.digest, sender=1, receiver=0)
    key = derive(agree(secret_key(77), _adverts(honest)[0].share_key), address)
    theirs = (1, seal(key, bytes(66), bound=address))
    inbox = encode(Inbox(tuple(range(N)), tuple(sorted([theirs, *sealed]))), context=NEW.context)
    opened = client.open_shares(shared[0][0], inbox)
    with aborts(Stage.MASK, Reason.KEY, match="a key of partner-001 that gives a secret"):
        client.mask(opened, make_vectors(NEW)[0], request=REQUEST)


@pytest.mark.parametrize("spelling", OTHER_SPELLINGS)
def test_keys_in_another_spelling(honest, spelling):
    for keys in ((spelling, _servers_keys()[1]), (_servers_keys()[0], spelling)):
        with aborts(Stage.SHARE, Reason.MALFORMED, match="expected a canonical X25519 key"):
            _share(honest, roster_with(NEW, honest.at[Stage.SHARE].message, {1: _signed(NEW, 1, *keys)}))


OTHERS = {"round": LATER, "attempt": RETRY, "job": JOB}


@pytest.mark.parametrize("other", OTHERS)
def test_messages_of_another_round(honest, other):
    """Every message of the server, from an honest run of another round, attempt or job with the same keys."""
    past = Drive(OTHERS[other]).to(Stage.UNMASK)
    states = {stage: snapshot.states[0] for stage, snapshot in honest.at.items()}
    with aborts(Stage.SHARE, Reason.OTHER_ROUND):
        _share(honest, past.at[Stage.SHARE].message)
    with aborts(Stage.MASK, Reason.OTHER_ROUND):
        client.open_shares(states[Stage.MASK], past.at[Stage.MASK].message[0])
    with aborts(Stage.AGREE, Reason.OTHER_ROUND):
        client.approve(states[Stage.AGREE], past.at[Stage.AGREE].message)
    with aborts(Stage.UNMASK, Reason.OTHER_ROUND):
        client.unmask(states[Stage.UNMASK], past.at[Stage.UNMASK].message)


def _inbox(drive: Drive, i: int = 0) -> Inbox:
    return decode(Inbox, drive.at[Stage.MASK].message[i], context=drive.round.context)


def _open(drive: Drive, inbox: Inbox):
    return client.open_shares(drive.at[Stage.MASK].states[0], encode(inbox, context=drive.round.context))


def _flipped(sealed: bytes, at: int) -> bytes:
    return sealed[:at] + bytes([sealed[at] ^ 1]) + sealed[at + 1 :]


@pytest.mark.parametrize("at", [0, 32, 33, 65, 66, 81])
def test_a_tampered_share(honest, at):
    inbox = _inbox(honest)
    sealed = tuple((i, _flipped(s, at) if i == 3 else s) for i, s in inbox.sealed)
    with aborts(Stage.MASK, Reason.SHARE, match="expected a share from partner-003 that opens"):
        _open(honest, replace(inbox, sealed=sealed))


def test_shares_swapped_or_redirected(honest):
    inbox, anothers = _inbox(honest), dict(_inbox(honest, 1).sealed)
    (one, first), (two, second), *rest = inbox.sealed
    with aborts(Stage.MASK, Reason.SHARE, match="from partner-001 that opens"):
        _open(honest, replace(inbox, sealed=((one, second), (two, first), *rest)))
    with aborts(Stage.MASK, Reason.SHARE, match="from partner-002 that opens"):
        _open(honest, replace(inbox, sealed=((one, first), (two, anothers[two]), *rest)))


def test_the_own_share_sent_back(honest):
    """What this partner sealed for another comes back as that one's: the keys of the two directions differ."""
    inbox = _inbox(honest)
    mine = dict(_inbox(honest, 1).sealed)[0]
    with aborts(Stage.MASK, Reason.SHARE, match="from partner-001 that opens"):
        _open(honest, replace(inbox, sealed=((1, mine), *inbox.sealed[1:])))


@pytest.mark.parametrize("left", ["missing", "over", "own", "none"])
def test_shares_missing_or_left_over(honest, left):
    inbox = _inbox(honest)
    changed = {
        "missing": replace(inbox, sealed=inbox.sealed[1:]),
        "over": replace(inbox, present=(0, 1, 2, 3, 4)),
        "own": replace(inbox, sealed=((0, inbox.sealed[0][1]), *inbox.sealed)),
        "none": replace(inbox, sealed=()),
    }[left]
    with aborts(Stage.MASK, Reason.SHARE, match="one share of every neighbour"):
        _open(honest, changed)


def test_lists_of_stage_2(honest):
    inbox = _inbox(honest)
    five = replace(inbox, present=(0, 1, 2, 3, 4), sealed=inbox.sealed[:4])
    assert _open(honest, five).present == frozenset(range(5))
    with aborts(Stage.MASK, Reason.TOO_FEW, match="at least 5 partners, found 4$"):
        _open(honest, replace(inbox, present=(0, 1, 2, 3), sealed=inbox.sealed[:3]))
    with aborts(Stage.MASK, Reason.NOT_LISTED, match="expected this partner in the list"):
        _open(honest, replace(inbox, present=(1, 2, 3, 4, 5)))
    with aborts(Stage.MASK, Reason.NOT_LISTED, match="of the stage before only"):
        _open(honest, replace(inbox, present=(*inbox.present, N)))
    absent = Drive(NEW, vanish={5: Stage.ADVERTISE}).to(Stage.MASK)
    with aborts(Stage.MASK, Reason.NOT_LISTED, match="of the stage before only"):
        _open(absent, replace(_inbox(absent), present=tuple(range(N))))


def test_a_roster_of_two_faces(honest):
    """Two partners are shown other keys of a third, both rightly signed: their shares do not open for each other."""
    whole = honest.at[Stage.SHARE].message
    changed = roster_with(NEW, whole, {5: _signed(NEW, 5, *_servers_keys())})
    mine, _ = _share(honest, whole)
    _, theirs = _share(honest, changed, me=1)
    inbox = _inbox(honest)
    sealed = dict(decode(client.Envelopes, theirs, context=NEW.context).sealed)[0]
    forged = replace(inbox, sealed=((1, sealed), *inbox.sealed[1:]))
    with aborts(Stage.MASK, Reason.SHARE, match="from partner-001 that opens"):
        client.open_shares(mine, encode(forged, context=NEW.context))


@pytest.mark.parametrize(
    "vector",
    [
        MaskedVector(np.zeros(6, np.uint32), np.zeros(3, np.uint64)),
        MaskedVector(np.zeros(5, np.uint64), np.zeros(3, np.uint64)),
        MaskedVector(np.zeros(5, np.uint32), np.zeros(2, np.uint64)),
    ],
)
def test_a_vector_of_another_length_or_kind(honest, vector):
    opened = _open(honest, _inbox(honest))
    with aborts(Stage.MASK, Reason.VECTOR):
        client.mask(opened, vector, request=REQUEST)
    assert not vector.update.any()
    assert not vector.counters.any()


def test_shares_are_secrets(honest):
    opened = _open(honest, _inbox(honest))
    assert all(type(share) is Secret and len(share) == 33 for pair in opened.held.values() for share in pair)
    assert len(opened.held) == N
