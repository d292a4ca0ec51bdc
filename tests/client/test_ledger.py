"""The ledger: what was reserved stays counted, whoever dies, whoever else writes."""

from __future__ import annotations

import os
import signal
import sqlite3
import stat
import subprocess
import sys
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tacit.errors import BadInput
from tacit.privacy.accounting import epsilon
from tacit.privacy.events import Event, merge
from tacit.secagg.keys import Secret
from tacit_client.ledger import DataSet, Ledger, Release

KEY, DATA = Secret(bytes(32)), DataSet("0" * 64)


def _event(*, noise: float = 1.1, steps: int = 5) -> Event:
    return Event(kind="dp-sgd", sampling_rate=0.05, noise_multiplier=noise, steps=steps)


def _release(index: int, *, run: str = "run", event: Event | None = None) -> Release:
    return Release(run=run, round=index, attempt=0, event=event or _event())


def _start(code: str, *arguments: object) -> subprocess.Popen[str]:
    """A Python process of its own, told to run `code`."""
    environment = os.environ | {"PYTHONPATH": os.pathsep.join([str(Path(__file__).parent), *sys.path])}
    command = [sys.executable, "-c", code, *map(str, arguments)]
    return subprocess.Popen(command, env=environment, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)


def test_events_come_back_in_order_by_run(tmp_path):
    ledger = Ledger(tmp_path / "ledger.db", partner="p", key=KEY, dataset=DATA)
    assert ledger.events() == ()
    first, second, third = (_release(i, run=run, event=_event(steps=i)) for i, run in ((1, "a"), (2, "b"), (3, "a")))
    for release in (first, second, third):
        ledger.reserve(release)
    assert ledger.events() == (first.event, second.event, third.event)
    assert ledger.events(run="a") == (first.event, third.event)
    assert ledger.events(run="c") == ()


def test_one_who_looks_writes_nothing(tmp_path):
    path = tmp_path / "ledger.db"
    with pytest.raises(BadInput, match="unable to open"):
        Ledger(path, partner="p", key=KEY, dataset=DATA, writable=False)
    assert not path.exists()
    Ledger(path, partner="p", key=KEY, dataset=DATA).close()
    before = path.read_bytes()
    looking = Ledger(path, partner="p", key=KEY, dataset=DATA, writable=False)
    assert looking.head().seq == 1
    with pytest.raises(BadInput, match="readonly"):
        looking.reserve(_release(1))
    with pytest.raises(BadInput, match="found other content"):
        Ledger(path, partner="p", key=KEY, dataset=DataSet("1" * 64), writable=False)
    looking.close()
    assert path.read_bytes() == before


def test_confirming_changes_no_cost_and_reserving_again_counts_again(tmp_path):
    ledger = Ledger(tmp_path / "ledger.db", partner="p", key=KEY, dataset=DATA)
    ledger.reserve(_release(1))
    ledger.confirm(_release(1))
    ledger.confirm(_release(2))
    assert len(ledger.events()) == 1
    ledger.reserve(_release(1))  # the same round once more: fresh noise, fresh cost
    assert len(ledger.events()) == 2


def test_partners_in_one_file_do_not_see_each_other(tmp_path):
    ledgers = {
        name: Ledger(tmp_path / "ledger.db", partner=name, key=KEY, dataset=DATA) for name in ("p", "q", "P", "p ", "%")
    }
    for index, ledger in enumerate(ledgers.values(), start=1):
        for _ in range(index):
            ledger.reserve(_release(1, event=_event(steps=index)))
    for index, ledger in enumerate(ledgers.values(), start=1):
        assert ledger.events() == ledger.events(run="run") == (_event(steps=index),) * index


@settings(max_examples=20, deadline=None)
@given(st.lists(st.tuples(st.sampled_from([0.0, 0.5, 1.1]), st.integers(1, 10**6)), max_size=10))
def test_what_is_read_after_opening_again_is_what_was_written(tmp_path_factory, rows):
    path = tmp_path_factory.mktemp("ledger") / "ledger.db"
    written = []
    for index, (noise, steps) in enumerate(rows):
        ledger = Ledger(path, partner="p", key=KEY, dataset=DATA, durable=False)
        written.append(_event(noise=noise, steps=steps))
        ledger.reserve(_release(index, event=written[-1]))
        ledger.close()
    assert Ledger(path, partner="p", key=KEY, dataset=DATA).events() == tuple(written)


def test_epsilon_after_a_restart_is_that_of_all_rounds(tmp_path):
    path, events = tmp_path / "ledger.db", []
    for index in range(6):
        ledger = Ledger(path, partner="p", key=KEY, dataset=DATA)  # a restart before every round
        event = _event(noise=1.1 if index < 3 else 2.0, steps=20)
        ledger.reserve(_release(index, event=event))
        events.append(event)
        ledger.close()
    found = epsilon(merge(Ledger(path, partner="p", key=KEY, dataset=DATA).events()), delta=1e-5)
    assert found == epsilon(events, delta=1e-5)
    assert found > 1.2 * epsilon(events[-1:], delta=1e-5)


DIES = """
import os, sys, time
from pathlib import Path
from tacit_client.ledger import Ledger
from test_ledger import DATA, KEY, _release
ledger = Ledger(Path(sys.argv[1]), partner="p", key=KEY, dataset=DATA)
ledger.reserve(_release(1))
if sys.argv[2] == "exit":
    os._exit(9)
print("reserved", flush=True)
time.sleep(60)
ledger.confirm(_release(1))
"""


