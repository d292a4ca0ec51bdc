"""The hostile server in stages 3 and 4, and over the stages: lists, signatures, peers that vanish, other requests."""

from __future__ import annotations

from dataclasses import replace
from unittest.mock import patch

import numpy as np
import pytest
from cohort import (
    REQUEST,
    Coins,
    Drive,
    aborts,
    make_parties,
    make_round,
    plain_sum,
    roster_with,
    secret_key,
    survivors_of,
)
from scipy import stats

from tacit.secagg import client, server
from tacit.secagg.abort import Reason, Stage
from tacit.secagg.bindings import agreement_text
from tacit.secagg.keys import Signature, digest, sign
from tacit.secagg.messages import Agreement, Inbox, MaskedVector, Presence, Quorum, Survivors, decode, encode

N = 6
NEW = make_round(N)
LATER = make_round(N, number=2)


@pytest.fixture(scope="module")
def honest() -> Drive:
    return Drive(NEW).to(Stage.UNMASK)


def test_lists_of_stage_3(honest):
    masked = honest.at[Stage.AGREE].states[0]
    assert client.approve(
        masked,
        survivors_of(
            honest,
            (
                0,
                1,
                2,
                3,
                4,
            ),
        ),
    )[0].survivors == (0, 1, 2, 3, 4)
    with aborts(Stage.AGREE, Reason.TOO_FEW, match="at least 5 partners, found 4$"):
        client.approve(
            masked,
            survivors_of(
                honest,
                (
                    0,
                    1,
                    2,
                    3,
                ),
            ),
        )
    with aborts(Stage.AGREE, Reason.NOT_LISTED, match="expected this partner in the list"):
        client.approve(
            masked,
            survivors_of(
                honest,
                (
                    1,
                    2,
                    3,
                    4,
                    5,
                ),
            ),
        )
    with aborts(Stage.AGREE, Reason.NOT_LISTED, match="of the stage before only"):
        client.approve(masked, survivors_of(honest, range(7)))
    absent = Drive(NEW, vanish={5: Stage.SHARE}).to(Stage.AGREE)
    with aborts(Stage.AGREE, Reason.NOT_LISTED, match="of the stage before only"):
        client.approve(absent.at[Stage.AGREE].states[0], survivors_of(absent, range(6)))


def test_one_list_is_signed_and_one_answer_given(honest):
    agreed, _ = client.approve(
        honest.at[Stage.AGREE].states[0],
        survivors_of(
            honest,
            (
                0,
                1,
                2,
                3,
                4,
            ),
        ),
    )
    with aborts(Stage.AGREE, Reason.ORDER):
        client.approve(agreed, survivors_of(honest, range(6)))
    done, _ = client.unmask(honest.at[Stage.UNMASK].states[0], honest.at[Stage.UNMASK].message)
    with aborts(Stage.UNMASK, Reason.ORDER, match="expected a partner in state Agreed, found Done"):
        client.unmask(done, honest.at[Stage.UNMASK].message)


def _agreements(drive: Drive, survivors: tuple[int, ...], *, request=REQUEST, session=None, new=NEW, by=None):
    """Signatures of all of `survivors` over `survivors`, or of those in `by`."""
    digest_of = drive.at[Stage.AGREE].states[0].session if session is None else session
    text = agreement_text(new, session=digest_of, request=request, survivors=survivors)
    return tuple(Agreement(i, sign(secret_key(i), text)) for i in (survivors if by is None else by))


def _quorum(*agreements: Agreement) -> bytes:
    return encode(Quorum(agreements), context=NEW.context)


EVERYBODY = tuple(range(N))
OVER = {
    "another list": lambda d: _agreements(d, (0, 1, 2, 3, 4)),
    "another request": lambda d: _agreements(d, EVERYBODY, request=digest(b"another")),
    "another session": lambda d: _agreements(d, EVERYBODY, session=digest(b"another")),
    "another round": lambda d: _agreements(d, EVERYBODY, new=LATER),
    "one over another list": lambda d: (*_agreements(d, EVERYBODY)[:5], _agreements(d, (1, 2, 3, 4, 5))[4]),
    "one by another member": lambda d: (
        *_agreements(d, EVERYBODY)[:5],
        replace(_agreements(d, EVERYBODY)[0], sender=5),
    ),
}


@pytest.mark.parametrize("name", OVER)
def test_signatures_over_anything_else(honest, name):
    agreed = honest.at[Stage.UNMASK].states[0]
    with aborts(Stage.UNMASK, Reason.SIGNATURE, match="expected a signature of partner-00[05] over the same survivors"):
        client.unmask(agreed, _quorum(*OVER[name](honest)))


def test_signatures_too_few_or_of_others(honest):
    agreed, all_six = honest.at[Stage.UNMASK].states[0], _agreements(honest, EVERYBODY)
    client.unmask(agreed, _quorum(*all_six[1:]))
    with aborts(Stage.UNMASK, Reason.TOO_FEW, match="expected 5 signatures of survivors, found 4$"):
        client.unmask(agreed, _quorum(*all_six[:4]))
    with aborts(Stage.UNMASK, Reason.TOO_FEW):
        client.unmask(agreed, _quorum())
    with aborts(Stage.UNMASK, Reason.DUPLICATE):
        client.unmask(agreed, _quorum(*all_six[:4], all_six[3]))
    five = (0, 1, 2, 3, 4)
    narrow, _ = client.approve(honest.at[Stage.AGREE].states[0], survivors_of(honest, five))
    with aborts(Stage.UNMASK, Reason.NOT_LISTED, match="of survivors only"):
        client.unmask(narrow, _quorum(*_agreements(honest, five, by=EVERYBODY)))
    with aborts(Stage.UNMASK, Reason.NOT_LISTED, match="of survivors only"):
        client.unmask(narrow, _quorum(*_agreements(honest, five, by=five), Agreement(2**32 - 1, Signature(bytes(64)))))


