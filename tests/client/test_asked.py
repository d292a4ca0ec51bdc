"""Whatever a server asks is known by one name, leaves a line in the audit log, and never so many that a disk fills."""

from __future__ import annotations

import time
from dataclasses import replace
from functools import partial
from typing import Any

import pytest
import torch
from folders import SIGNING
from offices import Federation

from tacit import commission
from tacit.parcel import Parcel
from tacit.wire import ADVERTISE, EVALUATE, HELLO, SHARE, STATEMENT, TRAIN
from tacit_client import minutes
from tacit_client.audit import Audit, Entry
from tacit_client.flood import Flood
from tacit_client.minutes import Minutes

torch.set_num_threads(1)


def _log(federation: Federation, name: str = "p0") -> tuple[Entry, ...]:
    return Audit.of(federation.folders[name]).entries()


def _events(federation: Federation, event: str, name: str = "p0") -> list[dict[str, Any]]:
    return [entry.facts for entry in _log(federation, name) if entry.event == event]


class Clock:
    """Stands still until a test moves it."""

    def __init__(self) -> None:
        self.now = time.time()

    def __call__(self) -> float:
        return self.now


@pytest.fixture
def clock(monkeypatch) -> Clock:
    """What the minutes of every office that starts from now on go by."""
    found = Clock()
    monkeypatch.setattr("tacit_client.office.Minutes", partial(Minutes, clock=found))
    return found


@pytest.mark.parametrize(
    "kind", ["train.default", "evaluate.default", "query.train", "query.nonsense", "train.step", "query.default"]
)
def test_a_type_has_one_spelling_and_others_leave_a_line(make, kind) -> None:
    """Flower takes `train.default` for `train`: an update, or counts, would leave without a line."""
    federation = make()
    asks = federation.asks(federation.open(purpose="evaluate" if "evaluate" in kind else "train"))
    assert "of a type that partners answer, found another" in federation.refusal(kind, asks["p0"])
    (facts,) = _events(federation, "refused")
    assert facts["asked"] == kind.removeprefix("query.")
    assert federation.offices["p0"]._budget.events() == ()


def test_counts_can_not_be_had_again_under_another_name(make) -> None:
    federation = make("aggregation.secure=false", require_secure_aggregation="false")
    ask = federation.ask(federation.open(purpose="evaluate")).pack()
    federation.send(EVALUATE, ask, to="p0")
    assert federation.send("evaluate.default", ask, to="p0").scalars["kind"] == "refusal"
    assert len(_events(federation, "sums-released")) == 1


def test_a_list_of_peers_that_can_not_be_read_is_a_refusal_of_hello(make) -> None:
    federation = make()
    federation.folders["p0"].peers.write_text("broken")
    assert "expected TOML" in federation.refusal(HELLO, Parcel({}, {}))
    assert [facts["asked"] for facts in _events(federation, "refused")] == ["hello"]


def test_hello_between_the_stages_of_a_round_ends_nothing(make) -> None:
    federation = make()
    asks = federation.asks(federation.open())
    assert federation.send(HELLO, Parcel({}, {}), to="p0").scalars["kind"] == "hello"
    assert federation.send(TRAIN, asks["p0"], to="p0").scalars["kind"] == "update"


def test_very_many_refusals_are_a_count_in_the_chain(make, clock, monkeypatch) -> None:
    monkeypatch.setattr(minutes, "_WHOLE", 5)
    federation = make()
    for _ in range(30):
        federation.refusal(SHARE, Parcel({}, {}))
    for _ in range(10):
        federation.refusal("query.nonsense", Parcel({}, {}))
    assert len(_events(federation, "refused")) == 5
    counted = _events(federation, "repeated")
    assert [sum(facts["counts"].values()) for facts in counted] == [1, 2, 4, 8, 16, 32]
    assert "found another" in counted[-1]["last"]
    federation.stop()
    assert _events(federation, "repeated")[-1]["counts"] == {"another": 10, "share": 25}
    federation.start()
    federation.refusal(SHARE, Parcel({}, {}))
    assert len(_events(federation, "refused")) == 6


