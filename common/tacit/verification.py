"""Whether a statement holds: its signatures, the job's hash, the cost computed anew, and whose keys they are.

What must fit together within a statement is in `tacit.consistency`; here it is looked at, and told.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tacit.attestation import load, read
from tacit.consistency import Check, partner_checks, same, server_checks
from tacit.errors import BadInput
from tacit.link.enrolment import fingerprint
from tacit.link.words import words
from tacit.secagg.keys import PublicKey
from tacit.statement import PartnerStatement, ServerStatement, Statement
from tacit.terminal import plain

__all__ = ["Finding", "Known", "lines", "verify", "verify_file"]

_MOST_FILE = 1 << 30  # bytes of a statement that is looked at


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
        found += (_try(Check("model", lambda: same("the model beside it", _hash_file(model), stated))),)
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
            checks = partner_checks(value, statement)
        case ServerStatement():
            checks = server_checks(value, statement)
    return (*map(_try, checks), *_keys(statement, known))


def lines(findings: Iterable[Finding]) -> str:
    """A line for each finding."""
    marks = {True: "holds", False: "FAILS", None: "-"}
    return "\n".join(f"{marks[f.holds]:5}  {plain(f.about)}: {plain(f.said)}" for f in findings)


def _try(check: Check) -> Finding:
    """Of one that is silent there is nothing to compare with: it is told, and neither holds nor fails."""
    try:
        said = check.look()
    except BadInput as error:
        return Finding(check.about, False, error.message)
    return Finding(check.about, None if check.silent else True, said)


def _keys(statement: Statement, known: Known | None) -> list[Finding]:
    """Whose keys they are: the signature alone says only that whoever signed had the key."""
    partners = (
        {statement.name: statement.identity}
        if isinstance(statement, PartnerStatement)
        else {party.name: party.identity for party in statement.parties if party.identity}
    )
    found = [("key of the server", statement.server, None if known is None else known.server)]
    for name, key in partners.items():
        found.append((f"key of {name}", key, None if known is None else known.partners.get(name)))
    return [_key(about, PublicKey(bytes.fromhex(key)), pinned, known) for about, key, pinned in found]


def _key(about: str, key: PublicKey, pinned: PublicKey | None, known: Known | None) -> Finding:
    shown = fingerprint(key)
    if known is None:
        people = f"{shown}, in words {words(key)}"
        return Finding(about, None, f"{people}; not compared: give --dir, or ask for it over another channel")
    if pinned is None:
        return Finding(about, False, f"expected a key that {known.where} has, found {shown}")
    if key != pinned:
        return Finding(about, False, f"expected {fingerprint(pinned)} as in {known.where}, found {shown}")
    return Finding(about, True, f"{shown}, as in {known.where}")


def _hash_file(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
