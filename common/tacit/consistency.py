"""What must fit together in one statement, so that it holds: each check gives words, or raises BadInput."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

from tacit.attestation import canonical, check_signature, read
from tacit.check import parse
from tacit.errors import BadInput
from tacit.job import Job
from tacit.link.identity import check_identity
from tacit.privacy.events import PARTNER, Event, merge
from tacit.privacy.mechanism import common_rate
from tacit.secagg.keys import PublicKey
from tacit.statement import (
    PartnerStatement,
    PartyStated,
    PrivacyStated,
    RunStated,
    ServerStatement,
    Statement,
    cost,
    privacy_of,
)

__all__ = ["Check", "check_stated", "partner_checks", "same", "server_checks"]

_CLOSE = 1e-6  # between two epsilons: what decimals and another machine's arithmetic may do
_OWN = "ask that party for its own copy"


@dataclass(frozen=True)
class Check:
    """One check of a statement.

    Attributes:
        about: what is looked at.
        look: gives what was found, in words; raises BadInput where it does not fit.
        silent: whether there is nothing that could hold, as of a partner that states nothing.
    """

    about: str
    look: Callable[[], str]
    silent: bool = False


def partner_checks(value: Mapping[str, Any], statement: PartnerStatement) -> tuple[Check, ...]:
    """The checks of a partner's `statement`, which was read from `value`."""
    return (
        Check("signature", lambda: _signed(value, statement)),
        Check("job", lambda: _job(statement)),
        Check("releases", lambda: _releases(statement)),
        Check("epsilon", lambda: _cost(statement)),
    )


def server_checks(value: Mapping[str, Any], statement: ServerStatement) -> tuple[Check, ...]:
    """The checks of a server's `statement`, which was read from `value`, and of the partners' own in it."""
    return (
        Check("signature", lambda: _signed(value, statement)),
        Check("job", lambda: _job(statement)),
        Check("rounds", lambda: _rounds(statement)),
        Check("partners", lambda: _distinct(statement)),
        *(_of_party(party, statement) for party in statement.parties),
        Check("epsilon", lambda: _worst(statement)),
    )


def check_stated(
    value: Mapping[str, Any], *, name: str, identity: PublicKey, run: RunStated, server: PublicKey
) -> PartnerStatement:
    """`value` as the statement of the partner `name` about `run`, which holds.

    Args:
        value: as `tacit.attestation.load` gives it.
        name: of the partner.
        identity: its key.
        run: as the server knows it.
        server: the server's key.

    Raises:
        BadInput: it is not; the first thing that differs is named.
    """
    return _own(value, name=name, identity=identity.hex(), run=run, server=server.hex())


def same(what: str, found: object, expected: object) -> str:
    """Words that say so. Raises BadInput where `found` is not what was `expected`."""
    if found != expected:
        raise BadInput(f"expected {what} to be {expected}, found {found}", hint=_OWN)
    return f"{what} is as stated"


def _signed(value: Mapping[str, Any], statement: Statement) -> str:
    whose = statement.name if isinstance(statement, PartnerStatement) else "the server"
    key = check_identity(bytes.fromhex(statement.signer), whose=whose)
    check_signature(value, identity=key)
    return f"of {whose}, made {statement.made}"


def _job(statement: Statement) -> str:
    run = statement.run
    same("the job's hash", hashlib.sha256(canonical(run.job)).hexdigest(), run.job_hash)
    same("the job's name", run.job.get("name"), run.job_name)
    parse(Job, run.job, where="the job")
    return f"{run.job_name} has the hash {run.job_hash[:16]}"


def _releases(statement: PartnerStatement) -> str:
    """Every release is one that the job allows."""
    job = parse(Job, statement.run.job, where="the job")
    for release in statement.releases:
        if release.round > job.training.rounds:
            raise BadInput(f"expected rounds up to {job.training.rounds}, found {release.round}", hint=_OWN)
        _release(release.event, job, place=f"round {release.round}")
    return f"{len(statement.releases)}, each as the job says"


def _release(event: Event, job: Job, *, place: str) -> None:
    """The event is one of `job`; what the job leaves to the partner, such as a rate over its own data, is its word."""
    if event.kind == "metrics":  # the noise on an evaluation's counts is the partner's own rule
        same(f"the evaluations of {place} in one entry", event.steps, 1)
    else:
        same(f"the mechanism of {place}", event.kind, job.privacy.mechanism)
        whole = event.kind == "client"  # a whole partner is one step, and in no draw
        same(f"the steps of {place}", event.steps, 1 if whole else job.training.local_steps)
        if whole or event.kind == "distributed-dp-sgd":
            same(f"the sampling rate of {place}", event.sampling_rate, 1.0 if whole else common_rate(job))
        if event.noise_multiplier < (job.privacy.noise_multiplier or 0.0):
            raise BadInput(
                f"expected a noise multiplier of {job.privacy.noise_multiplier} in {place}, "
                f"found {event.noise_multiplier}",
                hint=_OWN,
            )
    shared = event.kind != "metrics" and job.shares_noise
    same(f"the colluders of {place}", event.colluders, job.aggregation.max_colluders if shared else None)
    if (event.unit == PARTNER) != (event.kind == "client"):
        raise BadInput(f"expected the unit that {event.kind} protects in {place}, found {event.unit}", hint=_OWN)


