"""The model of a run for other programs: the same numbers, from a finished run and from one under way."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from importlib.util import find_spec
from pathlib import Path

import numpy as np
import onnx
import onnxruntime
import pytest
import torch
from safetensors import safe_open
from safetensors.numpy import load_file

from tacit.data.examples import Examples
from tacit.errors import BadInput, JobFailed
from tacit.job import Job
from tacit.seal import make_key
from tacit.tasks import table
from tacit.tasks.table import find, parse_options
from tacit.vector import flatten, named
from tacit_server import export as module
from tacit_server.checkpoint import RunState
from tacit_server.export import export
from tacit_server.output import CHECKPOINT, Output

ROOT = Path(__file__).resolve().parents[2]
CNN = ("task.options.classes=10",)
TEXT = (
    "task.kind=text-classification",
    "task.model=transformer",
    "task.options.classes=4",
    "task.options.length=12",
    "task.options.width=16",
)
KINDS = {
    "cnn small": (*CNN, "task.options.shape=[8, 8]"),
    "cnn four": (*CNN, "task.options.shape=[28, 28]"),
    "cnn eight": (*CNN, "task.options.shape=[32, 32, 3]"),
    "transformer": TEXT,
}
SMALL = KINDS["cnn small"]
TEXTS = ("a longer text than fits", "short", "", "é", "five")


def _network(job: Job) -> tuple[torch.nn.Module, object]:
    task = find(job.task.kind).task
    options = parse_options(task, job.task.model, job.task.options)
    torch.manual_seed(0)
    return task.models[job.task.model].build(options).eval(), options


def _run(path: Path, job: Job, *, finished: bool, key=None) -> torch.nn.Module:
    """A run's folder with a network of random weights in it."""
    network, _ = _network(job)
    output = Output(path, key=key)
    path.parent.mkdir(parents=True, exist_ok=True)
    output.create(job)
    state = RunState(run="r", job_hash=job.hash(), vector=flatten(network), round=1)
    output.keep(state)
    if finished:
        # `Output.finish` writes a report too; export looks at these two.
        arrays = {name: np.ascontiguousarray(array) for name, array in named(network, state.vector).items()}
        (path / "model.safetensors").write_bytes(module.save(arrays, metadata={"job_hash": job.hash()}))
        (path / "result.json").write_text("{}", encoding="utf-8")
    return network


def _inputs(job: Job, *, count: int) -> tuple[torch.Tensor, ...]:
    task, (_, options) = find(job.task.kind).task, _network(job)
    if job.task.kind == "text-classification":
        raw = np.array(TEXTS[:count], dtype=object)
    else:
        raw = np.random.default_rng(count).integers(0, 256, (count, *options.shape)).astype(np.uint8)
    return task.encode(options, Examples(raw, np.zeros(count, np.int64), ("x",))).inputs


def test_every_kind_of_the_table_is_tried(make_job):
    tried = {(job.task.kind, job.task.model) for job in (make_job(*overrides) for overrides in KINDS.values())}
    assert tried == {(kind, name) for kind, task in table._BUILT_IN.items() for name in task.models}
    forms = {_network(make_job(*overrides))[1].form for name, overrides in KINDS.items() if name.startswith("cnn")}
    assert forms == {"small", "four", "eight"}


@pytest.mark.parametrize("kind", KINDS)
def test_onnx_gives_the_logits_of_torch_for_batches_of_any_size(make_job, tmp_path, kind):
    job = make_job(*KINDS[kind])
    network = _run(tmp_path / "run", job, finished=True)
    out = export(tmp_path / "run", format="onnx", out=tmp_path / "m.onnx")
    assert out == tmp_path / "m.onnx"
    onnx.checker.check_model(onnx.load(out), full_check=True)
    session = onnxruntime.InferenceSession(out)
    assert [found.name for found in session.get_outputs()] == ["logits"]
    assert {found.shape[0] for found in (*session.get_inputs(), *session.get_outputs())} == {"batch"}
    assert session.get_modelmeta().custom_metadata_map == {"job_hash": job.hash()}
    for count in (1, 2, 5):
        inputs = _inputs(job, count=count)
        fed = {found.name: x.numpy() for found, x in zip(session.get_inputs(), inputs, strict=True)}
        (logits,) = session.run(None, fed)
        expected = network(*inputs).detach().numpy()
        assert logits.shape == expected.shape == (count, job.task.options["classes"])
        np.testing.assert_allclose(logits, expected, rtol=0, atol=1e-4)
        assert np.ptp(expected) > 0.01


