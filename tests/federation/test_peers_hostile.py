"""A server that puts back or changes what it said, and a ledger that is put back: through the real commands."""

from __future__ import annotations

import os
import shutil
import signal
import sqlite3
import threading
import time
from contextlib import closing

import intruder
import pytest
from intruder import joined, wait_until

from tacit.errors import BadInput, JobFailed
from tacit.link import keyfile
from tacit.link.roster import federation_of
from tacit.privacy.events import Event
from tacit.secagg.keys import Secret, identity_of
from tacit_client import calls, peers, roster
from tacit_client.audit import Audit
from tacit_client.holding import open_budget
from tacit_client.keys import Keys
from tacit_client.ledger import Release
from tacit_client.mark import Marks
from tacit_client.site import Folder as PartnerFolder
from tacit_server.folder import Folder
from tacit_server.roster import Roster
from tacit_sim.rehearsal import Rehearsal

pytestmark = [pytest.mark.e2e, pytest.mark.timeout(600)]

OTHER = identity_of(Secret(bytes(range(32))))


@pytest.fixture(scope="module")
def federation(tmp_path_factory):
    """A server, a partner alice that runs and has accepted bob, who does not."""
    with Rehearsal(tmp_path_factory.mktemp("peers")) as federation:
        federation.init()
        config = federation.server / "server.toml"
        config.write_text(config.read_text().replace("grace = 10.0", "grace = 1.0"))
        federation.up()
        joined(federation, "bob")
        federation.join("alice", data=intruder.write_data(federation.folder / "a.npz", seed=1), flags=())
        federation.run("tacit-client", "peers", str(federation.folder / "alice"), "accept", "bob")
        federation.attend("alice")
        yield federation


@pytest.fixture
def alice(federation):
    return PartnerFolder.open(federation.folder / "alice")


def _events(folder: PartnerFolder, event: str) -> list[dict[str, object]]:
    return [entry.facts for entry in Audit.of(folder).entries() if entry.event == event]


def test_the_list_as_it_is_now_is_fetched_when_asked_for(federation, alice):
    before = roster.read(alice.roster, keys=Keys(alice.keys))
    joined(federation, "dora")
    refused = "expected one of alice, bob in the server's list, found dora"
    with pytest.raises(JobFailed, match=refused):
        federation.run("tacit-client", "peers", str(alice.path), "accept", "dora")
    said = federation.run("tacit-client", "peers", str(alice.path), "--refresh")
    assert "dora   new" in said
    after = roster.read(alice.roster, keys=Keys(alice.keys))
    assert after.version > before.version
    assert after.peers.keys() - before.peers.keys() == {"dora"}
    federation.run("tacit-server", "remove", str(federation.server), "dora")


def _reconnect(federation) -> None:
    """Let alice's process hear a new welcome, of a gateway that is started anew."""
    times = federation.log("alice").read_text().count("connected to") + 1
    os.kill(intruder.gateway(federation), signal.SIGTERM)
    federation.wait_for("alice", "connected to", times=times)


def _said(federation, words: str) -> int:
    return federation.log("alice").read_text().count(words)


def test_a_greeting_while_the_partner_runs(federation, alice):
    keys = Keys.open(alice.keys)
    before = Roster(Folder(federation.server).roster_path).nodes()
    found = calls.greet(alice.config.server.address, keys.files())
    found.roster.check(server=keys.server, federation=federation_of(keys.authority))
    assert (set(found.roster.peers), found.mark, abs(found.clock - time.time()) < 60) == ({"alice", "bob"}, b"", True)
    assert Roster(Folder(federation.server).roster_path).nodes() == before
    assert _said(federation, "not connected") == 0
    with pytest.raises(BadInput, match="expected the server at"):
        calls.greet("127.0.0.1:9", keys.files(), timeout=5.0)


def test_an_older_roster_is_refused_and_told(federation, alice):
    """The file from a backup, or an old copy: alice knows a later one."""
    path = Folder(federation.server).roster_path
    old = federation.folder / "backup.db"
    with closing(sqlite3.connect(path)) as db, closing(sqlite3.connect(old)) as copy:
        db.backup(copy)
    federation.run("tacit-server", "invite", str(federation.server), "x", "--out", str(federation.folder / "x.toml"))
    federation.run("tacit-server", "remove", str(federation.server), "x")
    _reconnect(federation)
    later = roster.read(alice.roster, keys=Keys(alice.keys))
    times = _said(federation, "connected to") + 1
    federation.kill("server", signal.SIGTERM)
    for left in path.parent.glob("roster.db*"):
        left.unlink()
    shutil.copy(old, path)
    federation.up()
    federation.wait_for("alice", "connected to", times=times)
    told = f"expected a list of partners of version {later.version} or later, found version"
    assert _said(federation, f"ALARM: the server's list of partners is refused: {told}") == 1
    assert [str(facts["reason"]).startswith(told) for facts in _events(alice, "roster-refused")] == [True]
    assert roster.read(alice.roster, keys=Keys(alice.keys)) == later
    # with the next change the operator is past it
    federation.run("tacit-server", "invite", str(federation.server), "y", "--out", str(federation.folder / "y.toml"))
    federation.run("tacit-server", "remove", str(federation.server), "y")
    _reconnect(federation)
    assert roster.read(alice.roster, keys=Keys(alice.keys)).version > later.version
    assert len(_events(alice, "roster-refused")) == 1


