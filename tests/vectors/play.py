"""One round of the real client and server with written randomness, and everything that was said in it."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from tacit.secagg import client, server
from tacit.secagg.abort import Stage
from tacit.secagg.graph import default_threshold
from tacit.secagg.keys import Digest, Secret, digest, identity_of
from tacit.secagg.messages import MaskedVector
from tacit.secagg.round import Member, Party, Purpose, Round, Rules

__all__ = ["NAMES", "SEED", "Play", "Tape", "clone", "make_round", "play", "rules_document", "words"]

SEED = "tacit secure aggregation, test vectors, version 1"
NAMES = ("clinic-a", "clinic-b", "hospital-c", "lab-d", "practice-e")
STAGES = list(Stage)


class Tape:
    """Bytes that follow from `SEED` and a name alone: SHA-256 of both and of a counter, block after block."""

    def __init__(self, name: str) -> None:
        self._name, self._blocks, self._left = name, 0, b""
        self._drawn: list[bytes] = []

    def __call__(self, size: int) -> bytes:
        while len(self._left) < size:
            self._left += hashlib.sha256(f"{SEED} / {self._name} / {self._blocks}".encode()).digest()
            self._blocks += 1
        found, self._left = self._left[:size], self._left[size:]
        self._drawn.append(found)
        return found

    def cut(self) -> str:
        """What was drawn since the last cut, in hex."""
        found = b"".join(self._drawn).hex()
        self._drawn = []
        return found


@dataclass
class Play:
    """A round that was played.

    Attributes:
        states: what a partner holds after answering in a stage.
        servers: what the server holds before the answers of a stage.
        received: what partners get in a stage; in stage `mask` an inbox each.
        answered: what they answer, bytes; in stage `mask` a `MaskedVector`.
        presences: what they sign beside it.
    """

    round: Round
    parties: Mapping[int, Party]
    plain: Mapping[int, MaskedVector]
    request: Digest
    random: dict[int, dict[str, str]] = field(default_factory=dict)
    states: dict[Stage, dict[int, Any]] = field(default_factory=lambda: {stage: {} for stage in STAGES})
    servers: dict[Stage, Any] = field(default_factory=dict)
    received: dict[Stage, Any] = field(default_factory=dict)
    answered: dict[Stage, dict[int, Any]] = field(default_factory=lambda: {stage: {} for stage in STAGES})
    presences: dict[int, bytes] = field(default_factory=dict)
    sum: server.Sum | None = None

    def answer(self, stage: Stage, i: int, found: tuple[Any, Any]) -> None:
        self.states[stage][i], self.answered[stage][i] = found


def make_round(  # a test's round: defaults are what most vectors share
    name: str, *, n: int, update: int, majority: bool = False, purpose: Purpose = "train", number: int = 1
) -> tuple[Round, dict[int, Party]]:
    """A round of `n` members that accept each other."""
    keys = [Secret(Tape(f"{name} / identity {i}")(32)) for i in range(n)]
    members = tuple(Member(NAMES[i], identity_of(key)) for i, key in enumerate(keys))
    threshold = n // 2 + 1 if majority else default_threshold(n)
    job = hashlib.sha256(f"{SEED} / job".encode()).hexdigest()
    new = Round("2026-11-22-vectors", job, number, 1, purpose, members, threshold, update, counters=3)
    parties = {}
    for i, key in enumerate(keys):
        peers = {member.name: member.identity for j, member in enumerate(members) if j != i}
        parties[i] = Party(NAMES[i], key, Rules(peers, min_cohort=3, majority=majority))
    return new, parties


def play(name: str, new: Round, parties: Mapping[int, Party], *, vanish: Mapping[int, Stage]) -> Play:
    """The round, without those who vanish before answering in a stage. Partner `i` draws from a tape of its own."""
    plain = {i: _vector(new, Tape(f"{name} / vector {i}")) for i in parties}
    run = Play(new, parties, plain, digest(f"{SEED} / request of {name}".encode()))
    tapes = {i: Tape(f"{name} / random {i}") for i in parties}

    def here(stage: Stage) -> Iterable[int]:
        return [i for i in parties if i not in vanish or STAGES.index(vanish[i]) > STAGES.index(stage)]

    run.received[Stage.ADVERTISE] = new.encode()
    for i in here(Stage.ADVERTISE):
        run.answer(Stage.ADVERTISE, i, client.advertise(new, parties[i], random=tapes[i]))
        run.random[i] = {"advertise": tapes[i].cut()}
    run.servers[Stage.ADVERTISE] = new
    run.servers[Stage.SHARE], run.received[Stage.SHARE] = server.admit(new, run.answered[Stage.ADVERTISE])
    for i in here(Stage.SHARE):
        found = client.share(run.states[Stage.ADVERTISE][i], run.received[Stage.SHARE], random=tapes[i])
        run.answer(Stage.SHARE, i, found)
        run.random[i]["share"] = tapes[i].cut()
    shares = run.answered[Stage.SHARE]
    gathering, run.received[Stage.MASK] = server.route(run.servers[Stage.SHARE], shares, request=run.request)
    run.servers[Stage.MASK] = gathering
    for i in here(Stage.MASK):
        vector = clone(plain[i])
        opened = client.open_shares(run.states[Stage.SHARE][i], run.received[Stage.MASK][i])
        state, run.presences[i] = client.mask(opened, vector, request=run.request)
        run.answer(Stage.MASK, i, (state, vector))
        server.gather(gathering, i, vector, run.presences[i])
    run.servers[Stage.AGREE], run.received[Stage.AGREE] = server.listing(gathering)
    for i in here(Stage.AGREE):
        run.answer(Stage.AGREE, i, client.approve(run.states[Stage.MASK][i], run.received[Stage.AGREE]))
    agreed = server.confirm(run.servers[Stage.AGREE], run.answered[Stage.AGREE])
    run.servers[Stage.UNMASK], run.received[Stage.UNMASK] = agreed
    for i in here(Stage.UNMASK):
        run.answer(Stage.UNMASK, i, client.unmask(run.states[Stage.AGREE][i], run.received[Stage.UNMASK]))
    run.sum = server.finish(run.servers[Stage.UNMASK], run.answered[Stage.UNMASK])
    return run


def _vector(new: Round, tape: Tape) -> MaskedVector:
    """Entries over the whole of both rings; the first is the top of its ring, so that every sum wraps."""
    update = np.frombuffer(tape(4 * new.update), dtype="<u4").astype(np.uint32)
    counters = np.frombuffer(tape(8 * new.counters), dtype="<u8").astype(np.uint64)
    update[:1], counters[:1] = 2**32 - 1, 2**64 - 1
    return MaskedVector(update, counters)


def clone(vector: MaskedVector) -> MaskedVector:
    """A copy, for masking works in place."""
    return MaskedVector(vector.update.copy(), vector.counters.copy())


def words(vector: MaskedVector | server.Sum) -> dict[str, str]:
    """Both channels in hex: 8 or 16 digits an entry, the highest first, with a space between entries."""
    update = " ".join(f"{int(word):08x}" for word in vector.update)
    return {"update": update, "counters": " ".join(f"{int(word):016x}" for word in vector.counters)}


def rules_document(rules: Rules) -> dict[str, Any]:
    """A partner's rules as JSON has them."""
    peers = {name: key.hex() for name, key in rules.peers.items()}
    switches = {"trust_new_peers": rules.trust_new_peers, "majority": rules.majority}
    return {"min_cohort": rules.min_cohort, **switches, "peers": peers}