def test_the_names_of_classes_go_along(make_job, tmp_path):
    job = make_job(*SMALL, "task.options.classes=2", 'task.labels=["cat", "dog"]')
    _run(tmp_path / "run", job, finished=False)
    export(tmp_path / "run", format="onnx", out=tmp_path / "m.onnx")
    found = onnxruntime.InferenceSession(tmp_path / "m.onnx").get_modelmeta().custom_metadata_map
    assert json.loads(found["labels"]) == ["cat", "dog"]


@pytest.mark.parametrize("finished", [True, False])
def test_safetensors_hold_the_parameters_by_name_and_the_jobs_hash(make_job, tmp_path, finished):
    job = make_job(*SMALL)
    network = _run(tmp_path / "run", job, finished=finished)
    before = {path: path.read_bytes() for path in (tmp_path / "run").iterdir()}
    (tmp_path / "m").write_bytes(b"an older one")
    export(tmp_path / "run", format="safetensors", out=tmp_path / "m")
    found = load_file(tmp_path / "m")
    assert list(found) == sorted(name for name, _ in network.named_parameters())
    for name, parameter in network.named_parameters():
        np.testing.assert_array_equal(found[name], parameter.detach().numpy())
    with safe_open(tmp_path / "m", framework="numpy") as file:
        assert file.metadata() == {"job_hash": job.hash()}
    assert {path: path.read_bytes() for path in (tmp_path / "run").iterdir()} == before  # the run goes on undisturbed


def test_the_finished_model_counts_once_it_is_there(make_job, tmp_path):
    """The checkpoint may be of the last round, and the model is what the run ended with."""
    job = make_job(*SMALL)
    _run(tmp_path / "run", job, finished=True)
    state = RunState(run="r", job_hash=job.hash(), vector=np.zeros(flatten(_network(job)[0]).shape, np.float32))
    Output(tmp_path / "run").keep(state)
    export(tmp_path / "run", format="safetensors", out=tmp_path / "m")
    assert any(array.any() for array in load_file(tmp_path / "m").values())
    (tmp_path / "run" / "result.json").unlink()
    export(tmp_path / "run", format="safetensors", out=tmp_path / "m")
    assert not any(array.any() for array in load_file(tmp_path / "m").values())


def test_a_sealed_checkpoint_is_opened_with_the_servers_key(make_job, tmp_path):
    (tmp_path / "keys").mkdir()
    key = make_key(tmp_path / "keys" / "seal.key")
    network = _run(tmp_path / "runs" / "one", make_job(*SMALL), finished=False, key=key)
    export(tmp_path / "runs" / "one", format="safetensors", out=tmp_path / "m")
    np.testing.assert_array_equal(load_file(tmp_path / "m")["0.weight"], network[0].weight.detach().numpy())
    (tmp_path / "keys" / "seal.key").unlink()
    with pytest.raises(BadInput, match=r"^expected a key for the sealed checkpoint"):
        export(tmp_path / "runs" / "one", format="safetensors", out=tmp_path / "m")
    make_key(tmp_path / "keys" / "seal.key")
    with pytest.raises(BadInput, match=r"^expected a whole checkpoint sealed with this key"):
        export(tmp_path / "runs" / "one", format="safetensors", out=tmp_path / "m")


def test_no_run_and_no_round_are_refused(make_job, tmp_path):
    with pytest.raises(BadInput, match=r"^expected a job file at "):
        export(tmp_path / "none", format="safetensors", out=tmp_path / "m")
    _run(tmp_path / "run", make_job(*SMALL), finished=False)
    (tmp_path / "run" / CHECKPOINT).unlink()
    with pytest.raises(BadInput, match=r"^expected a checkpoint at .*, found none$"):
        export(tmp_path / "run", format="safetensors", out=tmp_path / "m")
    assert not (tmp_path / "m").exists()


