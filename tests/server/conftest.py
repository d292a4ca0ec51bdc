"""Runs of scripted partners, and a gateway's service without a network."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
from callers import Context, Node, enrolment
from real import Partners
from scripted import D, Script

from tacit.errors import JobFailed
from tacit.privacy.randomness import Randomness
from tacit_server import rounds
from tacit_server.checkpoint import RunState
from tacit_server.folder import Folder
from tacit_server.roster import Roster
from tacit_server.rounds import Setup, federate
from tacit_server.service import Service
from tacit_server.sessions import Sessions
from tacit_server.setup import init


@pytest.fixture
def run(make_job, monkeypatch):
    monkeypatch.setattr(rounds, "_GREETING_TIMEOUT", 1.0)

    def go(
        script: Script | Partners,
        *overrides: str,
        partners: int = 3,
        state: RunState | None = None,
        test: Any = None,
        seed: int = 0,
        hear: Any = lambda partner, said: None,
    ) -> tuple[RunState, list[RunState]]:
        job = make_job(*overrides)
        saved: list[RunState] = []
        setup = Setup(job=job, classes=2, test=test, randomness=Randomness(seed), save=saved.append, hear=hear)
        state = state or RunState(run="r", job_hash=job.hash(), vector=np.zeros(D, np.float32))
        try:
            return federate(script.grid(partners), setup, state), saved
        except JobFailed as error:
            error.saved = saved
            raise

    return go


@pytest.fixture
def make_partners(tmp_path, monkeypatch) -> Callable[..., Partners]:
    """Makes partners with the real client code, whose encoded updates are noted."""
    made: list[Partners] = []

    def make(**changes: Any) -> Partners:
        partners = Partners(ledger=tmp_path / f"ledger-{len(made)}.db", **changes)
        partners.record(monkeypatch)
        made.append(partners)
        return partners

    return make


@pytest.fixture
def folder(tmp_path) -> Folder:
    return init(tmp_path / "server", host="localhost")


@pytest.fixture
def roster(folder) -> Roster:
    return Roster(folder.roster_path)


@pytest.fixture
def sessions(folder) -> Sessions:
    return Sessions(folder.state / "sessions", make=Node, grace=10.0)


@pytest.fixture
def service(folder, roster, sessions) -> Service:
    folder.spool.mkdir()
    return Service(folder, roster, sessions, wake=lambda: None)


@pytest.fixture
def joined(service, folder, roster) -> Callable[[str], bytes]:
    """Makes a partner; gives its certificate."""

    def join(name: str) -> bytes:
        certificate, asked = enrolment(folder, roster, name)
        return service.Enrol(iter([asked]), Context(certificate)).certificate

    return join