@pytest.mark.parametrize("stage", [Stage.SHARE, Stage.MASK, Stage.AGREE])
def test_accepted_peers_gone_though_the_cohort_was_right(stage):
    """The server has the partner's peers vanish, one more than its minimum allows, and keeps those of its own."""
    new = make_round(7, threshold=6)
    parties = make_parties(new, min_cohort=4, strangers=(4, 5, 6))
    drive = Drive(new, parties).to(stage)
    state, message = drive.at[stage].states[0], drive.at[stage].message
    with aborts(stage, Reason.COHORT, match="at least 4 accepted partners, itself among them, found 3 of 6$"):
        match stage:
            case Stage.SHARE:
                client.share(state, roster_with(new, message, {3: None}), random=Coins())
            case Stage.MASK:
                inbox = decode(Inbox, message[0], context=new.context)
                sealed = tuple(pair for pair in inbox.sealed if pair[0] != 3)
                client.open_shares(state, encode(Inbox((0, 1, 2, 4, 5, 6), sealed), context=new.context))
            case Stage.AGREE:
                client.approve(state, survivors_of(drive, (0, 1, 2, 4, 5, 6)))


def _masked(drive: Drive, i: int, *, request=REQUEST, present: tuple[int, ...] | None = None):
    """What partner `i` sends in stage 2, where it is asked `request` and shown `present` as U2."""
    at, vector = drive.at[Stage.MASK], drive.vectors[i]
    inbox = decode(Inbox, at.message[i], context=drive.round.context)
    if present is not None:
        inbox = Inbox(present, tuple(pair for pair in inbox.sealed if pair[0] in present))
    copied = MaskedVector(vector.update.copy(), vector.counters.copy())
    opened = client.open_shares(at.states[i], encode(inbox, context=drive.round.context))
    state, data = client.mask(opened, copied, request=request)
    return state, data, copied


def _listed(drive: Drive, sent) -> bytes:
    """The list of all who sent, with what they signed."""
    presences = tuple(decode(Presence, data, context=drive.round.context) for _, (_, data, _) in sorted(sent.items()))
    return encode(Survivors(presences), context=drive.round.context)


@pytest.mark.parametrize("lie", ["another request", "another U2"])
def test_two_stories_in_stage_2(lie):
    """Partners that were asked, or shown, different things in stage 2 do not sign one list of survivors."""
    drive = Drive(NEW).to(Stage.MASK)
    told = {"request": digest(b"another model")} if lie == "another request" else {"present": (0, 1, 2, 3, 4)}
    sent = {i: _masked(drive, i) for i in range(1, 5)} | {0: _masked(drive, 0, **told)}
    shown = _listed(drive, sent)
    for i in range(1, 5):
        with aborts(Stage.AGREE, Reason.SIGNATURE, match="expected partner-000 to have masked with the partners shown"):
            client.approve(sent[i][0], shown)
    with aborts(Stage.AGREE, Reason.SIGNATURE, match="expected partner-00[1-4] to have masked"):
        client.approve(sent[0][0], shown)
    with aborts(Stage.MASK, Reason.SIGNATURE, match="over those who shared keys"):
        server.gather(drive.at[Stage.MASK].server, 0, sent[0][2], sent[0][1])


@pytest.mark.parametrize("what", ["nothing", "another's", "of the next stage"])
def test_a_presence_that_the_server_made_up(honest, what):
    presences = list(decode(Survivors, honest.at[Stage.AGREE].message, context=NEW.context).presences)
    signature = {
        "nothing": Signature(bytes(64)),
        "another's": presences[2].signature,
        "of the next stage": _agreements(honest, EVERYBODY)[3].signature,
    }[what]
    presences[3] = Presence(3, signature)
    with aborts(Stage.AGREE, Reason.SIGNATURE, match="expected partner-003 to have masked"):
        client.approve(honest.at[Stage.AGREE].states[0], encode(Survivors(tuple(presences)), context=NEW.context))


def test_another_request_leaves_noise():
    """Even were nobody to look at what the others signed in stage 2: a server that asks one partner something else,
    such as another model, learns neither its vector nor the sum."""
    new = make_round(5, update=1 << 14, counters=1 << 12)
    drive = Drive(new).to(Stage.MASK)
    sent = {i: _masked(drive, i) for i in range(1, 5)} | {0: _masked(drive, 0, request=digest(b"another model"))}
    gathering = drive.at[Stage.MASK].server
    with patch.object(client, "check_presences"), patch.object(server, "verifies", return_value=True):
        for i, (_, data, vector) in sorted(sent.items()):
            server.gather(gathering, i, vector, data)
        listed, shown = server.listing(gathering)
        agreed = {i: client.approve(state, shown) for i, (state, _, _) in sent.items()}
    confirmed, quorum = server.confirm(listed, {i: data for i, (_, data) in agreed.items()})
    assert {i: error.reason for i, error in confirmed.rejected.items()} == {0: Reason.SIGNATURE}
    with aborts(Stage.UNMASK, Reason.SIGNATURE):
        client.unmask(agreed[0][0], quorum)
    found = server.finish(confirmed, {i: client.unmask(agreed[i][0], quorum)[1] for i in range(1, 5)})
    sums = plain_sum(drive.vectors, range(5)), plain_sum(drive.vectors, range(1, 5))
    for i, values in enumerate((found.update, found.counters)):
        for known in (*(np.array(s[i], dtype=values.dtype) for s in sums), drive.vectors[0].channels()[i][1]):
            off = (values - known).view(np.uint8)
            assert stats.chisquare(np.bincount(off, minlength=256)).pvalue > 1e-3
