"""One partner's round of secure aggregation, stage by stage, to be measured beside `tacit_sim.rivals.cost`.

The partner is the real one, from bytes to bytes. Its peers' messages are made between the stages, outside any measure,
and stand up to every check: real keys, signatures and seals. Only what is under a seal is random, as shares look.
"""

from __future__ import annotations

import hashlib
import os
from collections.abc import Iterator
from typing import Any

import numpy as np
from flwr.app import RecordDict
from flwr.common.serde import recorddict_to_proto
from numpy.typing import NDArray

from tacit.link.records import to_records
from tacit.privacy.randomness import Randomness
from tacit.quantize import Ring
from tacit.secagg import client
from tacit.secagg.bindings import advert_text, agreement_text, presence_text, share_address
from tacit.secagg.constants import KEY, SHARE
from tacit.secagg.keys import Digest, Secret, agree, derive, public_of, seal, sign
from tacit.secagg.messages import (
    Advert,
    Agreement,
    Inbox,
    MaskedVector,
    Presence,
    Quorum,
    Roster,
    Survivors,
    decode,
    encode,
)
from tacit.secagg.round import Round
from tacit.secagg.states import Agreed, Masked, Session
from tacit.wire import Letter, Update
from tacit_sim.bench.cohort import Cohort
from tacit_sim.rivals.cost import Stage

__all__ = ["PartnerRound", "sent"]

_MAX_NORM = 100.0  # the job's default
_WEIGHT = 0.5


class PartnerRound:
    """A partner in the middle of `cohort`.

    `peers`, its neighbours in the graph, and `needed`, the shares that rebuild its secrets, stand from stage `open` on.

    Args:
        cohort: whose round it is.
        update: float32 `[d]`; let go of when it is masked, as a partner does.
        model: float32 `[d]`, the global model that it was sent.
    """

    def __init__(self, cohort: Cohort, update: NDArray[np.float32], *, model: NDArray[np.float32]) -> None:
        self._round = cohort.round
        self._me = len(cohort.keys) // 2
        self._party = cohort.party(self._me)
        self._peers = _Peers(cohort, me=self._me)
        self._update: NDArray[np.float32] | None = update
        self._model = model
        self._ring = Ring(norm=_MAX_NORM, partners=len(cohort.keys))
        self._state: Any = None  # one of tacit.secagg.states, which every step checks for itself
        self._body = b""
        self._vector: MaskedVector | None = None
        self._request = Digest(b"")
        self.peers = self.needed = 0

    def stages(self) -> Iterator[Stage]:
        """Everything that it computes for the protocol: call each stage's work once before asking for the next.

        The work gives the message that leaves, as records, or None where nothing leaves.
        """
        invite = self._round.encode()
        yield Stage("advertise", lambda: self._advertise(invite))
        roster = self._peers.roster(self._body)
        yield Stage("share", lambda: self._share(roster))
        session: Session = self._state.session
        self.peers, self.needed = len(session.neighbours), session.graph.needed(self._me)
        inbox = self._peers.inbox(session)
        yield Stage("open", lambda: self._open(inbox))
        yield Stage("quantise", self._quantise)
        yield Stage("request", self._hash_request)
        yield Stage("mask", self._mask)
        yield Stage("pack", self._pack)
        survivors = self._peers.survivors(self._state, own=self._body)
        yield Stage("approve", lambda: self._approve(survivors))
        quorum = self._peers.quorum(self._state, own=self._body)
        yield Stage("unmask", lambda: self._unmask(quorum))

    def _advertise(self, invite: bytes) -> RecordDict:
        self._state, self._body = client.advertise(Round.decode(invite), self._party, random=os.urandom)
        return self._letter()

    def _share(self, roster: bytes) -> RecordDict:
        self._state, self._body = client.share(self._state, roster, random=os.urandom)
        return self._letter()

    def _open(self, inbox: bytes) -> None:
        self._state = client.open_shares(self._state, inbox)

    def _quantise(self) -> None:
        if self._update is not None:
            encoded, clipped = self._ring.encode(self._update, weight=_WEIGHT, rounding=Randomness().stream())
            self._vector = MaskedVector(encoded, np.array([1, clipped, 1], dtype=np.uint64))

    def _hash_request(self) -> None:
        """What `tacit.wire.Ask.request` costs: a hash of the model."""
        self._request = Digest(hashlib.sha256(self._model.data).digest())

    def _mask(self) -> None:
        if self._vector is not None:
            self._state, self._body = client.mask(self._state, self._vector, request=self._request)
        self._update = None

    def _pack(self) -> RecordDict | None:
        vector, self._vector = self._vector, None
        return None if vector is None else to_records(Update(self._party.name, vector, presence=self._body).pack())

    def _approve(self, survivors: bytes) -> RecordDict:
        self._state, self._body = client.approve(self._state, survivors)
        return self._letter()

    def _unmask(self, quorum: bytes) -> RecordDict:
        self._state, self._body = client.unmask(self._state, quorum)
        return self._letter()

    def _letter(self) -> RecordDict:
        return to_records(Letter(self._party.name, self._body).pack())


