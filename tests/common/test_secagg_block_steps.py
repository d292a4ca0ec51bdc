"""The steps of a block: each once, in rising order, with one end; what is said in one is nothing in another."""

from __future__ import annotations

import logging
from collections.abc import Mapping
from typing import Any

import numpy as np
import pytest
from blocks import BlockDrive, request_of, vectors_of
from cohort import Coins, Drive, aborts, make_round, plain_sum

from tacit.secagg import block, client, server
from tacit.secagg.abort import Abort, Reason, Stage
from tacit.secagg.messages import (
    Agreement,
    Complete,
    MaskedVector,
    Quorum,
    decode,
    encode,
)
from tacit.secagg.states import Agreed, Done

N, STEPS = 4, 3


@pytest.fixture(scope="module")
def opened() -> BlockDrive:
    """A block that nobody has taken a step of; tests change no state of it."""
    return BlockDrive(make_round(N), steps=STEPS)


def test_no_short_end_for_a_round_of_its_own():
    """`Complete` opens nothing where a list must be agreed on, even over the right session."""
    plain = Drive(make_round(N)).to(Stage.UNMASK)
    masked = plain.at[Stage.AGREE].states[0]
    data = encode(Complete(masked.session), context=plain.round.context)
    with aborts(Stage.UNMASK, Reason.ORDER, match="expected a partner in state Agreed, found Masked"):
        client.unmask(masked, data)
    with aborts(Stage.UNMASK, Reason.ORDER, match="expected a step of a block"):
        block.reveal(masked, data)


@pytest.mark.parametrize("number", [1, 2])
def test_a_step_is_taken_once_and_never_backwards(number):
    drive = BlockDrive(make_round(N), steps=3)
    after, _ = block.step(drive.blocks[0], 2)
    with aborts(Stage.MASK, Reason.ORDER, match=rf"expected a step of those left \(3, 3\), found {number}$"):
        block.step(after, number)
    end, _ = block.step(after, 3)
    with aborts(Stage.MASK, Reason.ORDER, match=r"expected a step of those left \(none\), found 4$"):
        block.step(end, 4)
    assert end.left == {}


@pytest.mark.parametrize("number", [0, -1, 4])
def test_a_step_that_the_block_does_not_have(opened, number):
    with aborts(Stage.MASK, Reason.ORDER, match=rf"expected a step of those left \(1, 3\), found {number}$"):
        block.step(opened.blocks[0], number)


def test_states_out_of_order(opened):
    _, at = block.step(opened.blocks[0], 1)
    states = [None, opened.advertised[0], opened.shared[0], opened.blocks[0], at, Done()]
    takes = {
        "share": (lambda s: _share_of(s, opened), opened.advertised[0], Stage.SHARE),
        "open_shares": (lambda s: block.open_shares(s, opened.inboxes[0]), opened.shared[0], Stage.MASK),
        "step": (lambda s: block.step(s, 1), opened.blocks[0], Stage.MASK),
        "reveal": (lambda s: block.reveal(s, b""), None, Stage.UNMASK),
    }
    refused = 0
    for take, own, stage in takes.values():
        for state in states:
            if own is not None and state is own:
                take(state)
                continue
            with aborts(stage, Reason.ORDER):
                take(state)
            refused += 1
    assert refused == 3 * 5 + 6


def _share_of(state: object, drive: BlockDrive) -> Any:
    return block.share(state, drive.roster, random=Coins())


def _ends(drive: BlockDrive, number: int) -> tuple[Any, bytes, bytes]:
    """The states of a step, its `Complete` and its list of survivors."""
    states, _, gathering = drive.masked(number)
    return states, block.complete(gathering)[1], server.listing(gathering)[1]


def test_one_end_a_step_and_once():
    """After `Complete` no list is signed; after a list `Complete` opens nothing; neither comes twice."""
    drive = BlockDrive(make_round(N), steps=1)
    states, complete, survivors = _ends(drive, 1)
    done, _ = client.unmask(states[0], complete)
    agreed, _ = client.approve(states[1], survivors)
    assert (type(done), type(agreed)) == (Done, Agreed)
    for state in (done, agreed):
        with aborts(Stage.AGREE, Reason.ORDER):
            client.approve(state, survivors)
        with aborts(Stage.UNMASK, Reason.ORDER):
            block.reveal(state, complete)
    with aborts(Stage.UNMASK, Reason.ORDER):
        client.unmask(done, complete)
    with aborts(Stage.UNMASK, Reason.MALFORMED, match="kind 7, found 1 and 14"):
        client.unmask(agreed, complete)
    with aborts(Stage.UNMASK, Reason.MALFORMED, match="kind 14, found 1 and 7"):
        client.unmask(states[2], encode(Quorum(()), context=drive.round.context))


