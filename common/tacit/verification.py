"""Whether a statement holds: its signatures, the job's hash, the cost computed anew, and whose keys they are."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

from tacit.attestation import canonical, check_signature, load, read
from tacit.check import parse
from tacit.errors import BadInput
from tacit.job import Job
from tacit.link.enrolment import fingerprint
from tacit.link.identity import check_identity
from tacit.privacy.events import merge
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
from tacit.terminal import plain

__all__ = ["Finding", "Known", "check_stated", "lines", "verify", "verify_file"]

_CLOSE = 1e-6  # between two epsilons: what decimals and another machine's arithmetic may do
_MOST_FILE = 1 << 30  # bytes of a statement that is looked at
_OWN = "ask that party for its own copy"
_PINNED = "ask the party for its fingerprint over another channel"


@dataclass(frozen=True)
class Finding:
    """One check.

    Attributes:
        about: what was looked at.
        holds: None where there was nothing to compare with.
        said: what was found, in words.
    """

    about: str
    holds: bool | None
    said: str


@dataclass(frozen=True)
class Known:
    """Keys that were compared by other means.

    Attributes:
        server: the server's.
        partners: by name.
        where: they are kept.
    """

    server: PublicKey
    partners: Mapping[str, PublicKey]
    where: str


def verify_file(path: Path, *, known: Known | None) -> tuple[Finding, ...]:
    """As `verify`, for the statement at `path`; a model that lies beside it is looked at too.

    Raises:
        BadInput: no statement there.
    """
    try:
        if path.stat().st_size > _MOST_FILE:
            raise BadInput(f"expected a statement in {path}, found a file too large for one", hint="name another file")
        value = load(path.read_bytes(), where=path.name)
    except OSError as error:
        raise BadInput(f"expected a statement at {path}, found {error.strerror}", hint="check the path") from None
    found = verify(value, where=path.name, known=known)
    model = path.parent / "model.safetensors"
    if value["kind"] == "server" and model.is_file():
        stated = value["model"]["sha256"]
        found += (_try("model", lambda: _same("the model beside it", _hash_file(model), stated)),)
    return found


def verify(value: Mapping[str, Any], *, where: str, known: Known | None = None) -> tuple[Finding, ...]:
    """Every check of the statement in `value`.

    Args:
        value: as `tacit.attestation.load` gives it.
        where: what an error calls it.
        known: keys to compare with; None leaves them for people to compare.

    Raises:
        BadInput: it is no statement.

    Guarantee: all numbers of a partner are under its own signature, also where the server passes them on, or it is
    said that they are not; all epsilons follow from the events. What a party says of itself, of its code, and what the
    server says of scores and drop-outs, is its word.
    """
    match statement := read(value, where=where):
        case PartnerStatement():
            found = [_try(about, partial(look, value, statement)) for about, look in _CHECKS]
        case ServerStatement():
            found = [
                _try("signature", lambda: _signed(value, statement)),
                _try("job", lambda: _job(statement)),
                _try("rounds", lambda: _rounds(statement)),
                _try("partners", lambda: _distinct(statement)),
                *(_of_party(party, statement) for party in statement.parties),
                _try("epsilon", lambda: _worst(statement)),
            ]
    return (*found, *_keys(statement, known))


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


def lines(findings: Iterable[Finding]) -> str:
    """A line for each finding."""
    marks = {True: "holds", False: "FAILS", None: "-"}
    return "\n".join(f"{marks[f.holds]:5}  {f.about}: {plain(f.said)}" for f in findings)


def _try(about: str, look: Callable[[], str]) -> Finding:
    try:
        return Finding(about, True, look())
    except BadInput as error:
        return Finding(about, False, error.message)


def _signed(value: Mapping[str, Any], statement: Statement) -> str:
    whose = statement.name if isinstance(statement, PartnerStatement) else "the server"
    key = check_identity(bytes.fromhex(statement.signer), whose=whose)
    check_signature(value, identity=key)
    return f"of {whose}, made {statement.made}"


def _job(statement: Statement) -> str:
    run = statement.run
    _same("the job's hash", hashlib.sha256(canonical(run.job)).hexdigest(), run.job_hash)
    _same("the job's name", run.job.get("name"), run.job_name)
    parse(Job, run.job, where="the job")
    return f"{run.job_name} has the hash {run.job_hash[:16]}"


def _releases(statement: PartnerStatement) -> str:
    """Every release is one that the job allows."""
    job = parse(Job, statement.run.job, where="the job")
    for release in statement.releases:
        event, place = release.event, f"round {release.round}"
        if release.round > job.training.rounds:
            raise BadInput(f"expected rounds up to {job.training.rounds}, found {release.round}", hint=_OWN)
        if event.kind == "metrics":  # the noise on an evaluation's counts is the partner's own rule
            _same(f"the evaluations of {place} in one entry", event.steps, 1)
            continue
        _same(f"the mechanism of {place}", event.kind, job.privacy.mechanism)
        steps = 1 if event.kind == "client" else job.training.local_steps  # a whole partner is one step
        _same(f"the steps of {place}", event.steps, steps)
        if event.noise_multiplier < (job.privacy.noise_multiplier or 0.0):
            raise BadInput(
                f"expected a noise multiplier of {job.privacy.noise_multiplier} in {place}, "
                f"found {event.noise_multiplier}",
                hint=_OWN,
            )
    return f"{len(statement.releases)}, each as the job says"


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
        _same(f"the {key}", getattr(stated, key), getattr(computed, key))
    _same_epsilon(stated.epsilon, computed.epsilon)


def _same_epsilon(stated: float | None, computed: float | None) -> None:
    both = stated is not None and computed is not None
    if stated != computed and not (both and abs((stated or 0.0) - (computed or 0.0)) <= _CLOSE):
        raise BadInput(f"expected the epsilon of its events, {computed}, found {stated}", hint=_OWN)


def _own(value: Mapping[str, Any], *, name: str, identity: str, run: RunStated, server: str) -> PartnerStatement:
    statement = read(value, where=f"the statement of {name}")
    if not isinstance(statement, PartnerStatement):
        raise BadInput(f"expected the statement of a partner for {name}, found a server's", hint=_OWN)
    _same("the name in its statement", statement.name, name)
    _same("the key in its statement", statement.identity, identity)
    _signed(value, statement)
    _same("the server in its statement", statement.server, server)
    _same("the run in its statement", statement.run.id, run.id)
    _same("the job in its statement", statement.run.job_hash, run.job_hash)
    for _, look in _CHECKS[1:]:
        look(value, statement)
    return statement


def _of_party(party: PartyStated, whole: ServerStatement) -> Finding:
    """Of one that is silent there is nothing to compare with: it is told, and neither holds nor fails."""
    found = _try(plain(party.name), partial(_party, party, whole))
    return replace(found, holds=None) if found.holds and party.statement is None else found


def _rounds(statement: ServerStatement) -> str:
    """What the server says of the run is what the job says of it."""
    job, rounds = parse(Job, statement.run.job, where="the job"), statement.rounds
    _same("secure aggregation", statement.secure, job.aggregation.secure)
    _same("the rounds planned", rounds.planned, job.training.rounds)
    return f"{rounds.done} of {rounds.planned} done, as the job says; what else is told of them is the server's word"


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


def _distinct(statement: ServerStatement) -> str:
    names = [party.name for party in statement.parties]
    keys = [party.identity for party in statement.parties if party.identity]
    if len(set(names)) != len(names) or len(set(keys)) != len(keys):
        raise BadInput("expected every partner once, found a name or a key twice", hint=_OWN)
    stated = sum(party.state == "stated" for party in statement.parties)
    return f"{len(names)}, of whom {stated} have stated"


_CHECKS: tuple[tuple[str, Callable[[Mapping[str, Any], PartnerStatement], str]], ...] = (
    ("signature", _signed),
    ("job", lambda _, statement: _job(statement)),
    ("releases", lambda _, statement: _releases(statement)),
    ("epsilon", lambda _, statement: _cost(statement)),
)


def _keys(statement: Statement, known: Known | None) -> list[Finding]:
    """Whose keys they are: the signature alone says only that whoever signed had the key."""
    partners = (
        {statement.name: statement.identity}
        if isinstance(statement, PartnerStatement)
        else {party.name: party.identity for party in statement.parties if party.identity}
    )
    found = [("key of the server", statement.server, None if known is None else known.server)]
    for name, key in partners.items():
        found.append((f"key of {plain(name)}", key, None if known is None else known.partners.get(name)))
    return [_key(about, bytes.fromhex(key), pinned, known) for about, key, pinned in found]


def _key(about: str, key: bytes, pinned: PublicKey | None, known: Known | None) -> Finding:
    shown = fingerprint(PublicKey(key))
    if known is None:
        return Finding(about, None, f"{shown}, not compared; give --dir, or ask for it over another channel")
    if pinned is None:
        return Finding(about, False, f"expected a key that {known.where} has, found {shown}")
    if key != pinned:
        return Finding(about, False, f"expected {fingerprint(pinned)} as in {known.where}, found {shown}")
    return Finding(about, True, f"{shown}, as in {known.where}")


def _same(what: str, found: object, expected: object) -> str:
    if found != expected:
        raise BadInput(f"expected {what} to be {expected}, found {found}", hint=_OWN)
    return f"{what} is as stated"


def _epsilon_words(privacy: PrivacyStated) -> str:
    if privacy.epsilon is None:
        return "no epsilon: nothing is promised"
    return f"epsilon {privacy.epsilon:.6g} at delta {privacy.delta:g} for one {privacy.unit}"


def _hash_file(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
