"""Ledgers that lose their process, their disk or their clock: what was returned for stays counted."""

from __future__ import annotations

import os
import random
import resource
import signal
import subprocess
import threading
from contextlib import closing
from pathlib import Path

import pytest

from tacit.check import parse
from tacit.errors import BadInput
from tacit.privacy.events import Event
from tacit.secagg.keys import Secret
from tacit_client import policy as policy_module
from tacit_client.budget import Budget
from tacit_client.config import PolicySection
from tacit_client.ledger import DataSet, Ledger, Release

KEY, DATA = Secret(bytes(32)), DataSet("0" * 64)
EVENT = Event(kind="dp-sgd", sampling_rate=0.05, noise_multiplier=1.1, steps=1)
KILLS = 40


def _open(path: Path, *, durable: bool = True) -> Ledger:
    return Ledger(path, partner="p", key=KEY, dataset=DATA, durable=durable)


def _release(number: int, *, run: str = "run") -> Release:
    return Release(run, number, 1, EVENT.model_copy(update={"steps": 1 + number % 5}), job="a" * 64)


def _reserve_for_ever(path: Path, told: int, first: int) -> None:
    """Tells every release after it was returned for, until it is killed."""
    ledger = _open(path)
    for number in range(first, first + 100_000):
        ledger.reserve(_release(number))
        os.write(told, f"{number}\n".encode())
        ledger.confirm(_release(number))


def _killed(path: Path, *, first: int, after: float) -> list[int]:
    """The releases that a process told before it was killed, `after` seconds from its first."""
    read, write = os.pipe()
    child = os.fork()
    if child == 0:
        try:
            _reserve_for_ever(path, write, first)
        finally:
            os._exit(1)
    os.close(write)
    with os.fdopen(read) as told:
        numbers = [int(told.readline())]
        timer = threading.Timer(after, os.kill, (child, signal.SIGKILL))
        timer.start()
        numbers += [int(line) for line in told if line.endswith("\n")]
    _, status = os.waitpid(child, 0)
    assert os.WTERMSIG(status) == signal.SIGKILL
    return numbers


def test_what_was_returned_for_is_counted_however_often_the_process_is_killed(tmp_path: Path) -> None:
    path, told, drawn = tmp_path / "ledger.db", [], random.Random(5)
    for kill in range(KILLS):
        told += _killed(path, first=1000 * kill, after=drawn.uniform(0, 0.05))
        with closing(_open(path)) as ledger:  # verified in full
            charged = ledger.events()
            events = [_release(number).event for number in told]
            assert len(charged) - len(told) <= kill + 1  # at most one a kill that nobody heard of
            assert sum(event.steps for event in charged) >= sum(event.steps for event in events)
    runs = _numbers(path)
    assert set(told) <= set(runs)
    assert len(runs) == len(set(runs)) == len(charged)
    assert len(told) > 2 * KILLS


def _numbers(path: Path) -> list[int]:
    with closing(_open(path)) as ledger:
        rows = ledger._book.db.execute("SELECT round FROM entry WHERE kind = 'reserved' ORDER BY seq").fetchall()
    return [number for (number,) in rows]


def _fill(ledger: Ledger) -> int:
    """Reserves until the disk is full; how many were returned for."""
    said = ""
    for number in range(100_000):
        try:
            ledger.reserve(_release(number))
        except BadInput as error:
            said = f"{error.message}; {error.hint}"
            break
    assert "expected a privacy ledger that can be read and written at ledger.db" in said
    assert "nothing is trained without the ledger" in said
    return number


def _check_full(ledger: Ledger, returned: int) -> None:
    """Nothing is half there, and nothing is taken while there is no room."""
    assert len(ledger.events()) == returned
    with pytest.raises(BadInput):
        ledger.reserve(_release(0))
    assert len(ledger.events()) == returned
    assert not ledger._book.db.in_transaction


def test_a_full_database_refuses_and_goes_on_when_there_is_room(tmp_path: Path) -> None:
    with closing(_open(tmp_path / "ledger.db", durable=False)) as ledger:
        ledger._book.db.execute("PRAGMA max_page_count = 20")
        returned = _fill(ledger)
        _check_full(ledger, returned)
        ledger._book.db.execute("PRAGMA max_page_count = 1000000")
        ledger.reserve(_release(1))
        assert len(ledger.events()) == returned + 1
    with closing(_open(tmp_path / "ledger.db")) as again:
        assert len(again.events()) == returned + 1


