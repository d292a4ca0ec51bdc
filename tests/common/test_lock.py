"""The lock: one holder at a time, named to the others, and free again however the holder ended."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import threading
from pathlib import Path

import pytest

from tacit.errors import BadInput
from tacit.lock import holder, take

_HOLD = (
    "import sys, time, pathlib; from tacit.lock import take\n"
    "with take(pathlib.Path(sys.argv[1]), what='x'):\n    print('held', flush=True); time.sleep(60)"
)


def _holder(path: Path) -> subprocess.Popen[str]:
    process = subprocess.Popen([sys.executable, "-c", _HOLD, str(path)], stdout=subprocess.PIPE, text=True)
    assert process.stdout is not None
    assert process.stdout.readline() == "held\n"
    return process


def test_the_second_process_is_refused_and_told_who_holds_it(tmp_path: Path) -> None:
    process = _holder(tmp_path / "run.lock")
    try:
        with pytest.raises(BadInput, match=f"at the partner, found process {process.pid} ") as caught:
            take(tmp_path / "run.lock", what="the partner").__enter__()
        assert "stop that process" in caught.value.hint
    finally:
        process.kill()
        process.communicate()


def test_who_holds_it_can_be_asked_and_nothing_changes_by_asking(tmp_path: Path) -> None:
    path = tmp_path / "run.lock"
    assert holder(path) is None
    assert not path.exists()
    process = _holder(path)
    try:
        assert holder(path) == str(process.pid)
        assert path.read_text() == f"{process.pid}\n"
    finally:
        process.kill()
        process.communicate()
    assert holder(path) is None
    assert path.read_text() == f"{process.pid}\n"


def test_a_killed_holder_leaves_the_lock_free(tmp_path: Path) -> None:
    process = _holder(tmp_path / "run.lock")
    process.send_signal(signal.SIGKILL)
    process.communicate()
    with take(tmp_path / "run.lock", what="x"):
        assert (tmp_path / "run.lock").read_text() == f"{os.getpid()}\n"


def test_free_after_the_body_and_after_an_error_in_it(tmp_path: Path) -> None:
    path = tmp_path / "run.lock"
    with pytest.raises(KeyError), take(path, what="x"):
        raise KeyError
    with take(path, what="x"), pytest.raises(BadInput, match=str(os.getpid())):
        take(path, what="x").__enter__()
    assert path.stat().st_mode & 0o777 == 0o600


def test_a_refusal_leaves_the_lock_with_its_holder(tmp_path: Path) -> None:
    path = tmp_path / "run.lock"
    with take(path, what="x"):
        for _ in range(2):
            with pytest.raises(BadInput):
                take(path, what="x").__enter__()


def test_one_body_at_a_time_among_threads(tmp_path: Path) -> None:
    inside, most, refused = [0], [0], [0]
    guard = threading.Lock()

    def work() -> None:
        for _ in range(200):
            try:
                with take(tmp_path / "run.lock", what="x"):
                    inside[0] += 1
                    most[0] = max(most[0], inside[0])
                    inside[0] -= 1
            except BadInput:
                with guard:
                    refused[0] += 1

    threads = [threading.Thread(target=work) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert most[0] == 1
    assert refused[0] < 800


def test_a_full_disk_is_told_and_leaves_the_lock_free(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(*_: object) -> None:
        raise OSError(28, "No space left on device")

    with monkeypatch.context() as patch:
        patch.setattr("os.pwrite", full)
        with pytest.raises(BadInput, match=r"run\.lock, found No space left") as caught:
            take(tmp_path / "run.lock", what="x").__enter__()
    assert "make room" in caught.value.hint
    with take(tmp_path / "run.lock", what="x"):
        pass


def test_a_folder_that_is_not_there(tmp_path: Path) -> None:
    with pytest.raises(BadInput, match="found No such file"):
        take(tmp_path / "nowhere" / "run.lock", what="x").__enter__()
