"""The server's side: it passes messages on, adds up, and rebuilds what is left on the sum, and that alone.

Source: Bonawitz et al. 2017, ePrint 2017/281, figure 4. A partner whose message does not stand up is set aside, as if
it had dropped out, and named; fewer than the threshold end the round. What is rebuilt is checked against what was
published before it is used.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from tacit.secagg.abort import Abort, Reason, Stage
from tacit.secagg.bindings import advert_text, agreement_text, commitment, pair_key, presence_text, seed_key, session_of
from tacit.secagg.graph import Graph
from tacit.secagg.keys import Digest, Exchange, Secret, is_usable, public_of, verifies
from tacit.secagg.messages import (
    Advert,
    Agreement,
    Envelopes,
    Inbox,
    MaskedVector,
    Presence,
    Quorum,
    Reveal,
    Roster,
    Survivors,
    decode,
    encode,
)
from tacit.secagg.prg import add_mask
from tacit.secagg.replies import Replies, check_sender, enough, sift, unlike
from tacit.secagg.round import Round
from tacit.secagg.shamir import combine

__all__ = [
    "Admitted",
    "Confirmed",
    "Gathering",
    "Listed",
    "Sum",
    "admit",
    "confirm",
    "finish",
    "gather",
    "listing",
    "route",
]


@dataclass(frozen=True)
class Admitted:
    """After stage 0. `rejected` says by position why a partner's message was set aside, here and in what follows."""

    round: Round
    adverts: Mapping[int, Advert]
    session: Digest
    graph: Graph
    rejected: Mapping[int, Abort]


@dataclass(frozen=True, repr=False)
class Gathering:
    """Within stage 2: the sum of what has come, which grows in place, and from whom, with what it signed: `text`.

    `commitments` are those of U2, and none once the masks come off: the sum is spent.
    """

    admitted: Admitted
    commitments: dict[int, Digest]
    request: Digest
    text: bytes
    total: MaskedVector
    survivors: dict[int, Presence]
    rejected: dict[int, Abort]


@dataclass(frozen=True, repr=False)
class Listed:
    """After stage 2: U3 is fixed."""

    gathered: Gathering
    survivors: tuple[int, ...]


@dataclass(frozen=True, repr=False)
class Confirmed:
    """After stage 3: U4 signed U3."""

    listed: Listed
    agreed: tuple[int, ...]
    rejected: Mapping[int, Abort]


@dataclass(frozen=True, repr=False)
class Sum:
    """What the server learns.

    Attributes:
        update: uint32 `[d]`, the survivors' sum modulo 2^32.
        counters: uint64 `[m]`, theirs modulo 2^64.
        survivors: positions of U3.
        rejected: whose share was set aside in stage 4, and why.
    """

    update: NDArray[np.uint32]
    counters: NDArray[np.uint64]
    survivors: tuple[int, ...]
    rejected: Mapping[int, Abort] = field(default_factory=dict)


def admit(new: Round, replies: Replies) -> tuple[Admitted, bytes]:
    """Stage 0 ends: check the adverts by position; gives the `Roster` for all of them. Raises Abort: too few."""

    def check(sender: int, data: bytes) -> Advert:
        advert = decode(Advert, data, context=new.context)
        check_sender(advert.sender, sender, Stage.ADVERTISE)
        text = advert_text(new, sender=sender, share_key=advert.share_key, mask_key=advert.mask_key)
        if not verifies(advert.signature, identity=new.members[sender].identity, message=text):
            raise Abort(Stage.ADVERTISE, Reason.SIGNATURE, "expected keys signed by their owner, found others")
        if not (is_usable(advert.share_key) and is_usable(advert.mask_key)):
            raise Abort(Stage.ADVERTISE, Reason.KEY, "expected keys that give a secret, found one that does not")
        return advert

    found, rejected = sift(replies, check)
    adverts = unlike(found, rejected)
    enough(adverts, new.threshold, Stage.ADVERTISE, rejected)
    roster = encode(Roster(tuple(adverts.values())), context=new.context)
    session = session_of(new, roster)
    graph = Graph(len(new.members), threshold=new.threshold, edges=new.edges, session=session, present=adverts)
    return Admitted(new, adverts, session, graph, rejected), roster


