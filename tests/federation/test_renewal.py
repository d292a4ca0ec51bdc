"""Certificates that live for two minutes: partner and gateway outlive them without anybody's hand."""

from __future__ import annotations

import time
from datetime import UTC, datetime

import pytest

from tacit.link import certificates
from tacit_client.keys import Keys
from tacit_sim.rehearsal import Rehearsal

DAYS = 120 / 86_400


@pytest.mark.slow
@pytest.mark.e2e
@pytest.mark.timeout(600)
def test_a_partner_outlives_its_certificate(tmp_path):
    with Rehearsal(tmp_path) as federation:
        federation.init()
        config = federation.server / "server.toml"
        lines = [line for line in config.read_text().splitlines() if not line.startswith("partner_days")]
        config.write_text("\n".join([*lines, f"partner_days = {DAYS}"]) + "\n")
        federation.up()
        data = tmp_path / "data.csv"
        data.write_text("text,label\n" + "hello,a\nbye,b\n" * 20)
        federation.join("hospital-a", data=data)
        first = certificates.subject(Keys.open(tmp_path / "hospital-a" / "keys").certificate)
        time.sleep(90)  # two thirds of its life are over
        federation.attend("hospital-a")
        federation.wait_for("hospital-a", "certificate of this partner was renewed")
        time.sleep(max(0.0, (first.not_after - datetime.now(UTC)).total_seconds()) + 1)
        federation.kill("hospital-a")
        federation.start("hospital-a", "tacit-client", "run", str(tmp_path / "hospital-a"))
        federation.wait_for("hospital-a", "connected to", times=2)
        assert "yes" in federation.run("tacit-server", "partners", str(federation.server))
