"""A partner's statement: all that its ledger holds of a run, kept and sent; made again without the server."""

from __future__ import annotations

import json
import os
import sqlite3
import stat
from datetime import UTC, datetime, timedelta

import pytest
import torch
from folders import SIGNING, change
from offices import NAMES, PLANTED, RUN

from tacit.attestation import canonical, load
from tacit.errors import BadInput
from tacit.privacy.accounting import epsilon
from tacit.privacy.events import Event
from tacit.secagg.keys import identity_of
from tacit.verification import Known, verify
from tacit.wire import STATEMENT, TRAIN, Statement
from tacit_client import cli
from tacit_client import statement as module
from tacit_client.audit import Audit
from tacit_client.keys import Keys
from tacit_client.ledger import Release
from tacit_client.site import Folder
from tacit_client.statement import entries, job_of, state

torch.set_num_threads(1)


def _say(federation, name="p0"):
    ask = federation.ask(federation.open(number=2)).pack()
    return Statement.unpack(federation.send(STATEMENT, ask, to=name))


def _known(federation):
    return Known(identity_of(SIGNING), {n: Keys(f.keys).public for n, f in federation.folders.items()}, "the roster")


def _events(folder):
    return [entry.event for entry in Audit.of(folder).entries()]


def test_after_a_run_every_partner_has_a_statement_and_the_server_the_same(make, capsys):
    federation = make()
    for number in (1, 2):
        federation.whole(federation.open(number=number))
    for name in NAMES:
        folder, said = federation.folders[name], _say(federation, name)
        path = folder.statements / f"{RUN}.json"
        value = load(said.signed, where="it")
        assert canonical(load(path.read_bytes(), where="it")) == said.signed
        found = verify(value, where="it", known=_known(federation))
        assert [each for each in found if each.holds is not True] == []
        assert [(each["round"], each["attempt"], each["state"]) for each in value["releases"]] == [
            (1, 1, "released"),
            (2, 1, "released"),
        ]
        assert value["privacy"]["epsilon"] == epsilon(said.events, delta=1e-5)
        assert (value["name"], value["run"]["job"]) == (name, federation.job.agreed())
        assert _events(folder).count("statement-made") == 1
        assert _events(folder)[-1] == "statement-released"
        html = path.with_suffix(".html").read_text(encoding="utf-8")
        assert "Over all runs" in html
        assert {stat.S_IMODE(file.stat().st_mode) for file in folder.statements.rglob("*.*")} == {0o600}
        for text in (said.signed.decode(), html):
            assert PLANTED not in text
            assert str(folder.path) not in text
            assert federation.offices[name]._data.fingerprint[:12] not in text
        assert b"Over all runs" not in said.signed
        for key in ("limit", "spent", "budget", "fingerprint", "dataset"):
            assert f'"{key}"'.encode() not in said.signed
        assert cli.main(["verify-statement", str(path), "--dir", str(folder.path)]) == 0
    assert "FAILS" not in capsys.readouterr().out


def test_asked_again_it_says_the_same_and_a_new_round_makes_a_new_one(make):
    federation = make()
    federation.whole(federation.open())
    first = _say(federation)
    assert _say(federation).signed == first.signed
    assert _events(federation.folders["p0"]).count("statement-made") == 1
    federation.whole(federation.open(number=2))
    second = load(_say(federation).signed, where="it")
    assert len(second["releases"]) == 2
    assert _events(federation.folders["p0"]).count("statement-made") == 2


def test_a_round_that_was_charged_and_not_finished_is_told_and_counts(make, monkeypatch):
    federation = make()
    asks = federation.asks(federation.open())

    def fail(*args, **rest):
        raise torch.OutOfMemoryError

    with monkeypatch.context() as patch:
        patch.setattr("tacit_client.train.Trainer.train", fail)
        federation.refusal(TRAIN, asks["p0"])
    federation.whole(federation.open(number=2))
    value = load(_say(federation).signed, where="it")
    assert [(each["round"], each["state"]) for each in value["releases"]] == [(1, "reserved"), (2, "released")]
    assert value["privacy"]["epsilon"] == epsilon(_say(federation).events, delta=1e-5)
    assert "reserved, not finished" in (federation.folders["p0"].statements / f"{RUN}.html").read_text()


