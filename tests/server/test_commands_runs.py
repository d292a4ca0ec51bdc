"""The operator's commands about runs, as typed."""

from __future__ import annotations

import json
import threading
from collections.abc import Callable

import numpy as np
import pytest

from tacit.seal import read_key
from tacit_server import runs
from tacit_server.checkpoint import RunState
from tacit_server.cli import main
from tacit_server.output import Output
from tacit_server.runs import Run, RunStanding
from tacit_server.setup import init


@pytest.fixture
def folder(tmp_path):
    return init(tmp_path / "srv", host="localhost")


@pytest.fixture
def call(capsys, folder) -> Callable[..., tuple[int, str, str]]:
    """Runs `tacit-server COMMAND DIR ...` in process."""

    def go(command: str, *argv: object) -> tuple[int, str, str]:
        capsys.readouterr()
        code = main([command, str(folder.path), *map(str, argv)])
        return code, *capsys.readouterr()

    return go


@pytest.fixture
def test_set(tmp_path):
    path = tmp_path / "test.npz"
    pixels = np.random.default_rng(0).integers(0, 256, size=(20, 8, 8), dtype=np.uint8)
    np.savez(path, image=pixels, label=np.array(["yes", "no"] * 10))
    return path


@pytest.fixture
def run(folder, make_job) -> Run:
    return runs.submit(folder.runs, make_job(), name=None, test=None)


def _refused(found: tuple[int, str, str], words: str) -> None:
    code, out, err = found
    assert (code, out) == (2, "")
    assert [line.partition(": ")[0] for line in err.splitlines()] == ["error", "hint"]
    assert words in err


def test_a_job_is_submitted_with_all_that_the_test_set_tells(call, job_file, test_set, folder):
    code, out, err = call("run", job_file(), "--test", test_set, "--label", "label", "--set", "training.rounds=7")
    assert (code, err) == (0, "")
    run = runs.find(folder.runs, "small")
    assert run.job.training.rounds == 7
    assert run.job.task.labels == ("no", "yes")
    assert (run.order.test.path, run.order.test.label) == (str(test_set), "label")
    assert str(run.path) in out
    assert "waits for tacit-server up" in out


WRONG = {
    "no test set and no names": ((), "task.labels"),
    "no such job": (("--set", "training.epochs=3"), "training.epochs"),
    "no such test set": (("--test", "/nowhere.npz"), "found nothing there"),
    "no such device": (("--device", "abacus"), "found abacus"),
    "threshold of half": (("--set", "aggregation.secure=true", "--set", "aggregation.threshold=1"), "found 1"),
}


@pytest.mark.parametrize("fault", WRONG)
def test_a_wrong_job_is_refused_and_leaves_nothing(call, job_file, folder, fault):
    argv, words = WRONG[fault]
    _refused(call("run", job_file(), *argv), words)
    assert list(folder.runs.glob("*")) == []


@pytest.mark.parametrize("command", ["up", "run", "status", "stop", "resume", "report", "export"])
def test_no_server_folder_is_told(capsys, tmp_path, job_file, command):
    more = {"run": [str(job_file())], "export": ["--out", "x"]}.get(command, [])
    _refused((main([command, str(tmp_path), *more]), *capsys.readouterr()), "found no server.toml")


def test_stop_and_resume(call, run):
    assert call("stop")[0] == 0
    assert run.order.wanted == "stop"
    run.stand(RunStanding(phase="stopped", round=4))
    _refused(call("stop"), "found small stopped")
    code, out, _ = call("resume", "small")
    assert (code, out) == (0, "small goes on from round 5\n")
    assert (run.order.wanted, run.standing.phase) == ("run", "queued")


def test_status_as_words_and_as_json(call, run):
    code, out, _ = call("status")
    assert code == 0
    assert "small" in out
    found = json.loads(call("status", "--json")[1])
    assert (found["schema"], found["run"]["phase"]) == (1, "queued")
    _refused(call("status", "other"), "expected the run other, found small")


