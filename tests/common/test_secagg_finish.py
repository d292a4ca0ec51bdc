"""The server in stages 3 and 4 against partners that lie: what they sign and reveal is checked before it is used."""

from __future__ import annotations

from dataclasses import replace
from unittest.mock import patch

import pytest
from cohort import REQUEST, Drive, aborts, check_abort, make_parties, make_round, plain_sum, secret_key

from tacit.secagg import round as rounds
from tacit.secagg import server
from tacit.secagg.abort import Reason, Stage
from tacit.secagg.bindings import agreement_text
from tacit.secagg.constants import PRIME
from tacit.secagg.keys import Digest, Secret, digest, sign
from tacit.secagg.messages import Agreement, Envelopes, Quorum, Reveal, decode, encode

N, BAD = 6, 2
NEW = make_round(N)
LATER = make_round(N, number=2)


def _change(replies: dict[int, bytes], data: bytes) -> dict[int, bytes]:
    return {**replies, BAD: data}


def _written(message) -> bytes:
    return encode(message, context=NEW.context)


def _only(rejected, stage: Stage, reason: Reason) -> None:
    assert list(rejected) == [BAD]
    check_abort(rejected[BAD], stage, reason)


def _signature(drive: Drive, survivors, *, by: int = BAD, new=NEW, request: Digest = REQUEST) -> bytes:
    session = drive.at[Stage.SHARE].server.session
    text = agreement_text(new, session=session, request=request, survivors=survivors)
    return _written(Agreement(BAD, sign(secret_key(by), text)))


AGREEMENTS = {
    "another's": (lambda d, r: r[3], Reason.NOT_LISTED),
    "over another list": (lambda d, r: _signature(d, (1, 2, 3, 4, 5)), Reason.SIGNATURE),
    "over another request": (lambda d, r: _signature(d, tuple(range(6)), request=digest(b"x")), Reason.SIGNATURE),
    "by another": (lambda d, r: _signature(d, tuple(range(6)), by=3), Reason.SIGNATURE),
    "over another round": (lambda d, r: _signature(d, tuple(range(6)), new=LATER), Reason.SIGNATURE),
    "cut short": (lambda d, r: r[BAD][:-1], Reason.MALFORMED),
}


@pytest.mark.parametrize("name", AGREEMENTS)
def test_agreements_that_do_not_stand_up(name):
    make, reason = AGREEMENTS[name]
    drive = Drive(NEW).to(Stage.UNMASK)
    listed = drive.at[Stage.AGREE].server
    replies = _change(drive.replies[Stage.AGREE], make(drive, drive.replies[Stage.AGREE]))
    confirmed, quorum = server.confirm(listed, replies)
    _only(confirmed.rejected, Stage.AGREE, reason)
    assert confirmed.agreed == (0, 1, 3, 4, 5)
    assert [a.sender for a in decode(Quorum, quorum, context=NEW.context).agreements] == [0, 1, 3, 4, 5]
    with aborts(Stage.AGREE, Reason.TOO_FEW, match="at least 5 partners, found 4") as caught:
        server.confirm(listed, {i: data for i, data in replies.items() if i != 5})
    _only(caught.value.rejected, Stage.AGREE, reason)


def test_a_quorum_is_as_many_as_the_threshold():
    drive = Drive(NEW).to(Stage.UNMASK)
    quorum = decode(Quorum, drive.at[Stage.UNMASK].message, context=NEW.context)
    assert [agreement.sender for agreement in quorum.agreements] == [0, 1, 2, 3, 4]
    assert drive.at[Stage.UNMASK].server.agreed == tuple(range(6))


def test_agreements_of_one_that_did_not_survive():
    drive = Drive(NEW, vanish={BAD: Stage.MASK}).to(Stage.UNMASK)
    confirmed, _ = server.confirm(drive.at[Stage.AGREE].server, {**drive.replies[Stage.AGREE], BAD: b"anything"})
    assert confirmed.rejected == {}
    assert confirmed.agreed == (0, 1, 3, 4, 5)


def _reveal(data: bytes) -> Reveal:
    return decode(Reveal, data, context=NEW.context)