def route(state: Admitted, replies: Replies, *, request: Digest) -> tuple[Gathering, dict[int, bytes]]:
    """Stage 1 ends: sort the envelopes; gives an `Inbox` for each of U2.

    Args:
        request: hash of what all partners are asked in stage 2, as they compute it.

    Raises:
        Abort: too few.
    """
    new = state.round

    def check(sender: int, data: bytes) -> Envelopes:
        envelopes = decode(Envelopes, data, context=new.context)
        check_sender(envelopes.sender, sender, Stage.SHARE)
        if [j for j, _ in envelopes.sealed] != state.graph.neighbours(sender):
            raise Abort(Stage.SHARE, Reason.SHARE, "expected one share for every neighbour, found others")
        return envelopes

    found, rejected = sift({i: data for i, data in replies.items() if i in state.adverts}, check)
    enough(found, new.threshold, Stage.SHARE, rejected)
    boxes: dict[int, list[tuple[int, bytes]]] = {i: [] for i in found}
    for sender, envelopes in found.items():
        for receiver, sealed in envelopes.sealed:
            if receiver in boxes:
                boxes[receiver].append((sender, sealed))
    present = tuple(found)
    inboxes = {i: encode(Inbox(present, tuple(box)), context=new.context) for i, box in boxes.items()}
    total = MaskedVector(np.zeros(new.update, dtype=np.uint32), np.zeros(new.counters, dtype=np.uint64))
    commitments = {i: envelopes.commitment for i, envelopes in found.items()}
    text = presence_text(new, session=state.session, request=request, present=present)
    return Gathering(state, commitments, request, text, total, {}, rejected), inboxes


def gather(state: Gathering, sender: int, vector: MaskedVector, data: bytes) -> None:
    """Stage 2: add one partner's masked vector to the sum, in place.

    Args:
        data: its `Presence`.

    Raises:
        Abort: not in U2, twice, a vector of another length, a signature over another U2.
    """
    if sender not in state.commitments or sender in state.survivors:
        raise Abort(Stage.MASK, Reason.NOT_LISTED, "expected one vector of a partner that shared keys, found another")
    new = state.admitted.round
    vector.check(update=new.update, counters=new.counters, stage=Stage.MASK)
    presence = decode(Presence, data, context=new.context)
    check_sender(presence.sender, sender, Stage.MASK)
    if not verifies(presence.signature, identity=new.members[sender].identity, message=state.text):
        raise Abort(Stage.MASK, Reason.SIGNATURE, "expected a signature over those who shared keys, found another")
    np.add(state.total.update, vector.update, out=state.total.update)
    np.add(state.total.counters, vector.counters, out=state.total.counters)
    state.survivors[sender] = presence


def listing(state: Gathering) -> tuple[Listed, bytes]:
    """Stage 2 ends: gives the `Survivors`. Raises Abort: too few."""
    new, survivors = state.admitted.round, tuple(sorted(state.survivors))
    enough(survivors, new.threshold, Stage.MASK, {})
    presences = tuple(state.survivors[i] for i in survivors)
    return Listed(state, survivors), encode(Survivors(presences), context=new.context)


def confirm(state: Listed, replies: Replies) -> tuple[Confirmed, bytes]:
    """Stage 3 ends: check the signatures; gives the `Quorum`, as many as the threshold. Raises Abort: too few."""
    admitted = state.gathered.admitted
    new = admitted.round
    text = agreement_text(new, session=admitted.session, request=state.gathered.request, survivors=state.survivors)

    def check(sender: int, data: bytes) -> Agreement:
        agreement = decode(Agreement, data, context=new.context)
        check_sender(agreement.sender, sender, Stage.AGREE)
        if not verifies(agreement.signature, identity=new.members[sender].identity, message=text):
            raise Abort(Stage.AGREE, Reason.SIGNATURE, "expected a signature over the survivors, found another")
        return agreement

    found, rejected = sift({i: data for i, data in replies.items() if i in state.survivors}, check)
    enough(found, new.threshold, Stage.AGREE, rejected)
    quorum = Quorum(tuple(found.values())[: new.threshold])
    return Confirmed(state, tuple(found), rejected), encode(quorum, context=new.context)


