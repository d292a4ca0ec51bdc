"""One step of a block, as server and partner say it to each other.

In a round of `distributed-dp-sgd` the partners' keys are set up once for a block of steps. What the job is, which run
and round, and who takes part was said when the block began; a step says which it is and where the model stands.
"""

from __future__ import annotations

import hashlib
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from tacit.codec import Writer
from tacit.job import Job
from tacit.parcel import Parcel, Scalar
from tacit.secagg.keys import Digest

__all__ = ["STEP", "Step"]

STEP = "query.step"
"""Flower's message type."""


@dataclass(frozen=True, repr=False)
class Step:
    """The server asks for one step.

    Attributes:
        run: id of the run.
        round: 1-based; the block.
        attempt: at the run.
        step: 1-based, of the block.
        vector: the model that gradients are taken at, float32 `[d]`.
        inbox: the peers' sealed shares of the whole block (`tacit.secagg.messages.Inbox`), until this partner has
            answered a step.
    """

    run: str
    round: int
    attempt: int
    step: int
    vector: NDArray[np.float32]
    inbox: bytes | None = None

    def request(self, job: Job) -> Digest:
        """Hash of what is asked, the same for every partner: masks are bound to it."""
        facts = Writer().text("step").text(job.hash()).text(self.run)
        for number in (self.round, self.attempt, self.step):
            facts.number(number, size=4)
        model = self.vector.astype("<f4", copy=False)
        return Digest(hashlib.sha256(facts.done() + hashlib.sha256(model.data).digest()).digest())

    def pack(self) -> Parcel:
        inbox = {} if self.inbox is None else {"inbox": np.frombuffer(self.inbox, dtype=np.uint8)}
        scalars: dict[str, Scalar] = {"run": self.run, "round": self.round, "attempt": self.attempt, "step": self.step}
        return Parcel({"model": self.vector, **inbox}, scalars)

    @classmethod
    def unpack(cls, parcel: Parcel) -> Step:
        sealed = "inbox" in parcel.arrays
        parcel.only(arrays={"model", "inbox"} if sealed else {"model"}, scalars={"run", "round", "attempt", "step"})
        return cls(
            run=parcel.text("run"),
            round=parcel.integer("round"),
            attempt=parcel.integer("attempt"),
            step=parcel.integer("step"),
            vector=parcel.array("model", dtype="float32"),
            inbox=parcel.bytes("inbox") if sealed else None,
        )
