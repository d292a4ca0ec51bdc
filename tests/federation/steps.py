"""Four real partners and jobs of distributed DP-SGD of seconds, and what ledgers and logs tell of their blocks."""

from __future__ import annotations

import json
import os
import signal
import sqlite3
from collections import Counter
from contextlib import closing
from pathlib import Path
from typing import Any

import numpy as np
import tomli_w
from intruder import wait_until
from processes import family

from tacit_client.audit import Audit, Entry
from tacit_client.site import Folder
from tacit_server.runs import Run
from tacit_sim import known
from tacit_sim.rehearsal import Rehearsal

__all__ = ["NAMES", "PATIENCE", "Federation", "history", "replace", "steps_job", "steps_left", "wait_rounds"]

NAMES = ("alder", "birch", "cedar", "dogwood")
N = 300  # examples of each
PATIENCE = 600.0  # seconds


def steps_job(**sections: dict[str, Any]) -> dict[str, Any]:
    """A job on digits whose blocks take seconds."""
    job: dict[str, Any] = {
        "name": "steps",
        "task": {
            "kind": "image-classification", "model": "cnn", "labels": [str(i) for i in range(10)],
            "options": {"classes": 10, "shape": [8, 8]},
        },
        "training": {
            "rounds": 1, "local_steps": 3, "batch_size": 120, "population": N * len(NAMES), "learning_rate": 1.0,
        },
        "privacy": {
            "mechanism": "distributed-dp-sgd", "noise_multiplier": 6.0, "delta": 1e-5, "max_grad_norm": 0.1,
        },
        "aggregation": {"min_cohort": 4, "threshold": 3},
        "evaluation": {"every": 1000, "partner_holdout": 0.0},
    }  # fmt: skip
    return {key: value | sections.get(key, {}) if isinstance(value, dict) else value for key, value in job.items()}


class Federation:
    """Four partners with the policy that `join` writes, but for its number of colluders."""

    def __init__(self, folder: Path) -> None:
        self.rehearsal, self.folder = Rehearsal(folder), folder

    def begin(self) -> None:
        self.rehearsal.init()
        replace(self.rehearsal.server / "server.toml", "grace = 10.0", "grace = 2.0")
        self.rehearsal.up()
        images, _ = known.load("digits", data=None)
        for i, name in enumerate(NAMES):
            path = self.folder / f"{name}.npz"
            np.savez(path, x=images.inputs[i * N : (i + 1) * N], y=images.labels[i * N : (i + 1) * N])
            self.rehearsal.join(name, data=path)
            replace(self.folder / name / "site.toml", "colluders = 1", "colluders = 0")
        self.attend(*NAMES)

    def attend(self, *names: str, settings: dict[str, str] | None = None) -> None:
        """Start partners and wait until they are connected."""
        before = {name: self.said(name, "connected to") for name in names}
        for name in names:
            self.rehearsal.attend(name, wait=False, settings=settings)
        for name in names:
            self.rehearsal.wait_for(name, "connected to", times=before[name] + 1, timeout=PATIENCE)

    def submit(self, name: str, job: dict[str, Any], *flags: str) -> Run:
        path = self.folder / f"{name}.toml"
        path.write_text(tomli_w.dumps(job), encoding="utf-8")
        self.rehearsal.run("tacit-server", "run", str(self.rehearsal.server), str(path), "--name", name, *flags)
        return Run(self.rehearsal.server / "runs" / name)

    def said(self, name: str, words: str) -> int:
        """How often a partner's log has `words`."""
        log = self.rehearsal.log(name)
        return log.read_text(errors="replace").count(words) if log.exists() else 0

    def until(self, name: str, words: str, *, more: int = 1) -> None:
        """Wait until a partner has said `words` so many times more than now."""
        wanted = self.said(name, words) + more
        wait_until(lambda: self.said(name, words) >= wanted, seconds=PATIENCE, what=f"{words} of {name}")

    def audit(self, name: str, run: str) -> list[Entry]:
        """Lines of a partner's audit log about `run`, every one of which is verified."""
        entries = Audit.of(Folder.open(self.folder / name)).entries()
        return [entry for entry in entries if entry.facts.get("run") == run]

    def charged(self, name: str, run: str) -> list[tuple[int, int, int, int]]:
        """What a partner's ledger was charged in `run`: row, round, attempt and steps of each."""
        query = "SELECT seq, round, attempt, event FROM entry WHERE kind = 'reserved' AND run = ? ORDER BY seq"
        with closing(sqlite3.connect(f"file:{self.folder / name / 'ledger.db'}?mode=ro", uri=True)) as file:
            rows = file.execute(query, (run,)).fetchall()
        return [(seq, number, attempt, json.loads(event)["steps"]) for seq, number, attempt, event in rows]

    def kill_server(self, words: str) -> None:
        """Kill -9 the one process of the server whose command line has `words`."""
        found = [pid for pid in family(self.rehearsal.processes["server"].pid) if words in _command(pid)]
        assert len(found) == 1, words
        os.kill(found[0], signal.SIGKILL)


def _command(pid: int) -> str:
    try:
        return Path(f"/proc/{pid}/cmdline").read_bytes().decode("utf-8", "replace")
    except OSError:
        return ""


def replace(path: Path, old: str, new: str) -> None:
    text = path.read_text(encoding="utf-8")
    assert text.count(old) == 1, f"expected {old} once in {path.name}"
    path.write_text(text.replace(old, new), encoding="utf-8")


def history(run: Run) -> list[dict[str, Any]]:
    path = run.path / "history.jsonl"
    return [json.loads(line) for line in path.read_text().splitlines()] if path.exists() else []


def wait_rounds(run: Run, number: int) -> None:
    wait_until(lambda: len(history(run)) >= number, seconds=PATIENCE, what=f"round {number}")


def steps_left(entries: list[Entry]) -> Counter[int]:
    """Answers with a sum in them that left, by round."""
    return Counter(entry.facts["round"] for entry in entries if entry.event == "step-released")
