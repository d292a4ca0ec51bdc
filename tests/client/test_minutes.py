"""What a partner's office writes down: every offer, decision and release, and nothing leaves that it could not keep."""

from __future__ import annotations

import sqlite3
from contextlib import closing
from dataclasses import replace
from typing import Any

import pytest
from flwr.app import Context, Message, RecordDict
from folders import SIGNING, change
from offices import NAMES, PLANTED, Federation, rows

from tacit import commission
from tacit.errors import BadInput
from tacit.job import Job
from tacit.link.records import to_records
from tacit.parcel import Parcel
from tacit.secagg.keys import Secret
from tacit.wire import ADVERTISE, EVALUATE, STATEMENT, TRAIN, Ask, Invite, Refusal, Statement
from tacit_client.app import Errand
from tacit_client.audit import Audit, Entry
from tacit_client.ledger import Tampered
from tacit_client.mark import Behind, Mark, key_of
from tacit_client.minutes import Minutes
from tacit_client.office import Office
from tacit_client.site import Folder

MALLORY = Secret(bytes(range(7, 39)))


def _log(federation: Federation, name: str = "p0") -> tuple[Entry, ...]:
    return Audit.of(federation.folders[name]).entries()


def _events(federation: Federation, event: str, name: str = "p0") -> list[dict[str, Any]]:
    return [entry.facts for entry in _log(federation, name) if entry.event == event]


def test_a_round_is_written_down_from_offer_to_release(make) -> None:
    federation = make()
    federation.whole(federation.open())
    federation.whole(federation.open(purpose="evaluate"))
    federation.whole(federation.open(number=2))
    for name in NAMES:
        found = [entry.event for entry in _log(federation, name)]
        assert found == [
            "started", "configuration-changed", "job-offered", "job-granted",
            "update-released", "sums-released", "update-released",
        ]  # fmt: skip
    (offer,), (grant,) = _events(federation, "job-offered"), _events(federation, "job-granted")
    job = federation.job
    assert (offer["run"], offer["job"], offer["rounds"]) == ("run-1", job.hash(), job.training.rounds)
    assert (offer["mechanism"], offer["delta"], offer["secure"]) == ("dp-sgd", 1e-5, True)
    assert (grant["run"], grant["job"]) == ("run-1", job.hash())
    assert (grant["limit"], grant["delta"], grant["peers"], grant["min_cohort"]) == (8.0, 1e-5, 2, 3)
    assert grant["cost"]["spent"] == 0
    assert 0 < grant["cost"]["after"] == grant["cost"]["planned"] < 8
    released = _events(federation, "update-released")
    assert [(facts["round"], facts["ledger_row"]) for facts in released] == [(1, 3), (2, 6)]


def test_no_example_and_no_count_stands_in_it(make) -> None:
    federation = make()
    federation.whole(federation.open())
    for name in NAMES:
        text = federation.folders[name].audit.read_text()
        assert PLANTED not in text
        assert str(len(rows(0))) not in [
            str(value) for entry in _log(federation, name) for value in entry.facts.values()
        ]


def _sent(federation: Federation, job: Job, *, key: Secret, run: str = "run-1") -> list[tuple[str, Parcel]]:
    """Every message that carries a job, with `job` in it, signed by `key` for `run`."""
    new = federation.open()
    signed = commission.sign(key, run=run, job=job)
    ask = Ask(job, new.run, 1, 1, 3, federation.model, commission=signed).pack()
    invite = Invite(job, replace(new, job=job.hash()).encode(), signed).pack()
    return [(ADVERTISE, invite), (TRAIN, ask), (EVALUATE, ask), (STATEMENT, ask)]


CHANGES = (
    "task.options.width=16",
    "privacy.noise_multiplier=0.9",
    "privacy.max_grad_norm=9.0",
    "training.local_steps=3",
    "training.rounds=4",
    "aggregation.min_cohort=4",
    "aggregation.max_update_norm=50.0",
    "aggregation.secure=false",
    "evaluation.partner_holdout=0.5",
)


