"""The doctor against real folders of a real federation: one sound, the others each with one fault.

Every fault (`ailments`) is made in a copy of the sound folder. The quick tests call the command in their own process,
and the slow ones start a process for each folder, as people do.
"""

from __future__ import annotations

import shutil
from concurrent.futures import ThreadPoolExecutor

import pytest
from ailments import FAULTS, PLANTED, SOUND, change, write_data
from visits import Visit, by_call, by_process, shifted

from tacit_sim.rehearsal import Rehearsal

pytestmark = [pytest.mark.e2e, pytest.mark.timeout(900)]

LEFT = "hospital-d"
HOURS, CHECKS = 2, 27
MACHINE = {"disk", "memory"}  # what the machine of the test may have too little of


@pytest.fixture(scope="module")
def federation(tmp_path_factory):
    """Four hospitals; the last is removed, and the third has joined after all others and accepted the first two."""
    with Rehearsal(tmp_path_factory.mktemp("visits")) as opened:
        opened.init()
        opened.up()
        data = write_data(opened.folder / "data.csv")
        for name in ("hospital-a", "hospital-b", LEFT, SOUND):
            opened.join(name, data=data, flags=())
            change(opened.folder / name, 'device = "auto"', 'device = "cpu"')
        for name in (SOUND, LEFT):
            for other in ("hospital-a", "hospital-b"):
                opened.run("tacit-client", "peers", str(opened.folder / name), "accept", other)
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
    settings = {"TACIT_TEST_SHIFT": str(3600 * HOURS), **shifted(federation.folder)}
    if request.param == "called":
        found = {name: by_call(place, "--json") for name, place in places.items()}
    else:
        with ThreadPoolExecutor(2) as pool:
            found = dict(zip(places, pool.map(lambda place: by_process(place, "--json"), places.values()), strict=True))
    return found | {"clock off": by_process(off, "--json", settings=settings)}


def test_where_all_is_well_a_job_could_start(visits):
    sound = visits["sound"]
    assert (sound.code, sound.wrong) == (0, "")
    assert len(sound.findings) == CHECKS
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
    assert {len(visit.findings) for visit in visits.values()} == {CHECKS}


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
    visit = by_call(place)
    assert visit.code == 1
    lines = visit.said.splitlines()
    (number,) = [number for number, line in enumerate(lines) if line.startswith("FAIL")]
    assert lines[number].split()[:2] == ["FAIL", "keys"]
    assert lines[number + 1].strip().startswith("run chmod 600 ")
    assert lines[number + 1].startswith(" " * 8)
    assert lines[-1].startswith("no job could start: 1 FAIL")


def test_a_folder_that_is_no_partners(federation):
    visit = by_call(federation.server)
    assert (visit.code, visit.said) == (2, "")
    assert "expected a partner's folder" in visit.wrong


def test_beside_the_partners_own_process_and_after_the_server_is_gone(federation):
    federation.attend(SOUND)
    running = by_call(federation.folder / SOUND)
    assert running.code == 0
    assert f"process {federation.processes[SOUND].pid} works in this folder now" in running.said
    assert running.said.endswith("a job could start\n") or "warn" in running.said
    assert federation.log(SOUND).read_text().count("connected to") == 1
    federation.kill(SOUND, 15)
    federation.kill("server", 15)
    alone = by_call(federation.folder / SOUND, "--json")
    said = federation.log("server").read_text()
    federation.start("server", "tacit-server", "up", str(federation.server))
    federation.wait_for("server", "ready", times=said.count("ready") + 1)
    ((check, found, remedy),) = alone.lines("FAIL")
    assert (alone.code, check, alone.unchanged) == (1, "server port", True)
    assert "nothing listens there" in found
    assert "tacit-server up" in remedy
