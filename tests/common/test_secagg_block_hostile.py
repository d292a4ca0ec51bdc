"""What a partner refuses in a block, and what the server sets aside: each lie through the real states."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

import pytest
from blocks import BlockDrive, request_of, vectors_of
from cohort import SMALL_ORDER, Coins, Drive, aborts, make_parties, make_round, plain_sum, secret_key

from tacit.secagg import block, client
from tacit.secagg.abort import Reason, Stage
from tacit.secagg.bindings import block_text, share_address
from tacit.secagg.block.messages import BlockAdvert, BlockEnvelopes, BlockInbox, BlockRoster
from tacit.secagg.keys import Exchange, PublicKey, Secret, derive, open_sealed, public_of, seal, sign
from tacit.secagg.messages import (
    Advert,
    Envelopes,
    Inbox,
    Roster,
    decode,
    encode,
)

N, STEPS = 4, 3


@pytest.fixture(scope="module")
def opened() -> BlockDrive:
    """A block that nobody has taken a step of; tests change no state of it."""
    return BlockDrive(make_round(N), steps=STEPS)


def _adverts(drive: BlockDrive) -> dict[int, BlockAdvert]:
    return {a.sender: a for a in decode(BlockRoster, drive.roster, context=drive.round.context).adverts}


def _roster(drive: BlockDrive, change: Mapping[int, BlockAdvert | None]) -> bytes:
    adverts = {**_adverts(drive), **change}
    found = tuple(advert for _, advert in sorted(adverts.items()) if advert is not None)
    return encode(BlockRoster(found), context=drive.round.context)


def _signed(drive: BlockDrive, i: int, *, share_key: PublicKey, mask_keys: tuple[PublicKey, ...]) -> BlockAdvert:
    text = block_text(drive.round, sender=i, share_key=share_key, mask_keys=mask_keys)
    return BlockAdvert(i, share_key, mask_keys, sign(secret_key(i), text))


def _share(drive: BlockDrive, roster: bytes) -> Any:
    return block.share(drive.advertised[0], roster, random=Coins("again"))


def _keys(seed: int, count: int = STEPS) -> tuple[PublicKey, ...]:
    return tuple(public_of(secret_key(100 * seed + k)) for k in range(count))


def test_one_mask_key_swapped(opened):
    """The server puts its own key into one step of another's advert: the one signature is over all."""
    honest = _adverts(opened)[1]
    for step in range(STEPS):
        keys = (*honest.mask_keys[:step], _keys(1)[0], *honest.mask_keys[step + 1 :])
        with aborts(Stage.SHARE, Reason.SIGNATURE, match="keys signed by partner-001"):
            _share(opened, _roster(opened, {1: replace(honest, mask_keys=keys)}))
        own = replace(_adverts(opened)[0], mask_keys=keys)
        with aborts(Stage.SHARE, Reason.OWN_KEYS):
            _share(opened, _roster(opened, {0: own}))


def test_mask_keys_in_another_order(opened):
    honest = _adverts(opened)[1]
    first, second, *rest = honest.mask_keys
    with aborts(Stage.SHARE, Reason.SIGNATURE):
        _share(opened, _roster(opened, {1: replace(honest, mask_keys=(second, first, *rest))}))


def test_a_key_shown_twice_in_any_two_steps(opened):
    """A colluder's key of one step is an honest partner's of another, or its own of another."""
    theirs, mine = _adverts(opened)[1].mask_keys, _keys(2)
    for keys in ((theirs[2], *mine[1:]), (mine[0], mine[0], mine[2])):
        advert = _signed(opened, 3, share_key=_keys(3)[0], mask_keys=keys)
        with aborts(Stage.SHARE, Reason.DUPLICATE):
            _share(opened, _roster(opened, {3: advert}))
    advert = _signed(opened, 3, share_key=theirs[1], mask_keys=mine)
    with aborts(Stage.SHARE, Reason.DUPLICATE):
        _share(opened, _roster(opened, {3: advert}))


@pytest.mark.parametrize("count", [0, 1, STEPS - 1, STEPS + 1])
def test_keys_for_another_number_of_steps(opened, count):
    advert = _signed(opened, 3, share_key=_keys(3)[0], mask_keys=_keys(2, count))
    found = f"expected a message for {STEPS} steps, found one for {count}$"
    with aborts(Stage.SHARE, Reason.MALFORMED, match=found):
        _share(opened, _roster(opened, {3: advert}))
    admitted, _ = block.admit(
        opened.round, opened.adverts | {3: encode(advert, context=opened.round.context)}, steps=STEPS
    )
    assert admitted.rejected.keys() == {3}
    assert admitted.rejected[3].reason is Reason.MALFORMED


