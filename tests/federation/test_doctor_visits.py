"""The doctor against real folders of a real federation: one sound, the others each with one fault.

Every fault is made in a copy of the sound folder, by what happens to people: a wrong line, a lost file, a wrong mode,
somebody's edit. The quick tests call the command in their own process, and the slow ones start a process for each
folder, as people do.
"""

from __future__ import annotations

import io
import json
import os
import shutil
import sqlite3
import stat
import subprocess
import sys
from collections.abc import Callable, Mapping
from concurrent.futures import ThreadPoolExecutor
from contextlib import redirect_stderr, redirect_stdout
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest

from tacit.link import certificates, keyfile
from tacit.link.certificates import Role
from tacit.privacy.events import Event
from tacit.secagg.keys import PublicKey, Secret, identity_of
from tacit_client import peers
from tacit_client.audit import Audit
from tacit_client.cli import main
from tacit_client.holding import open_budget
from tacit_client.keys import Keys
from tacit_client.ledger import Release
from tacit_client.mark import Marks
from tacit_client.site import Folder
from tacit_server.folder import Folder as ServerFolder
from tacit_sim.rehearsal import HOST, Rehearsal, free_port

pytestmark = [pytest.mark.e2e, pytest.mark.timeout(900)]

PLANTED = "planted-words-of-a-patient"
SOUND, LEFT = "hospital-c", "hospital-d"
HOURS = 2
MACHINE = {"disk", "memory"}  # what the machine of the test may have too little of


@dataclass(frozen=True)
class Fault:
    """What is broken, and what the doctor is to say: the check, a part of what was found, a part of the remedy."""

    make: Callable[[Path, Rehearsal], object]
    check: str
    found: str
    remedy: str


@dataclass(frozen=True)
class Visit:
    """What the doctor said, and whether the folder is as it was."""

    code: int
    findings: list[dict[str, str]]
    said: str
    wrong: str
    unchanged: bool
    keys: tuple[bytes, ...]

    def lines(self, verdict: str) -> list[tuple[str, str, str]]:
        return [(f["check"], f["found"], f["remedy"]) for f in self.findings if f["verdict"] == verdict]


def _write_data(path: Path, *, classes: int = 2, rows: int = 60) -> Path:
    path.write_text("text,label\n" + "".join(f"{PLANTED} {i},class-{i % classes}\n" for i in range(rows)))
    return path


def _change(place: Path, old: str, new: str) -> None:
    text = (place / "site.toml").read_text()
    assert text.count(old) == 1, old
    (place / "site.toml").write_text(text.replace(old, new))


def _use(place: Path, data: Path) -> None:
    """Let site.toml name other data."""
    (line,) = [line for line in (place / "site.toml").read_text().splitlines() if line.startswith("path = ")]
    _change(place, line, f'path = "{data}"')


def _wrong_port(place: Path, federation: Rehearsal) -> None:
    _change(place, f"{HOST}:{federation.port}", f"{HOST}:{free_port()}")


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
    data = _write_data(place / "own.csv")
    _use(place, data)
    _spend(place, steps=1)
    data.write_text(data.read_text() + "one more,class-0\n")