def test_watching_goes_on_until_ctrl_c(call, run, monkeypatch):
    from tacit_server import commands_runs

    pauses = iter([None, None, KeyboardInterrupt()])

    def sleep(seconds: float) -> None:
        if (error := next(pauses)) is not None:
            raise error

    monkeypatch.setattr(commands_runs.time, "sleep", sleep)
    code, out, err = call("status", "--watch")
    assert (code, err) == (0, "")
    assert out.count("small") >= 3


@pytest.mark.parametrize(("phase", "code"), [("finished", 0), ("failed", 1), ("stopped", 1)])
def test_waiting_ends_with_the_run(call, job_file, folder, phase, code):
    def finish() -> None:
        run = runs.find(folder.runs, None)
        (run.path / "history.jsonl").write_text(json.dumps(_line(1)) + "\n")
        run.stand(RunStanding(phase=phase, message="for a reason" if phase == "failed" else ""))

    timer = threading.Timer(0.5, finish)
    timer.start()
    argv = ["--set", "task.labels=['a', 'b']", "--set", "task.options.shape=[8, 8]", "--wait"]
    found, out, err = call("run", job_file(), *argv)
    timer.join()
    assert found == code
    assert "round 1 done; 3 of 3 answered" in out
    assert ("for a reason" in err) == (phase == "failed")
    assert err.count("\n") == (0 if code == 0 else 2)


def _line(number: int) -> dict:
    seconds = {"train": 1.0, "secagg": 0.0, "aggregate": 0.0, "evaluate": 0.0}
    scores = {"examples": 2, "accuracy": 0.5, "loss": 1.0, "macro_f1": 0.5, "confusion": [[1, 0], [1, 0]]}
    return {
        "round": number,
        "attempt": 1,
        "status": "done",
        "reason": None,
        "asked": 3,
        "needed": 2,
        "answered": 3,
        "clipped": 0,
        "dropouts": [],
        "failures": {},
        "refusals": {},
        "test": scores,
        "federated": None,
        "epsilon_by_partner": {"a": 0.5},
        "seconds": seconds,
        "round_seconds": 1.0,
        "partner_seconds": 1.0,
    }


def test_a_report_of_a_run_that_has_not_finished(call, run, folder):
    _refused(call("report"), "expected a round that is over")
    state = RunState(run="r", job_hash=run.job.hash(), vector=np.zeros(7, np.float32), round=1, history=(_line(1),))
    Output(run.path, key=read_key(folder.seal_key)).keep(state)
    before = (run.path / "checkpoint.safetensors").read_bytes()
    code, out, err = call("report")
    assert (code, err) == (0, "")
    page = run.path / "report.html"
    assert out == f"{page}\n"
    assert "<html" in page.read_text()
    assert (run.path / "checkpoint.safetensors").read_bytes() == before
    page.write_text("as it was at the end")
    (run.path / "result.json").write_text("{}")
    assert call("report")[0] == 0
    assert page.read_text() == "as it was at the end"


def test_the_model_of_a_run_is_exported(call, folder, job_file, test_set, tmp_path):
    call("run", job_file(), "--test", test_set)
    run = runs.find(folder.runs, None)
    _refused(call("export", "--out", tmp_path / "m.safetensors"), "expected")
    from tacit import vector as vectors
    from tacit_server.proposal import plan

    vector = vectors.flatten(plan(run.job, None).network())
    state = RunState(run="r", job_hash=run.job.hash(), vector=vector, round=1)
    Output(run.path, key=read_key(folder.seal_key)).keep(state)
    code, _, err = call("export", "--format", "safetensors", "--out", tmp_path / "m.safetensors")
    assert (code, err) == (0, "")
    assert (tmp_path / "m.safetensors").stat().st_size > 4 * len(vector)


def test_every_command_has_help(capsys):
    for command in (
        "up",
        "run",
        "status",
        "stop",
        "resume",
        "report",
        "export",
        "init",
        "invite",
        "partners",
        "remove",
    ):
        with pytest.raises(SystemExit) as ended:
            main([command, "--help"])
        assert ended.value.code == 0
        assert "DIR" in capsys.readouterr().out
