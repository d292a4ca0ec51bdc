"""Run folders: complete at once, named once, and told apart by their lock."""

from __future__ import annotations

import json
import multiprocessing
import os

import pytest

from tacit.errors import BadInput
from tacit.lock import take
from tacit_server import runs
from tacit_server.output import RESOLVED
from tacit_server.runs import Run, RunStanding, TestSet


@pytest.fixture
def submitted(tmp_path, make_job):
    """Submits the small job."""

    def go(name: str | None = None, test: TestSet | None = None) -> Run:
        return runs.submit(tmp_path / "runs", make_job(), name=name, test=test)

    return go


def test_a_new_run_is_queued_and_holds_its_job(submitted, make_job):
    run = submitted(test=TestSet(path="/data/test.csv", label="diagnosis"))
    assert (run.name, run.standing.phase, run.standing.round) == ("small", "queued", 0)
    assert run.job == make_job()
    assert run.order.test == TestSet(path="/data/test.csv", label="diagnosis")
    assert run.order.wanted == "run"
    assert len(bytes.fromhex(run.order.run)) == 16
    assert sorted(os.listdir(run.path)) == [RESOLVED, "run.json", "state.json"]
    found = json.loads((run.path / "run.json").read_text())
    assert found["schema"] == 1
    assert set(found) == {"schema", "run", "name", "submitted", "wanted", "test", "device"}


def test_names_are_numbered_and_ids_differ(submitted, tmp_path):
    made = [submitted() for _ in range(3)]
    assert [run.name for run in made] == ["small", "small-2", "small-3"]
    assert [run.order.name for run in made] == ["small", "small-2", "small-3"]
    assert len({run.order.run for run in made}) == 3
    assert [run.name for run in runs.list_runs(tmp_path / "runs")] == ["small", "small-2", "small-3"]


@pytest.mark.parametrize("name", ["small", "../up", "", ".hidden", "a/b", "x" * 65])
def test_a_name_that_is_taken_or_none_is_refused_and_leaves_nothing(submitted, tmp_path, name):
    submitted()
    with pytest.raises(BadInput, match=r"^expected a "):
        submitted(name)
    assert os.listdir(tmp_path / "runs") == ["small"]


def _submit(folder, job, barrier) -> None:
    barrier.wait()
    runs.submit(folder, job, name=None, test=None)


def test_those_who_submit_at_the_same_moment_get_folders_of_their_own(tmp_path, make_job):
    method = multiprocessing.get_context("fork")
    barrier = method.Barrier(4)
    processes = [method.Process(target=_submit, args=(tmp_path / "runs", make_job(), barrier)) for _ in range(4)]
    for process in processes:
        process.start()
    for process in processes:
        process.join(30)
    assert [process.exitcode for process in processes] == [0] * 4
    assert len(os.listdir(tmp_path / "runs")) == 4
    assert len({run.order.run for run in runs.list_runs(tmp_path / "runs")}) == 4


def test_stop_and_resume_change_what_is_wanted(submitted):
    run = submitted()
    runs.stop(run)
    assert (run.order.wanted, run.standing.phase) == ("stop", "queued")
    run.stand(RunStanding(phase="stopped", round=3, stalls=2, message="x"))
    with pytest.raises(BadInput, match="found small stopped"):
        runs.stop(run)
    runs.resume(run)
    standing = run.standing
    assert (run.order.wanted, standing.phase, standing.round) == ("run", "queued", 3)
    assert (standing.stalls, standing.message) == (0, "")


def test_a_run_that_goes_on_is_not_queued_again(submitted):
    run = submitted()
    run.stand(RunStanding(phase="running", round=3))
    runs.resume(run)
    assert run.standing.phase == "running"


def test_a_finished_run_is_over(submitted):
    run = submitted()
    run.stand(RunStanding(phase="finished"))
    with pytest.raises(BadInput, match="found small finished"):
        runs.resume(run)
    with pytest.raises(BadInput, match="found small finished"):
        runs.stop(run)


def test_a_run_lives_while_its_lock_is_held(submitted):
    run = submitted()
    assert not run.live()
    with take(run.lock, what="x"):
        assert run.live()
    assert not run.live()


def test_the_newest_run_is_found_where_none_is_named(submitted, tmp_path):
    with pytest.raises(BadInput, match=r"^expected a run in .*, found none$"):
        runs.find(tmp_path / "runs", None)
    submitted("b")
    submitted("a")
    assert runs.find(tmp_path / "runs", None).name == "a"
    assert runs.find(tmp_path / "runs", "b").name == "b"
    with pytest.raises(BadInput, match=r"expected the run c in .*, found b, a"):
        runs.find(tmp_path / "runs", "c")


@pytest.mark.parametrize(
    "text", ["", "{}", "[1]", '{"schema": 2}', '{"schema": 1, "phase": "odd"}', '{"schema": 1, "x": 1}']
)
def test_a_damaged_state_is_bad_input(submitted, text):
    run = submitted()
    (run.path / "state.json").write_text(text)
    with pytest.raises(BadInput, match=r"^expected "):
        _ = run.standing


def test_a_change_replaces_the_whole_file(submitted):
    run = submitted()
    before = (run.path / "state.json").stat().st_ino
    run.stand(RunStanding(phase="failed", message="why"))
    assert (run.path / "state.json").stat().st_ino != before
    assert run.standing.message == "why"
    assert run.standing.updated