def test_the_next_hour_is_told_anew_and_ends_the_count_of_the_last(make, clock, monkeypatch) -> None:
    monkeypatch.setattr(minutes, "_WHOLE", 2)
    federation = make()
    for _ in range(2 + 6):
        federation.refusal(SHARE, Parcel({}, {}))
    clock.now += 3599
    federation.refusal(SHARE, Parcel({}, {}))
    federation.refusal(SHARE, Parcel({}, {}))
    assert len(_events(federation, "refused")) == 2
    assert _events(federation, "repeated")[-1]["counts"] == {"share": 8}
    federation.refusal(SHARE, Parcel({}, {}))
    clock.now += 1
    federation.refusal(SHARE, Parcel({}, {}))
    found = [(entry.event, entry.facts.get("counts")) for entry in _log(federation)]
    assert found[-2:] == [("repeated", {"share": 9}), ("refused", None)]


def test_a_denial_by_the_budget_outlives_a_flood_and_a_restart(make, monkeypatch) -> None:
    """Its line is what keeps a run that was too dear at its start from being joined at its end."""
    monkeypatch.setattr(minutes, "_WHOLE", 1)
    federation = make("training.rounds=40", epsilon_limit=6.0)
    for _ in range(10):
        federation.refusal(SHARE, Parcel({}, {}))
    assert "with 40 rounds more" in federation.refusal(ADVERTISE, federation.invite(federation.open()))
    last = federation.invite(federation.open(number=40))
    assert "with 40 rounds more" in federation.refusal(ADVERTISE, last)
    federation.stop()
    federation.start()
    assert "with 40 rounds more" in federation.refusal(ADVERTISE, last)
    assert [facts.get("rule") for facts in _events(federation, "refused")] == [None, "epsilon_limit", "epsilon_limit"]


def test_a_statement_that_is_asked_for_again_is_counted(make, monkeypatch) -> None:
    federation = make()
    federation.whole(federation.open())
    ask = federation.ask(federation.open()).pack()
    answers = [federation.send(STATEMENT, ask, to="p0") for _ in range(5)]
    assert len({answer.bytes("signed") for answer in answers}) == 1
    assert len(_events(federation, "statement-released")) == 1
    assert _events(federation, "repeated")[-1]["counts"] == {"statement-released": 4}
    federation.whole(federation.open(number=2))
    federation.send(STATEMENT, ask, to="p0")
    assert len(_events(federation, "statement-released")) == 2


def test_so_many_new_runs_a_day(make, clock, monkeypatch) -> None:
    monkeypatch.setattr(minutes, "_RUNS", 2)
    federation = make()
    for run in ("run-1", "run-2"):
        federation.letters(ADVERTISE, federation.invite(federation.open(run=run)))
    third = federation.invite(federation.open(run="run-3"))
    words = "expected at most 2 new runs of this partner in 24 hours, found one more"
    assert words in federation.refusal(ADVERTISE, third)
    federation.letters(ADVERTISE, federation.invite(federation.open(run="run-2", number=2)))  # begun before
    federation.stop()
    federation.start()
    assert words in federation.refusal(ADVERTISE, third)
    assert {facts["run"] for facts in _events(federation, "job-offered")} == {"run-1", "run-2"}
    clock.now += 86_300
    assert words in federation.refusal(ADVERTISE, third)
    clock.now += 400  # whatever seconds the test took
    federation.letters(ADVERTISE, third)


def test_another_job_for_a_run_makes_no_offer(make, job) -> None:
    """Or every job that a server signs would be a line."""
    federation = make()
    federation.asks(federation.open())
    other = job("training.rounds=4")
    signed = commission.sign(SIGNING, run="run-1", job=other)
    assert "granted for the run" in federation.refusal(
        TRAIN, replace(federation.ask(federation.open()), job=other, commission=signed).pack()
    )
    assert len(_events(federation, "job-offered")) == 1


def test_the_count_of_a_flood_is_never_half_lost() -> None:
    """Guarantee: at any moment more than half has been told, in as many lines as it doubles."""
    flood, told, lines = Flood(whole=3), 0, 0
    assert flood.turn(50.0) is None
    assert [flood.whole() for _ in range(5)] == [True, True, True, False, False]
    for number in range(1, 1001):
        found = flood.count("share", words=f"{number}")
        if found is not None:
            told, lines = sum(found["counts"].values()), lines + 1
            assert (told, found["last"]) == (number, f"{number}")
        assert 2 * told > number
    assert lines == 10
    assert flood.turn(50.0 + 3600) == {
        "since": "1970-01-01T00:00:50+00:00", "counts": {"share": 1000}, "last": "1000",
    }  # fmt: skip
    assert flood.rest() is None
    assert flood.turn(10.0) is None  # a clock that was set back begins an hour too
    assert flood.whole()
