"""What a run did and cost, as its parties state it.

Field by field in `tacit/spec/statement.md`. How a statement is signed is in `tacit.attestation`, and whether one holds
is looked at in `tacit.verification`.
"""

from __future__ import annotations

import math
from collections.abc import Iterable
from importlib.metadata import version
from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field

from tacit.job import Job
from tacit.privacy.accounting import epsilon
from tacit.privacy.events import EXAMPLE, Event

__all__ = [
    "MIXED",
    "CodeStated",
    "ModelStated",
    "PartnerStatement",
    "PartyStated",
    "PrivacyStated",
    "RefusalStated",
    "Release",
    "RoundsStated",
    "RunStated",
    "ServerStatement",
    "Statement",
    "cost",
    "holds_against",
    "privacy_of",
    "run_of",
]

MIXED = "mixed"
"""The unit of a run in which partners protect different ones."""


_Hash = Annotated[str, Field(pattern=r"^[0-9a-f]{64}$")]
_Minute = Annotated[str, Field(pattern=r"^\d{4}-\d\d-\d\dT\d\d:\d\dZ$")]
_Count = Annotated[int, Field(ge=0)]
_Number = Annotated[int, Field(gt=0)]


class _Part(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid", strict=True, allow_inf_nan=False)


class CodeStated(_Part):
    """What ran: version and hash of the packages (`tacit.code`)."""

    version: str
    sha256: _Hash


class RunStated(_Part):
    """What was done.

    Attributes:
        id: of the run.
        job_hash: SHA-256 of the canonical bytes of `job`.
        job: everything that the partners agreed to (`Job.agreed`).
    """

    id: str
    job_name: str
    job_hash: _Hash
    job: dict[str, Any]


class PrivacyStated(_Part):
    """What it cost, and whom that holds against.

    Attributes:
        unit: what one more or less of is hidden, None where nothing is.
        epsilon: of this run alone; None where nothing bounds it.
        accountant: the library that computed it.
        secure_noise: whether the noise came from the operating system.
        not_covered: what the guarantee says nothing about.
    """

    mechanism: str
    unit: str | None
    adjacency: str | None
    max_grad_norm: float | None
    delta: float | None
    epsilon: float | None
    accountant: str
    secure_noise: bool
    holds_against: tuple[str, ...]
    not_covered: tuple[str, ...]


class Release(_Part):
    """One entry of a partner's ledger.

    Attributes:
        round, attempt: 1-based; which round, at which start of the run.
        at: when it was reserved, UTC, to the minute.
        state: `released`: the round was finished; `reserved`: it was not, and counts all the same.
        event: mechanism, noise, sampling rate, steps, unit.
    """

    round: _Number
    attempt: _Count
    at: _Minute
    state: Literal["released", "reserved"]
    event: Event


class RefusalStated(_Part):
    """A partner declined."""

    round: _Number
    reason: str


class RoundsStated(_Part):
    """How many rounds there were, and how many starts they took."""

    planned: _Number
    done: _Count
    abandoned: _Count
    attempts: _Number


class ModelStated(_Part):
    """The file that the run left."""

    file: Literal["model.safetensors"] = "model.safetensors"
    sha256: _Hash


class PartnerStatement(_Part):
    """What one partner did in one run.

    Attributes:
        made: when, UTC, to the minute.
        name, identity: of the partner; the key in hex.
        server: the server's key, in hex, by which the federation is known.

    Nothing in it is about the content of the data: a fingerprint, even a keyed one, would let whoever holds a guess
    of the data, or the key, confirm the guess.
    """

    schema_: Literal[1] = Field(default=1, alias="schema")
    kind: Literal["partner"] = "partner"
    made: _Minute
    name: str
    identity: _Hash
    server: _Hash
    code: CodeStated
    run: RunStated
    privacy: PrivacyStated
    releases: tuple[Release, ...]

    @property
    def events(self) -> tuple[Event, ...]:
        """One for every release."""
        return tuple(release.event for release in self.releases)

    @property
    def signer(self) -> str:
        """The key, in hex, that has to have signed."""
        return self.identity


class PartyStated(_Part):
    """One partner as the server knows it.

    Attributes:
        identity: its key in hex; None where the server does not know it any more.
        state: `stated`: its own statement stands here whole; `silent`: it does not.
        reason: why it is silent.
        events: what it released, added up.
        epsilon: of these events, as the server computes it.
        dropouts: rounds in which its answer never came.
        statement: signed by the partner.
    """

    name: str
    identity: _Hash | None
    state: Literal["stated", "silent"]
    reason: str | None
    events: tuple[Event, ...]
    epsilon: float | None
    dropouts: tuple[_Number, ...]
    refusals: tuple[RefusalStated, ...]
    statement: dict[str, Any] | None


class ServerStatement(_Part):
    """What a whole run did; the worst partner's epsilon is the run's.

    Attributes:
        server: the server's key in hex.
        secure: whether the server saw sums only.
        threshold: the most answers that a round needed.
        metrics: the last scores.
    """

    schema_: Literal[1] = Field(default=1, alias="schema")
    kind: Literal["server"] = "server"
    made: _Minute
    server: _Hash
    code: CodeStated
    run: RunStated
    rounds: RoundsStated
    privacy: PrivacyStated
    secure: bool
    threshold: int | None
    metrics: dict[str, Any]
    model: ModelStated
    parties: tuple[PartyStated, ...]

    @property
    def signer(self) -> str:
        """The key, in hex, that has to have signed."""
        return self.server


Statement = PartnerStatement | ServerStatement


def holds_against(job: Job) -> tuple[str, ...]:
    """Whom the guarantee of `job` holds against; the evaluation counts of held-out examples are outside it."""
    match job.privacy.mechanism:
        case "none":
            return ()
        case "dp-sgd":
            return "server", "other partners", "outsiders"
        case "client" if job.privacy.noise_by == "server":
            return "other partners", "outsiders"
        case _:
            most = job.aggregation.max_colluders
            them = [f"up to {most} partner{'s' * (most > 1)} working with it"] if most else []
            return "server", *them, "outsiders"


def run_of(job: Job, *, run: str) -> RunStated:
    """What was done in the run `run` of `job`."""
    return RunStated(id=run, job_name=job.name, job_hash=job.hash(), job=job.agreed())


def privacy_of(job: Job, events: Iterable[Iterable[Event]], *, secure_noise: bool) -> PrivacyStated:
    """What `job` cost the parties with these `events`: the dearest of them counts.

    Guarantee: epsilon is composed over every event of a party, and is the largest of them; one that nothing bounds
    makes it None.
    """
    privacy, all_of_them = job.privacy, [tuple(each) for each in events]
    private = privacy.mechanism != "none"
    costs = [cost(each, delta=privacy.delta) for each in all_of_them]
    units = {event.unit for each in all_of_them for event in each} or {EXAMPLE}
    noisy = all(any(event.kind == "metrics" for event in each) for each in all_of_them)
    exact = (
        ["counts over held-out examples, which the evaluation tells exactly"]
        if job.evaluation.partner_holdout and not (all_of_them and noisy)
        else []
    )
    return PrivacyStated(
        mechanism=privacy.mechanism,
        unit=None if not private else units.pop() if len(units) == 1 else MIXED,
        adjacency="add-remove" if private else None,
        max_grad_norm=privacy.max_grad_norm,
        delta=privacy.delta,
        epsilon=None if not private or None in costs else max((c for c in costs if c is not None), default=0.0),
        accountant=f"dp-accounting {version('dp-accounting')}, privacy loss distributions",
        secure_noise=secure_noise,
        holds_against=holds_against(job),
        not_covered=(
            *exact,
            *(["the server, which adds the noise and is trusted to"] if privacy.noise_by == "server" else []),
            "who took part, when, for how long, and who refused",
            "a partner that lies about its data or runs other code than it states",
        ),
    )


def cost(events: Iterable[Event], *, delta: float | None) -> float | None:
    """Epsilon of `events` together, or None where nothing bounds it."""
    found = math.inf if delta is None else epsilon(events, delta=delta)
    return found if math.isfinite(found) else None
