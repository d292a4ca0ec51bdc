"""The checkpoint: all of a state or none of it, whatever happens to the process that writes."""

from __future__ import annotations

import dataclasses
import io
import os
import resource
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
from safetensors.numpy import load_file, save

from tacit.errors import BadInput, JobFailed
from tacit.privacy.events import Event
from tacit.seal import Key
from tacit_server import checkpoint, tensors
from tacit_server.checkpoint import Best, RunState, peek, read, write, write_atomic

ROOT = Path(__file__).resolve().parents[2]
EVENT = Event(kind="dp-sgd", sampling_rate=0.25, noise_multiplier=1.5, steps=7)
HASH = "ab" * 32
KEY = Key(bytes(range(32)))
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
@pytest.mark.parametrize("key", [None, KEY], ids=["clear", "sealed"])
def test_a_state_comes_back_as_it_was_with_a_new_attempt(tmp_path, state, key):
    write(tmp_path / "c", state, key=key)
    for attempt in (state.attempt + 1, state.attempt + 2):
        back = read(tmp_path / "c", job_hash=HASH, key=key)
        assert _shown(back) == _shown(dataclasses.replace(state, attempt=attempt))


@pytest.mark.parametrize("key", [None, KEY], ids=["clear", "sealed"])
def test_a_look_changes_nothing(tmp_path, key):
    write(tmp_path / "c", FULL, key=key)
    content = (tmp_path / "c").read_bytes()
    assert _shown(peek(tmp_path / "c", key=key)) == _shown(FULL)
    assert (tmp_path / "c").read_bytes() == content


def test_every_flipped_bit_is_noticed(tmp_path):
    """Guarantee: a damaged disk does not go on as another model, whichever part it hits."""
    write(tmp_path / "c", FULL)
    content, seen = (tmp_path / "c").read_bytes(), 0
    for place in range(len(content)):
        for bit in (0, 5, place % 8):
            changed = bytearray(content)
            changed[place] ^= 1 << bit
            (tmp_path / "c").write_bytes(changed)
            with pytest.raises(BadInput, match=r"^expected a checkpoint "):
                peek(tmp_path / "c")
            seen += 1
    assert seen == 3 * len(content) > 3000


@pytest.mark.parametrize("size", [1, 7, 4096])
def test_what_is_added_at_the_end_is_noticed(tmp_path, size):
    write(tmp_path / "c", FULL)
    with (tmp_path / "c").open("ab") as file:
        file.write(bytes(size))
    with pytest.raises(BadInput, match=r"found a damaged file: expected bytes that fit their checksum, found others$"):
        peek(tmp_path / "c")


def test_a_clear_checkpoint_is_a_file_of_safetensors(tmp_path):
    write(tmp_path / "c", FULL)
    found = load_file(tmp_path / "c")
    assert sorted(found) == ["best_vector", "optimizer.m_t", "optimizer.v_t", "vector"]
    assert all(found[f"optimizer.{name}"].dtype == array.dtype for name, array in FULL.optimizer.items())
    np.testing.assert_array_equal(found["vector"], FULL.vector)


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


def _with(facts: str) -> bytes:
    file = io.BytesIO()
    tensors.write(file, {"vector": np.zeros(1, np.float32)}, facts=facts)
    return file.getvalue()


@pytest.mark.parametrize(
    ("content", "words"),
    [
        (b"", "found a damaged file"),
        (b"x" * 100, "found a damaged file"),
        (bytes(100), "found a damaged file"),
        (save({"vector": np.zeros(1, np.float32)}), "found a damaged file"),
        (_with("{"), "found a damaged file"),
        (_with("[]"), "found a damaged file"),
        (_with("{}"), "found a damaged file"),
        (_with('{"version": 2}'), "found a damaged file"),
        (_with('{"version": 3}'), "of version 2, found 3 at "),
        (_with('{"version": "2"}'), "of version 2, found 2 at "),
        (
            save({"vector": np.zeros(1, np.float32)}, metadata={"state": '{"version": 1}'}),
            "found an older one at ",
        ),
    ],
    ids=range(11),
)
def test_a_file_that_is_no_checkpoint_is_refused(tmp_path, content, words):
    (tmp_path / "c").write_bytes(content)
    with pytest.raises(BadInput, match=rf"^expected a checkpoint .*{words}"):
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
    with pytest.raises(JobFailed, match=r"^expected .*/c to be written, found: no space left$"):
        write_atomic(tmp_path / "c", b"new")
    assert (tmp_path / "c").read_bytes() == b"old"
    assert [path.name for path in tmp_path.iterdir()] == ["c"]


@pytest.mark.parametrize("key", [None, KEY])
def test_a_full_disk_leaves_the_old_checkpoint_whole_and_says_what_to_do(tmp_path, key):
    """`/dev/full` takes no byte, as a full disk."""
    write(tmp_path / "c", FULL, key=key)
    (tmp_path / "c.new").symlink_to("/dev/full")
    later = dataclasses.replace(FULL, round=5, vector=np.zeros(100_000, np.float32))
    with pytest.raises(JobFailed, match=r"^expected .*/c to be written, found: No space left on device$") as caught:
        write(tmp_path / "c", later, key=key)
    assert "free space on that disk" in caught.value.hint
    assert [path.name for path in tmp_path.iterdir()] == ["c"]
    assert _shown(peek(tmp_path / "c", key=key)) == _shown(FULL)


def test_a_disk_that_fills_up_half_way_leaves_the_old_checkpoint(tmp_path):
    """A limit on the size of files is met in the middle of one."""
    write(tmp_path / "c", FULL)
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (200_000, hard))
    try:
        with pytest.raises(JobFailed, match=r"^expected .*/c to be written, found: File too large$"):
            write(tmp_path / "c", dataclasses.replace(FULL, vector=np.zeros(100_000, np.float32)))
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
    assert [path.name for path in tmp_path.iterdir()] == ["c"]
    assert _shown(peek(tmp_path / "c")) == _shown(FULL)


def test_the_new_file_is_synced_before_it_takes_the_place(tmp_path, monkeypatch):
    seen = []
    real = os.fsync
    monkeypatch.setattr(checkpoint.os, "fsync", lambda fd: (seen.append((tmp_path / "c").exists()), real(fd)))
    write_atomic(tmp_path / "c", b"new")
    assert seen == [False, True]  # the second time the folder, for the rename


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
