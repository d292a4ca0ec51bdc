"""One file for many: threads, processes, restarts, and files that are something else."""

from __future__ import annotations

import os
import sqlite3
import subprocess
import sys
import threading
from datetime import UTC, datetime, timedelta

import pytest

from tacit.errors import BadInput
from tacit.link.certificates import Role, Subject
from tacit.secagg.keys import PublicKey
from tacit_server.database import Database
from tacit_server.roster import Refused, Roster

NOW = datetime(2030, 6, 1, 12, tzinfo=UTC)
HOUR = timedelta(hours=1)


def _key(text):
    return PublicKey(text.encode().ljust(32))


def _enrol(roster, name, invitation):
    roster.enrol(
        name=name,
        invitation=invitation,
        identity=_key(name),
        key_hash="k",
        certificate_fingerprint=f"{name}-certificate",
        now=NOW,
    )


def _subject(name):
    return Subject(Role.PARTNER, name, f"{name}-certificate", NOW - HOUR, NOW + HOUR)


@pytest.fixture
def path(tmp_path):
    return tmp_path / "roster.db"


@pytest.fixture
def roster(path):
    return Roster(path, clock=lambda: 0.0)


@pytest.fixture
def joined(roster):
    """One active partner, called a."""
    roster.invite("a", fingerprint="i", expires=NOW + HOUR)
    _enrol(roster, "a", "i")
    return roster


def _row(roster):
    return roster.partners()[0]


def test_other_processes_see_it_at_once_and_after_a_restart(path, joined):
    other = Roster(path)
    assert other.partners() == joined.partners()
    other.remove("a")
    with pytest.raises(Refused, match="removed"):
        joined.admit(_subject("a"), now=NOW)
    joined.close()
    other.close()
    assert _row(Roster(path)).state == "removed"


def test_threads_share_one_roster(roster):
    def work(index):
        name = f"p{index}"
        roster.invite(name, fingerprint=f"i{index}", expires=NOW + HOUR)
        _enrol(roster, name, f"i{index}")
        for count in range(10):
            roster.admit(_subject(name), now=NOW)
            roster.seen(name, online=bool(count % 2), device="cpu", now=NOW)

    threads = [threading.Thread(target=work, args=(index,)) for index in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert [(row.state, row.online) for row in roster.partners()] == [("active", True)] * 8
    assert roster.version() == 8


def test_a_file_that_is_no_roster(tmp_path):
    (tmp_path / "text").write_text("no database, but long enough to be looked at" * 50, encoding="utf-8")
    for path in (tmp_path / "text", tmp_path, tmp_path / "none" / "roster.db"):
        with pytest.raises(BadInput, match="expected a database"):
            Roster(path)
    db = sqlite3.connect(tmp_path / "newer.db")
    db.execute("PRAGMA user_version = 3")
    db.close()
    with pytest.raises(BadInput, match=r"expected version 2 of .*, found 3"):
        Roster(tmp_path / "newer.db")


def test_nothing_secret_lies_in_the_file(path, joined):
    joined.close()
    found = path.read_bytes()
    assert b"PRIVATE" not in found
    assert _key("a") in found


def test_a_change_that_fails_has_not_happened(path):
    database = Database(path, schema=("CREATE TABLE t (x INTEGER)",), version=1)

    def add(count):
        with database.change() as db:
            for x in range(count):
                db.execute("INSERT INTO t VALUES (?)", (x,))
            if count > 2:
                raise RuntimeError

    def count():
        with database.look() as db:
            return db.execute("SELECT COUNT(*) FROM t").fetchone()[0]

    def half():
        with database.change() as db:
            db.execute("INSERT INTO t VALUES (9)")
            db.execute("INSERT INTO u VALUES (9)")

    add(2)
    with pytest.raises(RuntimeError):
        add(3)
    assert count() == 2
    with pytest.raises(BadInput, match="no such table"):
        half()
    assert count() == 2


def test_processes_that_open_a_new_file_at_the_same_moment(path):
    code = "import sys; from pathlib import Path; from tacit_server.roster import Roster; "
    code += "print('ready', flush=True); sys.stdin.read(); print(Roster(Path(sys.argv[1])).version())"
    environment = os.environ | {"PYTHONPATH": os.pathsep.join(sys.path)}
    command = [sys.executable, "-c", code, str(path)]
    running = [
        subprocess.Popen(command, env=environment, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
        for _ in range(4)
    ]
    assert [process.stdout.readline() for process in running] == ["ready\n"] * 4
    for process in running:
        process.stdin.close()
    assert [process.stdout.read().strip() for process in running] == ["0"] * 4
    assert [process.wait(timeout=60) for process in running] == [0] * 4
