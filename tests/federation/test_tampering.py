"""What may be done to a partner's ledger, log, disk and clock, with the real commands: refused, and written down."""

from __future__ import annotations

import os
import resource
import shutil
import sqlite3
import subprocess
from collections.abc import Callable, Iterable, Iterator
from contextlib import closing, suppress
from pathlib import Path
from typing import Any

import intruder
import pytest
from intruder import wait_until
from place import Place

from tacit.errors import JobFailed
from tacit.privacy.accounting import epsilon
from tacit.privacy.events import Event
from tacit_sim.rehearsal import Rehearsal

pytestmark = [pytest.mark.e2e, pytest.mark.timeout(600)]

ROUND = Event(kind="dp-sgd", sampling_rate=16 / 60, noise_multiplier=20.0, steps=1)  # of intruder.write_job
DELTA = 1e-5
BEHIND = "expected the ledger that this partner last answered with"
BACK = -20 * 3600  # seconds; certificates are good from a day before


@pytest.fixture(scope="module")
def place(tmp_path_factory) -> Iterator[Place]:
    with Rehearsal(tmp_path_factory.mktemp("tampering")) as federation:
        federation.init()
        config = federation.server / "server.toml"
        config.write_text(config.read_text().replace("grace = 10.0", "grace = 1.0"))
        federation.up()
        yield Place(federation)


def _quick(names: Iterable[str], *quick: str) -> list[Any]:
    """All of `names`, of which only `quick` are no slow tests."""
    return [name if name in quick else pytest.param(name, marks=pytest.mark.slow) for name in names]


# what is found at the next start


@pytest.fixture(scope="module")
def copies(place) -> dict[str, Path]:
    """The folder of alder after one job, and after the next."""
    made = {}
    place.join("alder", data=intruder.write_data(place.federation.folder / "alder.npz", seed=1))
    for age in ("older", "newest"):
        place.attend("alder")
        assert place.job()["status"] == "done"
        place.leave("alder")
        made[age] = place.federation.folder / f"alder.{age}"
        shutil.copytree(place.path("alder"), made[age])
    return made


@pytest.fixture
def alder(place, copies) -> Path:
    """The folder as its process left it."""
    shutil.rmtree(place.path("alder"))
    shutil.copytree(copies["newest"], place.path("alder"))
    return place.path("alder")


def _sql(path: Path, statement: str) -> None:
    with closing(sqlite3.connect(path)) as db, db:
        assert db.execute(statement).rowcount == 1


def _put_back(folder: Path) -> None:
    """The ledger alone, and nothing beside it of the newer one."""
    for left in folder.glob("ledger.db*"):
        left.unlink()
    shutil.copy(folder.with_name("alder.older") / "ledger.db", folder / "ledger.db")


TAMPERED: dict[str, tuple[Callable[[Path], None], str, str]] = {
    "edited": (
        lambda folder: _sql(folder / "ledger.db", "UPDATE entry SET round = 9 WHERE seq = 2"),
        "ledger-refused",
        "expected the privacy ledger ledger.db as this partner left it, found row 2 changed",
    ),
    "cheaper": (
        lambda folder: _sql(
            folder / "ledger.db", "UPDATE entry SET event = replace(event, '20.0', '90.0') WHERE seq = 4"
        ),
        "ledger-refused",
        "found row 4 changed",
    ),
    "row out": (
        lambda folder: _sql(folder / "ledger.db", "DELETE FROM entry WHERE seq = 4"),
        "ledger-refused",
        "found row 4 missing",
    ),
    "last row out": (
        lambda folder: _sql(folder / "ledger.db", "DELETE FROM entry WHERE seq = 5"),
        "ledger-behind",
        f"{BEHIND}, of 5 rows or more, found an older or another one of 4",
    ),
    "older": (_put_back, "ledger-behind", f"{BEHIND}, of 5 rows or more, found an older or another one of 3"),
    "gone": (
        lambda folder: (folder / "ledger.db").unlink(),
        "ledger-behind",
        f"{BEHIND}, of 5 rows or more, found an older or another one of 1",
    ),
}


@pytest.mark.parametrize("what", _quick(TAMPERED, "edited", "row out", "older"))
def test_a_ledger_that_was_tampered_with_stops_the_partner(place, alder, what):
    tamper, event, said = TAMPERED[what]
    tamper(alder)
    code, shown = place.fails("alder")
    assert code == 2
    assert shown.count("error: ") == shown.count("hint: put the newest ") == 1
    assert said in shown
    (facts,) = place.noted("alder", event)
    assert said in facts["reason"]


