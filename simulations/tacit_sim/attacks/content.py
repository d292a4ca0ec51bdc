"""Attacks on what is sent: shares and vectors altered, by the server and by a partner."""

from __future__ import annotations

import os
from collections.abc import Callable
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from tacit.secagg import client, server
from tacit.secagg.abort import Abort
from tacit.secagg.constants import KEY
from tacit.secagg.graph import default_threshold
from tacit.secagg.keys import Secret, digest, identity_of
from tacit.secagg.messages import MaskedVector, Reveal, decode, encode
from tacit.secagg.round import Member, Party, Round, Rules
from tacit.wire import TRAINING_COUNTERS
from tacit_sim.attacks.cohort import JOB, SEVEN, VICTIM, gather_cohort
from tacit_sim.attacks.outcome import Outcome, join
from tacit_sim.attacks.partners import live_model
from tacit_sim.attacks.play import Play, open_round

__all__ = ["tampered_share", "wrong_length"]

_LENGTH = 256
_CHEAT = 0


def tampered_share() -> Outcome:
    """The server alters a sealed share; a partner alters a share that it reveals to an honest server.

    Defence: shares are sealed (`client.open_shares`); what is rebuilt must be what was published (`server.finish`).
    """
    cohort = gather_cohort()
    play = Play(cohort, open_round(cohort)).play_out(stages=2)
    inbox = play.inbox(VICTIM)
    (sender, sealed), *rest = inbox.sealed
    play.mask(inboxes={VICTIM: replace(inbox, sealed=((sender, _flipped(sealed)), *rest))})
    sent = play.outcome("tampered-share", play.expose(), how="one bit of one sealed share altered")
    return join("tampered-share", (sent, _revealed()))


def _revealed() -> Outcome:
    def alter(reveal: Reveal) -> Reveal:
        shares = [(owner, Secret(_flipped(s)) if owner == VICTIM else s) for owner, s in reveal.shares]
        return replace(reveal, shares=tuple(shares))

    wrong, what = _cheated(_Cheat(reveal=alter))
    return Outcome("tampered-share", not wrong, f"one bit of one revealed share altered: {what}")


def wrong_length() -> Outcome:
    """A partner sends one entry, which would be added to all; the server asks for a shorter model than it announced.

    Defence: `MaskedVector.check` at the server, `masking.enter` at the partner.
    """
    one = MaskedVector(np.full(1, 5, dtype=np.uint32), np.zeros(TRAINING_COUNTERS, dtype=np.uint64))
    wrong, what = _cheated(_Cheat(vector=lambda _: one))
    sent = Outcome("wrong-length", not wrong, f"a vector of 1 entry in place of {_LENGTH}: {what}")
    cohort = gather_cohort()
    play = Play(cohort, open_round(cohort)).play_out(stages=2)
    play.mask(models={VICTIM: live_model()[:-1]})
    asked = play.outcome("wrong-length", play.expose(), how="asked for one entry fewer than announced")
    return join("wrong-length", (sent, asked))


@dataclass(frozen=True)
class _Cheat:
    """What the first partner does to its own vector and to the shares that it reveals; nothing by default."""

    vector: Callable[[MaskedVector], MaskedVector] = lambda vector: vector
    reveal: Callable[[Reveal], Reveal] = lambda reveal: reveal


def _cheated(cheat: _Cheat) -> tuple[bool, str]:
    """Whether an honest server takes a wrong sum from a cohort whose first partner cheats, and what it says."""
    plain = np.random.default_rng(11).integers(0, 1000, (SEVEN, _LENGTH), dtype=np.uint32)
    refused: list[str] = []
    try:
        found = _aggregate(plain, cheat, refused)
    except Abort as error:
        return False, f"no sum ({_words(error)})"
    off = int(np.abs(found.update.astype(np.int64) - plain[list(found.survivors)].sum(axis=0)).max())
    refused += [_words(error) for error in found.rejected.values()]
    return off > 0, f"sum of {len(found.survivors)} off by up to {off} ({', '.join(refused) or 'no error'})"


def _aggregate(plain: NDArray[np.uint32], cheat: _Cheat, refused: list[str]) -> server.Sum:
    """Both sides are Tacit's own, stage by stage as in `tacit.secagg.run`; `refused` takes refusals of a vector."""
    new, parties = _round()
    everyone = range(SEVEN)
    advertised = [client.advertise(new, party, random=os.urandom) for party in parties]
    admitted, roster = server.admit(new, {i: advertised[i][1] for i in everyone})
    shared = [client.share(state, roster, random=os.urandom) for state, _ in advertised]
    request = digest(b"what everyone is asked")
    gathering, inboxes = server.route(admitted, {i: shared[i][1] for i in everyone}, request=request)
    masked = {}
    for i in everyone:
        vector = MaskedVector(plain[i].copy(), np.zeros(TRAINING_COUNTERS, dtype=np.uint64))
        masked[i], presence = client.mask(client.open_shares(shared[i][0], inboxes[i]), vector, request=request)
        try:
            server.gather(gathering, i, cheat.vector(vector) if i == _CHEAT else vector, presence)
        except Abort as error:
            refused.append(_words(error))
    listed, survivors = server.listing(gathering)
    agreed = {i: client.approve(masked[i], survivors) for i in listed.survivors}
    confirmed, quorum = server.confirm(listed, {i: body for i, (_, body) in agreed.items()})
    reveals = {i: client.unmask(state, quorum)[1] for i, (state, _) in agreed.items()}
    if _CHEAT in reveals:
        altered = cheat.reveal(decode(Reveal, reveals[_CHEAT], context=new.context))
        reveals[_CHEAT] = encode(altered, context=new.context)
    return server.finish(confirmed, reveals)


def _round() -> tuple[Round, list[Party]]:
    keys = [Secret(os.urandom(KEY)) for _ in range(SEVEN)]
    members = tuple(Member(f"partner-{i}", identity_of(key)) for i, key in enumerate(keys))
    rules = Rules({member.name: member.identity for member in members})
    new = Round("run", JOB.hash(), 1, 1, "train", members, default_threshold(SEVEN), _LENGTH, TRAINING_COUNTERS)
    return new, [Party(member.name, key, rules) for member, key in zip(members, keys, strict=True)]


def _words(error: Abort) -> str:
    return error.message.removeprefix("secure aggregation, ")


def _flipped(data: bytes) -> bytes:
    return data[:-1] + bytes([data[-1] ^ 1])
