"""What may be wrong with a partner's folder, made by what happens to people: a wrong line, a lost file, an edit."""

from __future__ import annotations

import shutil
import sqlite3
from collections.abc import Callable
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path

from tacit.link import certificates, keyfile
from tacit.link.certificates import Role
from tacit.privacy.events import Event
from tacit.secagg.keys import PublicKey, Secret, identity_of
from tacit_client import peers
from tacit_client.audit import Audit
from tacit_client.holding import open_budget
from tacit_client.keys import Keys
from tacit_client.ledger import Release
from tacit_client.mark import Marks
from tacit_client.site import Folder
from tacit_server.folder import Folder as ServerFolder
from tacit_sim.rehearsal import HOST, Rehearsal, free_port

__all__ = ["FAULTS", "PLANTED", "SOUND", "Fault", "change", "write_data"]

PLANTED = "planted-words-of-a-patient"
SOUND = "hospital-c"


@dataclass(frozen=True)
class Fault:
    """What is broken, and what the doctor is to say: the check, a part of what was found, a part of the remedy."""

    make: Callable[[Path, Rehearsal], object]
    check: str
    found: str
    remedy: str


def write_data(path: Path, *, classes: int = 2, rows: int = 60) -> Path:
    path.write_text("text,label\n" + "".join(f"{PLANTED} {i},class-{i % classes}\n" for i in range(rows)))
    return path


def change(place: Path, old: str, new: str) -> None:
    text = (place / "site.toml").read_text()
    assert text.count(old) == 1, old
    (place / "site.toml").write_text(text.replace(old, new))


def use(place: Path, data: Path) -> None:
    """Let site.toml name other data."""
    (line,) = [line for line in (place / "site.toml").read_text().splitlines() if line.startswith("path = ")]
    change(place, line, f'path = "{data}"')


def _wrong_port(place: Path, federation: Rehearsal) -> None:
    change(place, f"{HOST}:{federation.port}", f"{HOST}:{free_port()}")


def _expired(place: Path, federation: Rehearsal) -> None:
    server, keys = ServerFolder(federation.server), Keys(place / "keys")
    old = certificates.issue(
        authority_key=server.authority_key.read_bytes(), authority=server.authority.read_bytes(),
        request=keys.request(SOUND), role=Role.PARTNER, name=SOUND, lifetime=timedelta(days=1),
        now=datetime.now(UTC) - timedelta(days=3),
    )  # fmt: skip
    keyfile.write(place / "keys" / "link.pem", old)


def _other_federation(place: Path, federation: Rehearsal) -> None:
    """The folder joined another server; its address is that of this one."""
    key, authority = certificates.make_authority(name="authority-other", lifetime=timedelta(days=90))
    shutil.rmtree(place / "keys")
    keys = Keys.make(place / "keys", authority=authority, server=identity_of(Secret(bytes(32))))
    keys.keep(
        certificates.issue(
            authority_key=key, authority=authority, request=keys.request(SOUND), role=Role.PARTNER, name=SOUND,
            lifetime=timedelta(days=90),
        )
    )  # fmt: skip
    for name in ("roster.toml", "audit.log"):
        (place / name).unlink()


def _spend(place: Path, *, steps: int) -> None:
    """Leave ledger, log and mark as a run does."""
    folder = Folder.open(place)
    budget, audit = open_budget(folder), Audit.of(folder)
    for number in (1, 2, 3):
        event = Event(kind="dp-sgd", sampling_rate=0.5, noise_multiplier=1.0, steps=steps)
        super(type(budget), budget).reserve(Release("run", number, 1, event))  # whatever the limit
    Marks(folder.mark, secret=Keys(folder.keys).ledger, ledger=budget, audit=audit).now()
    budget.close()


def _edited_row(place: Path, federation: Rehearsal) -> None:
    _spend(place, steps=1)
    with sqlite3.connect(place / "ledger.db") as db:
        db.execute("UPDATE entry SET event = replace(event, '\"steps\": 1', '\"steps\": 0') WHERE seq = 3")


