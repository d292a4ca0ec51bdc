"""The benchmark of the link in a small form: rows are whole, what is carried arrives. No duration is asserted."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
import zipfile
from io import BytesIO
from pathlib import Path

import pytest

from tacit.errors import BadInput, JobFailed
from tacit_sim.bench import bench, link, measure_link
from tacit_sim.bench.bundle import echo_bundle
from tacit_sim.bench.echo import Order
from tacit_sim.bench.link import CASES, Case
from tacit_sim.bench.loopback import loopback_seconds
from tacit_sim.bench.processor import spent
from tacit_sim.bench.round import PARAMETERS, round_lines
from tacit_sim.rehearsal import Rehearsal

BURN = "import time\nwhile time.process_time() < 0.5: pass\n"
HAS_PROC = Path("/proc/self/stat").exists()


@pytest.fixture
def measured(monkeypatch):
    """No process is started; what would be measured is given."""
    seconds = {"tacit": [0.5, 0.25, 1.0], "flower": [3.0, 4.0]}
    monkeypatch.setattr(link, "_tacit_echo", lambda case, folder, *, repeats: (seconds["tacit"], 0.125))
    monkeypatch.setattr(link, "_flower_echo", lambda case, folder, *, repeats: (seconds["flower"], None))
    monkeypatch.setattr(link, "loopback_seconds", lambda length, *, repeats, tls: [0.1 if tls is None else 0.2])
    line = {"seconds": {"secagg": 2.0, "aggregate": 0.5}, "round_seconds": 4.0, "partner_seconds": 0.75}
    monkeypatch.setattr(link, "round_lines", lambda folder, *, partners, rounds: [line] * rounds)


def test_every_row_has_every_column(measured, tmp_path):
    table = measure_link(CASES, repeats=2)
    assert len(table.rows) == 7
    assert all(set(table.columns) <= set(row) for row in table.rows)
    table.write(tmp_path / "link.json")
    assert len(json.loads((tmp_path / "link.json").read_text())["rows"]) == 7
    assert table.text().count("\n") > 7


def test_medians_ratios_and_aims(measured):
    rows = measure_link(CASES, repeats=2).rows
    assert [(row["way"], row["measure"], row["found"]) for row in rows] == [
        ("tacit", "time", 0.5),
        ("flower", "time", 3.5),
        ("tacit", "speed", 1600.0),
        ("loopback", "speed", 8000.0),
        ("loopback, mutual TLS", "speed", 4000.0),
        ("tacit", "protocol", 2.5),
        ("tacit", "beyond training", 3.75),
    ]
    assert [row["over_tacit"] for row in rows] == [1, 7, 1, 5, 2.5, 1, 1]
    assert [row["aim"] for row in rows] == ["< 0.6 met", "", "", "", "", "< 3 met", "< 3 missed"]
    assert [row["slowest"] for row in rows[:3]] == [1.0, 4.0, 800.0]
    assert [row["processor_s"] for row in rows[:3]] == ["0.125", "", "0.125"]


def test_the_command_takes_a_part_of_the_cases(measured):
    assert [row["way"] for row in bench("link", only="round trip").rows] == ["tacit", "flower"]
    with pytest.raises(BadInput, match=r"^expected --only to fit a name, found nothing$"):
        bench("link", only="nothing")
    with pytest.raises(BadInput, match=r"^expected --engine with bench engine only"):
        bench("link", engines=["ray"])


def test_a_case_that_says_nothing_is_refused():
    with pytest.raises(BadInput, match=r"^expected a round trip, a model or a secure round, found tea$"):
        measure_link([Case("tea", 1, 1, 1)])


def test_an_order_is_read_as_it_was_written(tmp_path):
    order = Order(3, 4096, 1, 2, "flower.db", (7, 8))
    order.write(tmp_path)
    assert Order.read(tmp_path) == order


def test_the_bundle_holds_an_import_and_nothing_else():
    with zipfile.ZipFile(BytesIO(echo_bundle())) as bundle:
        assert sorted(bundle.namelist()) == [".info/CONTENT", "pyproject.toml", "tacit_echo.py"]


def test_a_process_that_ended_is_told_with_its_last_words(tmp_path):
    with Rehearsal(tmp_path) as processes:
        processes.start("child", "python", "-c", "print('no room')")
        processes.processes["child"].wait()
        with pytest.raises(JobFailed, match=r"^expected child to go on, found it ended: 'no room'$"):
            link._check(processes)


@pytest.mark.skipif(not HAS_PROC, reason="no /proc here")
def test_processor_time_is_of_the_whole_family():
    before, own = spent([os.getpid()])[os.getpid()], time.process_time()
    subprocess.run([sys.executable, "-c", BURN], check=True)  # ended, and waited for
    child = subprocess.Popen([sys.executable, "-c", BURN + "import time; time.sleep(60)"])
    try:
        deadline = time.monotonic() + 60
        while spent([child.pid])[child.pid] < 0.4 and time.monotonic() < deadline:
            time.sleep(0.05)
        found = spent([os.getpid()])[os.getpid()] - before - (time.process_time() - own)
    finally:
        child.kill()
        child.wait()
    assert 0.85 < found < 3.0
    assert spent([child.pid]) == {}


@pytest.mark.parametrize("tls", [False, True])
def test_all_bytes_come_back_over_loopback(tls, tmp_path):
    found = loopback_seconds(3 * 2**20 + 1, repeats=2, tls=tmp_path if tls else None)
    assert len(found) == 2
    assert all(seconds > 0 for seconds in found)
    assert len(list(tmp_path.iterdir())) == (3 if tls else 0)


@pytest.mark.slow
@pytest.mark.e2e
@pytest.mark.timeout(600)
def test_real_processes_echo_and_flower_s_do():
    cases = [Case("round trip, small", 2, 4096, 2), Case("model, small", 1, 2**20, 2)]
    rows = measure_link(cases, repeats=2).rows
    assert [row["way"] for row in rows] == ["tacit", "flower", "tacit", "loopback", "loopback, mutual TLS"]
    assert [row["repeats"] for row in rows] == [2] * 5
    assert all(row["found"] > 0 for row in rows)
    assert not HAS_PROC or all(row["processor"] > 0 for row in rows[:3])


@pytest.mark.slow
@pytest.mark.e2e
@pytest.mark.timeout(600)
def test_real_rounds_are_done_and_of_the_size_that_is_said(tmp_path):
    lines = round_lines(tmp_path, partners=3, rounds=2)
    assert [(line["round"], line["status"], line["answered"]) for line in lines] == [(2, "done", 3), (3, "done", 3)]
    result = json.loads((tmp_path / "server" / "runs" / "rounds" / "result.json").read_text())
    assert result["model"]["parameters"] == PARAMETERS
