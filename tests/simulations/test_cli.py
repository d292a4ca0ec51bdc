"""The command line: exit codes, one error and one hint, and nothing left behind."""

from __future__ import annotations

import dataclasses
import os
import re
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from torch import nn

from tacit.tasks import Model, table
from tacit.tasks.image import IMAGE_CLASSIFICATION


def _refused(found: tuple[int, str, str], words: str) -> None:
    code, out, err = found
    assert code == 2, (out, err)
    assert out == ""
    lines = err.splitlines()
    assert [line.partition(": ")[0] for line in lines] == ["error", "hint"], err
    message, hint = (line.partition(": ")[2] for line in lines)
    assert re.search(words, message), message
    assert message.startswith("expected ")
    assert " found " in message
    assert message[-1] != "."
    assert hint
    assert hint[-1] != "."
    assert "Traceback" not in err


# What is wrong with the job alone, and the words that must say so.
WRONG_JOBS: dict[str, tuple[tuple[str, ...], tuple[str, ...], str]] = {
    "unknown key": (("training.epochs=3",), (), "found training.epochs"),
    "wrong type": (("training.rounds='three'",), (), 'training.rounds .*integer, found "three" in job.toml'),
    "both targets": (("privacy.epsilon=1.0",), (), "found both"),
    "epsilon 0": (("privacy.epsilon=0.0",), ("privacy.noise_multiplier",), "privacy.epsilon .*greater than 0, found 0"),
    "epsilon below 0": (("privacy.epsilon=-1.0",), ("privacy.noise_multiplier",), "found -1.0"),
    "delta at 1/N": (("privacy.delta=0.01",), (), r"privacy.delta below 1/N = .* found 0.01 at partner-0"),
    "batch above the data": (("training.batch_size=1000",), (), r"training.batch_size .* found 1000 at partner-0"),
    "more partners than examples": (("simulation.partners=5000",), (), "found 5000|5000 partners"),
    "fewer partners than the cohort": (("simulation.partners=2",), (), "min_cohort 3, found 2"),
    "no such data": (("simulation.dataset=absent.csv",), (), "found absent.csv"),
    "no such task": (("task.kind=telepathy",), (), 'found "telepathy" at task.kind'),
    "no such model": (("task.model=oracle",), (), 'found "oracle" at task.model'),
    "no such option": (("task.options.depth=3",), (), "task.options.depth"),
    "krum under secure aggregation": (("aggregation.secure=true", "training.server_strategy=krum"), (), "found krum"),
    "a secure cohort of two": (
        ("aggregation.secure=true", "aggregation.min_cohort=2"),
        (),
        "of at least 3 with aggregation.secure = true, found 2",
    ),
    "mechanism client": (("privacy.mechanism=client",), (), "privacy.max_update_norm with client, found nothing"),
    "distributed noise": (("privacy.mechanism=distributed-dp-sgd",), (), "aggregation.secure = true"),
    "absent device": (("simulation.device=cuda:99",), (), "cuda:99"),
}


@pytest.mark.parametrize("fault", WRONG_JOBS)
def test_a_wrong_job_is_told_in_two_lines_and_leaves_nothing(tacit_sim, job_file, tmp_path, fault):
    overrides, without, words = WRONG_JOBS[fault]
    found = tacit_sim("run", job_file(*overrides, without=without), "--out", tmp_path / "out")
    _refused(found, words)
    assert not (tmp_path / "out").exists()
    assert list(Path.cwd().iterdir()) == []


def _npz(path: Path, *, nan: bool = False) -> Path:
    images = np.random.default_rng(0).integers(0, 256, size=(400, 8, 8), dtype=np.uint8)
    if nan:
        images = images.astype(np.float32)
        images[7, 3, 3] = np.nan
    np.savez(path, image=images, label=np.arange(400) % 2)
    return path


def _cut(path: Path) -> Path:
    path.write_bytes(path.read_bytes()[:-500])
    return path


def _idx(folder: Path, *, missing: int) -> Path:
    folder.mkdir()
    header = b"\0\0\x08\x03" + b"".join(n.to_bytes(4, "big") for n in (400, 8, 8))
    (folder / "a-images-idx3-ubyte").write_bytes(header + bytes(400 * 64 - missing))
    labels = b"\0\0\x08\x01" + (400).to_bytes(4, "big")
    (folder / "a-labels-idx1-ubyte").write_bytes(labels + bytes([0, 1] * 200))
    return folder


