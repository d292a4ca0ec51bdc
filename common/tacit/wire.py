"""What server and partner say to each other: typed messages over plain parcels.

Decoding is strict: an unknown, missing or mistyped field is an error, and nothing but data is ever decoded.
"""

from __future__ import annotations

import hashlib
import json
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from tacit.check import parse
from tacit.codec import Writer
from tacit.errors import BadInput
from tacit.job import Job
from tacit.parcel import Parcel, Scalar, unfit
from tacit.privacy.events import Event
from tacit.protection import LARGEST_NORM, LEAST_NORM
from tacit.secagg.constants import KEY
from tacit.secagg.keys import Digest, PublicKey
from tacit.secagg.messages import MaskedVector

__all__ = [
    "ADVERTISE",
    "AGREE",
    "EVALUATE",
    "HELLO",
    "SHARE",
    "STATEMENT",
    "TRAIN",
    "TRAINING_COUNTERS",
    "UNMASK",
    "Ask",
    "Hello",
    "Invite",
    "Letter",
    "Refusal",
    "Statement",
    "Update",
]

# Message types, as Flower routes them.
TRAIN = "train"
EVALUATE = "evaluate"
HELLO = "query.hello"
STATEMENT = "query.statement"
# The stages of secure aggregation; stage 2, `mask`, is the training or evaluation itself.
ADVERTISE = "query.advertise"
SHARE = "query.share"
AGREE = "query.agree"
UNMASK = "query.unmask"

TRAINING_COUNTERS = 3
"""Counters of a round of training: weight, whether the update was clipped, milliseconds of training."""

_LONGEST_JOB, _NAME = 1 << 20, 255  # letters; 20,000 names of classes take half of it; real partners' names have 63


@dataclass(frozen=True, repr=False)
class Ask:
    """The server asks for training or evaluation.

    Attributes:
        job: the whole job, so that a partner checks in every message what it is asked to run.
        run: id of the run, the same after a restart.
        round: 1-based.
        attempt: at the run: one more for every restart.
        cohort: partners who are asked the same; the grid of updates depends on it.
        vector: the global model, float32 `[d]`.
        inbox: with secure aggregation, the shares that peers sealed for this partner (`tacit.secagg.messages.Inbox`).
        commission: the server's signature under job and run (`tacit.commission`).
        norm: L2 bound of the round's updates, where `privacy.clip_quantile` moves it.
    """

    job: Job
    run: str
    round: int
    attempt: int
    cohort: int
    vector: NDArray[np.float32]
    inbox: bytes | None = None
    commission: bytes = b""
    norm: float | None = None

    @property
    def entries(self) -> int:
        """Of an update: the model's, and one that says whether it was clipped where the norm moves."""
        return len(self.vector) + (self.norm is not None)

    def request(self) -> Digest:
        """Hash of what is asked, the same for every partner: masks are bound to it."""
        facts = Writer().text(self.job.hash()).text(self.run).number(self.round, size=4).number(self.attempt, size=4)
        if self.norm is not None:
            facts = facts.text(self.norm.hex())
        model = self.vector.astype("<f4", copy=False)
        return Digest(hashlib.sha256(facts.done() + hashlib.sha256(model.data).digest()).digest())

    def pack(self) -> Parcel:
        scalars: dict[str, Scalar] = {
            "job": self.job.model_dump_json(),
            "run": self.run,
            "round": self.round,
            "attempt": self.attempt,
            "cohort": self.cohort,
        }
        if self.norm is not None:
            scalars["norm"] = self.norm
        inbox = {} if self.inbox is None else {"inbox": _array(self.inbox)}
        return Parcel({"model": self.vector, "commission": _array(self.commission), **inbox}, scalars)

    @classmethod
    def unpack(cls, parcel: Parcel) -> Ask:
        sealed = "inbox" in parcel.arrays
        arrays = {"model", "commission", *(["inbox"] if sealed else [])}
        job = _read_job(parcel)
        moves = {"norm"} if job.privacy.clip_quantile is not None else set()
        parcel.only(arrays=arrays, scalars={"job", "run", "round", "attempt", "cohort", *moves})
        return cls(
            job=job,
            run=parcel.text("run"),
            round=parcel.integer("round"),
            attempt=parcel.integer("attempt"),
            cohort=parcel.integer("cohort"),
            vector=parcel.array("model", dtype="float32"),
            inbox=parcel.bytes("inbox") if sealed else None,
            commission=parcel.bytes("commission"),
            norm=_norm(parcel) if moves else None,
        )


def _norm(parcel: Parcel) -> float:
    """Noise is in proportion to the norm, whatever it is; far outside of the range floats would round it off."""
    found = parcel.number("norm")
    if not LEAST_NORM <= found <= LARGEST_NORM:
        raise unfit(f"a norm from {LEAST_NORM:g} to {LARGEST_NORM:g}", f"{found:g}")
    return found


@dataclass(frozen=True)
class Hello:
    """A partner's name, and its Ed25519 identity key. Peers go by the keys they pinned, not by what is said here."""

    name: str
    identity: PublicKey

    def pack(self) -> Parcel:
        return Parcel({"identity": _array(self.identity)}, {"kind": "hello", "name": self.name})

    @classmethod
    def unpack(cls, parcel: Parcel) -> Hello:
        parcel.only(arrays={"identity"}, scalars={"kind", "name"})
        name, identity = parcel.text("name"), parcel.bytes("identity")
        if not 1 <= len(name) <= _NAME or not name.isprintable():  # else one name would spoil every round's cohort
            raise unfit(f"a printable name of at most {_NAME} letters", "another")
        if len(identity) != KEY:
            raise unfit(f"an identity key of {KEY} bytes", str(len(identity)))
        return cls(name, PublicKey(identity))