class _Peers:
    """All others of a cohort: what they send as far as the partner at `me` sees it."""

    def __init__(self, cohort: Cohort, *, me: int) -> None:
        self._cohort, self._me = cohort, me
        others = [i for i in range(len(cohort.keys)) if i != me]
        self._secrets = {i: (Secret(os.urandom(KEY)), Secret(os.urandom(KEY))) for i in others}

    def roster(self, own: bytes) -> bytes:
        context = self._cohort.round.context
        adverts = {self._me: decode(Advert, own, context=context)}
        for i, (share_key, mask_key) in self._secrets.items():
            shown = public_of(share_key), public_of(mask_key)
            text = advert_text(self._cohort.round, sender=i, share_key=shown[0], mask_key=shown[1])
            adverts[i] = Advert(i, *shown, sign(self._cohort.keys[i], text))
        return encode(Roster(tuple(adverts[i] for i in sorted(adverts))), context=context)

    def inbox(self, session: Session) -> bytes:
        sealed = tuple((j, self._seal(session, j)) for j in session.neighbours)
        return encode(Inbox(tuple(sorted(session.adverts)), sealed), context=self._cohort.round.context)

    def _seal(self, session: Session, sender: int) -> bytes:
        address = share_address(session.digest, sender=sender, receiver=self._me)
        secret = agree(self._secrets[sender][0], session.begun.advert.share_key)
        return seal(derive(secret, address), os.urandom(2 * SHARE), bound=address)

    def survivors(self, state: Masked, *, own: bytes) -> bytes:
        """Everyone: nobody vanishes in this round."""
        new = self._cohort.round
        text = presence_text(new, session=state.session, request=state.request, present=state.present)
        presences = {i: Presence(i, sign(self._cohort.keys[i], text)) for i in self._secrets}
        presences[self._me] = decode(Presence, own, context=new.context)
        return encode(Survivors(tuple(presences[i] for i in sorted(presences))), context=new.context)

    def quorum(self, state: Agreed, *, own: bytes) -> bytes:
        """The partner's own signature and those of its peers, as many as the threshold."""
        new, masked = self._cohort.round, state.masked
        text = agreement_text(new, session=masked.session, request=masked.request, survivors=state.survivors)
        signers = [i for i in state.survivors if i != self._me][: new.threshold - 1]
        agreements = [Agreement(i, sign(self._cohort.keys[i], text)) for i in signers]
        agreements.append(decode(Agreement, own, context=new.context))
        return encode(Quorum(tuple(sorted(agreements, key=lambda found: found.sender))), context=new.context)


def sent(message: object) -> int:
    """Bytes of what a stage's work gave, as Flower would put it on the wire."""
    return recorddict_to_proto(message).ByteSize() if isinstance(message, RecordDict) else 0
