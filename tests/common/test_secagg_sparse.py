"""A sparse graph: whoever is left with too few holders of its shares refuses."""

from __future__ import annotations

from dataclasses import replace
from unittest.mock import patch

import pytest
from cohort import Coins, Drive, aborts, check_abort, make_round, roster_with, survivors_of

from tacit.secagg import client
from tacit.secagg import round as rounds
from tacit.secagg.abort import Abort, Reason, Stage
from tacit.secagg.messages import Inbox, Survivors, decode, encode


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
        client.approve(drive.at[Stage.AGREE].states[i], survivors_of(drive, kept))


def test_neighbours_alone_are_asked_with_whom_they_masked(sparse):
    drive = Drive(sparse).to(Stage.AGREE)
    at = drive.at[Stage.AGREE]
    near = at.states[0].neighbours
    presences = decode(Survivors, at.message, context=sparse.context).presences
    refused = 0
    for i in range(1, 12):
        forged = tuple(replace(p, signature=presences[0].signature) if p.sender == i else p for p in presences)
        shown = encode(Survivors(forged), context=sparse.context)
        if i not in near:
            client.approve(at.states[0], shown)
            continue
        with aborts(Stage.AGREE, Reason.SIGNATURE, match="to have masked with the partners shown"):
            client.approve(at.states[0], shown)
        refused += 1
    assert 0 < refused == len(near) < 11


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