@pytest.mark.parametrize("changed", CHANGES)
def test_a_job_changed_after_approval_is_refused_and_written_down(make, job, changed) -> None:
    """Guarantee: whether the server signs the change or not, a run has one job."""
    federation = make()
    federation.asks(federation.open())  # approved
    other = job(changed)
    for key, said in ((MALLORY, "signed for this run with the server's key"), (SIGNING, "granted for the run")):
        for kind, parcel in _sent(federation, other, key=key):
            assert said in federation.refusal(kind, parcel)
    refused = _events(federation, "refused")
    assert [facts["asked"] for facts in refused] == ["advertise", "train", "evaluate", "statement"] * 2
    assert all(facts["job"] == other.hash() for facts in refused)
    assert _events(federation, "update-released") == []


def test_a_run_that_only_evaluates_has_one_job_too(make, job) -> None:
    federation = make()
    new = federation.open(purpose="evaluate")
    federation.letters(ADVERTISE, federation.invite(new))
    other = job("training.learning_rate=0.7")
    for kind, parcel in _sent(federation, other, key=SIGNING):
        assert "was first asked for in the run" in federation.refusal(kind, parcel)


def test_the_ledger_knows_the_job_where_a_log_that_was_renewed_does_not(make, job) -> None:
    federation = make()
    federation.whole(federation.open())
    federation.stop()
    for folder in federation.folders.values():
        Audit.of(folder).renew(covered=100)
    federation.start()
    kind, parcel = _sent(federation, job("training.rounds=4"), key=SIGNING)[0]
    assert "granted for the run" in federation.refusal(kind, parcel)


def test_nothing_is_stated_about_a_run_that_was_not_granted(make) -> None:
    federation = make()
    ask = federation.ask(federation.open(run="run-7")).pack()
    assert Statement.unpack(federation.send(STATEMENT, ask, to="p0")).signed == b""
    assert not list(federation.folders["p0"].statements.glob("*.json"))


def test_approval_outlives_the_process(make, job) -> None:
    federation = make()
    federation.asks(federation.open())
    federation.stop()
    federation.start()
    kind, parcel = _sent(federation, job("training.rounds=4"), key=SIGNING)[0]
    assert "granted for the run" in federation.refusal(kind, parcel)


def test_a_signature_for_another_run_is_none(make) -> None:
    federation = make()
    for kind, parcel in _sent(federation, federation.job, key=SIGNING, run="run-2"):
        assert "signed for this run" in federation.refusal(kind, parcel)
    assert _events(federation, "job-offered") == []


def test_a_denial_has_its_numbers(make) -> None:
    federation = make("training.rounds=200", epsilon_limit=6.0)
    kind, parcel = _sent(federation, federation.job, key=SIGNING)[0]
    federation.refusal(kind, parcel)
    (facts,) = _events(federation, "refused")
    assert (facts["rule"], facts["limit"], facts["rounds"]) == ("epsilon_limit", 6.0, 200)
    assert facts["cost"]["after"] > 6 > facts["cost"]["spent"]
    assert 0 < facts["cost"]["fit"] < 200


def test_a_run_that_was_too_dear_at_its_start_is_not_joined_at_its_end(make) -> None:
    """Whole runs are granted: the last rounds would fit the limit by themselves, also for the next process."""
    federation = make("training.rounds=40", epsilon_limit=6.0)
    kind, first = _sent(federation, federation.job, key=SIGNING)[0]
    last = federation.invite(federation.open(number=40))
    assert "with 40 rounds more" in federation.refusal(kind, first)
    assert "with 40 rounds more" in federation.refusal(kind, last)
    federation.stop()
    federation.start()
    assert "with 40 rounds more" in federation.refusal(kind, last)
    fresh = federation.invite(federation.open(number=40, run="run-2"))
    assert federation.send(kind, fresh, to="p0").scalars["kind"] == "letter"


def test_a_refusal_within_a_round_belongs_to_the_round(make) -> None:
    federation = make()
    asks = federation.asks(federation.open())
    wrong = replace(Ask.unpack(asks["p0"]), round=2)
    assert "began with" in federation.refusal(TRAIN, wrong.pack())
    (facts,) = _events(federation, "refused")
    assert (facts["asked"], facts["run"], facts["round"]) == ("train", "run-1", 2)


