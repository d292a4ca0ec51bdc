"""One round as a lying server plays it: what it tells each partner is its own choice, and it uses all that it holds."""

from __future__ import annotations

import os
from collections.abc import Callable, Collection, Mapping
from dataclasses import replace

import numpy as np
from numpy.typing import NDArray

from tacit.job import Job
from tacit.parcel import Parcel
from tacit.quantize import Ring
from tacit.secagg.bindings import advert_text, agreement_text, presence_text, session_of, share_address
from tacit.secagg.constants import KEY, SEALED, SHARE, SIGNATURE
from tacit.secagg.graph import Graph, default_threshold
from tacit.secagg.keys import Digest, PublicKey, Secret, Signature, agree, derive, seal, sign
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
from tacit.secagg.round import Round
from tacit.wire import ADVERTISE, AGREE, TRAIN, TRAINING_COUNTERS, UNMASK, Ask, Invite, Letter, Refusal, Update
from tacit.wire import SHARE as SHARE_KEYS
from tacit_sim.attacks.cohort import JOB, Cohort
from tacit_sim.attacks.hoard import Hoard, Seen
from tacit_sim.attacks.outcome import Outcome, likeness
from tacit_sim.attacks.partners import live_model

__all__ = ["Play", "open_round"]

Positions = tuple[int, ...]


def open_round(cohort: Cohort, *, job: Job = JOB, number: int = 1, threshold: int | None = None) -> Round:
    """A round of training of `cohort`, by default with the default threshold."""
    needed = default_threshold(len(cohort.members)) if threshold is None else threshold
    entries = len(live_model())
    return Round("run", job.hash(), number, 1, "train", cohort.members, needed, entries, TRAINING_COUNTERS)


