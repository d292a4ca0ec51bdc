"""Bad invitations, copied folders and removed partners against the real commands."""

from __future__ import annotations

import json
import shutil
import sqlite3
import subprocess
import sys
from contextlib import closing
from datetime import UTC, datetime, timedelta
from pathlib import Path

import grpc
import intruder
import pytest
from intruder import wait_until

from tacit.link.certificates import make_authority
from tacit.link.invitation import Invitation
from tacit.secagg.keys import Secret, identity_of
from tacit_client.keys import Keys
from tacit_client.site import Folder as PartnerFolder
from tacit_server.enrol import invite
from tacit_server.folder import Folder
from tacit_server.roster import Roster
from tacit_sim.rehearsal import Rehearsal, free_port

pytestmark = pytest.mark.e2e

DENIED = grpc.StatusCode.PERMISSION_DENIED


@pytest.fixture(scope="module")
def federation(tmp_path_factory):
    """A server."""
    with Rehearsal(tmp_path_factory.mktemp("enrolment")) as federation:
        federation.init()
        config = federation.server / "server.toml"
        config.write_text(config.read_text().replace("grace = 10.0", "grace = 1.0"))
        federation.up()
        yield federation


def _invited(federation, name: str, *, hours: float = 1.0, now: datetime | None = None) -> Path:
    """An invitation's file."""
    folder, path = Folder.open(federation.server), federation.folder / f"{name}.invitation.toml"
    moment = now or datetime.now(UTC)
    invite(folder, Roster(folder.roster_path), name=name, lifetime=timedelta(hours=hours), now=moment).write(path)
    return path


def _client(*words: object) -> tuple[int, str]:
    """Run tacit-client to its end: exit code and what it said of errors."""
    command = [str(Path(sys.executable).parent / "tacit-client"), *map(str, words)]
    ended = subprocess.run(command, capture_output=True, text=True, timeout=120, check=False)
    assert "Traceback" not in ended.stderr
    return ended.returncode, ended.stderr


def _refused(invitation: Path, place: Path, *words: str) -> None:
    """Join in `place` fails with a reason, and leaves it open for a good invitation."""
    code, said = _client("join", invitation, "--dir", place)
    assert code == 2, said
    assert said.startswith("error: expected ")
    assert said.count("\n") == 2
    assert "\nhint: " in said
    for word in words:
        assert word in said
    assert not (place / "site.toml").exists()


def _joins(federation, name: str, place: Path) -> None:
    assert _client("join", _invited(federation, name), "--dir", place) == (0, "")
    assert PartnerFolder.open(place).config.name == name


# invitations


def test_a_used_invitation_makes_no_second_partner_and_the_folder_stays_good(federation, tmp_path):
    invitation = _invited(federation, "used")
    assert _client("join", invitation, "--dir", tmp_path / "first")[0] == 0
    _refused(invitation, tmp_path / "second", "used with other keys", "tell the server's operator at once")
    _joins(federation, "used-2", tmp_path / "second")


def test_the_same_keys_may_ask_again_as_their_answer_may_be_lost(federation, tmp_path):
    invitation, place = _invited(federation, "again"), tmp_path / "place"
    assert _client("join", invitation, "--dir", place)[0] == 0
    (place / "site.toml").unlink()
    (place / "keys" / "link.pem").unlink()
    assert _client("join", invitation, "--dir", place) == (0, "")
    code, said = _client("join", invitation, "--dir", place)
    assert (code, "found one that has joined" in said) == (2, True)


