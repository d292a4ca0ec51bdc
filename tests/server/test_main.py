"""The ServerApp over a run's folder: to the end, stopped, failed, cut off; and nobody is believed about its name."""

from __future__ import annotations

import logging
import time
from datetime import UTC, datetime, timedelta

import httpx
import pytest
from real import Sent, _key
from safetensors.numpy import load_file

from tacit.secagg.keys import identity_of
from tacit_server import main, rounds, runs
from tacit_server.proposal import resolve
from tacit_server.roster import Roster
from tacit_server.setup import init
from tacit_sim.grid import InlineGrid

NOW = datetime.now(UTC)


@pytest.fixture
def make(tmp_path, make_job, make_partners, monkeypatch):
    """Makes a run, and a grid of partners whom the roster knows at nodes 1 to `partners`."""
    monkeypatch.setattr(rounds, "_LOOK", 0.02)
    monkeypatch.setattr(main, "_LOOK", 0.02)
    folder = init(tmp_path / "srv", host="localhost")

    def go(*overrides: str, partners: int = 3, known: int = 3, **changes) -> tuple[runs.Run, InlineGrid]:
        shape = "task.labels=['a', 'b']", "task.options.shape=[8, 8]", "aggregation.secure=true"
        job = resolve(make_job(*shape, *overrides), None).job
        grid = make_partners(**changes).grid(partners)
        roster = Roster(folder.roster_path)
        for place in range(known):
            _enrol(roster, f"p{place}", node=place + 1)
        return runs.submit(folder.runs, job, name=None, test=None), grid

    return go


def _enrol(roster: Roster, name: str, *, node: int) -> None:
    roster.invite(name, fingerprint=name, expires=NOW + timedelta(days=1))
    identity = identity_of(_key(name))
    roster.enrol(name=name, invitation=name, identity=identity, key_hash="k", certificate_fingerprint="c", now=NOW)
    roster.node(name, session="s", node=node, now=NOW)


def _log(run: runs.Run) -> str:
    return (run.path / "run.log").read_text()


def test_a_run_to_its_end(make):
    run, grid = make()
    main.serve(grid, run.path, flower_run=7)
    standing = run.standing
    assert (standing.phase, standing.round, standing.flower_run, standing.message) == ("finished", 2, 7, "")
    assert not run.live()
    made = {path.name for path in run.path.iterdir()}
    assert {"result.json", "report.html", "model.safetensors", "history.jsonl", "run.log"} <= made
    assert [line.split(" INFO ")[1].split(";")[0] for line in _log(run).splitlines()] == [
        "attempt 1, from round 1 of 2",
        "round 1 done",
        "round 2 done",
        "finished after round 2",
    ]
    assert logging.getLogger().handlers == [h for h in logging.getLogger().handlers if "run.log" not in str(h)]
    main.serve(grid, run.path, flower_run=8)  # killed before it could say so: nothing is done twice
    assert run.standing.phase == "finished"
    assert "attempt 2, from round 3 of 2" in _log(run)


def test_who_says_another_name_than_the_roster_is_left_out_and_named(make):
    run, grid = make("training.rounds=1", partners=4, known=4)
    roster = Roster(run.path.parent.parent / "roster.db")
    roster.forget_node(2)
    main.serve(grid, run.path, flower_run=7)
    assert "left out: expected nobody with its own key at node 2, found one that calls itself p1" in _log(run)
    assert "round 1 done; 3 of 3 answered" in _log(run)


def test_a_removed_partner_takes_part_no_more(make, monkeypatch):
    monkeypatch.setattr(main, "_FRESH", 0.0)

    def meddle(sent: Sent):
        if sent.kind == "train" and sent.group.startswith("1."):
            roster = Roster(run.path.parent.parent / "roster.db")
            if "p3" in {row.name for row in roster.partners() if row.state == "active"}:
                roster.remove("p3")
        return sent.parcel

    run, grid = make(partners=4, known=4, meddle=meddle)
    main.serve(grid, run.path, flower_run=7)
    assert "round 1 done; 4 of 4 answered" in _log(run)
    assert "round 2 done; 3 of 3 answered" in _log(run)


def test_stopped_before_it_begins(make):
    run, grid = make()
    runs.stop(run)
    main.serve(grid, run.path, flower_run=7)
    assert (run.standing.phase, run.standing.round) == ("stopped", 0)