def test_a_job_of_another_number_of_steps_has_another_block():
    """Whoever thinks of more steps refuses the roster of fewer, and the other way round."""
    new = make_round(N)
    two, three = BlockDrive(new, steps=2), BlockDrive(new, steps=3)
    for mine, theirs in ((two, three), (three, two)):
        with aborts(Stage.SHARE, Reason.MALFORMED):
            _share(mine, theirs.roster)
        with aborts(Stage.MASK, Reason.MALFORMED, match="expected a message for"):
            block.open_shares(mine.shared[0], theirs.inboxes[0])
        admitted, _ = block.admit(new, mine.adverts, steps=mine.steps)
        with aborts(Stage.SHARE, Reason.TOO_FEW) as caught:
            block.route(admitted, theirs.envelopes)
        assert {error.reason for error in caught.value.rejected.values()} == {Reason.MALFORMED}


def test_a_key_of_small_order_in_a_late_step(opened):
    """It gives no secret: the server sets it aside; were it not to, the partner would refuse in that step."""
    keys = (*_keys(2)[: STEPS - 1], SMALL_ORDER[0])
    advert = _signed(opened, 3, share_key=_keys(3)[0], mask_keys=keys)
    data = encode(advert, context=opened.round.context)
    admitted, _ = block.admit(opened.round, opened.adverts | {3: data}, steps=STEPS)
    assert admitted.rejected[3].reason is Reason.KEY
    assert sorted(admitted.adverts) == [0, 1, 2]
    session = replace(opened.blocks[0].session, adverts={**opened.blocks[0].session.adverts, 3: advert})
    _, at = block.step(replace(opened.blocks[0], session=session), STEPS)
    with aborts(Stage.MASK, Reason.KEY, match="a key of partner-003"):
        client.mask(at, vectors_of(opened.round, STEPS)[0], request=request_of(STEPS))


def test_fewer_than_the_threshold_or_of_strangers(opened):
    with aborts(Stage.SHARE, Reason.TOO_FEW):
        _share(opened, _roster(opened, {2: None, 3: None}))
    parties = make_parties(opened.round, strangers=(1, 2, 3))
    with aborts(Stage.ADVERTISE, Reason.COHORT):
        block.advertise(opened.round, parties[0], steps=STEPS, random=Coins())


def _inbox(drive: BlockDrive, i: int = 0) -> BlockInbox:
    return decode(BlockInbox, drive.inboxes[i], context=drive.round.context)


def _open(drive: BlockDrive, inbox: BlockInbox) -> block.Block:
    return block.open_shares(drive.shared[0], encode(inbox, context=drive.round.context))


def test_an_envelope_with_any_share_changed(opened):
    """One bit in any step's share, or in the tag: none of the envelope opens."""
    inbox = _inbox(opened)
    (sender, sealed), *rest = inbox.sealed
    size = 66 * STEPS + 16
    assert len(sealed) == size
    places = (0, 32, 33, 65, 66, 66 * STEPS - 1, 66 * STEPS, size - 1)
    for at in places:
        torn = sealed[:at] + bytes([sealed[at] ^ 1]) + sealed[at + 1 :]
        with aborts(Stage.MASK, Reason.SHARE, match="a share from partner-001 that opens"):
            _open(opened, replace(inbox, sealed=((sender, torn), *rest)))


def test_envelopes_missing_swapped_or_of_another_block(opened):
    inbox, another = _inbox(opened), BlockDrive(opened.round, steps=STEPS, coins="another")
    one, two, three = inbox.sealed
    with aborts(Stage.MASK, Reason.SHARE, match="one envelope of every neighbour"):
        _open(opened, replace(inbox, sealed=(one, two)))
    with aborts(Stage.MASK, Reason.SHARE, match="that opens"):
        _open(opened, replace(inbox, sealed=((one[0], two[1]), (two[0], one[1]), three)))
    with aborts(Stage.MASK, Reason.SHARE, match="that opens"):
        _open(opened, replace(inbox, sealed=(one, two, _inbox(another).sealed[2])))
    with aborts(Stage.MASK, Reason.TOO_FEW):
        _open(opened, replace(inbox, present=(0, 1), sealed=(one,)))
    with aborts(Stage.MASK, Reason.NOT_LISTED):
        _open(opened, replace(inbox, present=(1, 2, 3)))