@pytest.mark.parametrize("way", ["exit", "kill"])
def test_a_process_that_dies_after_reserving_leaves_the_cost_counted(tmp_path, way):
    path = tmp_path / "ledger.db"
    with _start(DIES, path, way) as process:
        if way == "kill":
            assert process.stdout.readline() == "reserved\n"
            process.kill()
        process.wait(timeout=60)
    assert process.returncode == (9 if way == "exit" else -signal.SIGKILL)
    assert Ledger(path, partner="p", key=KEY, dataset=DATA).events() == (_event(),)
    assert _states(path) == ["dataset", "reserved"]


def _states(path: Path) -> list[str]:
    with sqlite3.connect(path) as db:
        return [state for (state,) in db.execute("SELECT kind FROM entry ORDER BY seq")]


@pytest.mark.parametrize(("durable", "level"), [(True, 2), (False, 0)])
def test_a_partners_ledger_is_synced_in_full_and_a_virtual_ones_not(tmp_path, durable, level):
    """Levels of sqlite's `synchronous`: 0 off, 2 full, which syncs the log at every commit."""
    ledger = Ledger(tmp_path / "ledger.db", partner="p", key=KEY, dataset=DATA, durable=durable)
    assert ledger._book.db.execute("PRAGMA synchronous").fetchone() == (level,)
    assert ledger._book.db.execute("PRAGMA journal_mode").fetchone() == ("wal",)
    assert not ledger._book.db.in_transaction
    ledger.reserve(_release(1))
    assert not ledger._book.db.in_transaction  # committed when `reserve` returns


APPENDS = """
import sys
from pathlib import Path
from tacit_client.ledger import Ledger
from test_ledger import DATA, KEY, _event, _release
print("ready", flush=True)
sys.stdin.readline()
ledger = Ledger(Path(sys.argv[1]), partner=f"p{int(sys.argv[2]) % 2}", key=KEY, dataset=DATA, durable=False)
for index in range(40):
    ledger.reserve(_release(index, event=_event(steps=int(sys.argv[2]) + 1)))
"""


def test_processes_that_open_and_append_at_once_lose_nothing(tmp_path):
    path = tmp_path / "ledger.db"
    processes = [_start(APPENDS, path, index) for index in range(4)]
    for process in processes:
        assert process.stdout.readline() == "ready\n"
    for process in processes:  # all open the missing file at the same moment
        process.stdin.write("go\n")
        process.stdin.flush()
    assert [process.wait(timeout=60) for process in processes] == [0] * 4
    for process in processes:
        process.communicate()
    for partner in (0, 1):
        steps = sorted(event.steps for event in Ledger(path, partner=f"p{partner}", key=KEY, dataset=DATA).events())
        assert steps == [partner + 1] * 40 + [partner + 3] * 40


def test_a_file_that_is_no_ledger_is_refused(tmp_path):
    path = tmp_path / "notes.txt"
    path.write_bytes(b"patients of ward 7\n" * 100)
    with pytest.raises(BadInput, match=r"expected a privacy ledger .* at notes\.txt"):
        Ledger(path, partner="p", key=KEY, dataset=DATA)
    assert path.read_bytes() == b"patients of ward 7\n" * 100


def test_a_path_that_can_not_be_a_file_is_refused(tmp_path):
    for path in (tmp_path, tmp_path / "missing" / "ledger.db"):
        with pytest.raises(BadInput, match="expected a privacy ledger"):
            Ledger(path, partner="p", key=KEY, dataset=DATA)


def test_another_programs_database_is_refused(tmp_path):
    path = tmp_path / "other.db"
    with sqlite3.connect(path) as db:
        db.execute("CREATE TABLE entry (name TEXT)")
    with pytest.raises(BadInput, match=r"expected a privacy ledger at other\.db, found another program's database"):
        Ledger(path, partner="p", key=KEY, dataset=DATA)


def test_a_ledger_that_can_not_be_written_refuses(tmp_path):
    path = tmp_path / "ledger.db"
    ledger = Ledger(path, partner="p", key=KEY, dataset=DATA)
    ledger._book.db.execute("PRAGMA query_only = ON")  # as on a disk that became read-only; root may write anywhere
    with pytest.raises(BadInput, match="readonly"):
        ledger.reserve(_release(1))


def test_totals_are_the_merged_events_of_one_run(tmp_path):
    ledger = Ledger(tmp_path / "ledger.db", partner="a", key=KEY, dataset=DATA)
    one, two = (Event(kind="dp-sgd", sampling_rate=0.1, noise_multiplier=z, steps=5) for z in (1.0, 2.0))
    for i, (run, event) in enumerate([("x", two), ("x", one), ("y", one), ("x", two)]):
        ledger.reserve(Release(run=run, round=i, attempt=1, event=event))
        ledger.confirm(Release(run=run, round=i, attempt=1, event=event))
    assert ledger.totals(run="x") == merge(ledger.events(run="x"))
    assert [event.steps for event in ledger.totals(run="x")] == [10, 5]
    assert ledger.totals(run="z") == ()


def test_a_ledger_is_for_its_owner_alone(tmp_path):
    before = os.umask(0)
    try:
        Ledger(tmp_path / "ledger.db", partner="a", key=KEY, dataset=DATA)
    finally:
        os.umask(before)
    found = sorted(tmp_path.glob("ledger.db*"))
    assert found
    assert {stat.S_IMODE(file.stat().st_mode) for file in found} == {0o600}
