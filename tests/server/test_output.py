"""The output folder: empty before, complete after, and result.json last."""

from __future__ import annotations

import json
import tomllib

import numpy as np
import pytest
from safetensors.numpy import load_file

from tacit.check import parse
from tacit.errors import BadInput
from tacit.job import Job
from tacit.seal import Key, is_sealed
from tacit_server import output as module
from tacit_server.checkpoint import RunState
from tacit_server.output import CHECKPOINT, Output, resolved_toml
from tacit_server.result import result


def _state(job: Job) -> RunState:
    seconds = {"train": 0.5, "secagg": 0.1, "aggregate": 0.1, "evaluate": 0.1}
    line = {
        "round": 1,
        "attempt": 1,
        "status": "done",
        "reason": None,
        "asked": 3,
        "needed": 3,
        "answered": 3,
        "clipped": 0,
        "dropouts": [],
        "failures": {},
        "refusals": {},
        "test": None,
        "federated": None,
        "epsilon_by_partner": {},
        "seconds": seconds,
        "round_seconds": 1.0,
        "partner_seconds": 0.4,
    }
    return RunState(run="r", job_hash=job.hash(), vector=np.arange(6, dtype=np.float32), round=1, history=(line,))


def _finish(output: Output, job: Job, *, best: bool = False) -> dict:
    state = _state(job)
    summary = result(job, state, engine="inline", seed=0, parameters=6, secure_noise=False, data={}, wall_s=1.0)
    model = {"w": state.vector.reshape(2, 3).T, "b": state.vector[::2]}
    output.finish(job, state, result=summary, model=model, best=model if best else None)
    return summary


def test_the_resolved_job_is_the_job(make_job):
    job = make_job("task.options.shape=[8,8]", "privacy.delta=1e-5")
    assert parse(Job, tomllib.loads(resolved_toml(job)), where="it") == job


@pytest.mark.parametrize("best", [True, False])
def test_a_finished_run_leaves_everything(make_job, tmp_path, best):
    job, output = make_job(), Output(tmp_path / "a" / "b")
    output.create(job)
    summary = _finish(output, job, best=best)
    names = {path.name for path in output.path.iterdir()}
    expected = {
        "job.resolved.toml",
        "model.safetensors",
        "checkpoint.safetensors",
        "history.jsonl",
        "result.json",
        "report.html",
        "tensorboard",
    }
    assert names == expected | ({"best.safetensors"} if best else set())
    assert json.loads((output.path / "result.json").read_text(encoding="utf-8")) == summary
    lines = (output.path / "history.jsonl").read_text(encoding="utf-8").splitlines()
    assert [json.loads(line)["round"] for line in lines] == [1]
    model = load_file(output.path / "model.safetensors")
    assert model["w"].tolist() == [[0, 3], [1, 4], [2, 5]]
    assert model["b"].tolist() == [0, 2, 4]


def test_result_json_is_written_last(make_job, tmp_path, monkeypatch):
    job, output = make_job(), Output(tmp_path / "run")
    output.create(job)
    written = []
    real = module.checkpoint.write_atomic
    monkeypatch.setattr(
        module.checkpoint, "write_atomic", lambda p, c, **rest: (written.append(p.name), real(p, c, **rest))
    )
    for name in ("events", "report"):
        write = getattr(module, name).write

        def note(path, _write=write, **rest):
            written.append(path.name)
            return _write(path, **rest)

        monkeypatch.setattr(getattr(module, name), "write", note)
    _finish(output, job)
    assert len(written) >= 5
    assert written[-1] == "result.json"
    assert written.count("result.json") == 1


def test_a_folder_with_files_is_refused_and_left_alone(make_job, tmp_path):
    (tmp_path / "mine.txt").write_text("mine", encoding="utf-8")
    with pytest.raises(BadInput, match=r"^expected an empty output folder, found files in ") as caught:
        Output(tmp_path).create(make_job())
    assert "--resume" in caught.value.hint
    assert [path.name for path in tmp_path.iterdir()] == ["mine.txt"]


def test_a_file_in_place_of_the_folder_is_refused(make_job, tmp_path):
    (tmp_path / "file").write_text("", encoding="utf-8")
    for path in (tmp_path / "file", tmp_path / "file" / "run"):
        with pytest.raises(BadInput, match=r"^expected an output folder that can be written, found "):
            Output(path).create(make_job())


def test_the_last_state_is_the_one_kept(make_job, tmp_path):
    job, output = make_job(), Output(tmp_path / "run")
    output.create(job)
    output.keep(_state(job))
    assert output.last(job).vector.tolist() == [0, 1, 2, 3, 4, 5]
    assert (output.path / CHECKPOINT).is_file()
    with pytest.raises(BadInput, match=r"^expected a checkpoint of job "):
        output.last(make_job("training.rounds=77"))
    for other in ("simulation.seed=77", "simulation.dataset=mnist"):
        with pytest.raises(
            BadInput, match=rf"^expected {other.partition('=')[0]} = .* found {other.partition('=')[2]}$"
        ):
            output.last(make_job(other))


def test_under_a_key_the_checkpoint_is_sealed_and_comes_back(make_job, tmp_path):
    job, key = make_job(), Key(bytes(32))
    output = Output(tmp_path / "run", key=key)
    output.create(job)
    output.keep(_state(job))
    assert is_sealed((output.path / CHECKPOINT).read_bytes())
    assert output.last(job).vector.tolist() == [0, 1, 2, 3, 4, 5]
    assert is_sealed((output.path / CHECKPOINT).read_bytes())  # with its new attempt
    with pytest.raises(BadInput, match=r"^expected a key for the sealed checkpoint"):
        Output(tmp_path / "run").last(job)