def test_two_reservations_of_one_round_are_two_releases(make):
    federation = make()
    federation.whole(federation.open())
    folder, budget = federation.folders["p0"], federation.offices["p0"]._budget
    budget.reserve(Release(RUN, 1, 1, budget.events()[0], job=federation.job.hash()))
    value = load(state(folder, run=RUN, job=federation.job), where="it")
    assert [each["state"] for each in value["releases"]] == ["released", "reserved"]


def test_training_that_was_not_finished_is_told_apart_from_the_evaluation_of_its_round(make):
    federation = make()
    federation.whole(federation.open())
    folder, budget = federation.folders["p0"], federation.offices["p0"]._budget
    training = budget.events()[0]
    judging = Event(kind="metrics", sampling_rate=1.0, noise_multiplier=90.0, steps=1)
    budget.reserve(Release(RUN, 2, 1, training, job=federation.job.hash()))
    judged = Release(RUN, 2, 1, judging, job=federation.job.hash())
    budget.reserve(judged)
    budget.confirm(judged)
    value = load(state(folder, run=RUN, job=federation.job), where="it")
    assert [(each["round"], each["event"]["kind"], each["state"]) for each in value["releases"]] == [
        (1, "dp-sgd", "released"),
        (2, "dp-sgd", "reserved"),
        (2, "metrics", "released"),
    ]


def test_without_the_server_the_command_makes_it_from_what_is_kept(make, capsys):
    federation = make()
    federation.whole(federation.open())
    federation.stop()
    folder = federation.folders["p0"]
    os.rename(folder.data, folder.path / "elsewhere")  # no data is read
    assert cli.main(["statement", str(folder.path)]) == 0
    assert f"{RUN}      1 releases  no statement yet" in capsys.readouterr().out
    assert cli.main(["statement", str(folder.path), RUN[:3]]) == 0
    path = folder.statements / f"{RUN}.json"
    assert capsys.readouterr().out.splitlines() == [str(path), str(path.with_suffix(".html"))]
    value = json.loads(path.read_bytes())
    assert (len(value["releases"]), value["run"]["job_hash"]) == (1, federation.job.hash())
    assert [each.holds for each in verify(value, where="it", known=_known(federation))] == [True] * 6
    assert cli.main(["statement", str(folder.path)]) == 0
    assert str(path) in capsys.readouterr().out


def test_a_run_that_nobody_granted_has_none(make, capsys):
    folder = make(started=False).folders["p0"]
    assert cli.main(["statement", str(folder.path)]) == 0
    assert capsys.readouterr().out == "no run has been granted here\n"
    assert cli.main(["statement", str(folder.path), "other"]) == 2
    assert "error: expected the id of one run, found other, which fits 0" in capsys.readouterr().err
    assert entries(folder) == ()


def test_the_job_that_was_granted_and_no_other(make):
    federation = make()
    federation.whole(federation.open())
    folder = federation.folders["p0"]
    assert job_of(folder, RUN).hash() == federation.job.hash()
    path = folder.statements / "jobs" / f"{federation.job.hash()}.json"
    content = path.read_bytes()
    path.write_bytes(content.replace(b'"rounds":2', b'"rounds":1'))
    assert path.read_bytes() != content
    with pytest.raises(BadInput, match="expected the job that was granted at"):
        job_of(folder, RUN)
    path.unlink()
    with pytest.raises(BadInput, match="found none"):
        job_of(folder, RUN)
    other = federation.job.model_copy(update={"name": "other"})
    with pytest.raises(BadInput, match="expected releases for the job"):
        state(folder, run=RUN, job=other)


def test_a_tampered_ledger_makes_no_statement(make):
    federation = make()
    federation.whole(federation.open())
    federation.stop()
    folder = federation.folders["p0"]
    with sqlite3.connect(folder.ledger) as db:
        db.execute("UPDATE entry SET event = replace(event, '\"steps\": 2', '\"steps\": 1')")
    db.close()
    with pytest.raises(BadInput, match="expected the privacy ledger"):
        state(folder, run=RUN, job=federation.job)
    assert not (folder.statements / f"{RUN}.json").exists()


@pytest.mark.parametrize("run", ["../evil", "a/b", ".hidden", "", "x" * 65, "a\n"])
def test_a_run_whose_id_is_a_path_writes_nothing(make, run):
    federation = make(started=False)
    folder = federation.folders["p0"]
    with pytest.raises(BadInput, match="expected a run's id of up to 64 letters"):
        state(folder, run=run, job=federation.job)
    assert list(folder.path.rglob("*.html")) == []
    assert not (folder.path / "evil.json").exists()


