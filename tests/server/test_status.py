"""Status: what stands in the folders, put together; nothing is changed by looking."""

from __future__ import annotations

import json
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest

from tacit.errors import BadInput
from tacit.lock import take
from tacit.secagg.keys import PublicKey
from tacit_server import runs
from tacit_server.roster import Roster
from tacit_server.runs import RunStanding
from tacit_server.setup import init
from tacit_server.status import line_words, read_history, status, words

NOW = datetime.now(UTC)


def line(number: int, **changes: Any) -> dict[str, Any]:
    """A round as it stands in a history."""
    return {
        "round": number,
        "status": "done",
        "reason": None,
        "asked": 3,
        "answered": 3,
        "dropouts": [],
        "failures": {},
        "refusals": {},
        "test": {"accuracy": 0.5},
        "federated": None,
        "epsilon_by_partner": {"a": 0.5 * number, "b": 0.25 * number},
        "round_seconds": 10.0 * number,
        **changes,
    }


@pytest.fixture
def folder(tmp_path):
    return init(tmp_path / "srv", host="localhost")


@pytest.fixture
def run(folder, make_job):
    """A run of ten rounds, of which four are over."""
    made = runs.submit(folder.runs, make_job("training.rounds=10"), name=None, test=None)
    history = [
        line(1, dropouts=["b"], failures={"b": "went offline"}, answered=2),
        line(
            2, status="abandoned", reason="too few", dropouts=["b"], refusals={"a": "budget\n\x1b[2Jspent"}, answered=1
        ),
        line(3),
        line(4, test={"accuracy": 0.75}, epsilon_by_partner={"a": 2.0}),
    ]
    (made.path / "history.jsonl").write_text("".join(json.dumps(entry) + "\n" for entry in history))
    made.stand(RunStanding(phase="running", round=4, attempts=2))
    return made


def _partner(folder, name: str, *, online: bool) -> None:
    roster = Roster(folder.roster_path)
    roster.invite(name, fingerprint=name, expires=NOW + timedelta(days=1))
    identity = PublicKey(name.encode().ljust(32, b"x"))
    roster.enrol(name=name, invitation=name, identity=identity, key_hash=name, certificate_fingerprint=name, now=NOW)
    roster.seen(name, online=online, device="cpu", now=NOW)


def test_a_run_in_numbers(folder, run):
    found = status(folder)["run"]
    assert (found["name"], found["phase"], found["round"], found["rounds"]) == ("small", "running", 4, 10)
    assert (found["done"], found["abandoned"], found["attempts"]) == (3, 1, 2)
    assert found["seconds_left"] == pytest.approx((10 + 30 + 40) / 3 * 6)
    assert found["accuracy"] == {"test": 0.75}


def test_partners_with_what_the_run_knows_of_them(folder, run):
    _partner(folder, "a", online=True)
    _partner(folder, "c", online=False)
    found = status(folder)["partners"]
    assert found == {
        "a": {"online": True, "dropouts": 0, "refusals": 1, "last_refusal": "budget\n\x1b[2Jspent", "epsilon": 2.0},
        "b": {"online": False, "dropouts": 2, "refusals": 0, "last_refusal": None, "epsilon": 0.75},
        "c": {"online": False, "dropouts": 0, "refusals": 0, "last_refusal": None, "epsilon": None},
    }


def test_the_words_hold_it_all_and_end_no_line_within_a_partners_words(folder, run):
    _partner(folder, "a", online=True)
    text = words(status(folder))
    lines = text.splitlines()
    assert lines[0] == "nobody serves this folder: start tacit-server up"
    assert "rounds    3 done, 1 abandoned, of 10" in lines
    assert "time left 2 min 40 s" in lines
    assert "accuracy  test 0.7500" in lines
    assert "a refused: budget \N{REPLACEMENT CHARACTER}[2Jspent" in lines
    assert "2.000" in next(row for row in lines if row.startswith("a "))
    with take(folder.up_lock, what="x"):
        assert status(folder)["up"]


def test_nothing_yet(folder):
    found = status(folder)
    assert (found["runs"], found["run"], found["partners"]) == ([], None, {})
    assert "no run was submitted yet" in words(found)


def test_the_run_that_goes_on_is_shown_before_newer_ones(folder, run, make_job):
    runs.submit(folder.runs, make_job(), name="newer", test=None)
    assert status(folder)["run"]["name"] == "small"
    assert status(folder, name="newer")["run"]["name"] == "newer"
    run.stand(RunStanding(phase="finished", round=10))
    assert status(folder)["run"]["name"] == "newer"
    with pytest.raises(BadInput, match="expected the run other, found small, newer"):
        status(folder, name="other")


def test_a_run_that_is_to_stop_is_stopping(folder, run):
    runs.stop(run)
    assert status(folder)["run"]["phase"] == "stopping"
    run.stand(RunStanding(phase="stopped"))
    assert status(folder)["run"]["phase"] == "stopped"


def test_looking_changes_nothing(folder, run):
    def everything() -> dict[str, bytes]:
        return {str(path): path.read_bytes() for path in folder.runs.rglob("*") if path.is_file()}

    before = everything()
    words(status(folder))
    assert everything() == before


def test_a_round_as_one_line():
    assert line_words(line(1)) == "round 1 done; 3 of 3 answered; test accuracy 0.5000"
    told = line_words(line(2, status="abandoned", reason="too few", refusals={"a": "no"}, failures={"b": "lost"}))
    assert told.endswith("; b: lost; a: no; too few")


def test_a_damaged_history_is_bad_input(tmp_path):
    assert read_history(tmp_path) == []
    (tmp_path / "history.jsonl").write_text('{"round": 1}\n{"rou')
    with pytest.raises(BadInput, match="expected one JSON object a line"):
        read_history(tmp_path)
