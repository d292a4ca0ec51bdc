"""TensorBoard events, read back with TensorBoard."""

import subprocess
import sys

import pytest
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from tacit_server import events

_HISTORY = [
    {
        "round": number,
        "status": "done",
        "asked": 3,
        "answered": 3,
        "test": {"accuracy": number / 4, "loss": 2.0 / number, "macro_f1": 0.5} if number != 2 else None,
        "federated": {"accuracy": number / 8, "loss": float("nan"), "macro_f1": 0.25},
        "epsilon_by_partner": {"a": 0.5 * number, "b": 0.25 * number},
        "seconds": {"train": 2.0, "aggregate": 0.5},
    }
    for number in (1, 2, 3)
]


def _read(folder):
    accumulator = EventAccumulator(str(folder))
    accumulator.Reload()
    tags = accumulator.Tags()["scalars"]
    return {tag: [(event.step, event.value) for event in accumulator.Scalars(tag)] for tag in tags}, accumulator


def test_scalars_come_back(tmp_path):
    events.write(tmp_path / "tensorboard", history=_HISTORY)
    found, accumulator = _read(tmp_path / "tensorboard")
    assert set(found) == {
        "test/accuracy",
        "test/loss",
        "test/macro_f1",
        "federated/accuracy",
        "federated/macro_f1",
        "epsilon/max",
        "seconds/train",
        "seconds/aggregate",
        "partners/answered",
    }
    assert found["test/accuracy"] == [(1, 0.25), (3, 0.75)]
    assert found["federated/accuracy"] == [(1, 0.125), (2, 0.25), (3, 0.375)]
    assert found["epsilon/max"] == [(1, 0.5), (2, 1.0), (3, 1.5)]
    assert found["seconds/train"] == [(1, 2.0), (2, 2.0), (3, 2.0)]
    times = [event.wall_time for event in accumulator.Scalars("epsilon/max")]
    assert times[2] - times[0] == pytest.approx(5.0)


def test_a_second_write_replaces_the_first_and_no_other_file(tmp_path):
    (tmp_path / "notes.txt").write_text("mine")
    events.write(tmp_path, history=_HISTORY)
    events.write(tmp_path, history=_HISTORY[:1])
    assert len(list(tmp_path.glob("events.out.tfevents.*"))) == 1
    assert _read(tmp_path)[0]["test/accuracy"] == [(1, 0.25)]
    assert (tmp_path / "notes.txt").read_text() == "mine"


def test_absent_numbers_are_left_out(tmp_path):
    line = {"round": 1, "status": "abandoned", "test": None, "epsilon_by_partner": {}}
    assert events.scalars(line) == {}
    assert events.scalars({"epsilon_by_partner": {"a": None, "b": 2.0}}) == {"epsilon/max": 2.0}
    events.write(tmp_path, history=[line])
    assert _read(tmp_path)[0] == {}


def test_writing_is_silent_and_needs_no_training_library(tmp_path):
    program = (
        "import pathlib, sys\n"
        "from tacit_server import events\n"
        "events.write(pathlib.Path(sys.argv[1]), history=[{'round': 1, 'answered': 3}])\n"
        "print(sorted({'torch', 'tensorflow'} & set(sys.modules)))\n"
    )
    done = subprocess.run(
        [sys.executable, "-W", "always", "-c", program, str(tmp_path)], capture_output=True, text=True, check=False
    )
    assert (done.returncode, done.stdout, done.stderr) == (0, "[]\n", "")


def test_public_names():
    assert events.__all__ == ["scalars", "write"]