def test_stopped_in_a_round_and_resumed(make):
    def meddle(sent: Sent):
        if sent.group.startswith("2.1.") and run.order.wanted == "run":
            runs.stop(run)
            time.sleep(0.2)
        return sent.parcel

    run, grid = make("training.rounds=3", meddle=meddle)
    main.serve(grid, run.path, flower_run=7)
    assert (run.standing.phase, run.standing.round) == ("stopped", 1)
    assert _log(run).endswith("stopped\n")
    runs.resume(run)
    main.serve(grid, run.path, flower_run=8)
    assert (run.standing.phase, run.standing.round) == ("finished", 3)
    assert "attempt 2, from round 2 of 3" in _log(run)


def test_too_few_partners_are_waited_for_and_then_the_run_fails(make):
    seen = []
    run, grid = make("aggregation.round_timeout=0.1", "training.max_failed_rounds=1", partners=2, known=2)
    stand = runs.Run.stand

    def noted(self, standing):
        seen.append((standing.phase, standing.message))
        stand(self, standing)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(runs.Run, "stand", noted)
        main.serve(grid, run.path, flower_run=7)
    assert ("waiting", "waiting for partners: 2 of 3") in seen
    assert seen[-1][0] == "failed"
    assert "expected at least 3 partners, found 2" in run.standing.message
    assert run.standing.round == 2
    assert "round 1 abandoned; 0 of 0 answered; expected at least 3 partners, found 2" in _log(run)


class _Cut(InlineGrid):
    """A grid whose SuperLink goes away at some message."""

    left = 40

    def pull_messages(self, message_ids):
        self.left -= 1
        if self.left < 0:
            raise httpx.ConnectError("connection refused")
        return super().pull_messages(message_ids)


def test_a_superlink_that_goes_away_is_no_failure(make):
    run, grid = make("training.rounds=20")
    grid.__class__ = _Cut
    main.serve(grid, run.path, flower_run=7)
    assert run.standing.phase == "running"
    assert not run.live()
    assert _log(run).endswith("the SuperLink is gone or has ended this run: ConnectError\n")
    assert "Traceback" not in _log(run)


def test_what_nobody_foresaw_is_in_the_log_and_goes_on_its_way(make, monkeypatch):
    run, grid = make()

    def broken(*args, **kwargs):
        raise ZeroDivisionError("a fault of ours")

    monkeypatch.setattr(main, "federate", broken)
    with pytest.raises(ZeroDivisionError):
        main.serve(grid, run.path, flower_run=7)
    assert "ended by ZeroDivisionError" in _log(run)
    assert "a fault of ours" in _log(run)
    assert run.standing.phase == "running"  # the supervisor starts it again


def test_an_interrupt_that_nobody_ordered_is_no_stop(make, monkeypatch):
    def interrupted(*args, **kwargs):
        raise KeyboardInterrupt

    run, grid = make()
    monkeypatch.setattr(main, "federate", interrupted)
    with pytest.raises(KeyboardInterrupt):
        main.serve(grid, run.path, flower_run=7)
    assert run.standing.phase == "running"


def test_a_second_process_leaves_the_run_alone(make, monkeypatch):
    monkeypatch.setattr(main, "_LOCK_PATIENCE", 0.1)
    run, grid = make()
    with main._locked(run):
        main.serve(grid, run.path, flower_run=7)
    assert run.standing.phase == "queued"
    assert "not begun: expected no other process at the run small" in _log(run)


def test_another_package_of_the_task_is_a_failure(make):
    run, grid = make()
    path = run.path / "job.resolved.toml"
    path.write_text(path.read_text().replace('package = "tacit"', 'package = "other==1"'))
    main.serve(grid, run.path, flower_run=7)
    assert run.standing.phase == "failed"
    assert "expected the task image-classification of other==1, found tacit" in run.standing.message


def test_first_weights_differ_from_run_to_run(make, monkeypatch):
    monkeypatch.setattr(main, "federate", lambda grid, setup, state: state)
    models = []
    for _ in range(2):
        run, grid = make(known=0)
        main.serve(grid, run.path, flower_run=7)
        models.append(load_file(run.path / "model.safetensors"))
    assert models[0].keys() == models[1].keys()
    assert any((models[0][name] != models[1][name]).any() for name in models[0])