def _older_ledger(place: Path, federation: Rehearsal) -> None:
    _spend(place, steps=1)
    shutil.copy(place / "ledger.db", place.parent / f"{place.name}.db")
    _spend(place, steps=1)
    shutil.copy(place.parent / f"{place.name}.db", place / "ledger.db")


def _edited_data(place: Path, federation: Rehearsal) -> None:
    data = write_data(place / "own.csv")
    use(place, data)
    _spend(place, steps=1)
    data.write_text(data.read_text() + "one more,class-0\n")


def _lost_data(place: Path, federation: Rehearsal) -> None:
    use(place, place / "gone.csv")


def _edited_log(place: Path, federation: Rehearsal) -> None:
    log = place / "audit.log"
    log.write_bytes(log.read_bytes().replace(b'"joined"', b'"Joined"'))


def _other_key(place: Path, federation: Rehearsal) -> None:
    """This partner once accepted another key than the server names."""
    known = peers.read(place / "peers.toml")
    peers.write(place / "peers.toml", {**known, "hospital-a": PublicKey(identity_of(Secret(bytes(32))))})


FAULTS = {
    "wrong port": Fault(
        _wrong_port, "server port", "that nothing listens there", "correct server.address in site.toml"
    ),
    "expired certificate": Fault(_expired, "certificate", "expired ", "is this machine's clock right?"),
    "another federation": Fault(
        _other_federation, "handshake", "that this federation did not issue", "ask its operator for a new invitation"
    ),
    "device missing": Fault(
        lambda place, _: change(place, 'device = "cpu"', 'device = "cuda:99"'),
        "device", "expected a device cuda:99 on this machine", "use auto",
    ),
    "data missing": Fault(_lost_data, "data", "gone.csv, found nothing there", "correct the path"),
    "wrong column": Fault(
        lambda place, _: change(place, '# label = "diagnosis" ', 'input = "text"\nlabel = "diagnosis" '),
        "data", "expected a column 'diagnosis', found text, label", "correct input, label or columns",
    ),
    "one class": Fault(
        lambda place, _: use(place, write_data(place / "one.csv", classes=1)),
        "classes", "all 60 examples are of the one class class-0", "add examples of the other classes",
    ),
    "delta too large": Fault(
        lambda place, _: change(place, "delta = 1e-05", "delta = 0.5"),
        "examples", "expected policy.delta in site.toml below one over the 60 examples, found 0.5", "set it to",
    ),
    "budget used up": Fault(
        lambda place, _: _spend(place, steps=500), "budget", "of 8 spent at delta 1e-05: nothing is left",
        "raise policy.epsilon_limit in site.toml only if",
    ),
    "too few accepted": Fault(
        lambda place, _: peers.remove(place / "peers.toml", "hospital-a"),
        "peers", "2 accepted, this partner among them, of 3", "accept hospital-a",
    ),
    "changed key": Fault(_other_key, "peers", "ALARM: the server names another key", "ask that partner"),
    "open key": Fault(
        lambda place, _: (place / "keys" / "identity.key").chmod(0o644),
        "keys", "identity.key to be open to its owner alone, found mode 0644", "run chmod 600 ",
    ),
    "unknown key in site.toml": Fault(
        lambda place, _: change(place, "min_cohort = 3", "min_cohort = 3\nmin_cohorts = 3"),
        "site.toml", "expected a known key in site.toml, found policy.min_cohorts", "remove it or use one of",
    ),
    "nonsense in site.toml": Fault(
        lambda place, _: change(place, "epsilon_limit = 8.0", "epsilon_limit = -8.0"),
        "site.toml", "epsilon_limit", "",
    ),
    "edited row": Fault(_edited_row, "ledger", "found row 3 changed", "put the newest untouched copy back"),
    "older ledger": Fault(
        _older_ledger, "ledger", "expected the ledger that this partner last answered with", "put the newest ledger.db"
    ),
    "edited data": Fault(
        _edited_data, "ledger", "expected the data that this partner's ledger knows", "tacit-client data"
    ),
    "edited log": Fault(_edited_log, "audit log", "found a line that was changed", "tacit-client audit"),
    "clock off": Fault(lambda place, _: None, "clock", " s ahead of the server's", "set this machine's clock"),
}  # fmt: skip