def _lost_data(place: Path, federation: Rehearsal) -> None:
    _use(place, place / "gone.csv")


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
        lambda place, _: _change(place, 'device = "cpu"', 'device = "cuda:99"'),
        "device", "expected a device cuda:99 on this machine", "use auto",
    ),
    "data missing": Fault(_lost_data, "data", "gone.csv, found nothing there", "correct the path"),
    "wrong column": Fault(
        lambda place, _: _change(place, '# label = "diagnosis" ', 'input = "text"\nlabel = "diagnosis" '),
        "data", "expected a column 'diagnosis', found text, label", "correct input, label or columns",
    ),
    "one class": Fault(
        lambda place, _: _use(place, _write_data(place / "one.csv", classes=1)),
        "classes", "all 60 examples are of the one class class-0", "add examples of the other classes",
    ),
    "delta too large": Fault(
        lambda place, _: _change(place, "delta = 1e-05", "delta = 0.5"),
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
        lambda place, _: _change(place, "min_cohort = 3", "min_cohort = 3\nmin_cohorts = 3"),
        "site.toml", "expected a known key in site.toml, found policy.min_cohorts", "remove it or use one of",
    ),
    "nonsense in site.toml": Fault(
        lambda place, _: _change(place, "epsilon_limit = 8.0", "epsilon_limit = -8.0"),
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


def _state(place: Path) -> dict[str, tuple[int, int, bytes]]:
    """Every file in a folder: mode, time of change, content."""
    return {
        str(path.relative_to(place)): (
            stat.S_IMODE((found := path.stat()).st_mode),
            found.st_mtime_ns,
            b"" if path.is_dir() else path.read_bytes(),
        )
        for path in sorted(place.rglob("*"))
    }


def _visit(place: Path, *flags: str, settings: Mapping[str, str] | None = None) -> Visit:
    """By a process of its own."""
    before = _state(place)
    command = [str(Path(sys.executable).parent / "tacit-client"), "doctor", str(place), *flags]
    environment = os.environ | {"OMP_NUM_THREADS": "1"} | dict(settings or {})
    done = subprocess.run(command, capture_output=True, text=True, env=environment, timeout=300, check=False)
    return _seen(place, before, code=done.returncode, said=done.stdout, wrong=done.stderr)


def _call(place: Path) -> Visit:
    """By the command's function, in this process."""
    before, said, wrong = _state(place), io.StringIO(), io.StringIO()
    with redirect_stdout(said), redirect_stderr(wrong):
        code = main(["doctor", str(place), "--json"])
    return _seen(place, before, code=code, said=said.getvalue(), wrong=wrong.getvalue())


def _seen(place: Path, before: object, *, code: int, said: str, wrong: str) -> Visit:
    findings = json.loads(said) if said.startswith("[") else []
    secrets = tuple(path.read_bytes() for path in place.glob("keys/*.key") if path.stat().st_size == 32)
    return Visit(code, findings, said, wrong, before == _state(place), secrets)


def _accept(federation: Rehearsal, name: str, *others: str) -> None:
    for other in others:
        federation.run("tacit-client", "peers", str(federation.folder / name), "accept", other)


def _clock(folder: Path) -> dict[str, str]:
    """What shifts a process's clock; nothing where there is no compiler."""
    compiler = shutil.which("cc")
    if compiler is None:
        return {}
    made, source = folder / "clock.so", Path(__file__).with_name("clock.c")
    subprocess.run([compiler, "-shared", "-fPIC", "-O1", "-o", str(made), str(source), "-ldl"], check=True)
    return {"LD_PRELOAD": str(made)}


@pytest.fixture(scope="module")
def federation(tmp_path_factory):
    """Four hospitals; the last is removed, and the third has joined after all others and accepted the first two."""
    with Rehearsal(tmp_path_factory.mktemp("visits")) as opened:
        opened.init()
        opened.up()
        data = _write_data(opened.folder / "data.csv")
        for name in ("hospital-a", "hospital-b", LEFT, SOUND):
            opened.join(name, data=data, flags=())
            _change(opened.folder / name, 'device = "auto"', 'device = "cpu"')
        for name in (SOUND, LEFT):
            _accept(opened, name, "hospital-a", "hospital-b")
        opened.run("tacit-server", "remove", str(opened.server), LEFT)
        yield opened


@pytest.fixture(scope="module", params=["called", pytest.param("started", marks=pytest.mark.slow)])
def visits(federation, request) -> dict[str, Visit]:
    """The doctor in the sound folder, in that of the one who was removed, and in a broken copy for each fault."""
    places = {"sound": federation.folder / SOUND, "removed": federation.folder / LEFT}
    for name, fault in FAULTS.items():
        places[name] = federation.folder / request.param / name.replace(" ", "-")
        shutil.copytree(federation.folder / SOUND, places[name])
        fault.make(places[name], federation)
    off = places.pop("clock off")
    settings = {"TACIT_TEST_SHIFT": str(3600 * HOURS), **_clock(federation.folder)}
    if request.param == "called":
        found = {name: _call(place) for name, place in places.items()}
    else:
        with ThreadPoolExecutor(2) as pool:
            found = dict(zip(places, pool.map(lambda place: _visit(place, "--json"), places.values()), strict=True))
    return found | {"clock off": _visit(off, "--json", settings=settings)}


def test_where_all_is_well_a_job_could_start(visits):
    sound = visits["sound"]
    assert (sound.code, sound.wrong) == (0, "")
    assert len(sound.findings) == 26
    assert {finding["verdict"] for finding in sound.findings if finding["check"] not in MACHINE} == {"ok"}
    assert not sound.lines("FAIL")


@pytest.mark.parametrize("name", FAULTS)
def test_a_fault_is_named_with_its_remedy_and_nothing_else_is(visits, name):
    if name == "clock off" and shutil.which("cc") is None:
        pytest.skip("needs a C compiler")
    fault, visit = FAULTS[name], visits[name]
    assert visit.code == 1
    ((check, found, remedy),) = visit.lines("FAIL")
    assert check == fault.check
    assert fault.found in found
    assert fault.remedy in remedy
    assert remedy
    assert {check for check, _, _ in visit.lines("warn")} <= MACHINE


@pytest.mark.skipif(shutil.which("cc") is None, reason="needs a C compiler")
def test_how_far_a_clock_is_off_is_told(visits):
    ((_, found, _),) = visits["clock off"].lines("FAIL")
    assert abs(int(found.split()[0]) - 3600 * HOURS) < 60


def test_who_was_removed_hears_it(visits):
    ((check, found, remedy),) = visits["removed"].lines("FAIL")
    assert (visits["removed"].code, check) == (1, "admission")
    assert "removed" in found
    assert "operator" in remedy


def test_what_rests_on_a_fault_is_not_looked_at_and_says_so(visits):
    skipped = {check: found for check, found, _ in visits["wrong port"].lines("skip")}
    assert skipped == {
        "handshake": "not looked at, because of server port",
        "admission": "not looked at, because of handshake",
        "clock": "not looked at, because of admission",
        "mark": "not looked at, because of admission",
        "partners now": "not looked at, because of admission",
    }
    assert len(visits) == len(FAULTS) + 2
    assert {len(visit.findings) for visit in visits.values()} == {26}


def test_looking_changes_nothing_and_shows_no_secret(visits):
    assert len(visits) == 21
    for name, visit in visits.items():
        assert visit.unchanged, name
        assert PLANTED not in visit.said + visit.wrong, name
        assert len(visit.keys) == 2, name
        for key in visit.keys:
            assert key.hex() not in visit.said, name


def test_in_words_each_remedy_stands_below_its_line(federation):
    place = federation.folder / "words"
    shutil.copytree(federation.folder / SOUND, place)
    (place / "keys" / "identity.key").chmod(0o644)
    visit = _visit(place)
    assert visit.code == 1
    lines = visit.said.splitlines()
    (number,) = [number for number, line in enumerate(lines) if line.startswith("FAIL")]
    assert lines[number].split()[:2] == ["FAIL", "keys"]
    assert lines[number + 1].strip().startswith("run chmod 600 ")
    assert lines[number + 1].startswith(" " * 8)
    assert lines[-1].startswith("no job could start: 1 FAIL")


def test_a_folder_that_is_no_partners(federation):
    visit = _visit(federation.server)
    assert (visit.code, visit.said) == (2, "")
    assert "expected a partner's folder" in visit.wrong


def test_beside_the_partners_own_process_and_after_the_server_is_gone(federation):
    federation.attend(SOUND)
    running = _visit(federation.folder / SOUND)
    assert running.code == 0
    assert f"process {federation.processes[SOUND].pid} works in this folder now" in running.said
    assert running.said.endswith("a job could start\n") or "warn" in running.said
    assert federation.log(SOUND).read_text().count("connected to") == 1
    federation.kill(SOUND, 15)
    federation.kill("server", 15)
    alone = _visit(federation.folder / SOUND, "--json")
    said = federation.log("server").read_text()
    federation.start("server", "tacit-server", "up", str(federation.server))
    federation.wait_for("server", "ready", times=said.count("ready") + 1)
    ((check, found, remedy),) = alone.lines("FAIL")
    assert (alone.code, check, alone.unchanged) == (1, "server port", True)
    assert "nothing listens there" in found
    assert "tacit-server up" in remedy