def test_an_older_folder_put_back_whole_is_known_by_the_servers_mark(place, alder, copies):
    """Ledger, log and mark fit each other; what does not fit is at the server."""
    shutil.rmtree(alder)
    shutil.copytree(copies["older"], alder)
    code, shown = place.fails("alder")
    assert code == 1
    assert f"{BEHIND}, of 5 rows or more, found an older or another one of 3" in shown
    assert shown.count("error: ") == 1
    assert len(place.noted("alder", "ledger-behind")) == 1
    code, shown = place.fails("alder")  # from now on it needs no server to know
    assert (code, BEHIND in shown, len(place.noted("alder", "ledger-behind"))) == (2, True, 2)


def _rewrite(path: Path, change: Callable[[list[bytes]], list[bytes]]) -> None:
    path.write_bytes(b"".join(change(path.read_bytes().splitlines(keepends=True))))


LOGS: dict[str, tuple[Callable[[list[bytes]], list[bytes]], str]] = {
    "edited": (
        lambda lines: [*lines[:3], lines[3].replace(b'"event":"', b'"event":"x', 1), *lines[4:]],
        "expected an unbroken audit log, found a line that was changed or is not this partner's in line 4 of ",
    ),
    "line out": (lambda lines: lines[:2] + lines[3:], "found the line written as number 4 in line 3 of "),
    "end cut off": (lambda lines: lines[:4], "lines or more, found an older or another one of 4"),
}


@pytest.mark.parametrize("what", _quick(LOGS, "edited", "end cut off"))
def test_an_audit_log_that_was_tampered_with_stops_the_partner(place, alder, what):
    change, said = LOGS[what]
    _rewrite(alder / "audit.log", change)
    with pytest.raises(JobFailed) as caught:
        place.federation.run("tacit-client", "audit", "verify", str(alder))
    assert said in caught.value.message
    code, shown = place.fails("alder")
    assert (code, said in shown) == (2, True)


def test_two_processes_do_not_work_in_one_folder(place, alder):
    place.attend("alder")
    with pytest.raises(JobFailed, match=r"expected no other process at .*, found process"):
        place.federation.run("tacit-client", "run", str(alder))
    (facts,) = place.noted("alder", "not-started")
    assert facts["reason"].startswith("expected no other process at ")
    assert place.federation.processes["alder"].poll() is None
    place.leave("alder")


# what is found by a process that runs


@pytest.fixture(scope="module")
def disk(tmp_path_factory) -> Iterator[tuple[Path, bool]]:
    """A folder, and whether it is a disk of 1 MB of its own."""
    folder = tmp_path_factory.mktemp("disk")
    command = ["mount", "-t", "tmpfs", "-o", "size=1m,mode=700", "tmpfs", str(folder)]
    mounted = os.geteuid() == 0 and subprocess.run(command, capture_output=True, check=False).returncode == 0
    yield folder, mounted
    if mounted:
        subprocess.run(["umount", str(folder)], check=True)


@pytest.fixture(scope="module")
def birch(disk, place) -> Iterator[Path]:
    """A partner that runs; its ledger is on a disk of its own where there is one. Gives the ledger."""
    ledger = disk[0] / "ledger.db"
    place.join("birch", data=intruder.write_data(place.federation.folder / "birch.npz", seed=2), ledger=ledger)
    place.attend("birch")
    assert place.job()["status"] == "done"
    yield ledger
    place.leave("birch")


def _refused(place: Place, line: dict[str, Any], said: str) -> dict[str, Any]:
    """Birch refused this round, in the history and in its log; gives the facts that it noted."""
    assert (line["status"], list(line["refusals"])) == ("abandoned", ["birch"])
    assert said in line["refusals"]["birch"]
    noted = place.noted("birch", "refused")[-1]
    assert said in noted["reason"]
    released = [facts["run"] for facts in place.noted("birch", "update-released")]
    assert noted["run"] not in released
    return noted


@pytest.fixture
def trains(place) -> Iterator[None]:
    """Once the test is over, birch takes part as before."""
    yield
    assert place.job()["status"] == "done"


def _fill(path: Path) -> None:
    with path.open("wb", buffering=0) as file:
        for size in (4096, 1):
            with suppress(OSError):
                while file.write(bytes(size)):
                    pass


FULL = "expected a privacy ledger that can be read and written at ledger.db, found "


@pytest.mark.usefixtures("trains")
def test_a_full_disk_while_reserving_is_a_refusal(place, birch, disk):
    if not disk[1]:
        pytest.skip("disks can not be mounted here")
    before = place.budget("birch")
    _fill(disk[0] / "filler")
    line = place.job()
    (disk[0] / "filler").unlink()
    _refused(place, line, f"{FULL}database or disk is full")
    assert place.budget("birch") == before


