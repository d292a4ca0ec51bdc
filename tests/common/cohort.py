"""A cohort with fixed keys, driven stage by stage, and what every test asks of an `Abort`."""

from __future__ import annotations

import hashlib
import re
from collections.abc import Collection, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import numpy as np
import pytest

from tacit.secagg import client, server
from tacit.secagg.abort import Abort, Reason, Stage
from tacit.secagg.graph import default_threshold
from tacit.secagg.keys import PublicKey, Secret, Signature, digest, identity_of
from tacit.secagg.messages import MaskedVector, Presence, Roster, Survivors, decode, encode
from tacit.secagg.round import Member, Party, Purpose, Round, Rules

__all__ = [
    "OTHER_SPELLINGS",
    "REQUEST",
    "SMALL_ORDER",
    "Coins",
    "Drive",
    "Snapshot",
    "aborts",
    "check_abort",
    "make_parties",
    "make_round",
    "make_vectors",
    "name_of",
    "plain_sum",
    "roster_with",
    "secret_key",
    "survivors_of",
    "wrong_key",
]

REQUEST = digest(b"what everybody was asked")
ORDER = list(Stage)
_P = 2**255 - 19
_ORDER_8 = (
    325606250916557431795983626356110631294008115727848805560023387167927233504,
    39382357235489614581723060781553021112529911719440698176882885853963445705823,
)
# u-coordinates of small order (RFC 7748, section 6.1).
SMALL_ORDER = [PublicKey(u.to_bytes(32, "little")) for u in (0, 1, *_ORDER_8, _P - 1)]
# Spellings that RFC 7748 reads as 0, 1 and 9: not below the prime, or with the top bit set.
OTHER_SPELLINGS = [PublicKey(u.to_bytes(32, "little")) for u in (_P, _P + 1, _P + 9, 2**255, 2**255 + 9, 2**256 - 1)]
# A key, a seed or a share in a text: as long a run of hex or of digits, or bytes as Python prints them.
_LEAK = re.compile(r"[0-9a-f]{9,}|[0-9]{9,}|\\x|b'|b\"", re.IGNORECASE)


def secret_key(i: int) -> Secret:
    """The identity key of the member at position `i`."""
    return Secret(hashlib.sha256(f"identity {i}".encode()).digest())


def name_of(i: int) -> str:
    return f"partner-{i:03}"


class Coins:
    """Randomness that is the same in every run; `given` is all that it gave."""

    def __init__(self, seed: str = "coins") -> None:
        self.given: list[bytes] = []
        self._seed = seed

    def __call__(self, size: int) -> bytes:
        found = hashlib.shake_256(f"{self._seed} {len(self.given)}".encode()).digest(size)
        self.given.append(found)
        return found


def make_round(
    n: int,
    *,
    threshold: int | None = None,
    update: int = 5,
    counters: int = 3,
    edges: int = 256,
    number: int = 1,
    attempt: int = 1,
    purpose: Purpose = "train",
) -> Round:
    """A round of `n` members with the default threshold."""
    members = tuple(Member(name_of(i), identity_of(secret_key(i))) for i in range(n))
    least = default_threshold(n) if threshold is None else threshold
    return Round("run", "ab" * 32, number, attempt, purpose, members, least, update, counters, edges)


def make_parties(
    new: Round, *, min_cohort: int = 2, majority: bool = True, strangers: Collection[int] = ()
) -> dict[int, Party]:
    """Every member, each accepting all but `strangers`."""
    pinned = {m.name: m.identity for i, m in enumerate(new.members) if i not in strangers}
    rules = Rules(pinned, min_cohort=min_cohort, majority=majority)
    return {i: Party(member.name, secret_key(i), rules) for i, member in enumerate(new.members)}


def make_vectors(new: Round, *, seed: int = 7) -> dict[int, MaskedVector]:
    """A vector for every member, uniform over both rings."""
    rng = np.random.default_rng(seed)
    return {
        i: MaskedVector(
            rng.integers(0, 2**32, new.update, dtype=np.uint32),
            rng.integers(0, 2**64, new.counters, dtype=np.uint64),
        )
        for i in range(len(new.members))
    }


def plain_sum(vectors: Mapping[int, MaskedVector], who: Collection[int]) -> tuple[list[int], list[int]]:
    """The sums in Python's integers."""
    update = [sum(map(int, column)) % 2**32 for column in zip(*(vectors[i].update for i in who), strict=True)]
    counters = [sum(map(int, column)) % 2**64 for column in zip(*(vectors[i].counters for i in who), strict=True)]
    return update, counters


@dataclass(frozen=True)
class Snapshot:
    """What is there when the partners are about to answer in one stage: their states and the server's, and its
    message (one inbox each in stage `mask`)."""

    states: Mapping[int, Any]
    server: Any
    message: Any


