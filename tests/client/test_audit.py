"""The audit log: what is written stays as it was, or the place where it does not is named."""

from __future__ import annotations

import json
import multiprocessing
import os
import re
import signal
import stat
import subprocess
import sys
import time
import tracemalloc
from datetime import UTC, datetime, timedelta, timezone
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from tacit.errors import BadInput
from tacit.secagg.keys import Secret
from tacit_client.audit import RENEWED, START, Audit, Broken

KEY, OTHER = Secret(bytes(range(32))), Secret(bytes(32))
FACTS = {"run": "r", "epsilon": 1.25, "peers": ["a", "é"], "nothing": None, "deep": {"b": 1, "a": True}}


@pytest.fixture
def log(tmp_path) -> Audit:
    return Audit(tmp_path / "audit.log", key=KEY)


def _filled(log: Audit, lines: int = 5) -> list[bytes]:
    for i in range(lines):
        log.write(f"event-{i}", {**FACTS, "i": i})
    return log.path.read_bytes().splitlines(keepends=True)


def test_what_was_written_is_read(log):
    before = datetime.now(UTC)
    _filled(log)
    found = log.entries()
    assert [(e.seq, e.event, e.facts) for e in found] == [(i + 1, f"event-{i}", {**FACTS, "i": i}) for i in range(5)]
    for entry in found:
        at = datetime.fromisoformat(entry.at)
        assert before - timedelta(milliseconds=1) <= at <= datetime.now(UTC)
        assert at.tzinfo is not None
    assert log.head() == (5, found[-1].hash)
    assert [log.hash_at(i) for i in range(7)] == [START, *(e.hash for e in found), None]


def test_a_line_is_plain_json_and_the_file_is_its_owners(log):
    lines = _filled(log, 1)
    assert json.loads(lines[0])["facts"] == {**FACTS, "i": 0}
    assert stat.S_IMODE(log.path.stat().st_mode) == 0o600


def test_no_log_is_an_empty_one(log):
    assert log.entries() == ()
    assert log.head() == (0, START)
    assert not log.path.exists()


def test_times_are_in_utc(tmp_path):
    zone = timezone(timedelta(hours=5))
    log = Audit(tmp_path / "a", key=KEY, clock=lambda: datetime(2030, 1, 1, 3, tzinfo=zone))
    log.write("x", {})
    assert log.entries()[0].at == "2029-12-31T22:00:00.000+00:00"


def test_a_changed_line_is_named(log):
    """Guarantee: changed, taken out, put in, moved, doubled: the first line that does not hold is named."""
    lines = _filled(log)
    changed = {
        "a letter": ([*lines[:2], lines[2].replace(b"event-2", b"event-9"), *lines[3:]], 3),
        "a fact": ([*lines[:1], lines[1].replace(b"1.25", b"1.24"), *lines[2:]], 2),
        "first out": (lines[1:], 1),
        "one out": (lines[:2] + lines[3:], 3),
        "moved": ([lines[0], lines[2], lines[1], *lines[3:]], 2),
        "doubled": (lines[:3] + lines[2:], 4),
        "put in": ([*lines[:3], b"{}\n", *lines[3:]], 4),
        "no JSON": ([*lines[:4], b"hello\n"], 5),
        "cut off": ([*lines[:4], lines[4][:-1]], 5),
        "no number": ([*lines[:2], lines[2].replace(b"1.25", b"NaN"), *lines[3:]], 3),
        "half a letter": ([*lines[:3], re.sub(rb'"mac":"..', rb'"mac":"\\ud800', lines[3]), lines[4]], 4),
        "mac of another type": ([re.sub(rb'"mac":".*"', b'"mac":7', lines[0]), *lines[1:]], 1),
        "spaces": ([lines[0].replace(b'":', b'": '), *lines[1:]], 1),
    }
    for name, (content, place) in changed.items():
        log.path.write_bytes(b"".join(content))
        with pytest.raises(Broken) as caught:
            log.entries()
        assert (name, caught.value.line) == (name, place)
        assert f"in line {place} of" in caught.value.message
    assert len(changed) == 13


def test_lines_of_another_partner_are_refused(log, tmp_path):
    foreign = Audit(tmp_path / "other.log", key=OTHER)
    _filled(foreign)
    foreign.path.rename(log.path)
    with pytest.raises(Broken, match="found a line that was changed or is not this partner's in line 1"):
        log.entries()
    with pytest.raises(Broken):
        log.write("x", {})


@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.data())
def test_any_byte_that_is_changed_is_noticed(log, data):
    log.path.unlink(missing_ok=True)
    _filled(log, 3)
    content = bytearray(log.path.read_bytes())
    place = data.draw(st.integers(0, len(content) - 1))
    content[place] ^= data.draw(st.integers(1, 255))
    log.path.write_bytes(content)
    with pytest.raises(Broken):
        log.entries()


def test_a_log_that_was_changed_at_its_end_is_not_added_to(log):
    lines = _filled(log)
    log.path.write_bytes(b"".join([*lines[:4], lines[4].replace(b"event-4", b"event-5")]))
    with pytest.raises(Broken, match="in line 5 of"):
        log.write("x", {})
    assert log.path.read_bytes().count(b"\n") == 5