class Play:
    """The stages of a round. Each tells the honest partners what the attack has for them, an honest server's words
    where it has nothing, and keeps every answer and refusal. Whoever refused is not asked again.

    Args:
        cohort: who takes part.
        new: the round.
        hoard: what the server holds already.
        honest: the honest partners that are asked; all where left out.
    """

    def __init__(
        self,
        cohort: Cohort,
        new: Round,
        *,
        job: Job = JOB,
        hoard: Hoard | None = None,
        honest: Collection[int] | None = None,
    ) -> None:
        self.cohort, self.round, self.job = cohort, new, job
        self.hoard = hoard or Hoard()
        self.asked = tuple(i for i in cohort.honest if honest is None or i in honest)
        self.refusals: dict[int, str] = {}
        self.adverts: dict[int, Advert] = {}
        self.seen: dict[int, Seen] = {}
        self.envelopes: dict[int, Envelopes] = {}
        self.masked: dict[int, MaskedVector] = {}
        self.presences: dict[int, Presence] = {}
        self.agreements: dict[int, tuple[Positions, Agreement]] = {}
        self.revealed = 0

    def advertise(self, *, invite: Invite | None = None) -> None:
        """Stage 0, with an honest invitation by default. The server's own partners show keys that it holds."""
        parcel = (invite or Invite(self.job, self.round.encode())).pack()
        for i, body in self._letters(ADVERTISE, lambda _: parcel).items():
            self.adverts[i] = decode(Advert, body, context=self.round.context)
        for i in self.cohort.owned:
            self.adverts[i] = self.own_advert(i)

    def play_out(self, *, stages: int = 5) -> Play:
        """The first `stages`, with an honest server's words in each."""
        for stage in (self.advertise, self.share, self.mask, self.agree, self.unmask)[:stages]:
            stage()
        return self

    def own_advert(self, i: int, *, signer: Secret | None = None, mask_key: PublicKey | None = None) -> Advert:
        """Keys that the server holds, for the partner at position `i`.

        Args:
            signer: identity key to sign with; that of `i`, where the server has it.
            mask_key: one to show instead, whose secret the server lacks.
        """
        share, mask = (self.hoard.add_key(Secret(os.urandom(KEY))) for _ in range(2))
        shown = mask_key or mask
        text = advert_text(self.round, sender=i, share_key=share, mask_key=shown)
        return Advert(i, share, shown, sign(signer or self.cohort.owned[i], text))

    def roster(self, change: Mapping[int, Advert] | None = None, *, only: Collection[int] | None = None) -> Roster:
        """Everyone's keys, with those of `change` in place of the true ones, and `only` some of them."""
        told = {**self.adverts, **(change or {})}
        return Roster(tuple(told[i] for i in sorted(told) if only is None or i in only))

    def share(self, rosters: Mapping[int, Roster] | None = None) -> None:
        """Stage 1, with the true roster for everyone who has none in `rosters`."""
        truth, new = self.roster(), self.round
        bodies = {i: encode((rosters or {}).get(i, truth), context=new.context) for i in self._here()}
        for i, body in self._letters(SHARE_KEYS, lambda i: _letter(bodies[i])).items():
            adverts = {a.sender: a for a in decode(Roster, bodies[i], context=new.context).adverts}
            session = session_of(new, bodies[i])
            graph = Graph(len(new.members), threshold=new.threshold, edges=new.edges, session=session, present=adverts)
            self.seen[i] = Seen(i, adverts, session, graph, present=(), request=Digest(b""))
            self.envelopes[i] = decode(Envelopes, body, context=new.context)
            self.hoard.open_envelopes(self.envelopes[i], self.seen[i])

    def inbox(self, i: int) -> Inbox:
        """What the others sealed for partner `i`, forged where the server has the key that it was told."""
        seen = self.seen[i]
        present = tuple(j for j in sorted(seen.adverts) if j in self.envelopes or self._forges(i, j))
        sealed = tuple((j, self._sealed(i, j)) for j in seen.graph.neighbours(i) if j in present)
        return Inbox(present, sealed)

    def mask(
        self,
        *,
        models: Mapping[int, NDArray[np.float32]] | None = None,
        jobs: Mapping[int, Job] | None = None,
        inboxes: Mapping[int, Inbox] | None = None,
    ) -> None:
        """Stage 2, with the same model and job for everyone who has none in `models` or `jobs`."""
        new, asks = self.round, {}
        for i in self._here():
            inbox = (inboxes or {}).get(i) or self.inbox(i)
            self.seen[i] = replace(self.seen[i], present=inbox.present)
            model, job = (models or {}).get(i, live_model()), (jobs or {}).get(i, self.job)
            body = encode(inbox, context=new.context)
            asks[i] = Ask(job, new.run, new.number, new.attempt, len(new.members), model, body)
        for i, answer in self._tell(TRAIN, lambda i: asks[i].pack()).items():
            update = Update.unpack(answer)
            self.masked[i] = MaskedVector(update.vector.update.copy(), update.vector.counters.copy())
            self.presences[i] = decode(Presence, update.presence, context=new.context)
            self.seen[i] = replace(self.seen[i], request=asks[i].request())

    def agree(self, lists: Mapping[int, Positions] | None = None, *, only: Collection[int] | None = None) -> None:
        """Stage 3, with everyone's vectors for who has no other list of survivors in `lists`."""
        everyone = tuple(sorted({*self.masked, *self.cohort.owned}))
        told = {i: (lists or {}).get(i, everyone) for i in self.masked}
        survivors = {i: encode(self.survivors(i, who), context=self.round.context) for i, who in told.items()}
        for i, body in self._letters(AGREE, lambda i: _letter(survivors[i]), only=only).items():
            self.agreements[i] = told[i], decode(Agreement, body, context=self.round.context)

    def survivors(self, i: int, who: Positions) -> Survivors:
        """`who` as a list of survivors for partner `i`: the server's own sign that they masked as `i` did."""
        seen = self.seen[i]
        text = presence_text(self.round, session=seen.session, request=seen.request, present=seen.present)
        own = {j: Presence(j, sign(key, text)) for j, key in self.cohort.owned.items()}
        none = Signature(bytes(SIGNATURE))
        return Survivors(tuple(own.get(j) or self.presences.get(j) or Presence(j, none) for j in who))

    def quorum(self, i: int) -> Quorum:
        """Signatures over the list of partner `i`: of those told the same, of the server's own, then any others."""
        survivors, seen = self.agreements[i][0], self.seen[i]
        text = agreement_text(self.round, session=seen.session, request=seen.request, survivors=survivors)
        found = {j: Agreement(j, sign(key, text)) for j, key in self.cohort.owned.items() if j in survivors}
        # Those that were told the same first: the others can only fill the number.
        for j in sorted(self.agreements, key=lambda j: self._told(j) != self._told(i)):
            if j in survivors and len(found) < self.round.threshold:
                found[j] = self.agreements[j][1]
        return Quorum(tuple(found[j] for j in sorted(found)))

    def unmask(self, *, only: Collection[int] | None = None) -> None:
        """Stage 4."""
        asked = [i for i in self.agreements if only is None or i in only]
        bodies = {i: encode(self.quorum(i), context=self.round.context) for i in asked}
        for i, body in self._letters(UNMASK, lambda i: _letter(bodies[i]), only=asked).items():
            self.revealed += 1
            for owner, share in decode(Reveal, body, context=self.round.context).shares:
                pool = self.hoard.seeds if owner in self.agreements[i][0] else self.hoard.keys
                pool.setdefault(owner, {})[i + 1] = share
        for owner, advert in self.adverts.items():
            self.hoard.learn_key(owner, advert.mask_key)

    def expose(self, who: Collection[int] | None = None) -> NDArray[np.uint32] | None:
        """The sum of the vectors of `who`, by default the victim's alone, without every mask that can be worked out.

        Returns:
            uint32 `[d]`, or None where one of them sent none.
        """
        among = (self.cohort.victim,) if who is None else tuple(who)
        total = np.zeros(self.round.update, dtype=np.uint32)
        for i in among:
            if i not in self.masked:
                return None
            values = self.masked[i].update.copy()
            self.hoard.take_off(values, self.seen[i], channel="update", among=among)
            total += values
        return total

    def outcome(self, attack: str, found: NDArray[np.uint32] | None, *, how: str) -> Outcome:
        """Whether `found` is the victim's update: refused if fewer than half of the entries are.

        Args:
            how: what the server did, and to whom.
        """
        victim = self.cohort.victim
        if found is None:
            return Outcome(attack, True, f"{self.reason()}; partner {victim} sent nothing: {how}")
        same, related = self.compare(found)
        got = f"{same} of {len(found)} entries of partner {victim}'s update, correlation {related:+.2f}"
        stopped = f"{self.reason()}; " if self.refusals else ""
        return Outcome(attack, 2 * same < len(found), f"{stopped}{got}: {how}")

    def compare(self, found: NDArray[np.uint32]) -> tuple[int, float]:
        """How many entries of `found` are the victim's, from the first on, and the correlation with them."""
        ring = Ring(norm=self.job.aggregation.max_update_norm, partners=len(self.round.members))
        truth = self.cohort.partners.updates[self.cohort.victim][: len(found)]
        # As many updates may be in a sum, each rounded to the grid.
        return likeness(ring.decode(found, weight=1.0), truth, within=2 * ring.partners * ring.step)

    def reason(self) -> str:
        """Who refused, and in what words: the victim's own, if it did."""
        if not self.refusals:
            return "nobody refused"
        words = self.refusals.get(self.cohort.victim) or next(iter(self.refusals.values()))
        return f"{words} (by {_listed(self.refusals, of=len(self.asked))})"

    def note(self, i: int, refusal: Refusal) -> None:
        """Partner `i` refused; of several refusals the first is kept."""
        self.refusals.setdefault(i, refusal.reason.partition(";")[0].removeprefix("secure aggregation, "))

    def _told(self, i: int) -> tuple[Positions, Digest, Digest]:
        return self.agreements[i][0], self.seen[i].session, self.seen[i].request

    def _here(self) -> list[int]:
        return [i for i in self.asked if i not in self.refusals]

    def _tell(
        self, kind: str, parcel: Callable[[int], Parcel], *, only: Collection[int] | None = None
    ) -> dict[int, Parcel]:
        found = {}
        for i in self._here():
            if only is not None and i not in only:
                continue
            answer = self.cohort.partners.tell(i, kind, parcel(i))
            if isinstance(answer, Refusal):
                self.note(i, answer)
            else:
                found[i] = answer
        return found

    def _letters(
        self, kind: str, parcel: Callable[[int], Parcel], *, only: Collection[int] | None = None
    ) -> dict[int, bytes]:
        return {i: Letter.unpack(answer).body for i, answer in self._tell(kind, parcel, only=only).items()}

    def _forges(self, i: int, j: int) -> bool:
        return self.seen[i].adverts[j].share_key in self.hoard.secrets

    def _sealed(self, i: int, j: int) -> bytes:
        """What `j` has for `i`: the true envelope, or one whose shares are nothing but noise, which no seal shows."""
        seen = self.seen[i]
        if not self._forges(i, j):
            return dict(self.envelopes[j].sealed).get(i, os.urandom(SEALED))
        address = share_address(seen.session, sender=j, receiver=i)
        secret = self.hoard.secrets[seen.adverts[j].share_key]
        return seal(derive(agree(secret, seen.adverts[i].share_key), address), os.urandom(2 * SHARE), bound=address)


def _listed(positions: Collection[int], *, of: int) -> str:
    if len(positions) < 3:
        return f"partner {' and '.join(map(str, sorted(positions)))}"
    return f"all {of} honest" if len(positions) == of else f"{len(positions)} of {of} honest"


def _letter(body: bytes) -> Parcel:
    return Letter("server", body).pack()