@pytest.mark.parametrize("finished", [True, False])
def test_a_model_of_another_job_is_refused(make_job, tmp_path, finished):
    _run(tmp_path / "run", make_job(*SMALL), finished=finished)
    _run(tmp_path / "other", make_job(*SMALL, "training.rounds=9"), finished=finished)
    name = "model.safetensors" if finished else CHECKPOINT
    (tmp_path / "run" / name).write_bytes((tmp_path / "other" / name).read_bytes())
    with pytest.raises(BadInput, match=r"^expected the model of job \w{12}, found one of \w{12} in "):
        export(tmp_path / "run", format="safetensors", out=tmp_path / "m")


@pytest.mark.parametrize("content", [b"", b"x" * 50, None])
def test_a_damaged_model_is_refused(make_job, tmp_path, content):
    _run(tmp_path / "run", make_job(*SMALL), finished=True)
    path = tmp_path / "run" / "model.safetensors"
    path.unlink() if content is None else path.write_bytes(content)
    with pytest.raises(BadInput, match=r"^expected the model of a finished run at .*, found a damaged file"):
        export(tmp_path / "run", format="onnx", out=tmp_path / "m")


@pytest.mark.parametrize("package", ["onnx", "onnxscript"])
def test_a_missing_package_is_one_line_with_the_command(make_job, tmp_path, monkeypatch, package):
    _run(tmp_path / "run", make_job(*SMALL), finished=True)
    monkeypatch.setattr(module, "find_spec", lambda name: None if name == package else find_spec(name))
    with pytest.raises(BadInput, match=rf"^expected the package {package} for the format onnx, found none$") as caught:
        export(tmp_path / "run", format="onnx", out=tmp_path / "m")
    assert "pip install 'tacit[export]'" in caught.value.hint
    export(tmp_path / "run", format="safetensors", out=tmp_path / "m")


def test_a_task_of_another_package_is_told_apart(make_job, tmp_path):
    _run(tmp_path / "run", make_job(*SMALL, "task.package=elsewhere==1"), finished=False)
    with pytest.raises(
        BadInput, match=r"^expected the task image-classification of elsewhere==1, found that of tacit$"
    ):
        export(tmp_path / "run", format="safetensors", out=tmp_path / "m")


def test_a_model_too_large_for_one_file_is_refused(make_job, tmp_path, monkeypatch):
    _run(tmp_path / "run", make_job(*SMALL), finished=False)
    monkeypatch.setattr(module, "_MOST_BYTES", 1000)
    with pytest.raises(BadInput, match=r"^expected a model of at most 1000 bytes for the format onnx, found \d+$"):
        export(tmp_path / "run", format="onnx", out=tmp_path / "m")


def test_a_place_that_can_not_be_written_is_refused(make_job, tmp_path):
    _run(tmp_path / "run", make_job(*SMALL), finished=False)
    for out in (tmp_path, tmp_path / "none" / "m"):
        with pytest.raises(BadInput, match=r"^expected a file to write at "):
            export(tmp_path / "run", format="safetensors", out=out)
    (tmp_path / "m.new").symlink_to("/dev/full")
    with pytest.raises(JobFailed, match=r"^expected .*/m to be written, found: "):
        export(tmp_path / "run", format="safetensors", out=tmp_path / "m")


COMMAND = """
import sys
from pathlib import Path
from tacit_server.export import export
export(Path(sys.argv[1]), format="onnx", out=Path(sys.argv[2]))
"""


def test_nothing_is_printed(make_job, tmp_path):
    _run(tmp_path / "run", make_job(*SMALL), finished=False)
    path = os.pathsep.join(str(ROOT / folder) for folder in ("common", "server"))
    done = subprocess.run(
        [sys.executable, "-c", COMMAND, tmp_path / "run", tmp_path / "m.onnx"],
        env={**os.environ, "PYTHONPATH": path},
        capture_output=True,
        text=True,
        check=True,
        timeout=120,
    )
    assert (done.stdout, done.stderr) == ("", "")
    assert [path.name for path in sorted(tmp_path.iterdir())] == ["m.onnx", "run"]
