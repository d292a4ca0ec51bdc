"""A partner's own statement about a run: made from ledger and audit log, signed, kept, and sent where it is asked for.

DIR/statements/RUN.json        signed, the same bytes as were sent but for blanks
DIR/statements/RUN.html        the same for people, with what the data has cost over all runs, which is not sent
DIR/statements/jobs/HASH.json  what was granted, by its hash, so that a statement needs no server
"""

from __future__ import annotations

import hashlib
import math
import re
import time
from collections import Counter
from collections.abc import Callable
from contextlib import closing
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from tacit.attestation import canonical, check_signature, load, pretty, sign
from tacit.check import parse
from tacit.code import installed
from tacit.errors import BadInput
from tacit.job import Job
from tacit.link import keyfile
from tacit.page import Account, page
from tacit.privacy.events import Event
from tacit.secagg.keys import PublicKey
from tacit.statement import CodeStated, PartnerStatement, Release, privacy_of, run_of
from tacit_client.audit import Audit
from tacit_client.book import Book
from tacit_client.chain import Row
from tacit_client.holding import ledger_key
from tacit_client.keys import Keys
from tacit_client.policy import cost
from tacit_client.site import Folder

__all__ = ["Entry", "check_run", "code", "entries", "job_of", "keep_job", "state"]

Clock = Callable[[], datetime]

_FILE = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,63}")  # the server chose the run's id
_MINUTE = "%Y-%m-%dT%H:%MZ"


@dataclass(frozen=True)
class Entry:
    """A run that this partner granted or took part in.

    Attributes:
        run: its id.
        job: SHA-256 of the job in hex, or "" where nobody noted it.
        releases: rounds that were charged.
        stated: where its statement is, or None.
    """

    run: str
    job: str
    releases: int
    stated: Path | None


def check_run(run: str) -> None:
    """Whether `run` is an id as servers make them; it names a file here, and stands in ledger and logs as it is.

    Guarantee: a run that this passes can be stated about at any time.

    Raises:
        BadInput: it is not.
    """
    if not _FILE.fullmatch(run):
        raise BadInput(
            "expected a run's id of up to 64 letters, digits, dots, hyphens and underscores, found another",
            hint="install the same version of tacit on both sides",
        )


def keep_job(folder: Folder, job: Job) -> None:
    """Keep what is agreed to, so that a statement about it can be made at any time.

    Raises:
        BadInput: it can not be written.
    """
    keyfile.make_folder(folder.statements)
    keyfile.make_folder(folder.statements / "jobs")
    if not (path := _job_path(folder, job.hash())).exists():
        keyfile.write(path, canonical(job.agreed()))


def job_of(folder: Folder, run: str) -> Job:
    """The job that was granted for `run`.

    Raises:
        BadInput: no such run, or the job is not there any more.
    """
    found = next((entry.job for entry in entries(folder) if entry.run == run), "")
    path = _job_path(folder, found)
    try:
        content = path.read_bytes()
    except OSError as error:
        raise BadInput(
            f"expected the job of the run {run} at {path}, found none: {error.strerror}",
            hint="put the file back; or, where the server keeps the run, take the statement that was sent from it",
        ) from None
    if hashlib.sha256(content).hexdigest() != found:
        raise BadInput(f"expected the job that was granted at {path}, found another", hint="put the file back")
    return parse(Job, load(content, where=path.name), where=path.name)


def entries(folder: Folder) -> tuple[Entry, ...]:
    """Every run that the ledger or the audit log knows, in the order in which they were granted. Raises BadInput."""
    granted = {e.facts["run"]: e.facts["job"] for e in Audit.of(folder).entries() if e.event == "job-granted"}
    releases: Counter[str] = Counter()
    if folder.ledger.exists():
        with closing(_book(folder)) as book:
            for spell in book.tally().spells():
                if spell.partner == folder.config.name:
                    releases[spell.run] += spell.releases
                    granted[spell.run] = spell.job or granted.get(spell.run, "")
    return tuple(Entry(run, job, releases[run], _stated(folder, run)) for run, job in granted.items())


def code() -> CodeStated:
    """What runs here, as it lay on disk when this process first asked."""
    found = installed("tacit", "tacit_client")
    return CodeStated(version=found.version, sha256=found.sha256)