def test_what_can_not_be_written_down_does_not_leave(make, monkeypatch) -> None:
    """Guarantee: an update whose line is not on disk stays here; its cost is counted."""
    federation = make()
    asks = federation.asks(federation.open())
    full = BadInput("expected to write the audit log, found no space", hint="make room")

    def fail(self: Audit, event: str, facts: Any) -> None:
        raise full

    monkeypatch.setattr(Audit, "write", fail)
    found = federation.send(TRAIN, asks["p0"], to="p0")
    assert Refusal.unpack(found).reason == "expected this partner's audit log to be written, found that it can not be"
    assert found.arrays == {}
    assert len(federation.offices["p0"]._budget.events()) == 1
    monkeypatch.undo()
    assert "found another" in federation.refusal(TRAIN, asks["p0"])  # the round is over here


def test_a_broken_log_and_an_older_ledger_end_it_at_the_start(make) -> None:
    federation = make()
    federation.whole(federation.open())
    office, folder = federation.offices["p0"], federation.folders["p0"]
    mark = office.mark()
    office.recall(mark)
    office.recall(b"")
    for foreign in (b"rubbish", Mark(1, bytes(32), 1, bytes(32)).sign(key_of(MALLORY))):
        with pytest.raises(BadInput, match="expected a mark that this partner made"):
            office.recall(foreign)
    assert [facts["reason"] for facts in _events(federation, "mark-refused")] == [
        "expected a mark that this partner made, found another"
    ] * 2
    federation.stop()
    lines = folder.audit.read_bytes().splitlines(keepends=True)
    folder.audit.write_bytes(b"".join([lines[0], lines[1].replace(b"8.0", b"9.0"), *lines[2:]]))
    with pytest.raises(BadInput, match=r"^expected an unbroken audit log, found a line that was changed .* in line 2"):
        Office(Folder.open(folder.path))
    folder.audit.write_bytes(b"".join(lines))
    folder.ledger.rename(folder.ledger.with_name("away"))
    with pytest.raises(Behind, match=r"^expected the ledger that this partner last answered with"):
        Office(Folder.open(folder.path))
    assert [facts["reason"][:48] for facts in _events(federation, "ledger-behind")] == [
        "expected the ledger that this partner last answe"
    ]


def test_a_ledger_edited_while_the_process_runs_ends_it_at_the_next_connection(make) -> None:
    federation = make()
    federation.whole(federation.open())
    office, folder = federation.offices["p0"], federation.folders["p0"]
    mark = office.mark()
    with closing(sqlite3.connect(folder.ledger)) as db, db:
        db.execute("DELETE FROM entry WHERE seq > 1")
    with pytest.raises(Tampered, match="row 3 missing"):
        office.recall(mark)
    assert [facts["reason"][-13:] for facts in _events(federation, "ledger-refused")] == ["row 3 missing"]


def test_a_message_that_ends_in_an_error_is_written_down(make) -> None:
    """A job with a number that nothing reads, and an error that nobody foresaw."""
    federation = make()
    office = federation.offices["p0"]
    kind, parcel = _sent(federation, federation.job, key=SIGNING)[1]
    huge = dict(parcel.scalars) | {"job": '{"name": ' + "1" * 5000 + "}"}
    assert "expected JSON in a message" in federation.refusal(kind, Parcel(parcel.arrays, huge))

    def fail(*_: Any) -> None:
        raise OverflowError

    office._prepare = fail
    message = Message(to_records(parcel), 1, kind, group_id="1.1.x")
    with pytest.raises(OverflowError):
        office.app()(message, Context(1, 1, node_config={}, state=RecordDict(), run_config={}))
    assert [(facts["asked"], facts["reason"][:15]) for facts in _events(federation, "refused")] == [
        ("train", "expected JSON i"),
        ("train", "an error inside"),
    ]


def test_why_an_office_does_not_open_is_written_down(make) -> None:
    federation = make()
    folder = federation.folders["p0"]
    with pytest.raises(BadInput, match="expected no other process"):
        Office(folder)
    federation.whole(federation.open())
    federation.stop()
    with closing(sqlite3.connect(folder.ledger)) as db, db:
        db.execute("UPDATE entry SET run = 'another' WHERE seq = 2")
    with pytest.raises(Tampered, match="row 2 changed"):
        Office(folder)
    assert [facts["reason"][:20] for facts in _events(federation, "not-started")] == ["expected no other pr"]
    assert ["row 2 changed" in facts["reason"] for facts in _events(federation, "ledger-refused")] == [True]


