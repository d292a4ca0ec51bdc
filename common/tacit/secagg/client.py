"""The partner's side: five stages, each a function from a state and bytes to the next state and bytes.

Source: Bonawitz et al. 2017, ePrint 2017/281, figure 4, with the additions of its section 6 against a server that
lies. What goes beyond it: shares, masks and signatures are bound to the keys that everyone was shown (`session`), and
masks to what was asked in stage 2 (`request`), so that partners who got different models or jobs have masks that do
not cancel (against Pasquini, Francati, Ateniese 2022, arXiv:2111.07380).

Nothing here reads a clock, a file or a socket; randomness is an argument. A failed check raises `Abort`, and the
caller lets go of the state, which is all that holds the round's secrets.
"""

from __future__ import annotations

from collections.abc import Callable

from tacit.secagg.abort import Abort, Reason, Stage
from tacit.secagg.bindings import (
    advert_text,
    agreement_text,
    commitment,
    pair_key,
    presence_text,
    seed_key,
    session_of,
)
from tacit.secagg.checks import (
    check_adverts,
    check_company,
    check_holders,
    check_list,
    check_presences,
    check_round,
    check_state,
)
from tacit.secagg.complete import reveal
from tacit.secagg.constants import KEY, SHARE
from tacit.secagg.envelopes import agree_with, open_shared, seal_shared
from tacit.secagg.graph import Graph
from tacit.secagg.keys import Digest, Exchange, PublicKey, Secret, public_of, sign, verifies
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
from tacit.secagg.round import Party, Round
from tacit.secagg.shamir import split
from tacit.secagg.states import Advertised, Agreed, Done, Masked, Opened, Session, Shared, State

__all__ = ["advertise", "approve", "mask", "open_shares", "share", "unmask"]

Random = Callable[[int], bytes]


def advertise(new: Round, party: Party, *, random: Random) -> tuple[Advertised, bytes]:
    """Stage 0: fresh keys for a round that the partner's rules allow; gives an `Advert`.

    The caller has looked whether the round comes after all others (`Seen`) and whether the job is one it allows.

    Raises:
        Abort: not in the cohort; another key under a pinned name; a threshold under the floor; too few accepted peers
            or too many strangers.
    """
    me = check_round(new, party)
    share_key, mask_key = Secret(random(KEY)), Secret(random(KEY))
    shown = public_of(share_key), public_of(mask_key)
    signature = sign(party.key, advert_text(new, sender=me, share_key=shown[0], mask_key=shown[1]))
    advert = Advert(me, *shown, signature)
    return Advertised(new, party, me, share_key, mask_key, advert), encode(advert, context=new.context)


def share(state: State | None, data: bytes, *, random: Random) -> tuple[Shared, bytes]:
    """Stage 1: check everyone's keys (a `Roster`), share the seed and the mask key; gives `Envelopes`.

    Raises:
        Abort: a state out of order; a signature that is not the pinned identity's; own keys missing or changed; a key
            or a partner twice; too few, or too few accepted.
    """
    state = check_state(state, Advertised, Stage.SHARE)
    session = _begin_session(state, data)
    seed, needed = Secret(random(KEY)), session.graph.needed(state.me)
    check_holders(session.neighbours, session.adverts, needed=needed, stage=Stage.SHARE)
    holders = [j + 1 for j in (*session.neighbours, state.me)]  # the value at 0 is the secret itself
    seeds, keys = (split(s, threshold=needed, holders=holders, random=random) for s in (seed, state.mask_key))
    mine = Exchange(state.share_key)
    sealed = tuple((j, _seal(session, mine, j, Secret(seeds[j + 1] + keys[j + 1]))) for j in session.neighbours)
    envelopes = Envelopes(state.me, commitment(seed, session=session.digest, owner=state.me), sealed)
    kept = seeds[state.me + 1], keys[state.me + 1]
    return Shared(session, seed, kept), encode(envelopes, context=state.round.context)


def open_shares(state: State | None, data: bytes) -> Opened:
    """Stage 2, before any training: open the shares that the neighbours sealed (an `Inbox`).

    Raises:
        Abort: a state out of order; a list that is not within U1, too short or without this partner; a share that is
            missing, left over or does not open.
    """
    stage = Stage.MASK
    state = check_state(state, Shared, stage)
    session, begun = state.session, state.session.begun
    inbox = decode(Inbox, data, context=begun.round.context)
    check_list(inbox.present, within=session.adverts, me=begun.me, threshold=begun.round.threshold, stage=stage)
    check_company(begun.round, begun.party, inbox.present, stage=stage)
    present = frozenset(inbox.present)
    check_holders(session.neighbours, present, needed=session.graph.needed(begun.me), stage=stage)
    if [sender for sender, _ in inbox.sealed] != [j for j in session.neighbours if j in present]:
        raise Abort(stage, Reason.SHARE, "expected one share of every neighbour, found some missing or left over")
    mine = Exchange(begun.share_key)
    held = {sender: _open(session, mine, sender, sealed) for sender, sealed in inbox.sealed}
    return Opened(state, {**held, begun.me: state.kept}, present)