def state(folder: Folder, *, run: str, job: Job, clock: Clock = lambda: datetime.now(UTC)) -> bytes:
    """Make and keep the statement about `run`.

    Args:
        folder: the partner's.
        run: id.
        job: that was granted for it.
        clock: the time, aware.

    Returns:
        What may be sent: canonical bytes of the signed statement. Where nothing has changed, those of before.

    Guarantee: every release of the run that the ledger holds is in it, finished or not; nothing in it tells of the
    data but what the events tell the server anyway. What the data has cost over all runs is on the page only.

    Raises:
        BadInput: ledger, keys or audit log can not be read, or the folder can not be written.
    """
    path = _path(folder, run)
    keep_job(folder, job)
    made, account = _make(folder, run=run, job=job, now=clock())
    new = sign(made, key=Keys(folder.keys).identity)
    value, before = load(new, where=path.name), _kept(path, identity=Keys(folder.keys).public)
    if before is not None and _lasting(before) == _lasting(value):
        value, new = before, canonical(before)
    keyfile.write(path.with_suffix(".html"), page(value, account=account))
    if value is not before:  # the log first: else a crash between the two leaves a statement that it never hears of
        facts = {"run": run, "job": job.hash(), "epsilon": made.privacy.epsilon, "releases": len(made.releases)}
        Audit.of(folder).write("statement-made", {**facts, "sha256": hashlib.sha256(new).hexdigest()})
        keyfile.write(path, pretty(value))
    return new


def _make(folder: Folder, *, run: str, job: Job, now: datetime) -> tuple[PartnerStatement, Account]:
    keys, policy, name = Keys(folder.keys), folder.config.policy, folder.config.name
    rows: tuple[Row, ...] = ()
    spent: tuple[Event, ...] = ()
    if folder.ledger.exists():
        with closing(_book(folder)) as book:
            rows, tally = book.rows(partner=name, run=run), book.tally()
            budgets = {spell.budget for spell in tally.spells() if (spell.run, spell.partner) == (run, name)}
            spent = tuple(event for budget in budgets for event in tally.spent(budget))
    if other := {row.job for row in rows} - {"", job.hash()}:
        raise BadInput(
            f"expected releases for the job {job.hash()[:16]} in the ledger, found some for {min(other)[:16]}",
            hint="name the job that was granted for the run",
        )
    releases = _releases(rows)
    statement = PartnerStatement(
        made=f"{now.astimezone(UTC):{_MINUTE}}",
        name=name,
        identity=keys.public.hex(),
        server=keys.server.hex(),
        code=code(),
        run=run_of(job, run=run),
        privacy=privacy_of(job, [[release.event for release in releases]], secure_noise=True),
        releases=releases,
    )
    total = cost(policy, spent)
    return statement, Account(total if math.isfinite(total) else None, policy.epsilon_limit, policy.delta)


def _releases(rows: tuple[Row, ...]) -> tuple[Release, ...]:
    """A release for every reservation; one that was never confirmed is told, and counts."""
    confirmed = Counter((row.round, row.attempt, row.event) for row in rows if row.kind == "confirmed")
    found = []
    for row in rows:
        if row.kind == "reserved":
            done = confirmed[row.round, row.attempt, row.event] > 0
            confirmed[row.round, row.attempt, row.event] -= done
            found.append(
                Release(
                    round=row.round,
                    attempt=row.attempt,
                    at=f"{datetime.fromtimestamp(row.at / 1000, UTC):{_MINUTE}}",
                    state="released" if done else "reserved",
                    event=Event.from_json(load(row.event.encode(), where="a row of the ledger")),
                )
            )
    return tuple(found)


def _book(folder: Folder) -> Book:
    return Book(folder.ledger, key=ledger_key(folder), clock=time.time, writable=False)


def _path(folder: Folder, run: str) -> Path:
    check_run(run)
    return folder.statements / f"{run}.json"


def _stated(folder: Folder, run: str) -> Path | None:
    path = folder.statements / f"{run}.json"
    return path if _FILE.fullmatch(run) and path.is_file() else None


def _kept(path: Path, *, identity: PublicKey) -> dict[str, Any] | None:
    """The statement that lies there; one that does not verify is made anew."""
    try:
        value = load(path.read_bytes(), where=path.name)
        check_signature(value, identity=identity)
    except (OSError, BadInput):
        return None
    return value


def _lasting(value: dict[str, Any]) -> dict[str, Any]:
    """All of a statement but what making it again changes."""
    return {key: each for key, each in value.items() if key not in ("made", "signature")}


def _job_path(folder: Folder, job: str) -> Path:
    return folder.statements / "jobs" / f"{job}.json"