def test_of_two_who_join_at_once_with_one_invitation_one_is_let_in(federation, tmp_path):
    invitation = _invited(federation, "twins")
    command = [str(Path(sys.executable).parent / "tacit-client"), "join", str(invitation), "--dir"]
    both = [
        subprocess.Popen([*command, str(tmp_path / name)], stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
        for name in ("one", "other")
    ]
    assert sorted(process.wait(120) for process in both) == [0, 2]


def test_an_expired_invitation_is_refused_on_both_sides(federation, tmp_path):
    """By the partner's own clock, and where its holder has edited the date, by the server's."""
    late = _invited(federation, "late", now=datetime.now(UTC) - timedelta(hours=2))
    _refused(late, tmp_path / "place", "found one that expired", "this machine's clock says")
    found = Invitation.read(late)
    text = late.read_text().replace(f"{found.expires:%Y-%m-%dT%H:%M:%SZ}", "2099-01-01T00:00:00Z")
    assert "2099" in text
    late.write_text(text)
    _refused(late, tmp_path / "place", "found one that expired")
    _joins(federation, "late", tmp_path / "place")


def test_a_revoked_invitation_is_refused(federation, tmp_path):
    first = _invited(federation, "revoked")
    older = tmp_path / "older.toml"
    shutil.copy(first, older)
    newer = _invited(federation, "revoked")
    _refused(older, tmp_path / "place", "found one that was revoked")
    federation.run("tacit-server", "remove", str(federation.server), "revoked")
    _refused(newer, tmp_path / "place", "found one that was revoked")
    _joins(federation, "revoked", tmp_path / "place")


def test_an_edited_invitation_is_refused_and_spends_nothing(federation, tmp_path):
    path = _invited(federation, "edited")
    good, other = path.read_text(), Invitation.read(_invited(federation, "other"))
    mine, place = Invitation.read(path), tmp_path / "place"
    edits = {
        "another name": (f'name = "{mine.name}"', 'name = "root"'),
        "another address": (mine.address, f"127.0.0.1:{free_port()}"),
        "a certificate of another": (mine.certificate.decode(), other.certificate.decode()),
        "a key of another": (mine.key.decode(), other.key.decode()),
        "an authority of another": (mine.authority.decode(), _foreign_authority(federation)),
        "a server's key of another": (mine.server.hex(), identity_of(Secret(bytes(32))).hex()),
        "a line more": ("version = 2", 'version = 2\ncommand = "rm"'),
        "another version": ("version = 2", "version = 3"),
        "half of it": (good[len(good) // 2 :], ""),
    }
    for what, (old, new) in edits.items():
        assert good.count(old) == 1, what
        path.write_text(good.replace(old, new))
        _refused(path, place)
    assert len(edits) == 9
    path.write_text(good)
    assert _client("join", path, "--dir", place) == (0, "")


def _foreign_authority(federation) -> str:
    return make_authority(name="authority-other", lifetime=timedelta(days=1))[1].decode()


def test_what_is_no_invitation_is_refused(tmp_path):
    strange = {"empty": b"", "binary": bytes(range(256)), "json": b"{}", "large": b"#" * 10**6}
    for name, content in strange.items():
        (tmp_path / name).write_bytes(content)
        _refused(tmp_path / name, tmp_path / "place")
    _refused(tmp_path / "missing", tmp_path / "place")
    assert not (tmp_path / "place").exists()


# partners


@pytest.fixture(scope="module")
def dora(federation):
    """A partner that is connected, by a process called dora."""
    data = intruder.write_data(federation.folder / "dora.npz", seed=1)
    federation.join("dora", data=data)
    federation.attend("dora")
    return federation.folder / "dora"


def test_a_second_process_in_a_folder_is_told_of_the_first(federation, dora):
    code, said = _client("run", dora)
    assert code == 2
    assert f"found process {federation.processes['dora'].pid} that holds" in said
    federation.wait_for("dora", "connected to")


def test_a_copied_folder_waits_for_the_first_and_a_removed_partner_is_cut_off_for_good(federation, dora):
    copied = federation.folder / "copied"
    shutil.copytree(dora, copied)
    federation.attend("copied", wait=False)
    federation.wait_for("copied", "found another one connected; stop it")
    assert federation.processes["dora"].poll() is None
    federation.kill("dora")
    federation.wait_for("copied", "connected to")

    (node,) = _nodes(federation)
    assert _is_online(federation, node)
    federation.run("tacit-server", "remove", str(federation.server), "dora")
    process = federation.processes["copied"]
    wait_until(lambda: process.poll() is not None, seconds=15, what="the end of the removed partner's process")
    assert process.returncode == 1
    said = federation.log("copied").read_text()
    assert said.count("error: expected an active partner, found that dora was removed\nhint: ask the operator") == 1
    assert "Traceback" not in said
    assert _nodes(federation) == set()
    wait_until(lambda: not _is_online(federation, node), seconds=10, what="the end of the partner's Flower node")

    with intruder.channel(federation, Keys.open(dora / "keys").files()) as opened:
        code, why = intruder.refusal(intruder.ask(opened, "Attend", [b""]))
    assert (code, why.split("\n")[0]) == (DENIED, "expected an active partner, found that dora was removed")
    shown = json.loads(federation.run("tacit-server", "partners", str(federation.server), "--json"))
    (row,) = [row for row in shown if row["name"] == "dora"]
    assert (row["state"], row["online"]) == ("removed", False)


def _nodes(federation) -> set[int]:
    return set(Roster(Folder(federation.server).roster_path).nodes())


def _is_online(federation, node: int) -> bool:
    """Whether Flower still counts a node as there."""
    signed = node - 2**64 if node >= 2**63 else node
    with closing(sqlite3.connect(f"file:{Folder(federation.server).flower_db}?mode=ro", uri=True)) as db:
        rows = db.execute("SELECT status FROM node WHERE node_id = ?", (signed,)).fetchall()
    assert len(rows) <= 1
    return bool(rows) and rows[0][0] == "online"
