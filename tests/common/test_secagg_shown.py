"""A server that shows one partner another U2 than the rest, through the real states of everybody.

The victim masks with its neighbours among the `decoys` and with the server's own partners; the decoys are then called
dropped out, so that what the victim shares with them is rebuilt, and the victim's seed with it. Where nobody looks
with whom the victim masked, that reads its vector in a sparse graph, and not in the complete one.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import dataclass
from itertools import combinations
from typing import Any

import numpy as np
import pytest
from cohort import REQUEST, Drive, aborts, make_round

from tacit.secagg import client
from tacit.secagg.abort import Abort, Reason, Stage
from tacit.secagg.bindings import agreement_text, commitment, pair_key, seed_key
from tacit.secagg.graph import Graph, default_threshold, edge_chance
from tacit.secagg.keys import Secret, agree, public_of, sign
from tacit.secagg.messages import (
    Agreement,
    Inbox,
    MaskedVector,
    Presence,
    Quorum,
    Reveal,
    Survivors,
    decode,
    encode,
)
from tacit.secagg.prg import add_mask
from tacit.secagg.shamir import combine

VICTIM = 0


@dataclass(frozen=True)
class Shown:
    """A cohort that has shared its keys, and of which the last third are the server's."""

    drive: Drive

    @property
    def size(self) -> int:
        return len(self.drive.round.members)

    @property
    def owned(self) -> range:
        return range(self.size - (self.size - 1) // 3, self.size)

    @property
    def graph(self) -> Graph:
        graph: Graph = self.drive.at[Stage.MASK].server.admitted.graph
        return graph

    def friends(self) -> list[int]:
        """The victim's honest neighbours."""
        return [j for j in self.graph.neighbours(VICTIM) if j not in self.owned]

    def masked(self, i: int, present: Collection[int]) -> tuple[Any, Presence, MaskedVector]:
        """What partner `i` holds and sends where it is shown `present`."""
        before, context = self.drive.at[Stage.MASK], self.drive.round.context
        box = decode(Inbox, before.message[i], context=context)
        shown = Inbox(tuple(sorted(present)), tuple(pair for pair in box.sealed if pair[0] in present))
        vector = MaskedVector(self.drive.vectors[i].update.copy(), self.drive.vectors[i].counters.copy())
        opened = client.open_shares(before.states[i], encode(shown, context=context))
        state, data = client.mask(opened, vector, request=REQUEST)
        return state, decode(Presence, data, context=context), vector


@dataclass(frozen=True)
class Told:
    """After stage 2: states, presences and vectors by position."""

    shown: Shown
    states: Mapping[int, Any]
    presences: Mapping[int, Presence]
    vectors: Mapping[int, MaskedVector]

    def survivors(self, listed: Collection[int]) -> bytes:
        presences = tuple(self.presences[i] for i in sorted(listed))
        return encode(Survivors(presences), context=self.shown.drive.round.context)

    def approvals(self, listed: Collection[int]) -> tuple[dict[int, tuple[Any, bytes]], dict[int, Abort]]:
        """Of the honest but the victim, who is kept away: who signs, and who refuses."""
        signed: dict[int, tuple[Any, bytes]] = {}
        refused: dict[int, Abort] = {}
        for i in sorted(set(listed) - {VICTIM, *self.shown.owned}):
            try:
                signed[i] = client.approve(self.states[i], self.survivors(listed))
            except Abort as error:
                refused[i] = error
        return signed, refused

    def shares(self, listed: Collection[int], signed: Mapping[int, tuple[Any, bytes]]) -> dict[int, dict[int, Secret]]:
        """All that the server gets hold of, by owner and holder: what its own hold, and what a quorum opens."""
        new, owned = self.shown.drive.round, self.shown.owned
        found: dict[int, dict[int, Secret]] = {i: {} for i in range(self.shown.size)}
        for i in owned:
            for owner, pair in self.states[i].held.items():
                found[owner][i + 1] = pair[owner not in listed]
        text = agreement_text(new, session=self.session, request=REQUEST, survivors=tuple(sorted(listed)))
        own = [Agreement(i, sign(self.shown.drive.parties[i].key, text)) for i in owned if i in listed]
        given = [decode(Agreement, data, context=new.context) for _, data in signed.values()]
        quorum = encode(Quorum(tuple(sorted([*given, *own], key=lambda a: a.sender))), context=new.context)
        for i, (state, _) in signed.items():
            if len(given) + len(own) < new.threshold:
                with aborts(Stage.UNMASK, Reason.TOO_FEW):
                    client.unmask(state, quorum)
                continue
            reveal = decode(Reveal, client.unmask(state, quorum)[1], context=new.context)
            for owner, piece in reveal.shares:
                found[owner][i + 1] = piece
        return found

    @property
    def session(self) -> Any:
        return self.shown.drive.at[Stage.MASK].server.admitted.session

    def read(self, listed: Collection[int], shares: Mapping[int, Mapping[int, Secret]]) -> MaskedVector | None:
        """The victim's vector less every mask that the server can make, or None without its seed."""
        gathering = self.shown.drive.at[Stage.MASK].server
        seed = self._rebuilt(VICTIM, shares)
        if seed is None or commitment(seed, session=self.session, owner=VICTIM) != gathering.commitments[VICTIM]:
            return None
        adverts = gathering.admitted.adverts
        left = MaskedVector(self.vectors[VICTIM].update.copy(), self.vectors[VICTIM].counters.copy())
        for name, values in left.channels():
            add_mask(values, seed_key(seed, session=self.session, owner=VICTIM, channel=name), sign=-1)
            for j in set(self.shown.graph.neighbours(VICTIM)) & set(self.states[VICTIM].present):
                key = self._mask_key(j, listed, shares)
                if key is None:
                    continue
                assert public_of(key) == adverts[j].mask_key
                secret, pair = agree(key, adverts[VICTIM].mask_key), (VICTIM, j)
                mask = pair_key(secret, session=self.session, request=REQUEST, pair=pair, channel=name)
                add_mask(values, mask, sign=-1)  # the victim comes first and has added it
        return left

    def _rebuilt(self, owner: int, shares: Mapping[int, Mapping[int, Secret]]) -> Secret | None:
        needed = self.shown.graph.needed(owner)
        enough = len(shares[owner]) >= needed
        return combine(dict(sorted(shares[owner].items())[:needed])) if enough else None

    def _mask_key(self, j: int, listed: Collection[int], shares: Mapping[int, Mapping[int, Secret]]) -> Secret | None:
        if j in self.shown.owned:
            key: Secret = self.shown.drive.at[Stage.MASK].states[j].session.begun.mask_key
            return key
        return None if j in listed else self._rebuilt(j, shares)


def _begun(n: int, *, edges: int) -> Shown:
    drive = Drive(make_round(n, update=4, counters=2, edges=edges))
    return Shown(drive.to(Stage.MASK))


def _told(shown: Shown, present: Collection[int], *, answers: Mapping[int, Any] | None = None) -> Told:
    """The victim is shown `present`, the others everybody."""
    everyone = range(shown.size)
    rest = answers or {i: shown.masked(i, everyone) for i in everyone if i != VICTIM}
    found = {VICTIM: shown.masked(VICTIM, present), **rest}
    states, presences, vectors = ({i: answer[k] for i, answer in found.items()} for k in range(3))
    return Told(shown, states, presences, vectors)


@pytest.fixture(scope="module")
def sparse() -> tuple[Told, list[int]]:
    """The victim of a sparse graph was told of 22 of its 45 honest neighbours; and whom the server lists."""
    n, threshold = 70, default_threshold(70)
    shown = _begun(n, edges=edge_chance(n, threshold=threshold))
    friends = shown.friends()
    needed, owned = shown.graph.needed(VICTIM), [j for j in shown.graph.neighbours(VICTIM) if j in shown.owned]
    # Enough for the victim's own checks: live holders, and as long a list as the threshold.
    decoys = friends[: max(needed - 1 - len(owned), len(friends) - (n - threshold))]
    hidden = set(friends) - set(decoys)
    assert decoys
    assert hidden
    told = _told(shown, [i for i in range(n) if i not in hidden])
    return told, [i for i in range(n) if i not in decoys]


def test_every_honest_neighbour_refuses_whom_the_victim_did_not_mask_with(sparse):
    told, listed = sparse
    signed, refused = told.approvals(listed)
    friends = set(told.shown.friends()) & set(listed)
    assert set(refused) == friends
    assert len(friends) >= 20
    for error in refused.values():
        assert (error.stage, error.reason) == (Stage.AGREE, Reason.SIGNATURE)
        assert "expected partner-000 to have masked with the partners shown here" in str(error)
    assert told.read(listed, told.shares(listed, signed)) is None


def test_without_that_look_the_server_reads_the_very_vector(sparse, monkeypatch):
    told, listed = sparse
    monkeypatch.setattr(client, "check_presences", lambda *_: None)
    signed, refused = told.approvals(listed)
    assert refused == {}
    found, plain = told.read(listed, told.shares(listed, signed)), told.shown.drive.vectors[VICTIM]
    assert found is not None
    np.testing.assert_array_equal(found.update, plain.update)
    np.testing.assert_array_equal(found.counters, plain.counters)


def test_the_victim_itself_would_not_sign(sparse):
    told, listed = sparse
    with aborts(Stage.AGREE, Reason.NOT_LISTED):
        client.approve(told.states[VICTIM], told.survivors(listed))


def test_in_the_complete_graph_it_fails_without_that_look(monkeypatch):
    """Every U2 that a victim among seven accepts, with every list of survivors that the server may name."""
    monkeypatch.setattr(client, "check_presences", lambda *_: None)
    shown = _begun(7, edges=256)
    answers = {i: shown.masked(i, range(7)) for i in range(1, 7)}
    others, plain = [*range(1, 5)], shown.drive.vectors[VICTIM]
    choices = [{VICTIM, *shown.owned, *some} for size in (2, 3, 4) for some in combinations(others, size)]
    tried, opened = 0, 0
    for present in choices:
        told = _told(shown, present, answers=answers)
        for listed in choices:
            signed, refused = told.approvals(listed)
            assert refused == {}
            found = told.read(listed, told.shares(listed, signed))
            tried += 1
            if found is not None:
                opened += 1
                assert present & listed & set(others)  # an honest partner's mask is left
                assert not np.any(found.update == plain.update)
                assert not np.any(found.counters == plain.counters)
    assert (tried, opened) == (11 * 11, 5 * 11)