@pytest.mark.slow
@pytest.mark.usefixtures("trains")
def test_a_ledger_that_may_not_grow_is_a_refusal(place, birch):
    pid, before = place.federation.processes["birch"].pid, place.budget("birch")
    limit = birch.with_name("ledger.db-wal").stat().st_size
    assert limit > (place.path("birch") / "audit.log").stat().st_size + 4096  # which can still be written
    resource.prlimit(pid, resource.RLIMIT_FSIZE, (limit, resource.RLIM_INFINITY))
    line = place.job()
    resource.prlimit(pid, resource.RLIMIT_FSIZE, (resource.RLIM_INFINITY, resource.RLIM_INFINITY))
    _refused(place, line, FULL)
    assert place.budget("birch") == before


@pytest.mark.usefixtures("trains")
@pytest.mark.parametrize("what", _quick(["edited", "removed"], "edited"))
def test_a_row_that_is_changed_under_a_process_ends_it(place, birch, what):
    """It is noticed with the next message, whatever that asks; nothing is answered any more."""
    with closing(sqlite3.connect(birch)) as db:
        (last,) = db.execute("SELECT MAX(seq) FROM entry").fetchone()
        row = db.execute("SELECT * FROM entry WHERE seq = ?", (last,)).fetchone()
    released, seen = len(place.noted("birch", "update-released")), len(place.noted("birch", "ledger-refused"))
    edit, found = f"UPDATE entry SET round = 9 WHERE seq = {last}", "changed"
    if what == "removed":
        edit, found = f"DELETE FROM entry WHERE seq = {last}", "missing"
    _sql(birch, edit)
    run, process = place.submit(), place.federation.processes["birch"]
    wait_until(lambda: process.poll() is not None, seconds=120, what="the end of the partner's process")
    assert process.returncode == 1
    said = f"expected the privacy ledger ledger.db as this partner left it, found row {last} {found}"
    assert f"error: {said}" in place.federation.log("birch").read_text()
    noted = place.noted("birch", "ledger-refused")[seen:]
    assert noted
    assert all(said in facts["reason"] for facts in noted)
    assert len(place.noted("birch", "update-released")) == released
    place.federation.run("tacit-server", "stop", str(place.federation.server), run)
    with closing(sqlite3.connect(birch)) as db, db:
        db.execute(f"INSERT OR REPLACE INTO entry VALUES ({', '.join('?' * len(row))})", row)
    place.attend("birch")


@pytest.mark.slow
@pytest.mark.skipif(shutil.which("cc") is None, reason="needs a C compiler")
def test_a_clock_that_was_set_back_makes_no_room_in_the_day(place, birch):
    library, source = place.federation.folder / "clock.so", Path(__file__).with_name("clock.c")
    subprocess.run(["cc", "-shared", "-fPIC", "-O1", "-o", str(library), str(source), "-ldl"], check=True)
    place.leave("birch")
    used = sum(run["releases"] for run in place.budget("birch")["budgets"][0]["runs"])
    assert used >= 2
    place.settle("birch", max_rounds_per_day=used + 1)
    place.attend("birch", settings={"LD_PRELOAD": str(library), "TACIT_TEST_SHIFT": str(BACK)})
    assert f"this machine's clock is {BACK:+d} s off the server's" in place.federation.log("birch").read_text()
    assert place.job()["status"] == "done"  # there was room for one
    noted = _refused(place, place.job(), f"expected at most {used + 1} rounds")
    assert (noted["rule"], noted["today"]) == ("max_rounds_per_day", used + 1)
    with closing(sqlite3.connect(birch)) as db:
        times = [at for (at,) in db.execute("SELECT at FROM entry ORDER BY seq")]
    assert times == sorted(times)


# two at once


def test_two_partners_with_one_ledger_do_not_pass_the_limit_together(place):
    """The same data in two folders; there is room for one round, and both are asked at the same moment."""
    costs = [epsilon([ROUND.model_copy(update={"steps": n})], delta=DELTA) for n in (1, 2)]
    limit, names = sum(costs) / 2, ("cedar", "doris")
    place.leave(*place.here())
    data = intruder.write_data(place.federation.folder / "shared.npz", seed=3)
    for name in names:
        place.join(name, data=data, ledger=Path("../shared.db"), epsilon_limit=limit)
    place.attend(*names)
    lines = [place.job(partners=2) for _ in range(2)]
    place.leave(*names)
    assert [(line["asked"], line["answered"]) for line in lines] == [(2, 1), (2, 0)]
    refused = [name for line in lines for name in line["refusals"]]
    assert len(refused) == 3  # one of them, in the first round, by the ledger in the moment of the reservation
    for name in names:
        noted = place.noted(name, "refused")
        assert ["epsilon within the limit" in facts["reason"] for facts in noted] == [True] * refused.count(name)
        assert len(place.noted(name, "update-released")) == 2 - refused.count(name)
    spent = place.budget("cedar")["spent"]
    assert spent == place.budget("doris")["spent"] == pytest.approx(costs[0])
    assert spent <= limit < costs[1]