def test_a_ledger_that_is_edited_under_an_office_is_written_down_before_the_process_ends(make) -> None:
    federation = make()
    federation.whole(federation.open())
    with closing(sqlite3.connect(federation.folders["p0"].ledger)) as db, db:
        db.execute("UPDATE entry SET run = 'another' WHERE seq = 3")
    with pytest.raises(Tampered, match="row 3 changed"):
        federation.offices["p0"].mark()
    assert ["row 3 changed" in facts["reason"] for facts in _events(federation, "ledger-refused")] == [True]


def test_a_line_that_a_crash_left_unfinished_keeps_no_office_closed(make) -> None:
    federation = make()
    federation.stop()
    with federation.folders["p0"].audit.open("ab") as file:
        file.write(b'{"seq":9,"at"')
    federation.start()
    assert _events(federation, "log-mended") == [{"bytes_cut": 13}]


def test_the_servers_mark_is_compared_and_an_older_ledger_written_down(make) -> None:
    federation = make()
    federation.whole(federation.open())
    mark = federation.offices["p0"].mark()
    federation.stop()
    folder = federation.folders["p0"]
    folder.ledger.unlink()
    folder.mark.unlink()
    with Office(Folder.open(folder.path)) as office, pytest.raises(Behind):
        office.recall(mark)
    (facts,) = _events(federation, "ledger-behind")
    assert facts["reason"].startswith("expected the ledger that this partner last answered with, of ")
    with pytest.raises(Behind):  # remembered without the server
        Office(Folder.open(folder.path))


def test_a_changed_configuration_is_written_down_key_by_key(make) -> None:
    federation = make()
    federation.stop()
    change(federation.folders["p0"].path, "epsilon_limit = 8.0", "epsilon_limit = 80.0")
    federation.start()
    first, second = _events(federation, "configuration-changed")
    assert first["changed"] == {}
    assert second["changed"] == {"policy.epsilon_limit": [8.0, 80.0]}
    federation.stop()
    federation.start()
    assert len(_events(federation, "configuration-changed")) == 2
    assert len(_events(federation, "started")) == 3


def test_the_servers_words_make_no_lines_of_their_own(make) -> None:
    federation = make()
    job = federation.job.model_copy(update={"task": federation.job.task.model_copy(update={"kind": "x\nALARM: y"})})
    for kind, parcel in _sent(federation, job, key=SIGNING):
        federation.refusal(kind, parcel)
    assert all(entry.facts.get("task", "x ALARM: y") == "x ALARM: y" for entry in _log(federation))


@pytest.mark.parametrize("run", ["", "r" * 65, "two words", "../evil", ".hidden", "ü"])
def test_a_run_that_could_never_be_stated_about_is_refused_at_once(make, run) -> None:
    """Guarantee: whatever a run is called, there can be a statement of all that it was charged."""
    federation = make()
    new = federation.open(run=run)
    ask = federation.ask(new).pack()
    for kind, parcel in ((ADVERTISE, federation.invite(new)), (TRAIN, ask), (EVALUATE, ask), (STATEMENT, ask)):
        said = federation.refusal(kind, parcel)
        assert "expected a run's id of up to 64 letters, digits, dots, hyphens and underscores" in said
    assert _events(federation, "job-offered") == []
    assert federation.offices["p0"]._budget.events() == ()


def test_lines_about_a_step_name_the_step(make, tmp_path) -> None:
    federation = make()
    errand = Errand("step", federation.job, "run-1", 3, False, b"", step=5)
    minutes = Minutes(Audit(tmp_path / "audit.log", key=MALLORY))
    minutes.released("step", errand, row=7, seconds=1.0)
    minutes.refused("step", errand, "no", figures=None)
    minutes.released("train", replace(errand, kind="train", step=None), row=8, seconds=1.0)
    found = Audit(tmp_path / "audit.log", key=MALLORY).entries()
    assert [entry.event for entry in found] == ["step-released", "refused", "update-released"]
    assert [(e.facts["round"], e.facts.get("step")) for e in found] == [(3, 5), (3, 5), (3, None)]
    assert "step" not in found[2].facts
