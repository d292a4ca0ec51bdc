"""The server's round of secure aggregation, its own functions timed between the partners' messages.

Two casts give the messages. `Played` is real partners. `Prepared` is for cohorts too large for that: it knows all
secrets and makes only what reaches the server. Both end in a sum that is compared with the plain one.
"""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Collection, Mapping
from typing import Protocol, TypeVar

import numpy as np

from tacit.errors import JobFailed
from tacit.secagg import client, server
from tacit.secagg.bindings import advert_text, agreement_text, commitment, pair_key, presence_text, seed_key
from tacit.secagg.constants import KEY, SEALED
from tacit.secagg.keys import Digest, Secret, agree, public_of, sign
from tacit.secagg.messages import Advert, Agreement, Envelopes, MaskedVector, Presence, Reveal, encode
from tacit.secagg.prg import add_mask
from tacit.secagg.shamir import split
from tacit.secagg.states import Advertised, Agreed, Masked, Shared
from tacit_sim.bench.cohort import COUNTERS, Cohort

__all__ = ["Cast", "Played", "Prepared", "server_round"]

Messages = Mapping[int, bytes]
T = TypeVar("T")

_REQUEST = Digest(bytes(32))


class Cast(Protocol):
    """A cohort's partners, asked in the order of a round; all of them share keys, and some are gone by stage 2."""

    cohort: Cohort

    def adverts(self) -> Messages: ...

    def envelopes(self, state: server.Admitted, roster: bytes) -> Messages: ...

    def hear(self, inboxes: Messages) -> None: ...

    def masked(self, i: int, *, gone: Collection[int]) -> tuple[MaskedVector, bytes]: ...

    def agreements(self, state: server.Listed, survivors: bytes) -> Messages: ...

    def reveals(self, state: server.Confirmed, quorum: bytes) -> Messages: ...


def server_round(cast: Cast, *, lost: int) -> dict[str, float]:
    """Seconds of processor time of every step of the server; `lost` partners vanish before they answer stage 2.

    Raises:
        Abort: too few are left.
        JobFailed: the sum is not the plain sum.
    """
    new, clock = cast.cohort.round, _Clock()
    adverts = cast.adverts()
    admitted, roster = clock("admit", lambda: server.admit(new, adverts))
    envelopes = cast.envelopes(admitted, roster)
    gathering, inboxes = clock("route", lambda: server.route(admitted, envelopes, request=_REQUEST))
    cast.hear(inboxes)
    gone = _spread(lost, len(new.members))
    for i in range(len(new.members)):
        if i not in gone:
            _gather(clock, gathering, i, cast.masked(i, gone=gone))
    listed, survivors = clock("listing", lambda: server.listing(gathering))
    agreements = cast.agreements(listed, survivors)
    confirmed, quorum = clock("confirm", lambda: server.confirm(listed, agreements))
    reveals = cast.reveals(confirmed, quorum)
    total = clock("finish", lambda: server.finish(confirmed, reveals))
    _check(total, cast.cohort, survivors=listed.survivors)
    return clock.seconds


def _gather(clock: _Clock, state: server.Gathering, i: int, masked: tuple[MaskedVector, bytes]) -> None:
    clock("gather", lambda: server.gather(state, i, *masked))


class _Clock:
    """Adds up processor time by step."""

    def __init__(self) -> None:
        self.seconds: dict[str, float] = {}

    def __call__(self, name: str, work: Callable[[], T]) -> T:
        started = time.process_time()
        found = work()
        self.seconds[name] = self.seconds.get(name, 0.0) + time.process_time() - started
        return found


