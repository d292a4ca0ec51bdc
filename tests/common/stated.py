"""Statements of a small run of three partners, made without running it."""

from __future__ import annotations

import hashlib
import json
from typing import Any

from tacit.attestation import load, sign
from tacit.job import Job
from tacit.privacy.events import Event, merge
from tacit.privacy.mechanism import plan
from tacit.secagg.keys import PublicKey, Secret, identity_of
from tacit.statement import (
    CodeStated,
    ModelStated,
    PartnerStatement,
    PartyStated,
    RefusalStated,
    Release,
    RoundsStated,
    ServerStatement,
    cost,
    privacy_of,
    run_of,
)

__all__ = ["MODEL", "RUN", "SERVER", "key", "partner", "resigned", "server"]

RUN = "0123456789abcdef0123456789abcdef"
SERVER = Secret(b"s" * 32)
MODEL = b"the model"
CODE = CodeStated(version="0.1.0", sha256="c" * 64)
MADE = "2026-11-22T14:30Z"


def key(name: str) -> Secret:
    """A partner's identity key."""
    return Secret(name.encode().ljust(32, b"."))


def partner(job: Job, name: str, *, noise: float = 1.0, rounds: int = 2, run: str = RUN) -> dict[str, Any]:
    """A partner's signed statement."""
    event = Event(kind="dp-sgd", sampling_rate=0.25, noise_multiplier=noise, steps=2)
    if job.privacy.mechanism == "none":
        event = Event(kind="none", sampling_rate=0.25, noise_multiplier=0.0, steps=2)
    if job.privacy.mechanism == "client":
        event = plan(job, units=0).event()
    releases = tuple(
        Release(round=i + 1, attempt=1, at=MADE, state="released" if i else "reserved", event=event)
        for i in range(rounds)
    )
    statement = PartnerStatement(
        made=MADE,
        name=name,
        identity=identity_of(key(name)).hex(),
        server=identity_of(SERVER).hex(),
        code=CODE,
        run=run_of(job, run=run),
        privacy=privacy_of(job, [[release.event for release in releases]], secure_noise=True),
        releases=releases,
    )
    return load(sign(statement, key=key(name)), where="it")


def server(job: Job, *own: dict[str, Any], silent: tuple[str, ...] = ("gone",)) -> dict[str, Any]:
    """The server's signed statement, with the partners' `own` in it."""
    parties = [_party(job, value) for value in own] + [_silent(job, name) for name in silent]
    statement = ServerStatement(
        made=MADE,
        server=identity_of(SERVER).hex(),
        code=CODE,
        run=run_of(job, run=RUN),
        rounds=RoundsStated(planned=job.training.rounds, done=2, abandoned=0, attempts=1),
        privacy=privacy_of(job, [party.events for party in parties], secure_noise=True),
        secure=job.aggregation.secure,
        threshold=3,
        metrics={"test": {"accuracy": 0.5, "examples": 10, "loss": None}},
        model=ModelStated(sha256=hashlib.sha256(MODEL).hexdigest()),
        parties=tuple(parties),
    )
    return load(sign(statement, key=SERVER), where="it")


def resigned(value: dict[str, Any], *, by: Secret) -> dict[str, Any]:
    """`value`, edited, signed again."""
    body = {name: each for name, each in value.items() if name != "signature"}
    model = PartnerStatement if value["kind"] == "partner" else ServerStatement
    return load(sign(model.model_validate_json(json.dumps(body)), key=by), where="it")


def _party(job: Job, value: dict[str, Any]) -> PartyStated:
    events = merge(Event.from_json(release["event"]) for release in value["releases"])
    return PartyStated(
        name=value["name"],
        identity=value["identity"],
        state="stated",
        reason=None,
        events=events,
        epsilon=cost(events, delta=job.privacy.delta),
        dropouts=(1,),
        refusals=(RefusalStated(round=2, reason="<b>spent</b>"),),
        statement=value,
    )


def _silent(job: Job, name: str) -> PartyStated:
    return PartyStated(
        name=name,
        identity=PublicKey(identity_of(key(name))).hex(),
        state="silent",
        reason="was not connected at the end of the run",
        events=(),
        epsilon=cost((), delta=job.privacy.delta),
        dropouts=(),
        refusals=(),
        statement=None,
    )