@dataclass(frozen=True)
class Invite:
    """The server opens a round of secure aggregation.

    Attributes:
        job: so that the partner sees what the round is for.
        round: `tacit.secagg.round.Round`, encoded.
        commission: the server's signature under job and run (`tacit.commission`).
    """

    job: Job
    round: bytes
    commission: bytes = b""

    def pack(self) -> Parcel:
        arrays = {"round": _array(self.round), "commission": _array(self.commission)}
        return Parcel(arrays, {"job": self.job.model_dump_json()})

    @classmethod
    def unpack(cls, parcel: Parcel) -> Invite:
        parcel.only(arrays={"round", "commission"}, scalars={"job"})
        job = _read_job(parcel)
        return cls(job, parcel.bytes("round"), parcel.bytes("commission"))


@dataclass(frozen=True, repr=False)
class Letter:
    """A message of secure aggregation (`tacit.secagg.messages`), either way; `name` is its sender."""

    name: str
    body: bytes

    def pack(self) -> Parcel:
        return Parcel({"body": _array(self.body)}, {"kind": "letter", "name": self.name})

    @classmethod
    def unpack(cls, parcel: Parcel) -> Letter:
        parcel.only(arrays={"body"}, scalars={"kind", "name"})
        return cls(parcel.text("name"), parcel.bytes("body"))


@dataclass(frozen=True)
class Refusal:
    """A partner declines. The reason is made for the operator's eyes and holds public facts only."""

    name: str
    reason: str

    def pack(self) -> Parcel:
        return Parcel({}, {"kind": "refusal", "name": self.name, "reason": self.reason})

    @classmethod
    def unpack(cls, parcel: Parcel) -> Refusal:
        parcel.only(arrays=set(), scalars={"kind", "name", "reason"})
        return cls(parcel.text("name"), parcel.text("reason"))


@dataclass(frozen=True, repr=False)
class Update:
    """A partner's answer to an `Ask`, masked where the job is secure.

    Attributes:
        name: the partner.
        vector: of training: the encoded update (`tacit.quantize.Ring`), uint32 `[d]`, and as counters its weight,
            whether it was clipped and the milliseconds of training. Of evaluation: no update, and integer sums over
            examples (`tacit.metrics.Counters.to_vector`).
        presence: with secure aggregation, what the partner signs beside it (`tacit.secagg.messages.Presence`).
        events: of training: what this partner has released in this run so far.
    """

    name: str
    vector: MaskedVector
    events: tuple[Event, ...] = ()
    presence: bytes = b""

    def pack(self) -> Parcel:
        return Parcel(
            {**dict(self.vector.channels()), "presence": _array(self.presence)},
            {"kind": "update", "name": self.name, "events": _write_events(self.events)},
        )

    @classmethod
    def unpack(cls, parcel: Parcel) -> Update:
        parcel.only(arrays={"update", "counters", "presence"}, scalars={"kind", "name", "events"})
        vector = MaskedVector(parcel.array("update", dtype="uint32"), parcel.array("counters", dtype="uint64"))
        return cls(parcel.text("name"), vector, _read_events(parcel), parcel.bytes("presence"))


@dataclass(frozen=True)
class Statement:
    """What a partner's ledger holds of one run.

    Attributes:
        name: the partner.
        events: added up.
        signed: the partner's signed statement (`tacit.attestation`), or nothing from a virtual partner.
    """

    name: str
    events: tuple[Event, ...]
    signed: bytes = b""

    def pack(self) -> Parcel:
        scalars: dict[str, Scalar] = {"kind": "statement", "name": self.name, "events": _write_events(self.events)}
        return Parcel({"signed": _array(self.signed)}, scalars)

    @classmethod
    def unpack(cls, parcel: Parcel) -> Statement:
        parcel.only(arrays={"signed"}, scalars={"kind", "name", "events"})
        return cls(parcel.text("name"), _read_events(parcel), parcel.bytes("signed"))


def _array(data: bytes) -> NDArray[np.uint8]:
    return np.frombuffer(data, dtype=np.uint8)


def _read_job(parcel: Parcel) -> Job:
    """What partners keep of every run, and repeat in refusals: its length is bounded before anything else."""
    if (length := len(parcel.text("job"))) > _LONGEST_JOB:
        raise BadInput(
            f"expected a job of at most {_LONGEST_JOB} letters, found {length}",
            hint="shorten task.labels or task.options",
        )
    found = parcel.json("job")
    if not isinstance(found, dict):
        raise unfit("an object", type(found).__name__)
    return parse(Job, found, where="the job")


def _write_events(events: tuple[Event, ...]) -> str:
    return json.dumps([event.to_json() for event in events])


def _read_events(parcel: Parcel) -> tuple[Event, ...]:
    found = parcel.json("events")
    if not isinstance(found, list):
        raise unfit("a list of events", type(found).__name__)
    return tuple(Event.from_json(item) for item in found)
