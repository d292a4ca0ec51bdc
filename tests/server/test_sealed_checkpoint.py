"""Checkpoints under a key: nothing in clear, no other key, and no copy of a large model in memory."""

from __future__ import annotations

import dataclasses
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from tacit.errors import BadInput
from tacit.privacy.events import Event
from tacit.seal import Key, make_key, read_key, unseal
from tacit_server.checkpoint import RunState, read, write

ROOT = Path(__file__).resolve().parents[2]
HASH = "ab" * 32
KEY = Key(bytes(range(32)))
EVENT = Event(kind="dp-sgd", sampling_rate=0.25, noise_multiplier=1.5, steps=7)
FULL = RunState(run="run", job_hash=HASH, vector=np.zeros(5, np.float32), events={"partner-0": (EVENT,)})


def test_nothing_of_a_sealed_state_is_written_in_clear(tmp_path):
    """Guarantee: neither names nor numbers; a key from its file opens it, and what is inside is the clear file."""
    make_key(tmp_path / "k")
    vector = np.random.default_rng(0).normal(size=1000).astype(np.float32)
    state = dataclasses.replace(FULL, vector=vector)
    write(tmp_path / "sealed", state, key=read_key(tmp_path / "k"))
    write(tmp_path / "clear", state)
    sealed, clear = ((tmp_path / name).read_bytes() for name in ("sealed", "clear"))
    words = [
        b"vector",
        b"dp-sgd",
        b"partner-0",
        HASH.encode(),
        *(vector[i : i + 1].tobytes() for i in range(0, 999, 9)),
    ]
    assert [word for word in words if word in clear] == words
    assert [word for word in words if word in sealed] == []
    assert unseal(sealed, key=read_key(tmp_path / "k"), use="checkpoint", where="w") == clear


def test_a_sealed_checkpoint_needs_its_own_key_and_a_clear_one_none(tmp_path):
    write(tmp_path / "sealed", FULL, key=KEY)
    write(tmp_path / "clear", FULL)
    with pytest.raises(BadInput, match=r"^expected a key for the sealed checkpoint at .*/sealed, found none$"):
        read(tmp_path / "sealed", job_hash=HASH)
    with pytest.raises(
        BadInput, match=r"^expected a whole checkpoint sealed with this key, found .* chunk 0 of .*/sealed"
    ):
        read(tmp_path / "sealed", job_hash=HASH, key=Key(bytes(32)))
    with pytest.raises(BadInput, match=r"^expected a sealed file, found another kind at .*/clear$"):
        read(tmp_path / "clear", job_hash=HASH, key=KEY)


@pytest.mark.parametrize("place", [5, 10, 20, 60, -1])
def test_a_changed_sealed_checkpoint_is_refused_and_kept(tmp_path, place):
    write(tmp_path / "c", FULL, key=KEY)
    content = bytearray((tmp_path / "c").read_bytes())
    content[place] ^= 4
    (tmp_path / "c").write_bytes(content)
    with pytest.raises(BadInput, match=r"^expected .* at .*/c$|chunk 0 of .*/c$"):
        read(tmp_path / "c", job_hash=HASH, key=KEY)
    assert (tmp_path / "c").read_bytes() == content


MEASURE = """
import sys, tracemalloc, numpy as np
from pathlib import Path
from tacit.seal import Key
from tacit_server.checkpoint import RunState, peek, write
key = Key(bytes(32)) if sys.argv[2] == "sealed" else None
state = RunState(run="r", job_hash="h", vector=np.ones(8_000_000, np.float32))
tracemalloc.start()
write(Path(sys.argv[1]), state, key=key)
wrote = tracemalloc.get_traced_memory()[1]
tracemalloc.reset_peak()
peek(Path(sys.argv[1]), key=key)
print(wrote, tracemalloc.get_traced_memory()[1])
"""


@pytest.mark.parametrize("how", ["clear", "sealed"])
def test_no_copy_of_the_state_is_held_while_writing_and_one_while_reading(tmp_path, how):
    path = os.pathsep.join(str(ROOT / folder) for folder in ("common", "server"))
    done = subprocess.run(
        [sys.executable, "-c", MEASURE, tmp_path / "c", how],
        env={**os.environ, "PYTHONPATH": path},
        capture_output=True,
        text=True,
        check=True,
        timeout=60,
    )
    wrote, looked = map(int, done.stdout.split())
    assert wrote < 8e6  # of a state of 32 MB
    assert 32e6 <= looked < 32e6 + 12e6
