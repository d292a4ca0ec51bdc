"""Everything that must hold before a job could start, looked at in the order in which one thing rests on another.

Guarantee: looking changes nothing: no ledger, log, list or key is made or written, no budget is spent, and neither the
server nor a process that works in the folder is in the way. What is found names no example and no key. Rows that a
killed process left in the ledger's side file are read, and SQLite may move them into the ledger, as for any reader.
"""

from __future__ import annotations

from contextlib import ExitStack
from pathlib import Path

from tacit_client.calls import Greeted
from tacit_client.checkup import books, cohort, connection, holdings, machine, papers, premises
from tacit_client.checkup.finding import Checkup, Finding, Outcome
from tacit_client.data import Data
from tacit_client.keys import Keys
from tacit_client.site import Folder, find

__all__ = ["could_start", "examine"]


def examine(path: Path) -> tuple[Finding, ...]:
    """Look at the partner's folder `path`, at this machine and at the way to the server. It takes at most a minute
    beside the reading of the data.

    Raises:
        BadInput: no partner's folder.
    """
    place, checkup = find(path), Checkup()
    here = Outcome.of("folder", place)
    checkup.look("versions", premises.versions)
    folder = checkup.look("site.toml", premises.site, here)
    checkup.look("disk", premises.room, here)
    checkup.look("process", premises.process, here)
    keys = checkup.look("keys", premises.keys, here)
    checkup.look("files", premises.files, folder)
    greeted = _way(checkup, folder, keys)
    checkup.look("device", machine.device, folder)
    checkup.look("memory", machine.memory)
    data = checkup.look("data", holdings.data, folder)
    checkup.look("classes", holdings.balance, data)
    checkup.look("examples", holdings.size, folder, data)
    _books(checkup, folder, keys, data, greeted)
    _others(checkup, folder, keys, greeted)
    checkup.look("rules", premises.rules, folder)
    return tuple(checkup.findings)


def could_start(findings: tuple[Finding, ...]) -> bool:
    """Whether nothing of it stands against a job."""
    return all(finding.verdict != "FAIL" for finding in findings)


def _way(checkup: Checkup, folder: Outcome[Folder], keys: Outcome[Keys]) -> Outcome[Greeted]:
    """To the server and in."""
    certificate = checkup.look("certificate", papers.certificate, keys)
    authority = checkup.look("authority", papers.authority, keys)
    name = checkup.look("server name", connection.name, folder)
    port = checkup.look("server port", connection.open_port, folder, after=(name,))
    shaken = checkup.look("handshake", connection.handshake, folder, keys, after=(port, certificate, authority))
    greeted = checkup.look("admission", connection.admission, folder, keys, after=(shaken,))
    checkup.look("clock", connection.clock, greeted)
    return greeted


def _books(
    checkup: Checkup, folder: Outcome[Folder], keys: Outcome[Keys], data: Outcome[Data], greeted: Outcome[Greeted]
) -> None:
    with ExitStack() as held:
        ledger = checkup.look("ledger", books.ledger, folder, keys, data)
        if ledger.said is not None:
            held.callback(ledger.said.value.close)
        checkup.look("budget", books.remains, folder, ledger)
        checkup.look("evaluations", books.evaluations, folder, ledger)
        audit = checkup.look("audit log", books.audit, folder, keys)
        checkup.look("mark", books.server_mark, keys, greeted, ledger, audit)


def _others(checkup: Checkup, folder: Outcome[Folder], keys: Outcome[Keys], greeted: Outcome[Greeted]) -> None:
    """The list that the server gives now counts, where it can be had; else the one that it gave last."""
    kept = checkup.look("partners kept", cohort.stored, folder, keys)
    now = checkup.look("partners now", cohort.listed, folder, keys, greeted, after=(kept,))
    checkup.look("peers", cohort.accepted, folder, kept, kept if now.said is None else now)