def test_messages_of_one_step_in_another():
    drive = BlockDrive(make_round(N), steps=2)
    first, complete, survivors = _ends(drive, 1)
    _, quorum = _quorum(drive, first, survivors)
    second, presences, _ = drive.masked(2)
    with aborts(Stage.UNMASK, Reason.OTHER_ROUND, match="this step, found one of another"):
        client.unmask(second[0], complete)
    with aborts(Stage.AGREE, Reason.SIGNATURE):
        client.approve(second[0], survivors)
    agreed, _ = _quorum(drive, second, _list_of(drive, presences))
    with aborts(Stage.UNMASK, Reason.SIGNATURE):
        client.unmask(agreed[0], quorum)


def _list_of(drive: BlockDrive, presences: Mapping[int, bytes]) -> bytes:
    gathering = block.begin(drive.routed, 2, request=request_of(2))
    for i, data in presences.items():
        empty = MaskedVector(np.zeros(drive.round.update, np.uint32), np.zeros(drive.round.counters, np.uint64))
        server.gather(gathering, i, empty, data)
    return server.listing(gathering)[1]


def _quorum(drive: BlockDrive, states: Mapping[int, Any], survivors: bytes) -> tuple[dict[int, Any], bytes]:
    found = {i: client.approve(state, survivors) for i, state in states.items()}
    signed = tuple(decode(Agreement, data, context=drive.round.context) for _, data in found.values())
    return {i: state for i, (state, _) in found.items()}, encode(Quorum(signed), context=drive.round.context)


def test_answers_of_one_step_in_another():
    """At the server a presence of another step is set aside, and a reveal of another step gives no sum."""
    drive = BlockDrive(make_round(N), steps=2)
    states, presences, _ = drive.masked(1)
    later = block.begin(drive.routed, 2, request=request_of(1))
    with aborts(Stage.MASK, Reason.SIGNATURE):
        server.gather(later, 0, vectors_of(drive.round, 1)[0], presences[0])
    complete = encode(Complete(states[0].session), context=drive.round.context)
    stale = {i: client.unmask(state, complete)[1] for i, state in states.items()}
    second, _, gathering = drive.masked(2)
    confirmed, message = block.complete(gathering)
    with aborts(Stage.UNMASK, Reason.SECRET):
        server.finish(confirmed, stale)
    found = server.finish(confirmed, {i: client.unmask(state, message)[1] for i, state in second.items()})
    assert found.update.tolist() == plain_sum(vectors_of(drive.round, 2), range(N))[0]


def test_another_request_in_a_step_does_not_cancel():
    """One partner got another model in step 1: its presence does not verify, and its masks stay on."""
    drive = BlockDrive(make_round(N), steps=1)
    gathering = block.begin(drive.routed, 1, request=request_of(1))
    vectors, states = vectors_of(drive.round, 1), {}
    for i in range(N):
        drive.blocks[i], at = block.step(drive.blocks[i], 1)
        states[i], data = client.mask(at, vectors[i], request=request_of(2 if i == 0 else 1))
        if i == 0:
            with aborts(Stage.MASK, Reason.SIGNATURE):
                server.gather(gathering, i, vectors[i], data)
        else:
            server.gather(gathering, i, vectors[i], data)
    assert block.complete(gathering) is None


def test_what_fails_shows_nothing(opened, caplog):
    caplog.set_level(logging.DEBUG)
    planted = [data.hex() for data in opened.random.given if len(data) == 32]
    another = BlockDrive(opened.round, steps=STEPS, coins="another")
    states, complete, _ = _ends(another, 1)
    steps = [
        lambda: block.share(opened.advertised[0], b"x", random=Coins()),
        lambda: block.share(opened.advertised[0], another.roster, random=Coins()),
        lambda: block.open_shares(opened.shared[0], another.inboxes[0]),
        lambda: block.step(opened.blocks[0], 9),
        lambda: block.reveal(opened.blocks[0], complete),
        lambda: client.unmask(states[0], complete[:-1]),
    ]
    errors = []
    for step in steps:
        with pytest.raises(Abort) as caught:
            step()
        errors.append(caught.value)
    assert len(errors) == 6
    assert len(planted) == N * (1 + 2 * STEPS)
    for error in errors:
        assert not any(secret in text for secret in planted for text in (repr(error), str(error), error.hint))
    assert caplog.records == []
