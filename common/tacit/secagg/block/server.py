"""The server's side of a block: stages 0 and 1 for all steps at once, then one `Gathering` a step.

What a step needs after that is `tacit.secagg.server`: `gather`, then `complete` here or `listing` and `confirm` there,
then `finish`.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np

from tacit.secagg.abort import Abort, Reason, Stage
from tacit.secagg.bindings import block_text, presence_text, session_of, step_of
from tacit.secagg.block.client import check_block
from tacit.secagg.block.messages import BlockAdvert, BlockEnvelopes, BlockInbox, BlockRoster, check_steps
from tacit.secagg.graph import Graph
from tacit.secagg.keys import Digest, is_usable, verifies
from tacit.secagg.messages import Advert, Complete, MaskedVector, decode, encode
from tacit.secagg.replies import Replies, check_sender, enough, sift, unlike
from tacit.secagg.round import Round
from tacit.secagg.server import Admitted, Confirmed, Gathering, Listed

__all__ = ["BlockAdmitted", "Routed", "admit", "begin", "complete", "route"]


@dataclass(frozen=True)
class BlockAdmitted:
    """After stage 0. `rejected` says by position why a partner's message was set aside, here and in what follows."""

    round: Round
    steps: int
    adverts: Mapping[int, BlockAdvert]
    session: Digest
    graph: Graph
    rejected: Mapping[int, Abort]


@dataclass(frozen=True)
class Routed:
    """After stage 1: U2 of the block, `present`, and by position the commitments of its members, step after step."""

    admitted: BlockAdmitted
    commitments: Mapping[int, tuple[Digest, ...]]
    present: tuple[int, ...]
    rejected: Mapping[int, Abort]


def admit(new: Round, replies: Replies, *, steps: int) -> tuple[BlockAdmitted, bytes]:
    """Stage 0 ends: check the adverts by position; gives the `BlockRoster` for all of them.

    Raises:
        BadInput: a round of evaluation, a sparse graph, or steps out of range.
        Abort: too few.
    """
    check_block(new, steps)

    def check(sender: int, data: bytes) -> BlockAdvert:
        advert = decode(BlockAdvert, data, context=new.context)
        check_sender(advert.sender, sender, Stage.ADVERTISE)
        check_steps(len(advert.mask_keys), steps, stage=Stage.ADVERTISE)
        text = block_text(new, sender=sender, share_key=advert.share_key, mask_keys=advert.mask_keys)
        if not verifies(advert.signature, identity=new.members[sender].identity, message=text):
            raise Abort(Stage.ADVERTISE, Reason.SIGNATURE, "expected keys signed by their owner, found others")
        if not all(is_usable(key) for key in advert.keys):
            raise Abort(Stage.ADVERTISE, Reason.KEY, "expected keys that give a secret, found one that does not")
        return advert

    found, rejected = sift(replies, check)
    adverts = unlike(found, rejected)
    enough(adverts, new.threshold, Stage.ADVERTISE, rejected)
    roster = encode(BlockRoster(tuple(adverts.values())), context=new.context)
    session = session_of(new, roster)
    graph = Graph(len(new.members), threshold=new.threshold, edges=new.edges, session=session, present=adverts)
    return BlockAdmitted(new, steps, adverts, session, graph, rejected), roster


def route(state: BlockAdmitted, replies: Replies) -> tuple[Routed, dict[int, bytes]]:
    """Stage 1 ends: sort the envelopes; gives a `BlockInbox` for each of U2. Raises Abort: too few."""
    new = state.round

    def check(sender: int, data: bytes) -> BlockEnvelopes:
        envelopes = decode(BlockEnvelopes, data, context=new.context)
        check_sender(envelopes.sender, sender, Stage.SHARE)
        check_steps(len(envelopes.commitments), state.steps, stage=Stage.SHARE)
        if [j for j, _ in envelopes.sealed] != state.graph.neighbours(sender):
            raise Abort(Stage.SHARE, Reason.SHARE, "expected one envelope for every neighbour, found others")
        return envelopes

    found, rejected = sift({i: data for i, data in replies.items() if i in state.adverts}, check)
    enough(found, new.threshold, Stage.SHARE, rejected)
    boxes: dict[int, list[tuple[int, bytes]]] = {i: [] for i in found}
    for sender, envelopes in found.items():
        for receiver, sealed in envelopes.sealed:
            if receiver in boxes:
                boxes[receiver].append((sender, sealed))
    present, commitments = tuple(found), {i: envelopes.commitments for i, envelopes in found.items()}
    inboxes = {i: encode(BlockInbox(state.steps, present, tuple(box)), context=new.context) for i, box in boxes.items()}
    return Routed(state, commitments, present, rejected), inboxes


def begin(routed: Routed, number: int, *, request: Digest) -> Gathering:
    """What `tacit.secagg.server.gather` awaits in step `number`, from 1: a sum of nothing yet.

    Args:
        request: hash of what all partners are asked in this step, as they compute it.

    Raises:
        Abort: a step that the block does not have.
    """
    block = routed.admitted
    new = block.round
    if not 1 <= number <= block.steps:
        raise Abort(Stage.MASK, Reason.ORDER, f"expected a step from 1 to {block.steps}, found {number}")
    adverts = {
        i: Advert(i, advert.share_key, advert.mask_keys[number - 1], advert.signature)
        for i, advert in block.adverts.items()
    }
    admitted = Admitted(new, adverts, step_of(block.session, number=number), block.graph, {})
    text = presence_text(new, session=admitted.session, request=request, present=routed.present)
    commitments = {i: digests[number - 1] for i, digests in routed.commitments.items()}
    total = MaskedVector(np.zeros(new.update, dtype=np.uint32), np.zeros(new.counters, dtype=np.uint64))
    return Gathering(admitted, commitments, request, text, total, {}, {})


def complete(state: Gathering | Listed) -> tuple[Confirmed, bytes] | None:
    """Stage 2 of a step ends: gives the `Complete` for everyone, or None where somebody of U2 is missing.

    Then `tacit.secagg.server.listing` goes on. Who has answered `Complete` signs no list, so a step goes one way only.
    """
    gathered = state.gathered if isinstance(state, Listed) else state
    survivors = tuple(sorted(gathered.survivors))
    if not survivors or gathered.survivors.keys() != gathered.commitments.keys():
        return None
    context, session = gathered.admitted.round.context, gathered.admitted.session
    message = encode(Complete(session), context=context)
    return Confirmed(Listed(gathered, survivors), survivors, {}), message
