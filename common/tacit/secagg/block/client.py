"""The partner's side of a block: stages 0 and 1 for all steps at once, then one state a step.

What a step needs after that is `tacit.secagg.client`: `mask`, then `unmask` where everybody answered, or `approve` and
`unmask` where somebody did not.
"""

from __future__ import annotations

from collections.abc import Callable

from tacit.errors import BadInput
from tacit.secagg.abort import Abort, Reason, Stage
from tacit.secagg.bindings import block_text, commitment, session_of, step_of
from tacit.secagg.block.messages import BlockAdvert, BlockEnvelopes, BlockInbox, BlockRoster, check_steps
from tacit.secagg.block.states import Block, BlockAdvertised, BlockSession, BlockShared, Shares, StepSecrets
from tacit.secagg.checks import check_adverts, check_company, check_holders, check_list, check_round, check_state
from tacit.secagg.constants import EDGE_UNIT, KEY, SHARE
from tacit.secagg.envelopes import open_shared, seal_shared
from tacit.secagg.graph import Graph
from tacit.secagg.keys import Exchange, Secret, public_of, sign
from tacit.secagg.messages import Advert, decode, encode
from tacit.secagg.round import Party, Round
from tacit.secagg.shamir import split
from tacit.secagg.states import Advertised, Opened, Session, Shared

__all__ = ["advertise", "check_block", "open_shares", "share", "step"]

Random = Callable[[int], bytes]

_GONE = Secret(b"")  # in place of the key that opened the envelopes: no step needs it
_MOST_STEPS = 2**16


def check_block(new: Round, steps: int) -> None:
    """A block can be had of this round. Raises BadInput.

    The short end of a step is proved for the complete graph alone, and evaluation has one step.
    """
    if not 1 <= steps <= _MOST_STEPS:
        hint = "change training.local_steps of the job"
        raise BadInput(f"expected 1 to {_MOST_STEPS} steps in a block, found {steps}", hint=hint)
    if new.purpose != "train" or new.edges != EDGE_UNIT:
        found = f"found one to {new.purpose} with edges at {new.edges}"
        hint = "take a smaller cohort, or another mechanism"
        raise BadInput(f"expected a round to train with edges at {EDGE_UNIT}, {found}", hint=hint)


def advertise(new: Round, party: Party, *, steps: int, random: Random) -> tuple[BlockAdvertised, bytes]:
    """Stage 0: fresh keys for a block that the partner's rules allow; gives a `BlockAdvert`.

    The caller has looked whether the round comes after all others (`Seen`) and whether the job is one it allows; the
    number of steps follows from the job.

    Raises:
        BadInput: a round of evaluation, a sparse graph, or steps out of range.
        Abort: as `tacit.secagg.client.advertise`.
    """
    check_block(new, steps)
    me = check_round(new, party)
    share_key, mask_keys = Secret(random(KEY)), tuple(Secret(random(KEY)) for _ in range(steps))
    shown, masks = public_of(share_key), tuple(public_of(key) for key in mask_keys)
    signature = sign(party.key, block_text(new, sender=me, share_key=shown, mask_keys=masks))
    advert = BlockAdvert(me, shown, masks, signature)
    return BlockAdvertised(new, party, me, steps, share_key, mask_keys, advert), encode(advert, context=new.context)


def share(state: object, data: bytes, *, random: Random) -> tuple[BlockShared, bytes]:
    """Stage 1: check everyone's keys (a `BlockRoster`), share each step's seed and mask key; gives `BlockEnvelopes`.

    Raises:
        Abort: as `tacit.secagg.client.share`; keys for another number of steps.

    Guarantee: seeds, mask keys and polynomials are drawn for each step anew, so that all that is ever revealed of one
    step is independent of the secrets of another.
    """
    state = check_state(state, BlockAdvertised, Stage.SHARE)
    session = _begin_session(state, data)
    me, needed = state.me, session.graph.needed(state.me)
    check_holders(session.neighbours, session.adverts, needed=needed, stage=Stage.SHARE)
    holders = [j + 1 for j in (*session.neighbours, me)]  # the value at 0 is the secret itself
    seeds, commitments, pieces = [], [], []
    for number, mask_key in enumerate(state.mask_keys, start=1):
        seed = Secret(random(KEY))
        b, s = (split(secret, threshold=needed, holders=holders, random=random) for secret in (seed, mask_key))
        seeds.append(seed)
        commitments.append(commitment(seed, session=step_of(session.digest, number=number), owner=me))
        pieces.append({holder - 1: (b[holder], s[holder]) for holder in holders})
    sealed = _seal_all(session, Exchange(state.share_key), pieces)
    kept = tuple(piece[me] for piece in pieces)
    answer = BlockEnvelopes(me, tuple(commitments), sealed)
    following = BlockShared(session, state.share_key, state.mask_keys, tuple(seeds), kept)
    return following, encode(answer, context=state.round.context)


