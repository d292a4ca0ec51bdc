"""The checkpoint: all of a state or none of it, whatever happens to the process that writes."""

from __future__ import annotations

import dataclasses
import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
from safetensors.numpy import save

from tacit.errors import BadInput
from tacit.privacy.events import Event
from tacit_server import checkpoint
from tacit_server.checkpoint import Best, RunState, read, write, write_atomic

ROOT = Path(__file__).resolve().parents[2]
EVENT = Event(kind="dp-sgd", sampling_rate=0.25, noise_multiplier=1.5, steps=7)
HASH = "ab" * 32
FULL = RunState(
    run="run",
    job_hash=HASH,
    vector=np.array([1.5, -0.0, 3e-39], np.float32),
    round=4,
    attempt=2,
    best_vector=np.array([1.0, 2.0, 3.0], np.float32),
    best=Best(round=3, accuracy=0.123456789012345),
    stale=1,
    failed=2,
    optimizer={"m_t": np.array([0.1, 0.2, 0.3]), "v_t": np.array([0.1, 0.2, 0.3], np.float32)},
    history=({"round": 1, "status": "done", "x": [1, {"é": None}]}, {"round": 2}),
    events={"partner-0": (EVENT, EVENT), "partner-ü": ()},
)


def _shown(state: RunState) -> dict[str, object]:
    def show(value: object) -> object:
        if isinstance(value, np.ndarray):
            return value.dtype.str, value.tobytes()
        return {k: show(v) for k, v in value.items()} if isinstance(value, dict) else value

    return {field.name: show(getattr(state, field.name)) for field in dataclasses.fields(state)}


@pytest.mark.parametrize("state", [FULL, RunState(run="r", job_hash=HASH, vector=np.zeros(2, np.float32))])
def test_a_state_comes_back_as_it_was_with_a_new_attempt(tmp_path, state):
    write(tmp_path / "c", state)
    back = read(tmp_path / "c", job_hash=HASH)
    assert _shown(back) == _shown(dataclasses.replace(state, attempt=state.attempt + 1))


def test_every_reading_is_a_new_attempt(tmp_path):
    write(tmp_path / "c", FULL)
    assert [read(tmp_path / "c", job_hash=HASH).attempt for _ in range(3)] == [3, 4, 5]


def test_a_checkpoint_of_another_job_is_refused_and_kept(tmp_path):
    write(tmp_path / "c", FULL)
    content = (tmp_path / "c").read_bytes()
    with pytest.raises(BadInput, match=r"^expected a checkpoint of job cdcdcdcdcdcd, found one of abababababab$"):
        read(tmp_path / "c", job_hash="cd" * 32)
    assert (tmp_path / "c").read_bytes() == content


def test_no_checkpoint_is_refused(tmp_path):
    with pytest.raises(BadInput, match=r"^expected a checkpoint at .*, found none$"):
        read(tmp_path / "c", job_hash=HASH)


def _with(**facts: object) -> bytes:
    return save({"vector": np.zeros(1, np.float32)}, metadata={"state": json.dumps(facts)})


@pytest.mark.parametrize(
    "content",
    [
        b"",
        b"x" * 100,
        save({"vector": np.zeros(1, np.float32)}),
        save({"vector": np.zeros(1, np.float32)}, metadata={"state": "{"}),
        save({"vector": np.zeros(1, np.float32)}, metadata={"state": "[]"}),
        _with(),
        _with(version=2),
        _with(version=2, job_hash=HASH),
        _with(version=1, job_hash=HASH),
    ],
    ids=range(9),
)
def test_a_file_that_is_no_checkpoint_is_refused(tmp_path, content):
    (tmp_path / "c").write_bytes(content)
    with pytest.raises(BadInput, match=r"^expected a checkpoint "):
        read(tmp_path / "c", job_hash=HASH)
    assert (tmp_path / "c").read_bytes() == content


def test_a_checkpoint_cut_anywhere_is_refused(tmp_path):
    write(tmp_path / "c", FULL)
    content = (tmp_path / "c").read_bytes()
    for length in range(0, len(content), 37):
        (tmp_path / "c").write_bytes(content[:length])
        with pytest.raises(BadInput, match=r"^expected a checkpoint at .* found a damaged file"):
            read(tmp_path / "c", job_hash=HASH)
    assert len(content) > 370


@pytest.mark.parametrize("fails", ["fsync", "replace"])
def test_a_failed_write_leaves_the_old_file(tmp_path, monkeypatch, fails):
    write_atomic(tmp_path / "c", b"old")

    def fail(*args: object) -> None:
        raise OSError("no space left")

    target = (checkpoint.os, "fsync") if fails == "fsync" else (Path, "replace")
    monkeypatch.setattr(*target, fail)
    with pytest.raises(OSError, match="no space left"):
        write_atomic(tmp_path / "c", b"new")
    assert (tmp_path / "c").read_bytes() == b"old"


def test_the_new_file_is_synced_before_it_takes_the_place(tmp_path, monkeypatch):
    seen = []
    real = os.fsync
    monkeypatch.setattr(checkpoint.os, "fsync", lambda fd: (seen.append((tmp_path / "c").exists()), real(fd)))
    write_atomic(tmp_path / "c", b"new")
    assert seen == [False]


WRITER = """
import sys, itertools, numpy as np
from pathlib import Path
from tacit_server.checkpoint import RunState, write
for n in itertools.count(1):
    write(Path(sys.argv[1]), RunState(run="r", job_hash="h", vector=np.full(1_000_000, n, np.float32), round=n))
    if n == 1:
        print("begun", flush=True)
"""


@pytest.mark.parametrize("delay", [0.0, 0.013, 0.029, 0.047])
def test_a_killed_writer_leaves_a_whole_state(tmp_path, delay):
    path = os.pathsep.join(str(ROOT / folder) for folder in ("common", "server"))
    process = subprocess.Popen(
        [sys.executable, "-c", WRITER, tmp_path / "c"],
        env={**os.environ, "PYTHONPATH": path},
        stdout=subprocess.PIPE,
    )
    assert process.stdout.readline() == b"begun\n"
    time.sleep(delay)
    process.send_signal(signal.SIGKILL)
    assert process.wait(timeout=30) == -signal.SIGKILL
    process.stdout.close()
    state = read(tmp_path / "c", job_hash="h")
    assert state.round >= 1
    assert (state.vector == state.round).all()
