"""A server, partners that take part alone and in clear, and what is done to their folders."""

from __future__ import annotations

import json
import signal
from pathlib import Path
from typing import Any

import intruder
from intruder import wait_until

from tacit_client.audit import Audit
from tacit_client.site import Folder
from tacit_sim.rehearsal import Rehearsal

__all__ = ["Place"]


class Place:
    """A server, and what is done to the folders of its partners.

    Args:
        federation: whose server is up.
    """

    def __init__(self, federation: Rehearsal) -> None:
        self.federation, self.runs = federation, 0

    def join(self, name: str, *, data: Path, ledger: Path | None = None, **policy: object) -> None:
        """Make a partner that takes part alone, and in clear."""
        self.federation.join(name, data=data)
        path = self.path(name) / "site.toml"
        self.settle(name, require_secure_aggregation="false", min_cohort=1, **policy)
        if ledger is not None:
            path.write_text(f'ledger = "{ledger}"\n{path.read_text()}')

    def settle(self, name: str, **policy: object) -> None:
        """Edit the policy of a partner."""
        path = self.path(name) / "site.toml"
        lines = path.read_text().splitlines()
        for key, value in policy.items():
            (place,) = [i for i, line in enumerate(lines) if line.startswith(f"{key} =")]
            lines[place] = f"{key} = {value}"
        path.write_text("\n".join(lines) + "\n")

    def path(self, name: str) -> Path:
        """The folder of a partner."""
        return self.federation.folder / name

    def attend(self, *names: str, settings: dict[str, str] | None = None) -> None:
        """Start partners' processes together, and wait until they are connected."""
        before = {name: self._said(name).count("connected to") for name in names}
        for name in names:
            self.federation.attend(name, wait=False, settings=settings)
        for name in names:
            self.federation.wait_for(name, "connected to", times=before[name] + 1)

    def leave(self, *names: str) -> None:
        """End partners' processes in an orderly way."""
        for name in names:
            self.federation.kill(name, signal.SIGTERM)

    def here(self) -> list[str]:
        """Partners whose processes run."""
        processes = self.federation.processes
        return [name for name in processes if name != "server" and processes[name].poll() is None]

    def submit(self, *flags: str, partners: int = 1) -> str:
        """Begin a job of one round with everybody who is there. Returns the run's name."""
        self.runs += 1
        name, folder = f"run-{self.runs}", self.federation.folder
        job = intruder.write_job(folder / "job.toml", partners=partners, threshold=1)
        self.federation.run("tacit-server", "run", str(self.federation.server), str(job), "--name", name, *flags)
        return name

    def job(self, *, partners: int = 1) -> dict[str, Any]:
        """Such a job to its end. Returns the line of its history."""
        name = self.submit("--wait", partners=partners)
        history = self.federation.server / "runs" / name / "history.jsonl"
        (line,) = [json.loads(text) for text in history.read_text().splitlines()]
        return dict(line)

    def fails(self, name: str) -> tuple[int, str]:
        """Start a partner's process that ends by itself. Returns its exit code and what it says."""
        before = len(self._said(name))
        self.federation.attend(name, wait=False)
        process = self.federation.processes[name]
        wait_until(lambda: process.poll() is not None, seconds=120, what="the end of the partner's process")
        said = self._said(name)[before:]
        assert "Traceback" not in said
        return int(process.returncode), said

    def noted(self, name: str, event: str) -> list[dict[str, Any]]:
        """The facts of `event` in a partner's audit log, every line of which is verified."""
        entries = Audit.of(Folder.open(self.path(name))).entries()
        return [entry.facts for entry in entries if entry.event == event]

    def budget(self, name: str) -> dict[str, Any]:
        """What the command says of the data in use."""
        found: dict[str, Any] = json.loads(
            self.federation.run("tacit-client", "budget", str(self.path(name)), "--json")
        )
        return found

    def _said(self, name: str) -> str:
        log = self.federation.log(name)
        return log.read_text() if log.exists() else ""