def test_what_a_crash_left_of_a_line_is_cut_off_and_said(log):
    lines = _filled(log)
    for torn in (lines[4][:-1], lines[4][:7], b"{"):
        log.path.write_bytes(b"".join(lines[:4]) + torn)
        log.write("next", {})
        assert [e.event for e in log.entries()][4:] == ["log-mended", "next"]
        assert log.entries()[4].facts == {"bytes_cut": len(torn)}
    log.path.write_bytes(b'{"seq"')
    log.write("first", {})
    assert [e.event for e in log.entries()] == ["log-mended", "first"]


def _write_many(path: Path, name: str) -> None:
    log = Audit(path, key=KEY)
    for i in range(30):
        log.write(name, {"i": i})


def test_processes_take_turns(log):
    context = multiprocessing.get_context("spawn")
    writers = [context.Process(target=_write_many, args=(log.path, f"w{i}")) for i in range(3)]
    for writer in writers:
        writer.start()
    for writer in writers:
        writer.join()
    found = log.entries()
    assert len(found) == 90
    for i in range(3):
        assert [e.facts["i"] for e in found if e.event == f"w{i}"] == list(range(30))


def test_a_kill_loses_nothing_that_was_promised(log):
    code = (
        "from pathlib import Path; from tacit.secagg.keys import Secret; from tacit_client.audit import Audit\n"
        f"log = Audit(Path({str(log.path)!r}), key=Secret(bytes(range(32))))\n"
        "for i in range(10**6):\n    log.write('x', {'i': i}); print(i, flush=True)"
    )
    promised = 0
    for pause in (0.05, 0.11, 0.2, 0.33):
        with subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE, text=True) as process:
            process.stdout.readline()
            time.sleep(pause)
            os.kill(process.pid, signal.SIGKILL)
            promised += 1 + len(process.stdout.read().splitlines())
        assert len(log.entries()) >= promised
    assert promised > 4


def test_a_full_disk_is_said_and_nothing_half_is_left(log, tmp_path):
    lines = _filled(log, 2)
    code = (
        "import resource, sys; from pathlib import Path; from tacit.secagg.keys import Secret\n"
        "from tacit.errors import BadInput; from tacit_client.audit import Audit\n"
        "import signal; signal.signal(signal.SIGXFSZ, signal.SIG_IGN)\n"
        f"path = Path({str(log.path)!r}); size = path.stat().st_size\n"
        "resource.setrlimit(resource.RLIMIT_FSIZE, (size + 20, size + 20))\n"
        "try:\n    Audit(path, key=Secret(bytes(range(32)))).write('x', {})\n"
        "except BadInput as error:\n    print(error.message)"
    )
    found = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert found.stdout.startswith(f"expected to write the audit log {log.path}, found ")
    assert log.path.read_bytes() == b"".join(lines)


def test_a_place_that_can_not_be_written_is_said(tmp_path):
    with pytest.raises(BadInput, match=r"^expected to open the audit log .*missing/audit.log, found"):
        Audit(tmp_path / "missing" / "audit.log", key=KEY).write("x", {})


def test_a_broken_log_can_be_put_aside(log):
    lines = _filled(log)
    log.path.write_bytes(b"".join(lines[:3]) + b"rubbish\n")
    aside = log.renew(covered=9)
    assert aside.read_bytes() == b"".join(lines[:3]) + b"rubbish\n"
    (first,) = log.entries()
    assert (first.event, first.facts) == (RENEWED, {"lines_before": 9, "aside": aside.name})
    assert log.renewed_after() == 9
    log.write("x", {})
    assert log.renewed_after() == 9


def test_a_first_log_was_not_renewed(log):
    assert log.renewed_after() == 0
    _filled(log, 2)
    assert log.renewed_after() == 0


def test_facts_that_are_too_long_are_refused(log):
    with pytest.raises(BadInput, match=r"^expected a line of at most 65536 bytes, found "):
        log.write("x", {"long": "y" * 70_000})
    assert log.entries() == ()


def test_a_line_that_a_crash_cut_off_is_no_reason_to_begin_another_log(log):
    lines = _filled(log)
    log.path.write_bytes(b"".join([*lines[:4], lines[4][:-1]]))
    with pytest.raises(Broken, match="a line that was cut off in line 5 of ") as caught:
        log.entries()
    assert caught.value.hint.startswith("start tacit-client run DIR: ")
    assert "renew" not in caught.value.hint


def test_numbers_go_on_when_a_renewed_log_is_put_aside_too(log):
    """Also without any mark: no number is given to two lines."""
    _filled(log)
    log.renew(covered=0)
    _filled(log, 3)
    assert [entry.seq for entry in log.entries()] == [6, 7, 8, 9]
    lines = log.path.read_bytes().splitlines(keepends=True)
    log.path.write_bytes(b"".join(lines[:3]) + b"rubbish\n")
    log.renew(covered=7)
    assert (log.renewed_after(), [entry.seq for entry in log.entries()]) == (9, [10])
    log.path.write_bytes(b"rubbish\n")  # the number of the first line can not be read: the mark's is the best there is
    log.renew(covered=10)
    assert [entry.seq for entry in log.entries()] == [11]


def test_looking_for_a_line_keeps_none_of_the_others(log):
    """It is done at every connection, and the log of many steps is long."""
    _filled(log, 400)
    size = log.path.stat().st_size
    tracemalloc.start()
    try:
        found = log.hash_at(400)
        _, peak = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert found == log.head()[1]
    assert peak < size // 2