def test_a_server_that_names_another_key_for_an_accepted_peer(federation, alice):
    before = peers.read(alice.peers)
    with closing(sqlite3.connect(Folder(federation.server).roster_path)) as db, db:
        assert db.execute("UPDATE partner SET identity = ? WHERE name = 'bob'", (OTHER,)).rowcount == 1
        db.execute("UPDATE membership SET version = version + 100")
    _reconnect(federation)
    assert _said(federation, "ALARM: the server names another key for bob than the accepted one") == 1
    assert [facts["peer"] for facts in _events(alice, "peer-changed")] == ["bob"]
    assert peers.read(alice.peers) == before
    shown = federation.run("tacit-client", "peers", str(alice.path))
    assert "bob    changed" in shown
    assert "ALARM" in shown


def test_a_server_with_another_signing_key(federation, alice):
    """Whoever has the gateway's keys and not that one."""
    key = Folder(federation.server).signing_key
    kept, before = keyfile.read_key(key), alice.roster.read_bytes()
    keyfile.write(key, bytes(range(1, 33)))
    try:
        _reconnect(federation)
        assert "found a wrong signature" in str(_events(alice, "roster-refused")[-1]["reason"])
        assert alice.roster.read_bytes() == before
    finally:
        keyfile.write(key, kept)
    _reconnect(federation)


def test_a_ledger_that_was_put_back_ends_the_partner(federation, alice):
    """The mark of a later ledger lies at the server, and every trace on this machine is gone."""
    federation.kill("alice", 15)
    keys, event = Keys.open(alice.keys), Event(kind="dp-sgd", sampling_rate=0.1, noise_multiplier=1.0, steps=1)
    budget = open_budget(alice)
    budget.reserve(Release(run="one", round=1, attempt=1, event=event))
    budget.close()
    old = federation.folder / "ledger.old"
    shutil.copy(alice.ledger, old)
    budget = open_budget(alice)
    budget.reserve(Release(run="one", round=2, attempt=1, event=event))
    mark = Marks(alice.mark, secret=keys.ledger, ledger=budget, audit=Audit.of(alice)).now()
    budget.close()
    Roster(Folder(federation.server).roster_path).keep_mark("alice", mark)
    newest = alice.ledger.read_bytes()
    for left in (alice.mark, *alice.path.glob("ledger.db-*")):
        left.unlink()
    shutil.copy(old, alice.ledger)
    federation.attend("alice", wait=False)
    process, log = federation.processes["alice"], federation.log("alice")
    wait_until(lambda: process.poll() is not None, seconds=120, what="the end of the partner's process")
    said = log.read_text()
    assert (process.returncode, "Traceback" in said) == (1, False)
    assert said.count("error: expected the ledger that this partner last answered with") == 1
    assert "hint: put the newest ledger.db back" in said
    assert len(_events(alice, "ledger-behind")) == 1
    alice.ledger.write_bytes(newest)
    times = said.count("connected to") + 1
    federation.attend("alice", wait=False)
    federation.wait_for("alice", "connected to", times=times)


def test_a_damaged_list_or_a_folder_of_an_older_version_does_not_start(federation, alice):
    federation.kill("alice", 15)
    good = alice.roster.read_bytes()
    alice.roster.write_bytes(good[:-40])
    said = _fails(federation, alice)
    assert f"in {alice.roster}\nhint: delete that file" in said or f"{alice.roster}, found" in said
    alice.roster.write_bytes(good)
    (alice.keys / "server.pub").rename(alice.path / "aside")
    assert "joined with an older version of tacit\nhint: restore it from a backup" in _fails(federation, alice)
    (alice.path / "aside").rename(alice.keys / "server.pub")


def _fails(federation, alice) -> str:
    """What `run` says when it does not start."""
    before = len(federation.log("alice").read_text())
    federation.attend("alice", wait=False)
    process = federation.processes["alice"]
    wait_until(lambda: process.poll() is not None, seconds=120, what="the end of the partner's process")
    said = federation.log("alice").read_text()[before:]
    assert (process.returncode, "Traceback" in said, said.count("error: ")) == (2, False, 1)
    return said


def test_two_joins_and_a_removal_have_three_versions(federation):
    """In one second, and from several threads."""
    members = Roster(Folder(federation.server).roster_path)
    seen = [members.version()]
    threads = [threading.Thread(target=joined, args=(federation, name)) for name in ("carol", "dan")]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    seen.append(members.version())
    members.remove("dan")
    seen.append(members.version())
    assert seen[1] >= seen[0] + 2
    assert seen[2] > seen[1]
