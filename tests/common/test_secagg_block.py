"""A block of steps: every step's sum is the plain sum or there is none, and no step hangs on another."""

from __future__ import annotations

from dataclasses import FrozenInstanceError, fields, is_dataclass, replace

import numpy as np
import pytest
from blocks import BlockDrive, request_of, vectors_of
from cohort import Coins, aborts, check_abort, make_parties, make_round, plain_sum
from hypothesis import event, given, settings
from hypothesis import strategies as st

from tacit.errors import BadInput
from tacit.secagg import block, client, server
from tacit.secagg.abort import Abort, Reason, Stage
from tacit.secagg.bindings import step_of
from tacit.secagg.block import messages, states
from tacit.secagg.block.messages import BlockAdvert, BlockEnvelopes, BlockInbox, BlockRoster
from tacit.secagg.keys import Digest, PublicKey, Secret, Signature
from tacit.secagg.messages import Complete, Reveal, decode, encode
from tacit.secagg.states import Done, Masked

LATER = (Stage.MASK, Stage.AGREE, Stage.UNMASK)


def _check(found: server.Sum, drive: BlockDrive, number: int, survivors: list[int]) -> None:
    assert found.survivors == tuple(survivors)
    assert found.rejected == {}
    sums = plain_sum(vectors_of(drive.round, number), survivors)
    assert (found.update.tolist(), found.counters.tolist()) == sums