@pytest.fixture
def small_disk(tmp_path: Path):
    """A file system of its own with 300 KiB."""
    place = tmp_path / "disk"
    place.mkdir()
    mounted = subprocess.run(
        ["mount", "-t", "tmpfs", "-o", "size=300k", "tmpfs", place], capture_output=True, check=False
    ) if os.geteuid() == 0 else None  # fmt: skip
    if mounted is None or mounted.returncode:
        pytest.skip("file systems can not be mounted here")
    yield place
    subprocess.run(["umount", place], check=True)


def test_a_full_disk_refuses_and_goes_on_when_there_is_room(small_disk: Path) -> None:
    filler, path = small_disk / "filler", small_disk / "ledger.db"
    filler.write_bytes(bytes(60_000))
    with closing(_open(path)) as ledger:
        returned = _fill(ledger)
        _check_full(ledger, returned)
        filler.unlink()
        ledger.reserve(_release(1))
        assert len(ledger.events()) == returned + 1
    with closing(_open(path)) as again:
        assert len(again.events()) == returned + 1


def _limited(path: Path) -> int:
    """The exit status of a process whose files may not grow above 200 kB."""
    child = os.fork()
    if child == 0:
        status = 1
        try:
            ledger = _open(path)
            resource.setrlimit(resource.RLIMIT_FSIZE, (200_000, resource.RLIM_INFINITY))
            returned = _fill(ledger)
            _check_full(ledger, returned)
            status = returned % 256
        finally:
            os._exit(status)
    return os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])


def test_a_file_that_may_not_grow_refuses(tmp_path: Path) -> None:
    status = _limited(tmp_path / "ledger.db")
    with closing(_open(tmp_path / "ledger.db")) as ledger:
        assert len(ledger.events()) > 10
        assert len(ledger.events()) % 256 == status != 1


def _budget(path: Path, now: list[float], **keys: object) -> Budget:
    rules = parse(PolicySection, keys, where="site.toml")
    return Budget(path, partner="p", key=KEY, dataset=DATA, policy=rules, clock=lambda: now[0])


def test_a_clock_that_is_set_back_makes_the_day_longer_and_never_shorter(tmp_path: Path) -> None:
    now = [10.0**9]
    with closing(_budget(tmp_path / "ledger.db", now, max_rounds_per_day=3)) as budget:
        budget.reserve(_release(1))
        now[0] -= 7 * 86_400
        budget.reserve(_release(2))
        assert budget.today() == 2
        now[0] += 7 * 86_400  # put right: the round of between is not a week old
        assert budget.today() == 2
        budget.reserve(_release(3))
        with pytest.raises(BadInput, match="at most 3 rounds"):
            budget.reserve(_release(4))
        now[0] -= 365 * 86_400
        with pytest.raises(BadInput, match="at most 3 rounds"):
            budget.reserve(_release(4))
        now[0] += 366 * 86_400 + 1
        assert budget.today() == 0
        times = budget._book.db.execute("SELECT at FROM entry ORDER BY seq").fetchall()
        assert times == sorted(times)


def test_writers_at_once_do_not_pass_the_limit_together(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Each has a connection of its own, as processes have; the limit is 25 steps."""
    monkeypatch.setattr(policy_module, "epsilon", lambda events, *, delta: float(sum(event.steps for event in events)))
    path, refused = tmp_path / "ledger.db", []

    def spend(name: str) -> None:
        with closing(_budget(path, [10.0**9], epsilon_limit=25.0)) as budget:
            for number in range(20):
                try:
                    budget.check(EVENT, rounds=1)
                    budget.reserve(Release(name, number, 1, EVENT))
                except BadInput as error:
                    refused.append(error.message)

    threads = [threading.Thread(target=spend, args=(f"run-{index}",)) for index in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(timeout=60)
    with closing(_open(path)) as ledger:
        assert len(ledger.events()) == 25
    assert len(refused) == 4 * 20 - 25
    assert all("epsilon within the limit 25" in message for message in refused)


def test_what_was_allowed_before_another_spent_is_not_allowed_after(tmp_path: Path, monkeypatch) -> None:
    monkeypatch.setattr(policy_module, "epsilon", lambda events, *, delta: float(sum(event.steps for event in events)))
    now, path = [10.0**9], tmp_path / "ledger.db"
    with closing(_budget(path, now, epsilon_limit=10.0)) as one, closing(_budget(path, now, epsilon_limit=10.0)) as two:
        one.check(EVENT, rounds=10)
        two.check(EVENT, rounds=10)
        for number in range(6):
            one.reserve(Release("one", number, 1, EVENT))
        for number in range(4):
            two.reserve(Release("two", number, 1, EVENT))
        for budget in (one, two):
            with pytest.raises(BadInput, match="10 spent and 11 with 1 round more, of which 0 would fit"):
                budget.reserve(Release("more", 1, 1, EVENT))
        assert one.head() == two.head()
