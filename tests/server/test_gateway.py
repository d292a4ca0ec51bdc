"""The gateway's own work: what fails for one partner ends it for nobody else."""

from __future__ import annotations

import threading
import time

import pytest
from callers import ONE, fail

from tacit_server import gateway
from tacit_server.database import Unusable
from tacit_server.gateway import Gateway


@pytest.fixture
def made(folder, monkeypatch) -> Gateway:
    monkeypatch.setattr(Gateway, "_make_server", lambda self: None)
    return Gateway(folder)


def test_a_session_s_name_is_nobody_s_key_but_its_partner_s(made):
    nodes = [made._node(partner, ONE) for partner in ("a", "b", "a")]
    assert nodes[0]._public == nodes[2]._public != nodes[1]._public


@pytest.mark.parametrize("error", [OSError(28, "No space left on device"), Unusable("expected x", hint="y")])
def test_what_fails_for_one_does_not_end_the_work_for_all(made, monkeypatch, error, caplog):
    seen: list[str] = []

    def act(session: str) -> None:
        seen.append(session)
        if session == "a":
            raise error

    monkeypatch.setattr(made._sessions, "all", lambda: ["a", "b"])
    monkeypatch.setattr(made._sessions, "pump", act)
    monkeypatch.setattr(made._sessions, "beat", act)
    monkeypatch.setattr(made._roster, "version", fail)
    monkeypatch.setattr(gateway, "_BEAT", 0.0)
    monkeypatch.setattr(gateway, "_SWEEP", 0.0)
    for work in (made._pump, made._beat):
        seen.clear()
        thread = threading.Thread(target=work)
        made._stopping.clear()
        thread.start()
        deadline = time.monotonic() + 10
        while seen.count("b") < 2:
            assert time.monotonic() < deadline
            time.sleep(0.01)
        made._stopping.set()
        thread.join(10)
        assert not thread.is_alive()
    assert 1 <= len(caplog.records) < 20  # not once a look