def _csv(path: Path, *, header: str = "text,label", classes: tuple[str, ...] = ("no", "yes")) -> Path:
    rows = [f"word{i % 7} other{i % 3},{classes[i % len(classes)]}" for i in range(400)]
    path.write_text("\n".join([header, *rows]) + "\n", encoding="utf-8")
    return path


TEXT = (
    "task.kind=text-classification",
    "task.model=transformer",
    "task.options={width=8, depth=1, heads=1, length=16}",
    "training.local_steps=1",
)
WRONG_DATA: dict[str, tuple[Callable[[Path], tuple[str, ...]], str]] = {
    "truncated npz": (lambda d: (f"simulation.dataset='{_cut(_npz(d / 'a.npz'))}'",), "npz"),
    "truncated idx": (
        lambda d: (f"simulation.dataset='{_idx(d / 'idx', missing=9)}'",),
        "bytes as the idx header says",
    ),
    "not a number": (lambda d: (f"simulation.dataset='{_npz(d / 'a.npz', nan=True)}'",), "(?i)nan|finite"),
    "empty file": (lambda d: ((d / "a.csv").write_text("") or f"simulation.dataset='{d / 'a.csv'}'",), "empty file"),
    "no label column": (
        lambda d: (*TEXT, f"simulation.dataset='{_csv(d / 'a.csv', header='text,kind')}'"),
        "expected a column label",
    ),
    "no such label column": (
        lambda d: (
            *TEXT,
            "simulation.input=text",
            "simulation.label=mood",
            f"simulation.dataset='{_csv(d / 'a.csv')}'",
        ),
        "expected a column 'mood'",
    ),
    "a class never seen": (
        lambda d: (
            *TEXT,
            f"simulation.dataset='{_csv(d / 'a.csv')}'",
            f"simulation.test='{_csv(d / 'b.csv', classes=('no', 'maybe'))}'",
        ),
        "maybe",
    ),
    "no such test file": (
        lambda d: (*TEXT, f"simulation.dataset='{_csv(d / 'a.csv')}'", "simulation.test=absent.csv"),
        "absent.csv",
    ),
}


@pytest.mark.parametrize("fault", WRONG_DATA)
def test_wrong_data_is_told_in_two_lines_and_leaves_nothing(tacit_sim, job_file, tmp_path, fault):
    make, words = WRONG_DATA[fault]
    found = tacit_sim("run", job_file(*make(tmp_path)), "--out", tmp_path / "out")
    _refused(found, words)
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize("make", [_npz, lambda path: _idx(path.with_suffix(""), missing=0)], ids=["npz", "idx"])
def test_the_same_data_whole_is_learned(tacit_sim, job_file, tmp_path, make):
    """The twin of the test above: what is refused there is refused for its fault."""
    data = make(tmp_path / "a.npz")
    code, out, err = tacit_sim("run", job_file(f"simulation.dataset='{data}'"), "--out", tmp_path / "out")
    assert (code, err) == (0, "")
    assert "2 done, 0 abandoned" in out


def test_text_whole_is_learned(tacit_sim, job_file, tmp_path):
    files = f"simulation.dataset='{_csv(tmp_path / 'a.csv')}'", f"simulation.test='{_csv(tmp_path / 'b.csv')}'"
    code, out, err = tacit_sim("run", job_file(*TEXT, *files), "--out", tmp_path / "out")
    assert (code, err) == (0, "")
    assert "2 done, 0 abandoned" in out


def test_a_norm_over_the_batch_is_refused(tacit_sim, job_file, tmp_path, monkeypatch):
    cnn = IMAGE_CLASSIFICATION.models["cnn"]
    mixing = Model(cnn.options, lambda options: nn.Sequential(nn.BatchNorm2d(1), *cnn.build(options)))
    task = dataclasses.replace(IMAGE_CLASSIFICATION, models={"cnn": mixing})
    monkeypatch.setitem(table._BUILT_IN, task.kind, task)
    _refused(tacit_sim("run", job_file("name=mixing"), "--out", tmp_path / "out"), r"BatchNorm2d")
    assert not (tmp_path / "out").exists()