class Drive:
    """An honest run that stops before any stage.

    Args:
        vanish: who vanishes, and before answering in which stage.
        random: randomness of all parties.
    """

    def __init__(
        self,
        new: Round,
        parties: Mapping[int, Party] | None = None,
        *,
        vanish: Mapping[int, Stage] | None = None,
        random: Coins | None = None,
    ) -> None:
        self.round = new
        self.parties = dict(make_parties(new) if parties is None else parties)
        self.vectors = make_vectors(new)
        self.random = random or Coins()
        self.at: dict[Stage, Snapshot] = {}
        self.replies: dict[Stage, dict[int, bytes]] = {}
        self._vanish = dict(vanish or {})

    def to(self, stage: Stage) -> Drive:
        """Up to the server's message that is answered in `stage`."""
        steps = self._advertised, self._shared, self._masked, self._agreed
        for step in steps[len(self.at) : ORDER.index(stage)]:
            step()
        return self

    def here(self, stage: Stage) -> list[int]:
        last = {i: ORDER.index(left) for i, left in self._vanish.items()}
        return [i for i in self.parties if last.get(i, len(ORDER)) > ORDER.index(stage)]

    def reveals(self) -> dict[int, bytes]:
        """The answers of stage 4."""
        before = self.to(Stage.UNMASK).at[Stage.UNMASK]
        return {i: client.unmask(before.states[i], before.message)[1] for i in self.here(Stage.UNMASK)}

    def sum(self) -> server.Sum:
        """The end of the run."""
        found = self.reveals()
        return server.finish(self.at[Stage.UNMASK].server, found)

    def _advertised(self) -> None:
        stage = Stage.ADVERTISE
        found = {i: client.advertise(self.round, self.parties[i], random=self.random) for i in self.here(stage)}
        self.replies[stage] = {i: data for i, (_, data) in found.items()}
        admitted, roster = server.admit(self.round, self.replies[stage])
        self.at[Stage.SHARE] = Snapshot({i: state for i, (state, _) in found.items()}, admitted, roster)

    def _shared(self) -> None:
        stage = Stage.SHARE
        before = self.at[stage]
        found = {i: client.share(before.states[i], before.message, random=self.random) for i in self.here(stage)}
        self.replies[stage] = {i: data for i, (_, data) in found.items()}
        gathering, inboxes = server.route(before.server, self.replies[stage], request=REQUEST)
        self.at[Stage.MASK] = Snapshot({i: state for i, (state, _) in found.items()}, gathering, inboxes)

    def _masked(self) -> None:
        stage = Stage.MASK
        before, masked, self.replies[stage] = self.at[stage], {}, {}
        for i in self.here(stage):
            vector = MaskedVector(self.vectors[i].update.copy(), self.vectors[i].counters.copy())
            opened = client.open_shares(before.states[i], before.message[i])
            masked[i], data = client.mask(opened, vector, request=REQUEST)
            self.replies[stage][i] = data
            server.gather(before.server, i, vector, data)
        listed, survivors = server.listing(before.server)
        self.at[Stage.AGREE] = Snapshot(masked, listed, survivors)

    def _agreed(self) -> None:
        stage = Stage.AGREE
        before = self.at[stage]
        found = {i: client.approve(before.states[i], before.message) for i in self.here(stage)}
        self.replies[stage] = {i: data for i, (_, data) in found.items()}
        confirmed, quorum = server.confirm(before.server, self.replies[stage])
        self.at[Stage.UNMASK] = Snapshot({i: state for i, (state, _) in found.items()}, confirmed, quorum)


def roster_with(new: Round, data: bytes, change: Mapping[int, Any]) -> bytes:
    """The roster `data` with the adverts of `change` in place of, or beside, those at their positions; None leaves
    one out."""
    adverts = {advert.sender: advert for advert in decode(Roster, data, context=new.context).adverts} | dict(change)
    return encode(Roster(tuple(a for _, a in sorted(adverts.items()) if a is not None)), context=new.context)


def survivors_of(drive: Drive, positions: Collection[int]) -> bytes:
    """A list of survivors in the given order, each with what it signed in `drive`, or with no signature."""
    signed = {i: decode(Presence, data, context=drive.round.context) for i, data in drive.replies[Stage.MASK].items()}
    presences = tuple(signed.get(i, Presence(i, Signature(bytes(64)))) for i in positions)
    return encode(Survivors(presences), context=drive.round.context)


@contextmanager
def aborts(stage: Stage, reason: Reason, *, match: str | None = None) -> Iterator[pytest.ExceptionInfo[Abort]]:
    """The block raises `Abort` at `stage` for `reason`, in words that show nothing and tell what to do."""
    with pytest.raises(Abort, match=match) as caught:
        yield caught
    check_abort(caught.value, stage, reason)


def check_abort(error: Abort, stage: Stage, reason: Reason) -> None:
    """`error` is of `stage` and `reason`, and its words show nothing."""
    assert (error.stage, error.reason) == (stage, reason)
    assert f"stage {stage.value}: expected " in str(error)
    assert ", found " in str(error)
    for text in (str(error), repr(error), error.message, error.hint, f"{error.args}"):
        assert not _LEAK.search(text), text


def wrong_key(i: int = 99) -> PublicKey:
    """An identity key of nobody in the cohort."""
    return identity_of(secret_key(i))
