"""A server that says what it likes in one step: `Complete` to some, lists to others, another U2 and request to each.

What it can rebuild and which sums it can read is worked out from what the real partners give; small cohorts are gone
through whole.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from itertools import combinations, product
from typing import Any

import pytest
from blocks import BlockDrive, vectors_of
from cohort import make_round
from hypothesis import event, given, settings
from hypothesis import strategies as st

from tacit.secagg import block, client
from tacit.secagg.abort import Abort, Reason, Stage
from tacit.secagg.bindings import agreement_text, presence_text
from tacit.secagg.block.messages import BlockInbox
from tacit.secagg.keys import digest, sign
from tacit.secagg.messages import Agreement, Complete, Presence, Quorum, Reveal, Survivors, decode, encode
from tacit.secagg.shamir import combine

Set = frozenset[int]
View = tuple[Set, int]  # U2 and which of the requests
Told = Set | str | None  # a list, "complete" or nothing
COMPLETE = "complete"
REQUESTS = [digest(f"request {r}".encode()) for r in range(2)]


@dataclass
class Lies:
    """A block that is open, of which the last `colluding` members are the server's. Step 1 is lied in."""

    n: int
    threshold: int
    colluding: int
    both_ways: bool = False  # whether partners answer `Complete` beside a list: a fault, for the search to find
    _masked: dict[tuple[int, View], tuple[Any, Presence]] = field(default_factory=dict)
    _signed: dict[tuple[Any, ...], tuple[Any, Agreement] | None] = field(default_factory=dict)
    _given: dict[tuple[Any, ...], dict[int, bytes]] = field(default_factory=dict)

    def __post_init__(self) -> None:
        self.drive = BlockDrive(make_round(self.n, threshold=self.threshold, update=1, counters=0), steps=2)
        self.context = self.drive.round.context
        self.honest = list(range(self.n - self.colluding))
        self.owned = list(range(self.n - self.colluding, self.n))
        _, opened = block.step(self.drive.blocks[0], 1)
        self.session = opened.shared.session.digest
        self.lists = [
            frozenset(some) for size in range(self.threshold, self.n + 1) for some in combinations(range(self.n), size)
        ]

    def views(self, i: int) -> list[View]:
        """What a partner can be shown."""
        return [(present, r) for present in self.lists if i in present for r in range(len(REQUESTS))]

    def told(self) -> list[Told]:
        return [None, COMPLETE, *self.lists]

    def masked(self, i: int, view: View) -> tuple[Any, Presence]:
        """What the partner holds and signs after its vector."""
        if (i, view) not in self._masked:
            box = decode(BlockInbox, self.drive.inboxes[i], context=self.context)
            sealed = tuple(pair for pair in box.sealed if pair[0] in view[0])
            shown = encode(BlockInbox(2, tuple(sorted(view[0])), sealed), context=self.context)
            _, opened = block.step(block.open_shares(self.drive.shared[i], shown), 1)
            state, data = client.mask(opened, vectors_of(self.drive.round, 1)[i], request=REQUESTS[view[1]])
            self._masked[i, view] = state, decode(Presence, data, context=self.context)
        return self._masked[i, view]

    def signed(self, i: int, listed: Set, views: Mapping[int, View]) -> tuple[Any, Agreement] | None:
        """The partner's state and signature of a list, or None where it refuses."""
        seen = tuple(views[j] for j in sorted(listed) if j in views)
        key = i, views[i], listed, seen
        if key not in self._signed:
            text = presence_text(
                self.drive.round, session=self.session, request=REQUESTS[views[i][1]], present=views[i][0]
            )
            presences = [
                self.masked(j, views[j])[1] if j in views else Presence(j, sign(self.drive.parties[j].key, text))
                for j in sorted(listed)
            ]
            try:
                state, data = client.approve(
                    self.masked(i, views[i])[0], encode(Survivors(tuple(presences)), context=self.context)
                )
            except Abort as error:
                if error.reason not in (Reason.NOT_LISTED, Reason.SIGNATURE):
                    raise
                self._signed[key] = None
            else:
                self._signed[key] = state, decode(Agreement, data, context=self.context)
        return self._signed[key]

    def shares(self, views: Mapping[int, View], told: Mapping[int, Told]) -> dict[bool, dict[int, dict[int, bytes]]]:
        """Shares by kind (False: `b`; True: `s`), owner and holder: what its own hold, and what partners give."""
        found: dict[bool, dict[int, dict[int, bytes]]] = {kind: {i: {} for i in self.honest} for kind in (False, True)}
        everyone = frozenset(range(self.n))
        for i in self.owned:
            held = self.masked(i, (everyone, 0))[0].held
            for kind, owner in product((False, True), self.honest):
                found[kind][owner][i] = held[owner][kind]
        signers: dict[tuple[Set, int], dict[int, tuple[Any, Agreement]]] = {}
        for i, heard in told.items():
            if isinstance(heard, frozenset) and (answer := self.signed(i, heard, views)) is not None:
                signers.setdefault((heard, views[i][1]), {})[i] = answer
            if heard == COMPLETE or (self.both_ways and heard is not None):
                self._note(found, i, self._completed(i, views[i]), lists=None)
        for (listed, r), group in signers.items():
            for i in group:
                self._note(found, i, self._revealed(i, listed, r, views, group), lists=listed)
        return found

    def _note(self, found: Any, holder: int, given: Mapping[int, bytes], *, lists: Set | None) -> None:
        for owner, piece in given.items():
            if owner in found[False]:
                found[lists is not None and owner not in lists][owner][holder] = piece

    def _completed(self, i: int, view: View) -> dict[int, bytes]:
        key = i, view
        if key not in self._given:
            state, _ = self.masked(i, view)
            _, data = client.unmask(state, encode(Complete(self.session), context=self.context))
            self._given[key] = dict(decode(Reveal, data, context=self.context).shares)
        return self._given[key]

    def _revealed(
        self, i: int, listed: Set, r: int, views: Mapping[int, View], group: Mapping[int, tuple[Any, Agreement]]
    ) -> dict[int, bytes]:
        """With the signatures of `group` and of the server's own."""
        key = i, views[i], listed, r, frozenset(group)
        if key not in self._given:
            text = agreement_text(
                self.drive.round, session=self.session, request=REQUESTS[r], survivors=tuple(sorted(listed))
            )
            own = [Agreement(j, sign(self.drive.parties[j].key, text)) for j in self.owned if j in listed]
            signed = sorted([*(a for _, a in group.values()), *own], key=lambda a: a.sender)
            quorum = encode(Quorum(tuple(signed)), context=self.context)
            try:
                _, data = client.unmask(group[i][0], quorum)
                self._given[key] = dict(decode(Reveal, data, context=self.context).shares)
            except Abort as error:
                if (error.stage, error.reason) != (Stage.UNMASK, Reason.TOO_FEW):
                    raise
                self._given[key] = {}
        return self._given[key]

    def learned(self, views: Mapping[int, View], told: Mapping[int, Told]) -> tuple[Set, Set, list[Set]]:
        """Whose `b` and whose `s` is rebuilt, and over which honest partners a sum can be read."""
        found = self.shares(views, told)
        seeds, keys = (
            frozenset(i for i in self.honest if len(found[kind][i]) >= self.threshold) for kind in (False, True)
        )
        pieces = []
        left = set(seeds)
        while left:
            piece, closed = self._piece(min(left), seeds, keys, views)
            left -= piece
            if closed:
                pieces.append(frozenset(piece))
        return seeds, keys, pieces

    def _piece(self, start: int, seeds: Set, keys: Set, views: Mapping[int, View]) -> tuple[set[int], bool]:
        """The honest partners that masks tie to `start`, and whether no mask is left on their sum."""
        piece, edge, closed = {start}, [start], True
        while edge:
            a = edge.pop()
            for j in views[a][0] & set(self.honest) - {a}:
                cancels = j in seeds and a in views[j][0] and views[j][1] == views[a][1]
                if cancels and j not in piece:
                    piece.add(j)
                    edge.append(j)
                closed &= cancels or j in keys
        return piece, closed

    def check(self, views: Mapping[int, View], told: Mapping[int, Told]) -> list[Set]:
        """The theorem; gives the sums."""
        seeds, keys, pieces = self.learned(views, told)
        assert not seeds & keys
        assert len(pieces) <= 1
        assert all(len(piece) >= self.threshold - self.colluding for piece in pieces)
        return pieces

    def holds(self, views: Mapping[int, View], told: Mapping[int, Told]) -> bool:
        seeds, keys, pieces = self.learned(views, told)
        short = any(len(piece) < self.threshold - self.colluding for piece in pieces)
        return not seeds & keys and len(pieces) <= 1 and not short


