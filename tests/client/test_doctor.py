"""The doctor as a whole: its lines in their order, its exit code, and that it leaves everything as it was."""

from __future__ import annotations

import json
import signal
import socket
import subprocess
import sys
from pathlib import Path

import folders
import pytest

from tacit.lock import take
from tacit_client import doctor
from tacit_client.audit import Audit
from tacit_client.checkup import papers
from tacit_client.checkup.finding import Finding, Said
from tacit_client.cli import main
from tacit_client.holding import dataset, open_budget
from tacit_client.site import Folder

CHECKS = (
    "versions", "site.toml", "disk", "process", "keys", "files", "certificate", "authority", "server name",
    "server port", "handshake", "admission", "clock", "device", "memory", "data", "classes", "examples", "ledger",
    "budget", "evaluations", "audit log", "mark", "partners kept", "partners now", "peers", "rules",
)  # fmt: skip


@pytest.fixture
def folder(tmp_path, monkeypatch) -> Folder:
    """Of hospital `a`, complete but for a server."""
    data = folders.write_npz(tmp_path / "data.npz", n=90, seed=1)
    made = folders.make_folders(tmp_path, dict.fromkeys("abc", data))["a"]
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        folders.change(made.path, "fl.example.org:9443", f"127.0.0.1:{probe.getsockname()[1]}")
    monkeypatch.setattr(papers, "certificate", lambda keys: Said("of a", None))
    return made


def _files(folder: Folder) -> dict[str, bytes]:
    """All but the places where those who read a ledger in use say so to each other."""
    found = [path for path in folder.path.rglob("*") if path.is_file() and not path.name.endswith("-shm")]
    return {str(path): path.read_bytes() for path in found}


def test_every_line_is_there_whatever_fails(folder):
    found = doctor.examine(folder.path)
    assert tuple(finding.check for finding in found) == CHECKS
    assert [finding.check for finding in found if finding.verdict == "FAIL"] == ["server port"]
    assert [finding.check for finding in found if finding.verdict == "skip"] == [
        "handshake", "admission", "clock", "mark", "partners now",
    ]  # fmt: skip
    (folder.path / "site.toml").write_text("nonsense")
    again = doctor.examine(folder.path)
    assert tuple(finding.check for finding in again) == CHECKS
    assert [finding.check for finding in again if finding.verdict == "FAIL"] == ["site.toml"]
    looked = {finding.check for finding in again if finding.verdict in ("ok", "warn")}
    assert looked == {"versions", "disk", "process", "keys", "certificate", "authority", "memory"}


@pytest.mark.parametrize("verdict", ["ok", "warn", "skip", "FAIL"])
def test_only_a_fail_stands_against_a_job(verdict):
    found = (Finding("one", "ok", "well"), Finding("two", verdict, "so"))
    assert doctor.could_start(found) == (verdict != "FAIL")


def test_json_and_words_say_the_same(folder, capsys):
    assert main(["doctor", str(folder.path), "--json"]) == 1
    found = json.loads(capsys.readouterr().out)
    assert [set(finding) for finding in found] == [{"check", "verdict", "found", "remedy"}] * len(CHECKS)
    assert main(["doctor", str(folder.path)]) == 1
    lines = capsys.readouterr().out.splitlines()
    heads = [line for line in lines if line[:4].strip() in ("ok", "warn", "FAIL", "skip")]
    assert [line[6:20].strip() for line in heads] == list(CHECKS)
    assert lines[lines.index(next(line for line in heads if line.startswith("FAIL"))) + 1].startswith(" " * 21)
    warned = sum(finding["verdict"] == "warn" for finding in found)
    assert lines[-1] == f"no job could start: 1 FAIL, 5 not looked at, {warned} warn"


def test_a_folder_that_is_none(tmp_path, capsys):
    assert main(["doctor", str(tmp_path)]) == 2
    said = capsys.readouterr()
    assert said.out == ""
    assert said.err.startswith("error: expected a partner's folder")


def test_looking_changes_nothing(folder):
    """Neither where there are no books yet, nor where another process has them open."""
    before = _files(folder)
    doctor.examine(folder.path)
    assert _files(folder) == before
    Audit.of(folder).write("joined", {})
    budget = open_budget(folder)
    with take(folder.lock, what="run"):
        before = _files(folder)
        found = {finding.check: finding for finding in doctor.examine(folder.path)}
        assert _files(folder) == before
        assert "works in this folder now" in found["process"].found
        assert found["ledger"].verdict == found["data"].verdict == "ok"
    budget.close()


def test_what_a_killed_process_left_is_read_and_stays(folder):
    code = (
        "import sys, os, signal; from pathlib import Path\n"
        "from tacit_client.ledger import DataSet, Ledger, Release; from tacit.privacy.events import Event\n"
        "place, data = Path(sys.argv[1]), DataSet(sys.argv[2])\n"
        "key = (place / 'keys' / 'ledger.key').read_bytes()\n"
        "ledger = Ledger(place / 'ledger.db', partner='a', key=key, dataset=data)\n"
        "event = Event(kind='dp-sgd', sampling_rate=0.1, noise_multiplier=1.0, steps=1)\n"
        "ledger.reserve(Release('run', 1, 1, event))\nos.kill(os.getpid(), signal.SIGKILL)\n"
    )
    command = [sys.executable, "-c", code, str(folder.path), dataset(folder).fingerprint]
    done = subprocess.run(command, check=False)
    assert done.returncode == -signal.SIGKILL
    assert Path(f"{folder.ledger}-wal").stat().st_size > 0
    for _ in range(2):
        (found,) = [finding for finding in doctor.examine(folder.path) if finding.check == "ledger"]
        assert (found.verdict, found.found) == ("ok", "2 rows, each as it was written")