def open_shares(state: object, data: bytes) -> Block:
    """Stage 2, once a block and before its first step: open what the neighbours sealed (a `BlockInbox`).

    Raises:
        Abort: as `tacit.secagg.client.open_shares`; envelopes for another number of steps.
    """
    stage = Stage.MASK
    state = check_state(state, BlockShared, stage)
    session = state.session
    new, me = session.round, session.me
    inbox = decode(BlockInbox, data, context=new.context)
    check_steps(inbox.steps, len(state.seeds), stage=stage)
    check_list(inbox.present, within=session.adverts, me=me, threshold=new.threshold, stage=stage)
    check_company(new, session.party, inbox.present, stage=stage)
    present = frozenset(inbox.present)
    check_holders(session.neighbours, present, needed=session.graph.needed(me), stage=stage)
    if [sender for sender, _ in inbox.sealed] != [j for j in session.neighbours if j in present]:
        raise Abort(stage, Reason.SHARE, "expected one envelope of every neighbour, found some missing or left over")
    mine = Exchange(state.share_key)
    opened = {sender: _open_all(session, mine, sender, sealed) for sender, sealed in inbox.sealed}
    held = {**opened, me: state.kept}
    left = {
        number: StepSecrets(mask_key, seed, {owner: shares[number - 1] for owner, shares in held.items()})
        for number, (mask_key, seed) in enumerate(zip(state.mask_keys, state.seeds, strict=True), start=1)
    }
    return Block(session, present, left)


def step(block: object, number: int) -> tuple[Block, Opened]:
    """The state that `tacit.secagg.client.mask` awaits in step `number`, from 1; the block goes on without it.

    Raises:
        Abort: a state out of order; a step that was taken or passed over, or that the block does not have.

    Guarantee: the secrets of a step are given out once, and those of a step passed over never.
    """
    block = check_state(block, Block, Stage.MASK)
    if number not in block.left:
        steps = ", ".join(str(n) for n in (min(block.left), max(block.left))) if block.left else "none"
        raise Abort(Stage.MASK, Reason.ORDER, f"expected a step of those left ({steps}), found {number}")
    session, secrets = block.session, block.left[number]
    adverts = {i: _of_step(advert, number) for i, advert in session.adverts.items()}
    begun = Advertised(session.round, session.party, session.me, _GONE, secrets.mask_key, adverts[session.me])
    digest = step_of(session.digest, number=number)
    at = Session(begun, adverts, digest, session.graph, session.neighbours, number)
    following = Block(session, block.present, {n: left for n, left in block.left.items() if n > number})
    shared = Shared(at, secrets.seed, secrets.held[session.me])
    return following, Opened(shared, secrets.held, block.present)


def _begin_session(state: BlockAdvertised, data: bytes) -> BlockSession:
    new = state.round
    adverts = {advert.sender: advert for advert in decode(BlockRoster, data, context=new.context).adverts}
    for advert in adverts.values():
        check_steps(len(advert.mask_keys), state.steps, stage=Stage.SHARE)
    check_adverts(new, adverts, own=state.advert, text=lambda advert: _signed(new, advert))
    check_company(new, state.party, adverts, stage=Stage.SHARE)
    digest = session_of(new, data)
    graph = Graph(len(new.members), threshold=new.threshold, edges=new.edges, session=digest, present=adverts)
    return BlockSession(new, state.party, state.me, adverts, digest, graph, tuple(graph.neighbours(state.me)))


def _signed(new: Round, advert: BlockAdvert) -> bytes:
    return block_text(new, sender=advert.sender, share_key=advert.share_key, mask_keys=advert.mask_keys)


def _of_step(advert: BlockAdvert, number: int) -> Advert:
    """The keys of one step; the signature is over those of all, and was verified."""
    return Advert(advert.sender, advert.share_key, advert.mask_keys[number - 1], advert.signature)


def _seal_all(session: BlockSession, mine: Exchange, pieces: list[dict[int, Shares]]) -> tuple[tuple[int, bytes], ...]:
    """For each neighbour one envelope: a share of `b` and one of the mask key, step after step."""
    sealed = []
    for j in session.neighbours:
        plain = Secret(b"".join(part for piece in pieces for part in piece[j]))
        name, peer = session.round.members[j].name, session.adverts[j].share_key
        envelope = seal_shared(
            plain, mine=mine, peer=peer, name=name, session=session.digest, sender=session.me, receiver=j
        )
        sealed.append((j, envelope))
    return tuple(sealed)


def _open_all(session: BlockSession, mine: Exchange, sender: int, sealed: bytes) -> tuple[Shares, ...]:
    name, peer = session.round.members[sender].name, session.adverts[sender].share_key
    plain = open_shared(
        sealed, mine=mine, peer=peer, name=name, session=session.digest, sender=sender, receiver=session.me
    )
    parts = [Secret(plain[at : at + SHARE]) for at in range(0, len(plain), SHARE)]
    return tuple(zip(parts[::2], parts[1::2], strict=True))
