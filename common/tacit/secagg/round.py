"""One round as everyone in it must see it, and the partner that goes into it."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import cached_property
from typing import Literal

from tacit.codec import Malformed, Reader, Writer
from tacit.errors import BadInput
from tacit.secagg.constants import DIGEST, EDGE_UNIT, KEY, VERSION
from tacit.secagg.graph import default_threshold, edge_chance
from tacit.secagg.keys import Digest, PublicKey, Secret, digest, identity_of
from tacit.secagg.labels import label

__all__ = ["Member", "Party", "Purpose", "Round", "Rules", "Seen"]

Purpose = Literal["train", "evaluate"]
_PURPOSES: tuple[Purpose, ...] = ("train", "evaluate")
_MOST_ENTRIES = 2**40
_MOST_PARTNERS = 2**16


@dataclass(frozen=True)
class Member:
    """A partner in a cohort: its name and its Ed25519 identity key, which is no longer than a hash of it."""

    name: str
    identity: PublicKey


@dataclass(frozen=True)
class Round:
    """What a round is bound to.

    Attributes:
        run: id of the run.
        job: SHA-256 of the job, in hex.
        number: of the round, from 1.
        attempt: at the run, from 1.
        purpose: `train` sums updates, `evaluate` counters alone.
        members: in rising order of their names.
        threshold: survivors without whom nothing is rebuilt.
        update: entries of the channel modulo 2^32.
        counters: entries of the channel modulo 2^64.
        edges: chance in 256ths that two members share a mask; 256 for all.

    Raises:
        BadInput: a cohort below the threshold, a threshold at or under half, members out of order or twice, a name
            with line breaks or the like, fewer edges than `tacit.secagg.graph.edge_chance` asks for, or a number out
            of range.
    """

    run: str
    job: str
    number: int
    attempt: int
    purpose: Purpose
    members: tuple[Member, ...]
    threshold: int
    update: int
    counters: int
    edges: int = EDGE_UNIT

    def __post_init__(self) -> None:
        n = len(self.members)
        names, keys = [m.name for m in self.members], {m.identity for m in self.members}
        for name, found, least, most in (
            ("partners in the cohort", n, 2, _MOST_PARTNERS),
            ("round", self.number, 1, 2**32 - 1),
            ("attempt", self.attempt, 1, 2**32 - 1),
            ("entries of the update", self.update, 0, _MOST_ENTRIES),
            ("entries of the counters", self.counters, 0, _MOST_ENTRIES),
        ):
            if not least <= found <= most:
                raise _bad(f"{name} from {least} to {most}", str(found))
        if not n // 2 < self.threshold <= n:
            raise _bad(f"a threshold above half of the cohort of {n} and within it", str(self.threshold))
        if names != sorted(set(names)) or len(keys) != n or any(len(key) != KEY for key in keys):
            raise _bad("members in the order of their names, each with a key of its own", "others")
        if not all(text.isprintable() for text in (self.run, *names)):  # they stand in errors and logs
            raise _bad("printable names of the run and of all members", "others")
        if self.purpose not in _PURPOSES or not re.fullmatch("[0-9a-f]{64}", self.job):
            raise _bad("a purpose train or evaluate and a job's SHA-256 in hex", f"{self.purpose} and {self.job}")
        least = edge_chance(n, threshold=self.threshold)
        if not least <= self.edges <= EDGE_UNIT:
            raise _bad(f"a chance of edges from {least} to {EDGE_UNIT} in {EDGE_UNIT}", str(self.edges))

    @cached_property
    def context(self) -> Digest:
        """`ctx`: the hash that every signature, key and seal of the round is bound to."""
        return digest(label("round", self.encode()))

    def position(self, name: str) -> int | None:
        """Where `name` stands in the cohort, or None."""
        return next((i for i, member in enumerate(self.members) if member.name == name), None)

    def encode(self) -> bytes:
        """Canonical bytes."""
        writer = Writer().number(VERSION, size=1).text(self.run).fixed(bytes.fromhex(self.job), size=DIGEST)
        writer.number(self.number, size=4).number(self.attempt, size=4)
        writer.number(_PURPOSES.index(self.purpose), size=1).number(len(self.members), size=4)
        for member in self.members:
            writer.text(member.name).fixed(member.identity, size=KEY)
        writer.number(self.threshold, size=4).number(self.edges, size=2)
        return writer.number(self.update, size=8).number(self.counters, size=8).done()

    @classmethod
    def decode(cls, data: bytes) -> Round:
        """What `encode` wrote. Raises Malformed, or BadInput where it is no round that anybody should join."""
        reader = Reader(data)
        if (version := reader.number(size=1)) != VERSION:
            raise Malformed(f"expected version {VERSION} of the protocol, found {version}")
        run, job = reader.text(), reader.fixed(size=DIGEST).hex()
        number, attempt = reader.number(size=4), reader.number(size=4)
        if (purpose := reader.number(size=1)) >= len(_PURPOSES):
            raise Malformed(f"expected a purpose below {len(_PURPOSES)}, found {purpose}")
        if (n := reader.number(size=4)) > _MOST_PARTNERS:
            raise Malformed(f"expected at most {_MOST_PARTNERS} members, found {n}")
        members = tuple(Member(reader.text(), PublicKey(reader.fixed(size=KEY))) for _ in range(n))
        threshold, edges = reader.number(size=4), reader.number(size=2)
        update, counters = reader.number(size=8), reader.number(size=8)
        reader.done()
        return cls(run, job, number, attempt, _PURPOSES[purpose], members, threshold, update, counters, edges)


@dataclass(frozen=True)
class Rules:
    """What a partner insists on, whatever the server says.

    Attributes:
        peers: pinned identity keys by name, the partner's own accepted peers.
        min_cohort: accepted partners, itself among them, below which it takes no part.
        trust_new_peers: accept whoever the server names; then a lying server is not covered.
        majority: accept a threshold of floor(n/2) + 1, which withstands fewer colluders, instead of
            `default_threshold`.
    """

    peers: Mapping[str, PublicKey]
    min_cohort: int = 3
    trust_new_peers: bool = False
    majority: bool = False

    def least_threshold(self, n: int) -> int:
        """The floor for a cohort of `n`."""
        return n // 2 + 1 if self.majority else default_threshold(n)

    def accepts(self, member: Member) -> bool:
        """Whether `member` counts towards `min_cohort`."""
        return self.trust_new_peers or self.peers.get(member.name) == member.identity


@dataclass(frozen=True, repr=False)
class Party:
    """A partner as the protocol knows it: its name, its Ed25519 identity key and its rules."""

    name: str
    key: Secret
    rules: Rules

    @cached_property
    def identity(self) -> PublicKey:
        """The public half of the key."""
        return identity_of(self.key)


@dataclass(frozen=True)
class Seen:
    """Which rounds a partner took part in: the last of each run, as rounds only go up."""

    last: Mapping[str, tuple[int, int, int]] = field(default_factory=dict)

    def after(self, new: Round) -> Seen | None:
        """With `new`, or None where it does not come after all that was taken part in. The caller raises on None."""
        place = new.attempt, new.number, _PURPOSES.index(new.purpose)
        if place <= self.last.get(new.run, (0, 0, 0)):
            return None
        return Seen({**self.last, new.run: place})


def _bad(expected: str, found: str) -> BadInput:
    return BadInput(
        f"expected {expected}, found {found}", hint="change aggregation.cohort, min_cohort or threshold of the job"
    )