def test_an_output_folder_that_can_not_be_made_is_refused(tacit_sim, job_file, tmp_path):
    (tmp_path / "file").write_text("", encoding="utf-8")
    _refused(tacit_sim("run", job_file(), "--out", tmp_path / "file" / "out"), "output folder that can be written")


@pytest.mark.skipif(os.geteuid() == 0, reason="root may write into every folder")
def test_an_output_folder_without_rights_is_refused(tacit_sim, job_file, tmp_path):
    (tmp_path / "closed").mkdir(mode=0o500)
    _refused(tacit_sim("run", job_file(), "--out", tmp_path / "closed" / "out"), "output folder that can be written")


def test_a_folder_with_files_is_refused_and_left_alone(tacit_sim, job_file, tmp_path):
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / "mine").write_text("mine", encoding="utf-8")
    _refused(tacit_sim("run", job_file(), "--out", tmp_path / "out"), "expected an empty output folder")
    assert [path.name for path in (tmp_path / "out").iterdir()] == ["mine"]


@pytest.mark.parametrize(
    ("argv", "words"),
    [
        ((), "COMMAND"),
        (("fly",), "fly"),
        (("run",), "job"),
        (("run", "absent.toml"), "expected a job file at absent.toml"),
        (("run", "{job}", "--fly"), "--fly"),
        (("run", "{job}", "--engine", "steam"), "steam"),
        (("run", "{job}", "--seed", "one"), "one"),
        (("run", "{job}", "--seed", "-1"), "simulation.seed"),
        (("run", "{job}", "--set", "training"), "--set KEY=VALUE"),
        (("run", "{job}", "--set", "training.rounds=0"), "training.rounds"),
        (("run", "{job}", "--resume"), "--out with --resume"),
        (("run", "{job}", "--resume", "--out", "absent"), "expected a checkpoint at"),
        (("data", "get", "absent"), "absent"),
        (("data",), "ACTION"),
    ],
)
def test_a_wrong_command_line_is_told_in_two_lines(tacit_sim, job_file, monkeypatch, argv, words):
    monkeypatch.setenv("TACIT_DATA", str(Path.cwd()))
    job = str(job_file())
    _refused(tacit_sim(*(job if arg == "{job}" else arg for arg in argv)), words)
    assert list(Path.cwd().iterdir()) == []


def test_verbose_shows_the_traceback(tacit_sim, job_file, tmp_path):
    code, _, err = tacit_sim("run", job_file("training.rounds=0"), "--verbose", "--out", tmp_path / "out")
    assert code == 2
    assert "Traceback" in err
    assert err.splitlines()[-2].startswith("error: expected training.rounds")


@pytest.mark.parametrize("argv", [("--help",), ("run", "--help"), ("demo", "--help"), ("data", "get", "--help")])
def test_help_is_given(tacit_sim, argv, capsys):
    with pytest.raises(SystemExit) as caught:
        tacit_sim(*argv)
    assert caught.value.code == 0
    assert "usage: tacit-sim" in capsys.readouterr().out


def test_the_known_sets_are_listed(tacit_sim):
    code, out, err = tacit_sim("data", "list")
    assert (code, err) == (0, "")
    assert "digits" in out.splitlines()


def test_too_many_failed_rounds_exit_with_1(tacit_sim, job_file, tmp_path):
    flags = "simulation.dropout=0.99", "training.max_failed_rounds=1", "training.rounds=9"
    code, out, err = tacit_sim("run", job_file(*flags), "--out", tmp_path / "out")
    assert code == 1
    assert [line.partition(": ")[0] for line in err.splitlines()] == ["error", "hint"]
    assert "rounds in a row (partner-" in err
    assert ": vanished)" in err
    assert len(out.splitlines()) == 2
    assert all(" abandoned " in line for line in out.splitlines())
    assert (tmp_path / "out" / "checkpoint.safetensors").is_file()
    assert not (tmp_path / "out" / "result.json").exists()


def test_more_cores_than_there_are_leaves_no_folder(tacit_sim, job_file, tmp_path):
    found = tacit_sim("run", job_file("simulation.partner_cpus=4096"), "--engine", "ray", "--out", tmp_path / "out")
    _refused(found, "simulation.partner_cpus")
    assert not (tmp_path / "out").exists()