def _same_view(lies: Lies) -> dict[int, View]:
    return dict.fromkeys(lies.honest, (frozenset(range(lies.n)), 0))


def _all_told(lies: Lies) -> Iterator[dict[int, Told]]:
    for heard in product(lies.told(), repeat=len(lies.honest)):
        yield dict(zip(lies.honest, heard, strict=True))


# (n, t) with as many colluders as are allowed, 2t - n - 1.
@pytest.mark.parametrize(("n", "t", "tried"), [(4, 3, 7**3), (5, 4, 8**3), (6, 5, 9**3), (5, 3, 18**2 * 3**3)])
def test_no_mixture_of_complete_and_lists_gives_both_secrets(n, t, tried):
    """Everybody was shown the same. Of five honest partners only the first two are told every list."""
    lies = Lies(n, t, colluding=2 * t - n - 1)
    views, seen, summed = _same_view(lies), 0, 0
    some = [lies.told() if tried < 6000 or i < 2 else [None, COMPLETE, frozenset(range(4))] for i in lies.honest]
    for heard in product(*some):
        summed += bool(lies.check(views, dict(zip(lies.honest, heard, strict=True))))
        seen += 1
    assert seen == tried
    assert summed > 0


def test_every_view_and_every_answer_of_four():
    """Three honest partners, each with every U2 and request, and told anything: 175,616 ways."""
    lies = Lies(4, 3, colluding=1)
    seen, sums = 0, 0
    for views in product(*(lies.views(i) for i in lies.honest)):
        shown = dict(zip(lies.honest, views, strict=True))
        for told in _all_told(lies):
            sums += bool(lies.check(shown, told))
            seen += 1
    assert seen == (4 * 2 * 7) ** 3
    assert sums > 100