def test_a_statement_that_was_edited_on_disk_is_made_anew(make):
    federation = make()
    federation.whole(federation.open())
    folder, job, later = federation.folders["p0"], federation.job, datetime.now(UTC) + timedelta(days=1)
    first = state(folder, run=RUN, job=job)
    path = folder.statements / f"{RUN}.json"
    assert state(folder, run=RUN, job=job, clock=lambda: later) == first
    path.write_bytes(path.read_bytes().replace(b'"made": "20', b'"made": "19'))
    second = load(state(folder, run=RUN, job=job, clock=lambda: later), where="it")
    assert second["made"] == f"{later:%Y-%m-%dT%H:%MZ}"
    path.write_bytes(b"")
    assert load(state(folder, run=RUN, job=job, clock=lambda: later), where="it") == second


def test_what_can_not_be_kept_is_not_sent(make, monkeypatch):
    federation = make()
    federation.whole(federation.open())
    real = module.keyfile.write

    def full(path, content):
        if path.suffix == ".json":
            raise BadInput(f"expected to write {path}, found no space left", hint="make room")
        real(path, content)

    monkeypatch.setattr(module.keyfile, "write", full)
    assert "no space left" in federation.refusal(STATEMENT, federation.ask(federation.open(number=2)).pack())


def test_a_statement_about_a_job_that_was_not_granted_is_refused(make):
    federation = make()
    federation.whole(federation.open())
    federation.job = federation.job.model_copy(update={"name": "other"})
    ask = federation.ask(federation.open(number=2)).pack()
    assert "expected the job that this partner granted for the run" in federation.refusal(STATEMENT, ask)


def test_no_example_is_read_for_a_statement(make, monkeypatch):
    federation = make()
    federation.whole(federation.open())
    monkeypatch.setattr("tacit.data.files.read", lambda *args, **rest: pytest.fail("read the data"))
    monkeypatch.setattr("tacit_client.office.Office._build", lambda *args: pytest.fail("built a network"))
    assert len(load(_say(federation).signed, where="it")["releases"]) == 1


def test_verifying_on_the_partners_side(make, capsys, tmp_path):
    federation = make()
    federation.whole(federation.open())
    said = _say(federation)
    p1 = federation.folders["p1"].path
    path = tmp_path / "statement.json"

    def verdict(value, *words) -> tuple[int, str]:
        path.write_bytes(canonical(value))
        code = cli.main(["verify-statement", str(path), *words])
        return code, capsys.readouterr().out

    value = load(said.signed, where="it")
    assert verdict(value)[0] == 0
    assert "not compared" in verdict(value)[1]
    code, out = verdict(value, "--dir", str(p1))
    assert (code, out.count("holds")) == (0, 6)
    code, out = verdict({**value, "privacy": {**value["privacy"], "epsilon": 0.1}}, "--dir", str(p1))
    assert code == 1
    assert "FAILS  signature" in out
    assert "FAILS  epsilon" in out
    other = Folder.open(p1)
    peers = (p1 / "peers.toml").read_text()
    (p1 / "peers.toml").write_text("\n".join(line for line in peers.splitlines() if not line.startswith("p0")))
    code, out = verdict(value, "--dir", str(p1))
    assert code == 1
    assert "FAILS  key of p0: expected a key that" in out
    change(other.path, "trust_new_peers = false", "trust_new_peers = true")
    assert verdict(value, "--dir", str(p1))[0] == 0  # the server names it, and here that counts
    path.write_bytes(b"PK")
    assert cli.main(["verify-statement", str(path)]) == 2


def test_a_statement_that_the_log_does_not_hear_of_is_not_made(make, monkeypatch):
    """Whichever of the two a crash keeps from the disk, every statement there is has its line."""
    federation = make()
    federation.whole(federation.open())
    federation.stop()
    folder = federation.folders["p0"]
    path = folder.statements / f"{RUN}.json"

    def full(self, event, facts):
        raise BadInput("expected to write the audit log, found no space", hint="make room")

    with monkeypatch.context() as patch:
        patch.setattr(Audit, "write", full)
        with pytest.raises(BadInput, match="no space"):
            state(folder, run=RUN, job=federation.job)
    assert not path.exists()
    state(folder, run=RUN, job=federation.job)
    assert path.exists()
    assert _events(folder).count("statement-made") == 1
