"""Distributed DP-SGD between real processes: a whole run, what kills and lies in the middle of a block come to."""

from __future__ import annotations

import json
import os
import signal
import sys
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import tomli_w
from intruder import wait_until
from steps import NAMES, PATIENCE, Federation, history, replace, steps_job, steps_left, wait_rounds

from tacit.privacy.accounting import epsilon
from tacit.privacy.events import Event
from tacit_server.cli import main as server
from tacit_server.runs import Run

pytestmark = [
    pytest.mark.e2e,
    pytest.mark.timeout(1800),
    pytest.mark.skipif(not Path("/proc/self/stat").exists(), reason="needs /proc"),
]


@pytest.fixture(scope="module")
def federation(tmp_path_factory) -> Iterator[Federation]:
    made = Federation(tmp_path_factory.mktemp("blocks"))
    with made.rehearsal:
        made.begin()
        yield made


@pytest.fixture(scope="module")
def whole(federation) -> Run:
    """Two blocks of three steps, with everybody."""
    return federation.submit("whole", steps_job(training={"rounds": 2}), "--wait")


def test_a_whole_run(federation, whole):
    lines, result = history(whole), json.loads((whole.path / "result.json").read_text())
    assert [(line["status"], line["answered"], line["steps"]) for line in lines] == [("done", 4, 3)] * 2
    assert [line["missed"] for line in lines] == [{}, {}]
    told = result["privacy"]
    assert (result["rounds_completed"], told["secure_noise"]) == (2, True)
    assert set(told["epsilon_by_partner"]) == set(NAMES)
    (event,) = {json.dumps(events) for events in told["events_by_partner"].values()}
    events = [Event.model_validate(found) for found in json.loads(event)]
    assert [(e.kind, e.sampling_rate, e.steps) for e in events] == [("distributed-dp-sgd", 0.1, 6)]
    for found in told["epsilon_by_partner"].values():
        assert found == pytest.approx(epsilon(events, delta=1e-5))
    assert "distributed-dp-sgd" in (whole.path / "report.html").read_text(encoding="utf-8")


def test_a_block_is_charged_whole_before_its_first_step(federation, whole):
    """Guarantee: the event of all steps is in the ledger before the first of them leaves, and every one is noted."""
    run = whole.order.run
    for name in NAMES:
        charged, entries = federation.charged(name, run), federation.audit(name, run)
        assert [one[1:] for one in charged] == [(1, 1, 3), (2, 1, 3)]
        assert steps_left(entries) == {1: 3, 2: 3}
        for row, number, *_ in charged:
            left = [e.facts for e in entries if e.event == "step-released" and e.facts["round"] == number]
            assert [facts["step"] for facts in left] == [1, 2, 3]
            assert min(facts["ledger_row"] for facts in left) >= row
        place = str(federation.folder / name)
        assert "unbroken" in federation.rehearsal.run("tacit-client", "audit", "verify", place)
        budget = json.loads(federation.rehearsal.run("tacit-client", "budget", place, "--json"))
        assert run in json.dumps(budget)


def test_both_sides_verify_the_statements(federation, whole):
    statement = whole.path / "statement.json"
    value = json.loads(statement.read_bytes())
    assert [(party["name"], party["state"]) for party in value["parties"]] == [(name, "stated") for name in NAMES]
    for name in NAMES:
        federation.rehearsal.run("tacit-client", "peers", str(federation.folder / name), "--refresh")
    (own,) = (federation.folder / NAMES[0] / "statements").glob(f"{whole.order.run}*.json")
    for path in (statement, own):
        for command, place in (
            ("tacit-server", federation.rehearsal.server),
            ("tacit-client", federation.folder / NAMES[1]),
        ):
            said = federation.rehearsal.run(command, "verify-statement", str(path), "--dir", str(place))
            assert {line.split()[0] for line in said.splitlines()} == {"holds"}
            assert len(said.splitlines()) >= 6


def test_kills_in_the_middle_of_blocks(federation, whole):
    """A partner, the rounds, Flower's SuperLink: the run goes on by itself, and every block is charged each time."""
    del whole  # it comes first
    steps, victim = 8, NAMES[3]
    run = federation.submit("killed", steps_job(training={"rounds": 4, "local_steps": steps}))
    federation.until(victim, "answered step, round 1 of run", more=2)
    assert federation.said(NAMES[0], "answered agree, round 1") == 0
    federation.rehearsal.kill(victim)
    federation.attend(victim)
    wait_rounds(run, 1)
    federation.until(victim, "answered step, round 2 of run", more=2)
    federation.kill_server("flwr-serverapp")
    wait_rounds(run, 2)
    federation.until(victim, "answered step, round 3 of run", more=2)
    federation.kill_server("superlink_child")
    wait_until(lambda: run.standing.phase == "finished", seconds=PATIENCE, what="the end of the run")

    first, second, third, fourth = history(run)
    assert (first["status"], first["attempt"], first["steps"]) == ("done", 1, steps)
    assert set(first["missed"]) == {victim}
    assert 0 < first["missed"][victim] <= steps - 1
    _check_exchanges(federation, survivors=NAMES[:3], missed=first["missed"][victim])
    assert [line["status"] for line in (second, third, fourth)] == ["done"] * 3
    assert [line["attempt"] for line in (second, third, fourth)] == [2, 3, 3]
    assert all(line["missed"] == {} for line in (second, third, fourth))
    again = [(1, 1), (2, 1), (2, 2), (3, 2), (3, 3), (4, 3)]
    for name in NAMES:
        charged = federation.charged(name, run.order.run)
        assert [(number, attempt) for _, number, attempt, _ in charged] == again
        assert {each for *_, each in charged} == {steps}
        left = steps_left(federation.audit(name, run.order.run))
        paid = Counter(number for _, number, *_ in charged)
        assert all(left[number] <= steps * paid[number] for number in left)
        assert (left[2] > steps, left[3] > steps) == (True, True)
    assert steps_left(federation.audit(victim, run.order.run))[1] < steps
    result = json.loads((run.path / "result.json").read_text())
    events_by_partner = result["privacy"]["events_by_partner"]
    assert {sum(e["steps"] for e in events) for events in events_by_partner.values()} == {6 * steps}