def _cost(statement: PartnerStatement) -> str:
    job = parse(Job, statement.run.job, where="the job")
    _compare(statement.privacy, privacy_of(job, [statement.events], secure_noise=statement.privacy.secure_noise))
    return _epsilon_words(statement.privacy)


def _worst(statement: ServerStatement) -> str:
    job = parse(Job, statement.run.job, where="the job")
    events = [party.events for party in statement.parties]
    _compare(statement.privacy, privacy_of(job, events, secure_noise=statement.privacy.secure_noise))
    return f"of the run, the worst partner's: {_epsilon_words(statement.privacy)}"


def _compare(stated: PrivacyStated, computed: PrivacyStated) -> None:
    for key in ("mechanism", "unit", "adjacency", "max_grad_norm", "delta", "holds_against", "not_covered"):
        same(f"the {key}", getattr(stated, key), getattr(computed, key))
    _same_epsilon(stated.epsilon, computed.epsilon)


def _same_epsilon(stated: float | None, computed: float | None) -> None:
    both = stated is not None and computed is not None
    if stated != computed and not (both and abs((stated or 0.0) - (computed or 0.0)) <= _CLOSE):
        raise BadInput(f"expected the epsilon of its events, {computed}, found {stated}", hint=_OWN)


def _own(value: Mapping[str, Any], *, name: str, identity: str, run: RunStated, server: str) -> PartnerStatement:
    statement = read(value, where=f"the statement of {name}")
    if not isinstance(statement, PartnerStatement):
        raise BadInput(f"expected the statement of a partner for {name}, found a server's", hint=_OWN)
    same("the name in its statement", statement.name, name)
    same("the key in its statement", statement.identity, identity)
    _signed(value, statement)
    same("the server in its statement", statement.server, server)
    same("the run in its statement", statement.run.id, run.id)
    same("the job in its statement", statement.run.job_hash, run.job_hash)
    for check in partner_checks(value, statement)[1:]:
        check.look()
    return statement


def _of_party(party: PartyStated, whole: ServerStatement) -> Check:
    return Check(party.name, lambda: _party(party, whole), silent=party.statement is None)


def _party(party: PartyStated, whole: ServerStatement) -> str:
    """What the server says of a partner is what the partner says of itself, and the sum is right."""
    _same_epsilon(party.epsilon, cost(party.events, delta=whole.privacy.delta))
    if (party.statement is None) != (party.state == "silent"):
        raise BadInput(f"expected a statement where a partner is stated, found {party.state}", hint=_OWN)
    if party.statement is None:
        return f"no statement of its own ({party.reason}); its numbers are the server's word"
    own = _own(party.statement, name=party.name, identity=party.identity or "", run=whole.run, server=whole.server)
    if {*merge(own.events)} != {*merge(party.events)}:
        raise BadInput("expected the events of its own statement, found others beside it", hint=_OWN)
    rounds = sum(event.kind != "metrics" for event in own.events)
    return f"its own statement holds; {_epsilon_words(own.privacy)} over {rounds} rounds"


def _rounds(statement: ServerStatement) -> str:
    """What the server says of the run is what the job says of it."""
    job, rounds = parse(Job, statement.run.job, where="the job"), statement.rounds
    same("secure aggregation", statement.secure, job.aggregation.secure)
    same("the rounds planned", rounds.planned, job.training.rounds)
    return f"{rounds.done} of {rounds.planned} done, as the job says; what else is told of them is the server's word"


def _distinct(statement: ServerStatement) -> str:
    names = [party.name for party in statement.parties]
    keys = [party.identity for party in statement.parties if party.identity]
    if len(set(names)) != len(names) or len(set(keys)) != len(keys):
        raise BadInput("expected every partner once, found a name or a key twice", hint=_OWN)
    stated = sum(party.state == "stated" for party in statement.parties)
    return f"{len(names)}, of whom {stated} have stated"


def _epsilon_words(privacy: PrivacyStated) -> str:
    if privacy.epsilon is None:
        return "no epsilon: nothing is promised"
    return f"epsilon {privacy.epsilon:.6g} at delta {privacy.delta:g} for one {privacy.unit}"