def _spread(lost: int, n: int) -> frozenset[int]:
    """`lost` positions, evenly over the cohort."""
    return frozenset(i * n // lost for i in range(lost))


class Played:
    """Real partners in this process. What does not depend on who vanishes is computed once for all rounds."""

    def __init__(self, cohort: Cohort) -> None:
        self.cohort = cohort
        self._advertised: dict[int, tuple[Advertised, bytes]] = {}
        self._shared: dict[int, tuple[Shared, bytes]] = {}
        self._masked: dict[int, tuple[Masked, MaskedVector, bytes]] = {}
        self._agreed: dict[int, Agreed] = {}

    def adverts(self) -> Messages:
        if not self._advertised:
            for i in range(len(self.cohort.keys)):
                self._advertised[i] = client.advertise(self.cohort.round, self.cohort.party(i), random=os.urandom)
        return {i: data for i, (_, data) in self._advertised.items()}

    def envelopes(self, state: server.Admitted, roster: bytes) -> Messages:
        if not self._shared:
            for i, (advertised, _) in self._advertised.items():
                self._shared[i] = client.share(advertised, roster, random=os.urandom)
        return {i: data for i, (_, data) in self._shared.items()}

    def hear(self, inboxes: Messages) -> None:
        if self._masked:
            return
        for i, (shared, _) in self._shared.items():
            vector = _plain(i, self.cohort)
            state, presence = client.mask(client.open_shares(shared, inboxes[i]), vector, request=_REQUEST)
            self._masked[i] = state, vector, presence

    def masked(self, i: int, *, gone: Collection[int]) -> tuple[MaskedVector, bytes]:
        _, vector, presence = self._masked[i]
        return vector, presence

    def agreements(self, state: server.Listed, survivors: bytes) -> Messages:
        approved = {i: client.approve(self._masked[i][0], survivors) for i in state.survivors}
        self._agreed = {i: agreed for i, (agreed, _) in approved.items()}
        return {i: data for i, (_, data) in approved.items()}

    def reveals(self, state: server.Confirmed, quorum: bytes) -> Messages:
        return {i: client.unmask(self._agreed[i], quorum)[1] for i in state.agreed}


class Prepared:
    """Messages made from everybody's secrets: as long, as random and as right as real ones to the server.

    Keys, signatures, commitments and masks are real. Left out is what the server never sees: seals, which are random
    bytes, and masks between survivors, which cancel. Shares lie on random lines instead of polynomials of a higher
    degree: as many of them are needed, the same sums rebuild the secret, and they are made in no time.
    """

    def __init__(self, cohort: Cohort) -> None:
        self.cohort = cohort
        every = range(len(cohort.keys))
        self._mask_keys, self._seeds = ([Secret(os.urandom(KEY)) for _ in every] for _ in range(2))
        self._admitted: server.Admitted | None = None
        self._adverts = {i: self._advert(i) for i in every}

    def _advert(self, i: int) -> bytes:
        new = self.cohort.round
        shown = public_of(Secret(os.urandom(KEY))), public_of(self._mask_keys[i])
        text = advert_text(new, sender=i, share_key=shown[0], mask_key=shown[1])
        return encode(Advert(i, *shown, sign(self.cohort.keys[i], text)), context=new.context)

    def adverts(self) -> Messages:
        return self._adverts

    def envelopes(self, state: server.Admitted, roster: bytes) -> Messages:
        self._admitted = state
        return {i: self._envelope(state, i) for i in state.adverts}

    def _envelope(self, state: server.Admitted, i: int) -> bytes:
        published = commitment(self._seeds[i], session=state.session, owner=i)
        sealed = tuple((j, os.urandom(SEALED)) for j in state.graph.neighbours(i))
        return encode(Envelopes(i, published, sealed), context=state.round.context)

    def hear(self, inboxes: Messages) -> None:
        """Nothing in them is new to who knows all secrets."""

    def masked(self, i: int, *, gone: Collection[int]) -> tuple[MaskedVector, bytes]:
        """Under the partner's own mask, and those it shares with the lost."""
        new, state = self.cohort.round, self._known()
        vector = _plain(i, self.cohort)
        for name, values in vector.channels():
            add_mask(values, seed_key(self._seeds[i], session=state.session, owner=i, channel=name), sign=1)
        for j in state.graph.neighbours(i):
            if j not in gone:
                continue
            secret = agree(self._mask_keys[i], state.adverts[j].mask_key)
            for name, values in vector.channels():
                key = pair_key(secret, session=state.session, request=_REQUEST, pair=(i, j), channel=name)
                add_mask(values, key, sign=1 if i < j else -1)
        text = presence_text(new, session=state.session, request=_REQUEST, present=state.adverts)
        return vector, encode(Presence(i, sign(self.cohort.keys[i], text)), context=new.context)

    def agreements(self, state: server.Listed, survivors: bytes) -> Messages:
        new, session = self.cohort.round, self._known().session
        text = agreement_text(new, session=session, request=_REQUEST, survivors=state.survivors)
        keys = self.cohort.keys
        return {i: encode(Agreement(i, sign(keys[i], text)), context=new.context) for i in state.survivors}

    def reveals(self, state: server.Confirmed, quorum: bytes) -> Messages:
        admitted, survivors = self._known(), set(state.listed.survivors)
        held: dict[int, list[tuple[int, Secret]]] = {i: [] for i in state.agreed}
        for owner in admitted.adverts:
            secret = self._seeds[owner] if owner in survivors else self._mask_keys[owner]
            holders = [j + 1 for j in {owner, *admitted.graph.neighbours(owner)}]
            for holder, share in split(secret, threshold=2, holders=holders, random=os.urandom).items():
                if holder - 1 in held:
                    held[holder - 1].append((owner, share))
        context = self.cohort.round.context
        return {i: encode(Reveal(i, tuple(shares)), context=context) for i, shares in held.items()}

    def _known(self) -> server.Admitted:
        if self._admitted is None:
            raise JobFailed("expected stage 1 before the others, found it left out", hint="ask in the order of a round")
        return self._admitted


def _plain(i: int, cohort: Cohort) -> MaskedVector:
    """Entry k of partner i is k + i 2^20, modulo 2^32, and i + 1 in every counter: quickly made, and all different."""
    start = np.uint32(i << 20 & 0xFFFFFFFF)
    return MaskedVector(
        np.arange(cohort.round.update, dtype=np.uint32) + start, np.full(COUNTERS, i + 1, dtype=np.uint64)
    )


def _check(total: server.Sum, cohort: Cohort, *, survivors: Collection[int]) -> None:
    expected = MaskedVector(np.zeros(cohort.round.update, dtype=np.uint32), np.zeros(COUNTERS, dtype=np.uint64))
    for i in survivors:
        plain = _plain(i, cohort)
        np.add(expected.update, plain.update, out=expected.update)
        np.add(expected.counters, plain.counters, out=expected.counters)
    same = np.array_equal(total.update, expected.update) and np.array_equal(total.counters, expected.counters)
    if not same or set(total.survivors) != set(survivors) or total.rejected:
        raise JobFailed("expected the survivors' plain sum, found another", hint="report this: the protocol is wrong")