@st.composite
def _blocks(draw):
    n = draw(st.integers(2, 6))
    threshold = draw(st.integers(n // 2 + 1, n))
    everyone = list(range(n))
    most = n - threshold
    away = draw(st.lists(st.sampled_from(everyone), unique=True, max_size=min(most, 1)))
    absent, silent = (away, []) if draw(st.booleans()) else ([], away)
    left = [i for i in everyone if i not in away]
    steps = draw(st.integers(1, 4))
    gone = st.dictionaries(st.sampled_from(left), st.sampled_from(LATER), max_size=draw(st.integers(0, most + 1)))
    return make_round(n, threshold=threshold), steps, absent, silent, [draw(gone) for _ in range(steps)]


@settings(max_examples=60)
@given(_blocks())
def test_the_plain_sum_of_every_step_or_nothing(case):
    """Whoever vanishes in one step is back in the next; a step that fails ends no other."""
    new, steps, absent, silent, gone = case
    drive = BlockDrive(new, steps=steps, absent=absent, silent=silent)
    for number, vanish in enumerate(gone, start=1):
        alive = [i for i in drive.blocks if vanish.get(i) is not Stage.MASK]
        quick = len(alive) == len(drive.blocks)
        stages = [stage for stage in LATER if not (quick and stage is Stage.AGREE)]
        short = None
        for stage in stages:
            here = [i for i in drive.blocks if i not in vanish or LATER.index(vanish[i]) > LATER.index(stage)]
            if short is None and len(here) < new.threshold:
                short = stage
        event(f"quick {quick}, too few in {short}")
        if short is None:
            _check(drive.step(number, vanish), drive, number, alive)
            continue
        with aborts(short, Reason.TOO_FEW, match=f"expected at least {new.threshold} partners"):
            drive.step(number, vanish)


def test_missing_in_step_2_and_back_in_step_3():
    drive = BlockDrive(make_round(4), steps=3)
    everyone = list(range(4))
    _check(drive.step(1), drive, 1, everyone)
    _check(drive.step(2, {1: Stage.MASK}), drive, 2, [0, 2, 3])
    assert 2 in drive.blocks[1].left  # it slept; its secrets of step 2 are passed over, never used
    _check(drive.step(3), drive, 3, everyone)
    assert [len(left.left) for left in drive.blocks.values()] == [0, 0, 0, 0]


def test_under_the_threshold_a_step_fails_and_the_next_is_right():
    drive = BlockDrive(make_round(4), steps=3)
    with aborts(Stage.MASK, Reason.TOO_FEW):
        drive.step(1, {0: Stage.MASK, 1: Stage.MASK})
    with aborts(Stage.UNMASK, Reason.TOO_FEW):
        drive.step(2, {0: Stage.UNMASK, 1: Stage.UNMASK})
    _check(drive.step(3, {2: Stage.MASK}), drive, 3, [0, 1, 3])


def test_two_exchanges_where_everybody_answers():
    """The quick end needs no list: `complete` comes first, and nobody signs."""
    drive = BlockDrive(make_round(3), steps=1)
    states, _, gathering = drive.masked(1)
    confirmed, message = block.complete(gathering)
    assert len(message) == 34 + 32
    found = {i: client.unmask(state, message) for i, state in states.items()}
    assert {type(state) for state, _ in found.values()} == {Done}
    _check(server.finish(confirmed, {i: data for i, (_, data) in found.items()}), drive, 1, [0, 1, 2])


def test_complete_after_a_listing_and_with_somebody_missing():
    drive = BlockDrive(make_round(4), steps=2)
    states, _, gathering = drive.masked(1)
    confirmed, message = block.complete(server.listing(gathering)[0])
    reveals = {i: block.reveal(state, message)[1] for i, state in states.items()}
    _check(server.finish(confirmed, reveals), drive, 1, [0, 1, 2, 3])
    _, _, gathering = drive.masked(2, [0, 1, 2])
    assert block.complete(gathering) is None
    assert block.complete(server.listing(gathering)[0]) is None
    assert block.complete(block.begin(drive.routed, 2, request=request_of(2))) is None
    spent = replace(gathering, commitments={}, survivors={})
    assert block.complete(spent) is None


def test_a_share_that_is_not_right_ends_the_step_alone():
    drive = BlockDrive(make_round(4), steps=2)
    states, _, gathering = drive.masked(1)
    confirmed, message = block.complete(gathering)
    reveals = {i: block.reveal(state, message)[1] for i, state in states.items()}
    first = decode(Reveal, reveals[0], context=drive.round.context)
    wrong = Reveal(0, ((0, Secret(bytes(33))), *first.shares[1:]))
    with aborts(Stage.UNMASK, Reason.SECRET):
        server.finish(confirmed, reveals | {0: encode(wrong, context=drive.round.context)})
    _check(server.finish(confirmed, reveals), drive, 1, [0, 1, 2, 3])
    _check(drive.step(2), drive, 2, [0, 1, 2, 3])


def test_every_step_has_secrets_of_its_own():
    """No key, seed, share or mask is that of another step."""
    n, steps = 4, 3
    drive = BlockDrive(make_round(n), steps=steps)
    secrets = [s for b in drive.blocks.values() for s in b.left.values()]
    assert len(secrets) == n * steps
    assert len({s.mask_key for s in secrets} | {s.seed for s in secrets}) == 2 * n * steps
    shares = [share for s in secrets for pair in s.held.values() for share in pair]
    assert len(set(shares)) == len(shares) == 2 * n * n * steps
    drawn = [len(given) for given in drive.random.given]
    assert len(drawn) == n * (1 + steps + 3 * steps)  # c; s of each step; b and two polynomials of each
    assert len(set(drive.random.given)) == len(drawn)
    digests = {step_of(drive.admitted.session, number=k) for k in range(1, steps + 1)} | {drive.admitted.session}
    assert len(digests) == steps + 1


def test_the_same_vector_is_masked_anew_in_every_step():
    """Nobody who sees two masked vectors of one plain vector learns their difference."""
    drive = BlockDrive(make_round(3, update=400, counters=100), steps=3)
    plain, seen = vectors_of(drive.round, 1)[0], []
    for number in (1, 2, 3):
        drive.blocks[0], opened = block.step(drive.blocks[0], number)
        vector = vectors_of(drive.round, 1)[0]
        client.mask(opened, vector, request=request_of(1))  # even where the very same is asked
        seen.append(vector)
    seen.append(plain)
    for a in range(4):
        for b in range(a):
            assert (seen[a].update != seen[b].update).all()
            assert (seen[a].counters != seen[b].counters).all()


def test_what_is_revealed_of_one_step_rebuilds_nothing_of_another():
    """All secrets of a step in the server's hands: each of the others' is what no share given so far says."""
    drive = BlockDrive(make_round(3), steps=2)
    states, _, gathering = drive.masked(1)
    _, message = block.complete(gathering)
    given = {data for state in states.values() for data in [block.reveal(state, message)[1]]}
    later = [s for b in drive.blocks.values() for s in b.left.values()]
    assert len(later) == 3
    for secrets in later:
        for piece in [secrets.seed, secrets.mask_key, *(share for pair in secrets.held.values() for share in pair)]:
            assert not any(piece in data for data in given)


@pytest.mark.parametrize("steps", [0, -1, 2**16 + 1])
def test_a_number_of_steps_out_of_range(steps):
    new = make_round(3)
    with pytest.raises(BadInput, match=f"expected 1 to 65536 steps in a block, found {steps}$"):
        block.advertise(new, make_parties(new)[0], steps=steps, random=Coins())
    with pytest.raises(BadInput, match="steps in a block"):
        block.admit(new, {}, steps=steps)


@pytest.mark.parametrize(
    "new", [make_round(3, purpose="evaluate"), make_round(70, edges=255)], ids=["evaluate", "sparse"]
)
def test_no_block_of_evaluation_or_of_a_sparse_graph(new):
    with pytest.raises(BadInput, match="expected a round to train with edges at 256, found one to"):
        block.advertise(new, make_parties(new)[0], steps=2, random=Coins())
    with pytest.raises(BadInput, match="expected a round to train with edges at 256, found one to"):
        block.admit(new, {}, steps=2)


def test_a_step_that_the_server_does_not_have():
    drive = BlockDrive(make_round(3), steps=2)
    for number in (0, 3, -1):
        with aborts(Stage.MASK, Reason.ORDER, match=f"expected a step from 1 to 2, found {number}$"):
            block.begin(drive.routed, number, request=request_of(1))


@settings(max_examples=30)
@given(st.integers(1, 3), st.integers(0, 2**32 - 1), st.binary(min_size=32, max_size=32))
def test_a_message_reads_as_written(steps, position, seed):
    context = make_round(3).context
    low = bytes(31) + b"\x01"
    advert = BlockAdvert(position, PublicKey(low), tuple([PublicKey(low)] * steps), Signature(seed * 2))
    pairs = ((position, seed[:1] * (66 * steps + 16)),)
    written = [
        advert,
        BlockRoster((advert,)),
        BlockEnvelopes(position, tuple([Digest(seed)] * steps), pairs),
        BlockInbox(steps, (position,), pairs),
        Complete(Digest(seed)),
    ]
    for message in written:
        data = encode(message, context=context)
        assert decode(type(message), data, context=context) == message
        for cut in (*range(0, len(data), 7), len(data) - 1):
            with aborts(message.STAGE, Reason.MALFORMED):
                decode(type(message), data[:cut], context=context)
        with aborts(message.STAGE, Reason.MALFORMED):
            decode(type(message), data + b"\0", context=context)
    assert [message.KIND for message in written] == [10, 11, 12, 13, 14]


@settings(max_examples=60)
@given(st.sampled_from([BlockAdvert, BlockRoster, BlockEnvelopes, BlockInbox, Complete]), st.binary(max_size=200))
def test_random_bytes_raise_nothing_else(kind, data):
    context = make_round(3).context
    whole = bytes([1, kind.KIND]) + context + data
    try:
        found = decode(kind, whole, context=context)
    except Abort as error:
        check_abort(error, kind.STAGE, error.reason)
        return
    assert encode(found, context=context) == whole


def test_states_are_frozen_and_print_nothing():
    drive = BlockDrive(make_round(3), steps=2)
    left, opened = block.step(drive.blocks[0], 1)
    printed = [drive.advertised[0], drive.shared[0], drive.shared[0].session, left, left.left[2], opened]
    for state in printed:
        assert {repr(state), str(state), f"{state}"} == {f"{type(state).__name__}(<secret>)"}
        with pytest.raises(FrozenInstanceError):
            setattr(state, fields(state)[0].name, None)
    found = [c for m in (messages, states) for c in vars(m).values() if is_dataclass(c) and c.__module__ == m.__name__]
    assert len(found) == 9
    assert all(cls.__dataclass_params__.frozen for cls in found)
    assert {cls.__name__ for cls in found if not cls.__dataclass_params__.repr} == set(states.__all__)


def test_the_key_that_opened_the_envelopes_is_gone():
    drive = BlockDrive(make_round(3), steps=1)
    assert "share_key" not in {field.name for field in fields(states.Block)} | {
        f.name for f in fields(states.BlockSession)
    }
    left, opened = block.step(drive.blocks[0], 1)
    assert opened.shared.session.begun.share_key == b""
    assert left.left == {}
    masked, _ = client.mask(opened, vectors_of(drive.round, 1)[0], request=request_of(1))
    assert type(masked) is Masked
    assert masked.step == 1


def test_set_up_costs_few_bytes_a_step():
    """Of a partner among n, both ways: 32 n + 132 (n - 1) + 64 bytes a step, and the rest once."""
    n, sizes = 5, []
    for steps in (1, 2, 50):
        drive = BlockDrive(make_round(n), steps=steps)
        sizes.append(len(drive.adverts[0]) + len(drive.roster) + len(drive.envelopes[0]) + len(drive.inboxes[0]))
    step = 32 + 32 * n + 32 + 66 * (n - 1) + 66 * (n - 1)
    assert np.diff(sizes).tolist() == [step, 48 * step]
