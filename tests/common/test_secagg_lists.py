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
    check_abort,
    make_parties,
    make_round,
    plain_sum,
    roster_with,
    secret_key,
)
from scipy import stats

from tacit.secagg import client, server
from tacit.secagg import round as rounds
from tacit.secagg.abort import Abort, Reason, Stage
from tacit.secagg.bindings import agreement_text
from tacit.secagg.keys import Signature, digest, sign
from tacit.secagg.messages import Agreement, Inbox, Quorum, Survivors, decode, encode

N = 6
NEW = make_round(N)
LATER = make_round(N, number=2)


@pytest.fixture(scope="module")
def honest() -> Drive:
    return Drive(NEW).to(Stage.UNMASK)


def _survivors(*positions: int) -> bytes:
    return encode(Survivors(positions), context=NEW.context)


def test_lists_of_stage_3(honest):
    masked = honest.at[Stage.AGREE].states[0]
    assert client.approve(masked, _survivors(0, 1, 2, 3, 4))[0].survivors == (0, 1, 2, 3, 4)
    with aborts(Stage.AGREE, Reason.TOO_FEW, match="at least 5 partners, found 4$"):
        client.approve(masked, _survivors(0, 1, 2, 3))
    with aborts(Stage.AGREE, Reason.NOT_LISTED, match="expected this partner in the list"):
        client.approve(masked, _survivors(1, 2, 3, 4, 5))
    with aborts(Stage.AGREE, Reason.NOT_LISTED, match="of the stage before only"):
        client.approve(masked, _survivors(*range(7)))
    absent = Drive(NEW, vanish={5: Stage.SHARE}).to(Stage.AGREE)
    with aborts(Stage.AGREE, Reason.NOT_LISTED, match="of the stage before only"):
        client.approve(absent.at[Stage.AGREE].states[0], _survivors(*range(6)))


def test_one_list_is_signed_and_one_answer_given(honest):
    agreed, _ = client.approve(honest.at[Stage.AGREE].states[0], _survivors(0, 1, 2, 3, 4))
    with aborts(Stage.AGREE, Reason.ORDER):
        client.approve(agreed, _survivors(*range(6)))
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
    narrow, _ = client.approve(honest.at[Stage.AGREE].states[0], _survivors(*five))
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
                client.approve(state, encode(Survivors((0, 1, 2, 4, 5, 6)), context=new.context))


def test_another_request_leaves_noise():
    """A server that asks one partner something else, such as another model, learns neither its vector nor the sum."""
    new = make_round(5, update=1 << 14, counters=1 << 12)
    drive = Drive(new, requests={0: digest(b"another model")}).to(Stage.AGREE)
    snapshot = drive.at[Stage.AGREE]
    agreed = {i: client.approve(state, snapshot.message) for i, state in snapshot.states.items()}
    listed, quorum = server.confirm(snapshot.server, {i: data for i, (_, data) in agreed.items()})
    assert {i: error.reason for i, error in listed.rejected.items()} == {0: Reason.SIGNATURE}
    with aborts(Stage.UNMASK, Reason.SIGNATURE):
        client.unmask(agreed[0][0], quorum)
    found = server.finish(listed, {i: client.unmask(agreed[i][0], quorum)[1] for i in range(1, 5)})
    sums = plain_sum(drive.vectors, range(5)), plain_sum(drive.vectors, range(1, 5))
    for i, values in enumerate((found.update, found.counters)):
        for known in (*(np.array(s[i], dtype=values.dtype) for s in sums), drive.vectors[0].channels()[i][1]):
            off = (values - known).view(np.uint8)
            assert stats.chisquare(np.bincount(off, minlength=256)).pvalue > 1e-3


@pytest.fixture
def sparse():
    with patch.object(rounds, "edge_chance", return_value=1):
        yield make_round(12, threshold=7, edges=110)


def _thin(drive: Drive, stage: Stage) -> tuple[int, tuple[int, ...]]:
    """A partner, and a list of seven with it that leaves it too few holders."""
    for i, state in drive.at[stage].states.items():
        near = state.neighbours if stage is Stage.AGREE else state.session.neighbours
        needed = state.needed if stage is Stage.AGREE else state.session.graph.needed(i)
        drop = set(near[: max(0, len(near) + 2 - needed)])
        kept = tuple(j for j in range(12) if j not in drop)
        if len(kept) >= 7:
            return i, kept
    raise LookupError


def test_too_few_holders_left_in_a_sparse_graph(sparse):
    """Each list is long enough, and a partner whose neighbours it leaves out refuses."""
    drive = Drive(sparse).to(Stage.AGREE)
    i, kept = _thin(drive, Stage.MASK)
    inbox = decode(Inbox, drive.at[Stage.MASK].message[i], context=sparse.context)
    sealed = tuple((j, s) for j, s in inbox.sealed if j in kept)
    needed = drive.at[Stage.MASK].states[i].session.graph.needed(i)
    expected = f"at least {needed} live holders of shares, found {needed - 1}$"
    with aborts(Stage.MASK, Reason.TOO_FEW, match=expected):
        client.open_shares(drive.at[Stage.MASK].states[i], encode(Inbox(kept, sealed), context=sparse.context))
    i, kept = _thin(drive, Stage.AGREE)
    with aborts(Stage.AGREE, Reason.TOO_FEW, match="live holders of shares"):
        client.approve(drive.at[Stage.AGREE].states[i], encode(Survivors(kept), context=sparse.context))


def test_too_few_holders_at_the_start_of_a_sparse_round(sparse):
    """Leaving partners out draws another graph: some of them give this partner too few holders."""
    whole, found = Drive(sparse).to(Stage.SHARE), []
    for first in range(1, 11):
        change = {first: None, first + 1: None, **({3: None} if first > 4 else {})}
        roster = roster_with(sparse, whole.at[Stage.SHARE].message, change)
        try:
            client.share(whole.at[Stage.SHARE].states[0], roster, random=Coins())
        except Abort as error:
            found.append(error)
    assert 0 < len(found) < 10
    for error in found:
        check_abort(error, Stage.SHARE, Reason.TOO_FEW)
        assert "live holders of shares" in str(error)
