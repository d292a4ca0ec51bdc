"""Both sides of secure aggregation, driven by a written round."""

from __future__ import annotations

import json
from collections.abc import Callable
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np

from tacit.secagg import client, server
from tacit.secagg.abort import Abort, Stage
from tacit.secagg.keys import Digest, PublicKey, Secret
from tacit.secagg.messages import MaskedVector
from tacit.secagg.round import Party, Round, Rules

__all__ = ["FOLDER", "ROUNDS", "STAGES", "Document", "Replay", "Serve", "load", "vector_of", "words"]

FOLDER = Path(__file__).parents[1] / "vectors"
ROUNDS = ("protocol-n3", "protocol-n4-dropouts", "protocol-n5-majority", "counters-only")
STAGES = list(Stage)
Document = dict[str, Any]


@cache
def load(name: str) -> Document:
    document: Document = json.loads((FOLDER / f"{name}.json").read_text(encoding="utf-8"))
    return document


def written(hexes: str) -> Callable[[int], bytes]:
    """Randomness as it is written."""
    left = bytearray.fromhex(hexes)

    def take(size: int) -> bytes:
        assert len(left) >= size
        found = bytes(left[:size])
        del left[:size]
        return found

    return take


def vector_of(document: Document) -> MaskedVector:
    update, counters = ([int(word, 16) for word in document[name].split()] for name in ("update", "counters"))
    return MaskedVector(np.array(update, dtype=np.uint32), np.array(counters, dtype=np.uint64))


def words(vector: MaskedVector | server.Sum) -> Document:
    return {
        "update": " ".join(f"{int(word):08x}" for word in vector.update),
        "counters": " ".join(f"{int(word):016x}" for word in vector.counters),
    }


class Replay:
    """Partner `i` of a written round."""

    def __init__(self, document: Document, i: int, *, rules: Document | None = None) -> None:
        self._document, self._i = document, i
        self._own = document["parties"][str(i)]
        self.vector = vector_of(self._own["vector"])
        found = {**self._own["rules"], **(rules or {})}
        peers = {name: PublicKey(bytes.fromhex(key)) for name, key in found.pop("peers").items()}
        self.party = Party(
            self._own["name"], Secret(bytes.fromhex(self._own["identity_key"])), Rules(peers=peers, **found)
        )
        self.state: Any = None

    def received(self, stage: Stage) -> bytes:
        found = self._document["stages"][stage.value]["received"]
        return bytes.fromhex(found[str(self._i)] if stage is Stage.MASK else found)

    def answer(self, stage: Stage, data: bytes) -> str | Document:
        """The answer to `data`, as it is written."""
        answer: Any
        random = written(self._own["random"].get(stage.value, ""))
        match stage:
            case Stage.ADVERTISE:
                self.state, answer = client.advertise(Round.decode(data), self.party, random=random)
            case Stage.SHARE:
                self.state, answer = client.share(self.state, data, random=random)
            case Stage.MASK:
                request = Digest(bytes.fromhex(self._document["request"]))
                opened = client.open_shares(self.state, data)
                self.state, presence = client.mask(opened, self.vector, request=request)
                return {**words(self.vector), "presence": presence.hex()}
            case Stage.AGREE:
                self.state, answer = client.approve(self.state, data)
            case Stage.UNMASK:
                self.state, answer = client.unmask(self.state, data)
        return str(answer.hex())

    def up_to(self, stage: Stage | None) -> Replay:
        for passed in STAGES[: 0 if stage is None else STAGES.index(stage) + 1]:
            self.answer(passed, self.received(passed))
        return self


class Serve:
    """The server of a written round. `says` is its last message, in stage `mask` one by position in hex."""

    def __init__(self, document: Document, *, replaced: Document | None = None) -> None:
        self._document, self._replaced = document, replaced or {}
        self._state: Any = Round.decode(bytes.fromhex(document["round"]["encoded"]))
        self.says: Any = None
        self.sum: server.Sum | None = None
        self.rejected: dict[int, Abort] = {}

    def to(self, stage: Stage) -> None:
        """On to the message that is answered in `stage`, from the one before."""
        match stage:
            case Stage.SHARE:
                self._state, self.says = server.admit(self._state, self._answers(Stage.ADVERTISE))
                self.rejected |= self._state.rejected
            case Stage.MASK:
                request = Digest(bytes.fromhex(self._document["request"]))
                self._state, boxes = server.route(self._state, self._answers(Stage.SHARE), request=request)
                self.says = {str(i): data.hex() for i, data in boxes.items()}
                self.rejected |= self._state.rejected
            case Stage.AGREE:
                for i, (vector, presence) in self._vectors().items():
                    server.gather(self._state, i, vector, presence)
                self._state, self.says = server.listing(self._state)
            case Stage.UNMASK:
                self._state, self.says = server.confirm(self._state, self._answers(Stage.AGREE))
                self.rejected |= self._state.rejected

    def finish(self) -> None:
        self.sum = server.finish(self._state, self._answers(Stage.UNMASK))
        self.rejected |= self.sum.rejected

    def _answers(self, stage: Stage) -> dict[int, bytes]:
        found = dict(self._document["stages"][stage.value]["answered"])
        if self._replaced.get("step") == stage.value:
            found[str(self._replaced["sender"])] = self._replaced["bytes"]
        return {int(i): bytes.fromhex(data) for i, data in found.items() if data is not None}

    def _vectors(self) -> dict[int, tuple[MaskedVector, bytes]]:
        found = dict(self._document["stages"]["mask"]["answered"])
        if self._replaced.get("step") == Stage.MASK.value:
            sender = str(self._replaced["sender"])
            changed = self._replaced.get("vector") or {"presence": self._replaced["bytes"]}
            found[sender] = {**found[sender], **changed}
        return {int(i): (vector_of(said), bytes.fromhex(said["presence"])) for i, said in found.items()}