def test_a_block_replayed():
    """Of another round: refused by `ctx`. Of the same round with other keys: nothing of it fits."""
    new = make_round(N)
    drive, other = BlockDrive(new, steps=STEPS), BlockDrive(make_round(N, number=2), steps=STEPS)
    again = BlockDrive(new, steps=STEPS, coins="again")
    with aborts(Stage.SHARE, Reason.OTHER_ROUND):
        _share(drive, other.roster)
    with aborts(Stage.MASK, Reason.OTHER_ROUND):
        block.open_shares(drive.shared[0], other.inboxes[0])
    with aborts(Stage.SHARE, Reason.OWN_KEYS):
        _share(drive, again.roster)
    with aborts(Stage.MASK, Reason.SHARE):
        block.open_shares(drive.shared[0], again.inboxes[0])
    states, _, _ = drive.masked(1)
    for foreign, reason in ((again, Reason.OTHER_ROUND), (other, Reason.OTHER_ROUND)):
        _, _, gathering = foreign.masked(1)
        with aborts(Stage.UNMASK, reason):
            client.unmask(states[0], block.complete(gathering)[1])


def test_a_block_and_a_round_do_not_mix(opened):
    """Messages of one are no messages of the other, in the very same round."""
    plain = Drive(opened.round).to(Stage.UNMASK)
    with aborts(Stage.SHARE, Reason.MALFORMED):
        _share(opened, plain.at[Stage.SHARE].message)
    with aborts(Stage.MASK, Reason.MALFORMED):
        block.open_shares(opened.shared[0], plain.at[Stage.MASK].message[0])
    for step, state in ((block.share, plain.at[Stage.SHARE].states[0]), (client.share, opened.advertised[0])):
        with aborts(Stage.SHARE, Reason.ORDER):
            step(state, opened.roster, random=Coins())
    with aborts(Stage.MASK, Reason.ORDER):
        block.step(plain.at[Stage.MASK].states[0], 1)
    kinds = {Advert: BlockAdvert, Roster: BlockRoster, Envelopes: BlockEnvelopes, Inbox: BlockInbox}
    assert not {kind.KIND for kind in kinds} & {kind.KIND for kind in kinds.values()}


@pytest.mark.parametrize("change", ["short", "long", "owner", "other kind"])
def test_envelopes_that_the_server_sets_aside(opened, change):
    context = opened.round.context
    envelopes = decode(BlockEnvelopes, opened.envelopes[3], context=context)
    match change:
        case "short" | "long":
            count = STEPS - 1 if change == "short" else STEPS + 1
            size = 66 * count + 16
            sealed = tuple((j, data.ljust(size, b"\0")[:size]) for j, data in envelopes.sealed)
            digests = (envelopes.commitments * 2)[:count]
            data, reason = encode(BlockEnvelopes(3, digests, sealed), context=context), Reason.MALFORMED
        case "owner":
            data, reason = encode(replace(envelopes, sender=2), context=context), Reason.NOT_LISTED
        case _:
            data, reason = encode(replace(envelopes, sealed=envelopes.sealed[1:]), context=context), Reason.SHARE
    routed, inboxes = block.route(opened.admitted, opened.envelopes | {3: data})
    assert {i: error.reason for i, error in routed.rejected.items()} == {3: reason}
    assert routed.present == (0, 1, 2)
    assert sorted(inboxes) == [0, 1, 2]


def test_a_wrong_share_of_a_colluder_ends_its_step_alone():
    """It seals a wrong share for step 2: that step gives no sum, by what was committed to; the others stand."""
    drive = BlockDrive(make_round(N), steps=3)
    begun, bad = drive.shared[3], 3
    mine, context = Exchange(begun.share_key), drive.round.context
    sealed = []
    for j, data in decode(BlockEnvelopes, drive.envelopes[bad], context=context).sealed:
        address = share_address(begun.session.digest, sender=bad, receiver=j)
        key = derive(mine.agree(begun.session.adverts[j].share_key), address)
        plain = open_sealed(key, data, bound=address)
        assert plain is not None
        wrong = plain[:66] + Secret(bytes(33)) + plain[99:]
        sealed.append((j, seal(key, wrong, bound=address)))
    envelopes = replace(decode(BlockEnvelopes, drive.envelopes[bad], context=context), sealed=tuple(sealed))
    drive.routed, drive.inboxes = block.route(
        drive.admitted, drive.envelopes | {bad: encode(envelopes, context=context)}
    )
    drive.blocks = {i: block.open_shares(drive.shared[i], drive.inboxes[i]) for i in range(N)}
    for number in (1, 2, 3):
        if number == 2:
            with aborts(Stage.UNMASK, Reason.SECRET, match="the secret that partner-003 published"):
                drive.step(number)
            continue
        assert drive.step(number).update.tolist() == plain_sum(vectors_of(drive.round, number), range(N))[0]