def _check_exchanges(federation: Federation, *, survivors: tuple[str, ...], missed: int) -> None:
    """Who is left agrees on it in the steps that somebody is missing from, and in no other."""
    for name in survivors:
        agreed = federation.said(name, "answered agree, round 1 of run")
        assert missed <= agreed <= missed + 1  # it may have been there for the sum and not for the agreement


def test_a_partner_that_samples_at_another_rate_is_named_and_left_out(federation, whole):
    del whole
    federation.rehearsal.kill(NAMES[2], signal.SIGTERM)
    folders = [str(Path(__file__).with_name("puppet")), *filter(None, sys.path)]
    federation.attend(NAMES[2], settings={"PYTHONPATH": os.pathsep.join(folders), "TACIT_TEST_RATE": "0.5"})
    (line,) = history(federation.submit("lied", steps_job(), "--wait"))
    assert (line["status"], line["steps"], line["missed"]) == ("done", 3, {NAMES[2]: 3})
    assert set(line["failures"]) == {NAMES[2]}
    assert "expected the one sampling rate 0.1 and noise multiplier 6" in line["failures"][NAMES[2]]
    assert "found 0.05 and 6" in line["failures"][NAMES[2]]
    federation.rehearsal.kill(NAMES[2], signal.SIGTERM)
    federation.attend(NAMES[2])


def test_a_partner_counts_strangers_as_colluders(federation, whole):
    """Guarantee: whose keys were not compared may be the server's; more of them than the noise is sized for: no sum."""
    del whole
    name = NAMES[1]
    federation.rehearsal.kill(name, signal.SIGTERM)
    for other in (NAMES[0], NAMES[2]):
        federation.rehearsal.run("tacit-client", "peers", str(federation.folder / name), "accept", other)
    replace(federation.folder / name / "site.toml", "trust_new_peers = true", "trust_new_peers = false")
    federation.attend(name)
    (line,) = history(federation.submit("strange", steps_job(aggregation={"max_colluders": 0}), "--wait"))
    said = "expected at most aggregation.max_colluders 0 partners that are not accepted peers, found 1"
    assert set(line["refusals"]) == {name}
    assert said in line["refusals"][name]
    assert (line["status"], line["answered"], line["missed"]) == ("done", 3, {name: 3})
    run = Run(federation.rehearsal.server / "runs" / "strange").order.run
    entries = federation.audit(name, run)
    (refused,) = [entry.facts for entry in entries if entry.event == "refused"]
    assert said in refused["reason"]
    assert steps_left(entries) == {}
    assert federation.charged(name, run) == []
    (line,) = history(federation.submit("familiar", steps_job(aggregation={"max_colluders": 1}), "--wait"))
    assert (line["refusals"], line["missed"]) == ({}, {})


def _without_population() -> dict[str, Any]:
    job = steps_job()
    del job["training"]["population"]
    return job


IMPOSSIBLE: dict[str, tuple[Callable[[], dict[str, Any]], str]] = {
    "in clear": (lambda: steps_job(aggregation={"secure": False}), "without the guarantee of privacy.epsilon"),
    "all collude": (lambda: steps_job(aggregation={"max_colluders": 3}), "no noise that the colluders do not know"),
    "no population": (_without_population, "no one privacy.epsilon would hold for all"),
}


@pytest.mark.parametrize("what", IMPOSSIBLE)
def test_a_job_without_its_guarantee_is_not_begun(tmp_path, capsys, what):
    folder = tmp_path / "server"
    assert server(["init", str(folder), "--host", "127.0.0.1"]) == 0
    make, lost = IMPOSSIBLE[what]
    (tmp_path / "job.toml").write_text(tomli_w.dumps(make()), encoding="utf-8")
    capsys.readouterr()
    assert server(["run", str(folder), str(tmp_path / "job.toml")]) == 2
    out, err = capsys.readouterr()
    (error, hint) = err.splitlines()
    assert error.startswith("error: expected ")
    assert lost in error
    assert hint.startswith("hint: ")
    assert out == ""
    assert list((folder / "runs").glob("*")) == []