def finish(state: Confirmed, replies: Replies) -> Sum:
    """Stage 4 ends: rebuild the seeds of U3 and the mask keys of U2 without U3, and take the masks off the sum.

    Raises:
        Abort: too few shares; a secret that is not the one published; a sum that was finished before.

    Guarantee: the survivors' exact sum or an error, never a wrong sum: every rebuilt secret is checked, and all of
    them before the first mask comes off, so that a failed try may be repeated with other shares. Masks come off once.
    """
    gathered = state.listed.gathered
    admitted, new = gathered.admitted, gathered.admitted.round
    if not gathered.commitments:
        raise Abort(Stage.UNMASK, Reason.ORDER, "expected a sum with its masks on, found one that is finished")
    if len(gathered.survivors) != len(state.listed.survivors):
        raise Abort(Stage.UNMASK, Reason.ORDER, "expected no vector after the list of survivors, found one")

    def check(sender: int, data: bytes) -> Reveal:
        reveal = decode(Reveal, data, context=new.context)
        check_sender(reveal.sender, sender, Stage.UNMASK)
        owners = sorted({sender, *admitted.graph.neighbours(sender)} & gathered.commitments.keys())
        if [owner for owner, _ in reveal.shares] != owners:
            raise Abort(Stage.UNMASK, Reason.SHARE, "expected one share for every neighbour, found others")
        return reveal

    found, rejected = sift({i: data for i, data in replies.items() if i in state.agreed}, check)
    enough(found, new.threshold, Stage.UNMASK, rejected)
    shares: dict[int, dict[int, Secret]] = {owner: {} for owner in gathered.commitments}
    for sender, reveal in found.items():
        for owner, piece in reveal.shares:
            shares[owner][sender + 1] = piece
    secrets = {owner: _rebuild(gathered, owner, shares[owner]) for owner in gathered.commitments}
    gathered.commitments.clear()  # first, so that even an interrupted try is the last
    for owner, secret in secrets.items():  # all are right, so nothing fails between the first mask and the last
        if owner in gathered.survivors:
            _take_off_seed(gathered, owner, secret)
        else:
            _take_off_pairs(gathered, owner, secret)
    return Sum(gathered.total.update, gathered.total.counters, state.listed.survivors, rejected)


def _rebuild(gathered: Gathering, owner: int, shares: Mapping[int, Secret]) -> Secret:
    """The seed of a survivor or the mask key of one that vanished, as published."""
    admitted = gathered.admitted
    needed, name = admitted.graph.needed(owner), admitted.round.members[owner].name
    if len(shares) < needed:
        found = f"expected {needed} shares of {name}, found {len(shares)}"
        raise Abort(Stage.UNMASK, Reason.TOO_FEW, found)
    try:
        secret = combine(dict(sorted(shares.items())[:needed]))
    except ValueError:
        raise _wrong_secret(name) from None
    if owner in gathered.survivors:
        right = commitment(secret, session=admitted.session, owner=owner) == gathered.commitments[owner]
    else:
        right = public_of(secret) == admitted.adverts[owner].mask_key
    if not right:
        raise _wrong_secret(name)
    return secret


def _take_off_seed(gathered: Gathering, owner: int, seed: Secret) -> None:
    for name, values in gathered.total.channels():
        add_mask(values, seed_key(seed, session=gathered.admitted.session, owner=owner, channel=name), sign=-1)


def _take_off_pairs(gathered: Gathering, owner: int, key: Secret) -> None:
    """Survivors added what they share with `owner`, who vanished before adding its part."""
    admitted = gathered.admitted
    exchange = Exchange(key)
    for j in admitted.graph.neighbours(owner):
        if j not in gathered.survivors:
            continue
        secret = exchange.agree(admitted.adverts[j].mask_key)
        for name, values in gathered.total.channels():
            mask = pair_key(secret, session=admitted.session, request=gathered.request, pair=(owner, j), channel=name)
            add_mask(values, mask, sign=-1 if j < owner else 1)


def _wrong_secret(name: str) -> Abort:
    return Abort(Stage.UNMASK, Reason.SECRET, f"expected the secret that {name} published, found another")