REVEALS = {
    "another's": (lambda r: r[3], Reason.NOT_LISTED),
    "one missing": (lambda r: _written(replace(_reveal(r[BAD]), shares=_reveal(r[BAD]).shares[1:])), Reason.SHARE),
    "none": (lambda r: _written(replace(_reveal(r[BAD]), shares=())), Reason.SHARE),
    "one of an outsider": (
        lambda r: _written(replace(_reveal(r[BAD]), shares=(*_reveal(r[BAD]).shares, (6, Secret(bytes(33)))))),
        Reason.SHARE,
    ),
    "of another round": (lambda r: encode(_reveal(r[BAD]), context=LATER.context), Reason.OTHER_ROUND),
    "left over": (lambda r: r[BAD] + b"\0", Reason.MALFORMED),
}


@pytest.mark.parametrize("name", REVEALS)
def test_reveals_that_do_not_stand_up(name):
    make, reason = REVEALS[name]
    drive = Drive(NEW)
    good = drive.reveals()
    confirmed, replies = drive.at[Stage.UNMASK].server, _change(good, make(good))
    with aborts(Stage.UNMASK, Reason.TOO_FEW, match="at least 5 partners, found 4") as caught:
        server.finish(confirmed, {i: data for i, data in replies.items() if i != 5})
    _only(caught.value.rejected, Stage.UNMASK, reason)
    found = server.finish(confirmed, replies)
    _only(found.rejected, Stage.UNMASK, reason)
    assert (found.update.tolist(), found.counters.tolist()) == plain_sum(drive.vectors, range(6))


def test_reveals_of_one_that_did_not_agree():
    drive = Drive(NEW, vanish={BAD: Stage.AGREE})
    replies = {**drive.reveals(), BAD: b"anything"}
    found = server.finish(drive.at[Stage.UNMASK].server, replies)
    assert found.rejected == {}
    assert (found.update.tolist(), found.counters.tolist()) == plain_sum(drive.vectors, range(6))


def _with_share(data: bytes, owner: int, value: int) -> bytes:
    """`data` with its share of `owner` moved by `value`."""
    reveal = _reveal(data)
    moved = {
        i: Secret(((int.from_bytes(share, "big") + value) % PRIME).to_bytes(33, "big")) if i == owner else share
        for i, share in reveal.shares
    }
    return _written(replace(reveal, shares=tuple(moved.items())))


@pytest.mark.parametrize("owner", [BAD, 5], ids=["seed", "mask key"])
@pytest.mark.parametrize("value", [1, 2**255])
def test_a_wrong_share_is_found(owner, value):
    """Of a survivor's seed, and of the mask key of one that vanished (RFC 7748 clamps the key's last three bits)."""
    drive = Drive(NEW, vanish={5: Stage.MASK})
    right = drive.reveals()
    wrong = {**right, 0: _with_share(right[0], owner, value)}
    confirmed = drive.at[Stage.UNMASK].server
    with aborts(Stage.UNMASK, Reason.SECRET, match=f"the secret that partner-00{owner} published"):
        server.finish(confirmed, wrong)
    found = server.finish(confirmed, right)  # nothing was taken off in the failed try
    assert (found.update.tolist(), found.counters.tolist()) == plain_sum(drive.vectors, range(5))


def test_shares_of_what_is_no_secret():
    """Shares whose polynomial is 2^256 at 0, which no 32 bytes are."""
    drive = Drive(NEW, vanish={5: Stage.MASK})
    replies = drive.reveals()
    seed = int.from_bytes(drive.at[Stage.MASK].states[BAD].seed, "big")
    for i in range(5):
        replies[i] = _with_share(replies[i], BAD, 2**256 - seed)
    with aborts(Stage.UNMASK, Reason.SECRET, match=f"the secret that partner-00{BAD} published"):
        server.finish(drive.at[Stage.UNMASK].server, replies)


def test_as_many_shares_as_needed_are_used():
    """A wrong one beyond them, of the last position, changes nothing."""
    drive = Drive(NEW)
    replies = drive.reveals()
    replies[5] = _with_share(replies[5], BAD, 1)
    found = server.finish(drive.at[Stage.UNMASK].server, replies)
    assert (found.update.tolist(), found.counters.tolist()) == plain_sum(drive.vectors, range(6))