@st.composite
def _lies(draw):
    n, t = draw(st.sampled_from([(5, 3), (5, 4), (6, 4), (6, 5), (7, 5), (7, 6)]))
    lies = COHORTS.setdefault((n, t), Lies(n, t, colluding=2 * t - n - 1))
    common = draw(st.sampled_from(lies.lists))
    shown = st.sampled_from([common] * 6 + lies.lists)
    views = {i: (draw(shown) | {i}, int(draw(st.integers(0, 7)) == 0)) for i in lies.honest}
    listed = draw(st.sampled_from(lies.lists))
    told = st.sampled_from([COMPLETE, COMPLETE, listed, listed, listed & common | {n - 1}, None])
    return lies, views, {i: draw(told) for i in lies.honest}


COHORTS: dict[tuple[int, int], Lies] = {}


@settings(max_examples=400)
@given(_lies())
def test_larger_cohorts_at_random(case):
    lies, views, told = case
    told = {i: heard if heard is None or heard == COMPLETE or len(heard) >= lies.threshold else None
            for i, heard in told.items()}  # fmt: skip
    event(f"sums {len(lies.check(views, told))}")


def test_the_search_finds_a_partner_that_answers_both_ways():
    """Were `Complete` answered beside a list, both secrets of a partner would come out."""
    lies = Lies(4, 3, colluding=1, both_ways=True)
    views = _same_view(lies)
    broken = [told for told in _all_told(lies) if not lies.holds(views, told)]
    assert broken
    found = lies.shares(views, broken[0])
    seeds, keys, _ = lies.learned(views, broken[0])
    owner = min(seeds & keys)
    secrets = lies.drive.blocks[owner].left[1]
    for kind, expected in ((False, secrets.seed), (True, secrets.mask_key)):
        pieces = {holder + 1: piece for holder, piece in sorted(found[kind][owner].items())[: lies.threshold]}
        assert combine(pieces) == expected


@pytest.mark.parametrize(("n", "t"), [(4, 3), (5, 4), (6, 4)])
def test_the_search_finds_what_one_colluder_more_can_do(n, t):
    lies = Lies(n, t, colluding=2 * t - n)
    views = _same_view(lies)
    assert not all(lies.holds(views, told) for told in _all_told_briefly(lies))


def _all_told_briefly(lies: Lies) -> Iterator[dict[int, Told]]:
    """Everyone is told `Complete`, a list with everybody, or one without the first partner."""
    everyone = frozenset(range(lies.n))
    for heard in product((COMPLETE, everyone, everyone - {0}), repeat=len(lies.honest)):
        yield dict(zip(lies.honest, heard, strict=True))


def test_complete_to_all_although_one_is_missing_opens_nothing():
    """The server calls a step complete before the last vector is there: its sum stays under masks."""
    lies = Lies(5, 4, colluding=2)
    views = _same_view(lies)
    seeds, keys, pieces = lies.learned(views, dict.fromkeys(lies.honest, COMPLETE))
    assert (seeds, keys, pieces) == (frozenset(lies.honest), frozenset(), [frozenset(lies.honest)])
    for gone in lies.honest:
        _, closed = lies._piece(min(set(lies.honest) - {gone}), seeds - {gone}, keys, views)
        assert not closed