def mask(state: State | None, vector: MaskedVector, *, request: Digest) -> tuple[Masked, bytes]:
    """Stage 2: mask `vector` in place; it then leaves the machine with a signed `Presence`, which says with whom.

    Args:
        vector: integers modulo 2^32 and 2^64, whose plain values are gone afterwards.
        request: hash of all that this partner was asked in stage 2.

    Raises:
        Abort: a state out of order; a vector of another length or kind.

    Guarantee: to whoever lacks `b`, or lacks the mask shared with a single honest neighbour, the result is as random
    as AES-256. Stage 4 gives out what rebuilds one of the two, never both.
    """
    state = check_state(state, Opened, Stage.MASK)
    session, begun = state.shared.session, state.shared.session.begun
    vector.check(update=begun.round.update, counters=begun.round.counters, stage=Stage.MASK)
    channels = vector.channels()
    for name, values in channels:
        add_mask(values, seed_key(state.shared.seed, session=session.digest, owner=begun.me, channel=name), sign=1)
    mine = Exchange(begun.mask_key)
    for j in session.neighbours:
        if j not in state.present:
            continue
        secret = agree_with(mine, session.adverts[j].mask_key, name=begun.round.members[j].name, stage=Stage.MASK)
        for name, values in channels:
            key = pair_key(secret, session=session.digest, request=request, pair=(begun.me, j), channel=name)
            add_mask(values, key, sign=1 if begun.me < j else -1)
    needed = session.graph.needed(begun.me)
    facts = session.digest, request, session.neighbours, needed, state.held, state.present, session.step
    text = presence_text(begun.round, session=session.digest, request=request, present=state.present)
    answer = Presence(begun.me, sign(begun.party.key, text))
    return Masked(begun.round, begun.party, begun.me, *facts), encode(answer, context=begun.round.context)


def approve(state: State | None, data: bytes) -> tuple[Agreed, bytes]:
    """Stage 3: sign the list of survivors (a `Survivors`), once; gives an `Agreement`.

    Raises:
        Abort: a state out of order; a list that is not within U2, too short or without this partner; too few accepted
            survivors, or too few that hold this partner's shares; a neighbour that masked with others than this
            partner was shown.

    Guarantee: a share of a neighbour's seed is given only where that neighbour masked with everyone in U2 as this
    partner knows it, so with every survivor that is a neighbour of both: a server that showed it another U2, without
    the partners whose masks will not be rebuilt, gets no share from here.
    """
    stage = Stage.AGREE
    state = check_state(state, Masked, stage)
    shown = decode(Survivors, data, context=state.round.context)
    survivors = shown.positions
    check_list(survivors, within=state.present, me=state.me, threshold=state.round.threshold, stage=stage)
    check_company(state.round, state.party, survivors, stage=stage)
    check_holders(state.neighbours, survivors, needed=state.needed, stage=stage)
    check_presences(state, shown.presences)
    text = agreement_text(state.round, session=state.session, request=state.request, survivors=survivors)
    answer = Agreement(state.me, sign(state.party.key, text))
    return Agreed(state, survivors), encode(answer, context=state.round.context)


def unmask(state: State | None, data: bytes) -> tuple[Done, bytes]:
    """Stage 4: once a threshold of survivors signed the same list (a `Quorum`), one share an owner; gives a `Reveal`.

    In a step of a block that nobody signed a list in, `complete.reveal` (a `Complete`).

    Raises:
        Abort: a state out of order; fewer signatures than the threshold, one of somebody else or over anything else.

    Guarantee: for no owner are both shares ever given, and none twice: the state that could is gone.
    """
    stage = Stage.UNMASK
    if isinstance(state, Masked) and state.step:
        return reveal(state, data)
    state = check_state(state, Agreed, stage)
    masked, survivors = state.masked, frozenset(state.survivors)
    quorum = decode(Quorum, data, context=masked.round.context).agreements
    if len(quorum) < masked.round.threshold:
        found = f"expected {masked.round.threshold} signatures of survivors, found {len(quorum)}"
        raise Abort(stage, Reason.TOO_FEW, found)
    text = agreement_text(masked.round, session=masked.session, request=masked.request, survivors=state.survivors)
    for signed in quorum:
        if signed.sender not in survivors:
            raise Abort(stage, Reason.NOT_LISTED, "expected signatures of survivors only, found another's")
        member = masked.round.members[signed.sender]
        if not verifies(signed.signature, identity=member.identity, message=text):
            found = f"expected a signature of {member.name} over the same survivors, found another"
            raise Abort(stage, Reason.SIGNATURE, found)
    shares = tuple((owner, pair[owner not in survivors]) for owner, pair in sorted(masked.held.items()))
    return Done(), encode(Reveal(masked.me, shares), context=masked.round.context)


def _begin_session(state: Advertised, data: bytes) -> Session:
    new = state.round
    adverts = {advert.sender: advert for advert in decode(Roster, data, context=new.context).adverts}
    check_adverts(new, adverts, own=state.advert, text=lambda advert: _signed(new, advert))
    check_company(new, state.party, adverts, stage=Stage.SHARE)
    digest = session_of(new, data)
    graph = Graph(len(new.members), threshold=new.threshold, edges=new.edges, session=digest, present=adverts)
    return Session(state, adverts, digest, graph, tuple(graph.neighbours(state.me)))


def _signed(new: Round, advert: Advert) -> bytes:
    return advert_text(new, sender=advert.sender, share_key=advert.share_key, mask_key=advert.mask_key)


def _seal(session: Session, mine: Exchange, receiver: int, plain: Secret) -> bytes:
    me, (name, peer) = session.begun.me, _known(session, receiver)
    return seal_shared(plain, mine=mine, peer=peer, name=name, session=session.digest, sender=me, receiver=receiver)


def _open(session: Session, mine: Exchange, sender: int, sealed: bytes) -> tuple[Secret, Secret]:
    me, (name, peer) = session.begun.me, _known(session, sender)
    plain = open_shared(sealed, mine=mine, peer=peer, name=name, session=session.digest, sender=sender, receiver=me)
    return Secret(plain[:SHARE]), Secret(plain[SHARE:])


def _known(session: Session, peer: int) -> tuple[str, PublicKey]:
    return session.begun.round.members[peer].name, session.adverts[peer].share_key