def test_another_commitment_is_found():
    drive = Drive(NEW).to(Stage.MASK)
    reply = decode(Envelopes, drive.replies[Stage.SHARE][BAD], context=NEW.context)
    replies = _change(drive.replies[Stage.SHARE], _written(replace(reply, commitment=digest(b"another"))))
    drive.at[Stage.MASK] = replace(
        drive.at[Stage.MASK], server=server.route(drive.at[Stage.SHARE].server, replies, request=REQUEST)[0]
    )
    with aborts(Stage.UNMASK, Reason.SECRET, match=f"partner-00{BAD} published"):
        drive.sum()


def test_another_mask_key_shared_is_found():
    """A partner shares another key than it showed, and vanishes."""
    drive = Drive(NEW, vanish={BAD: Stage.MASK}).to(Stage.SHARE)
    states = dict(drive.at[Stage.SHARE].states)
    states[BAD] = replace(states[BAD], mask_key=secret_key(50))
    drive.at[Stage.SHARE] = replace(drive.at[Stage.SHARE], states=states)
    with aborts(Stage.UNMASK, Reason.SECRET, match=f"partner-00{BAD} published"):
        drive.sum()


def test_a_vector_after_the_list_is_found():
    """Its masks would stay on the sum."""
    drive = Drive(NEW).to(Stage.AGREE)
    late, _ = server.route(drive.at[Stage.SHARE].server, drive.replies[Stage.SHARE], request=REQUEST)
    for i in range(5):
        server.gather(late, i, drive.vectors[i], drive.replies[Stage.MASK][i])
    listed, _ = server.listing(late)
    server.gather(late, 5, drive.vectors[5], drive.replies[Stage.MASK][5])
    confirmed = server.Confirmed(listed, tuple(range(5)), {})
    with aborts(Stage.UNMASK, Reason.ORDER, match="expected no vector after the list of survivors"):
        server.finish(confirmed, {})


def test_masks_come_off_once():
    """A second time they would be taken off a sum that has none, and what comes out would look like a sum."""
    drive = Drive(NEW, vanish={5: Stage.MASK})
    replies = drive.reveals()
    confirmed = drive.at[Stage.UNMASK].server
    found = server.finish(confirmed, replies)
    with aborts(Stage.UNMASK, Reason.ORDER, match="expected a sum with its masks on, found one that is finished"):
        server.finish(confirmed, replies)
    gathered = confirmed.listed.gathered
    gathered.survivors.clear()
    with aborts(Stage.MASK, Reason.NOT_LISTED):
        server.gather(gathered, 0, drive.vectors[0], drive.replies[Stage.MASK][0])
    assert (found.update.tolist(), found.counters.tolist()) == plain_sum(drive.vectors, range(5))


def test_an_interrupted_try_is_the_last():
    drive = Drive(NEW)
    replies = drive.reveals()
    confirmed = drive.at[Stage.UNMASK].server
    with patch.object(server, "add_mask", side_effect=KeyboardInterrupt), pytest.raises(KeyboardInterrupt):
        server.finish(confirmed, replies)
    with aborts(Stage.UNMASK, Reason.ORDER, match="found one that is finished"):
        server.finish(confirmed, replies)


def test_too_few_shares_of_one_partner():
    """In a sparse graph enough partners may answer and too few of them hold somebody's shares."""
    with patch.object(rounds, "edge_chance", return_value=1):
        new = make_round(12, threshold=7, edges=110)
    drive = Drive(new, make_parties(new))
    good = drive.reveals()
    graph = drive.at[Stage.SHARE].server.graph
    near, needed = graph.neighbours(0), graph.needed(0)
    gone = near[: len(near) + 2 - needed]
    assert 12 - len(gone) >= 7
    with aborts(Stage.UNMASK, Reason.TOO_FEW, match=f"expected {needed} shares of partner-000, found {needed - 1}$"):
        server.finish(drive.at[Stage.UNMASK].server, {i: data for i, data in good.items() if i not in gone})
