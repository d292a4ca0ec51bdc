"""The operator's commands: what they print, write and refuse."""

from __future__ import annotations

import json
import stat
from datetime import UTC, datetime, timedelta

import pytest

from tacit.link import keyfile
from tacit.link.enrolment import fingerprint
from tacit.link.invitation import Invitation
from tacit.link.words import words
from tacit.secagg.keys import PublicKey, identity_of
from tacit_server.cli import main
from tacit_server.folder import Folder
from tacit_server.roster import Roster

IDENTITY = PublicKey(bytes(range(32)))


@pytest.fixture
def call(capsys, tmp_path, monkeypatch):
    """Runs a command line in an empty folder."""
    monkeypatch.chdir(tmp_path)

    def run(*argv):
        capsys.readouterr()
        code = main([str(word) for word in argv])
        return code, *capsys.readouterr()

    return run


@pytest.fixture
def server(call, tmp_path):
    assert call("init", "server", "--host", "fl.example.org")[0] == 0
    return Folder.open(tmp_path / "server")


def _join(server, name, *, identity=IDENTITY):
    roster = Roster(server.roster_path)
    roster.enrol(
        name=name,
        invitation=Invitation.read(server.path.parent / f"{name}.invitation.toml").subject.fingerprint,
        identity=identity,
        key_hash="k",
        certificate_fingerprint="c",
        now=datetime.now(UTC),
    )
    return roster


def test_init_says_what_was_made_and_what_comes_next(call, tmp_path):
    code, out, err = call("init", "server", "--host", "192.0.2.7", "--port", "9444")
    assert (code, err) == (0, "")
    assert "192.0.2.7:9444" in out
    for word in (
        f"{tmp_path}/server/keys",
        "backup",
        "port 9444",
        "tacit-server invite server",
        "tacit-server up server",
    ):
        assert word in out
    folder = Folder.open(tmp_path / "server")
    assert folder.config.port == 9444
    own = identity_of(keyfile.read_key(folder.signing_key))
    assert f"  identity: {fingerprint(own)}\n            {words(own)}\n" in out


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (("init", "server"), "--host"),
        (("init", "server", "--host", "0.0.0.0"), "expected host as a host name"),
        (("init", "server", "--host", "a.b", "--port", "0"), "port"),
        (("init", "server", "--host", "a.b", "--port", "x"), "--port"),
        (("partners", "nowhere"), "no server.toml"),
        (("invite", "nowhere", "a"), "no server.toml"),
        (("remove", "nowhere", "a"), "no server.toml"),
    ],
)
def test_bad_usage_is_two_lines_and_makes_nothing(call, tmp_path, words, said):
    code, out, err = call(*words)
    assert (code, out) == (2, "")
    lines = err.splitlines()
    assert [line.split(":")[0] for line in lines] == ["error", "hint"]
    assert said in lines[0]
    assert list(tmp_path.iterdir()) == []


def test_a_second_init_is_refused(call, server):
    code, _, err = call("init", "server", "--host", "fl.example.org")
    assert code == 2
    assert "expected no server in" in err


def test_an_invitation_is_written_and_explained(call, server, tmp_path):
    code, out, err = call("invite", "server", "hospital-a")
    assert (code, err) == (0, "")
    made = Invitation.read(tmp_path / "hospital-a.invitation.toml")
    assert stat.S_IMODE((tmp_path / "hospital-a.invitation.toml").stat().st_mode) == 0o600
    assert (made.name, made.address) == ("hospital-a", "fl.example.org:9443")
    assert timedelta(hours=23.9) < made.expires - datetime.now(UTC) <= timedelta(hours=24)
    for word in ("hospital-a.invitation.toml", f"{made.expires:%Y-%m-%d %H:%M} UTC", "once", "in person", "scp"):
        assert word in out
    assert "tacit-client join hospital-a.invitation.toml --dir DIR" in out
    assert f"  {fingerprint(made.server)}\n  {words(made.server)}\n" in out  # as the partner will read it
    assert "PRIVATE" not in out


def test_invitations_of_other_places_and_hours(call, server, tmp_path):
    assert call("invite", "server", "a", "--out", "x.toml", "--hours", "0.5")[0] == 0
    assert Invitation.read(tmp_path / "x.toml").expires - datetime.now(UTC) <= timedelta(hours=0.5)
    for hours in ("0", "-1", "nan", "inf", "1e9"):
        code, _, err = call("invite", "server", "b", f"--hours={hours}")
        assert code == 2
        assert "invitation_hours" in err
        assert "--hours" in err
    assert [row.name for row in Roster(server.roster_path).partners()] == ["a"]


def test_nothing_but_an_earlier_invitation_is_written_over(call, server, tmp_path):
    (tmp_path / "job.toml").write_text("precious = 1\n", encoding="utf-8")
    assert call("invite", "server", "a")[0] == 0
    first = Invitation.read(tmp_path / "a.invitation.toml")
    for out, said in (
        ("job.toml", "found another file"),
        ("a.invitation.toml", "found an invitation for a"),
        ("none/x.toml", "expected a folder at none"),
        ("server", "found another file"),
    ):
        code, _, err = call("invite", "server", "b", "--out", out)
        assert code == 2
        assert said in err
    assert (tmp_path / "job.toml").read_text(encoding="utf-8") == "precious = 1\n"
    assert [row.name for row in Roster(server.roster_path).partners()] == ["a"]
    assert call("invite", "server", "a")[0] == 0
    assert Invitation.read(tmp_path / "a.invitation.toml") != first


def test_a_partner_from_invitation_to_removal(call, server):
    assert "nobody was invited yet" in call("partners", "server")[1]
    call("invite", "server", "hospital-a")
    assert "invited until 2" in call("partners", "server")[1]
    roster = _join(server, "hospital-a")
    code, _, err = call("invite", "server", "hospital-a")
    assert code == 2
    assert "an active partner" in err
    assert "remove hospital-a first" in err
    moment = datetime(2030, 6, 1, 12, 30, tzinfo=UTC)
    roster.seen("hospital-a", online=True, device="NVIDIA A100 \x1b[31m 80 GB", now=moment)
    head, row, below = call("partners", "server")[1].splitlines()
    assert below == " " * head.index("IDENTITY") + words(IDENTITY)
    assert head.split() == ["NAME", "STATE", "ONLINE", "DEVICE", "LAST", "SEEN", "IDENTITY"]
    for column, cell in (
        ("NAME", "hospital-a  "),
        ("STATE", "active  "),
        ("ONLINE", "yes  "),
        ("DEVICE", "NVIDIA A100 [31m 80 GB  "),
        ("LAST SEEN", "2030-06-01 12:30 UTC  "),
        ("IDENTITY", fingerprint(IDENTITY)),
    ):
        assert row[head.index(column) :].startswith(cell)
    code, out, _ = call("remove", "server", "hospital-a")
    assert code == 0
    assert "takes part no more" in out
    assert "removed  no" in call("partners", "server")[1]
    code, _, err = call("remove", "server", "hospital-a")
    assert code == 2
    assert "removed before" in err


def test_an_invitation_that_nobody_used_in_time(call, server):
    call("invite", "server", "a", "--hours", "1e-7")
    assert "invitation expired" in call("partners", "server")[1]


def test_partners_as_json(call, server):
    for name in ("hospital-a", "hospital-b"):
        call("invite", "server", name)
    _join(server, "hospital-a")
    code, out, err = call("partners", "server", "--json")
    assert (code, err) == (0, "")
    first, second = json.loads(out)
    assert first.keys() == second.keys()
    assert (first["name"], first["state"], first["online"]) == ("hospital-a", "active", False)
    assert first["identity"] == IDENTITY.hex()
    assert (first["fingerprint"], first["words"]) == (fingerprint(IDENTITY), words(IDENTITY))
    assert first["invitation_expires"] is None
    assert datetime.fromisoformat(first["joined"]).tzinfo is not None
    assert (second["identity"], second["state"], second["last_seen"]) == (None, "invited", None)
    assert (second["fingerprint"], second["words"]) == (None, None)
    assert datetime.fromisoformat(second["invitation_expires"]) > datetime.now(UTC)
    (nobody,) = (call("init", "other", "--host", "a.b"), call("partners", "other", "--json"))[1:]
    assert json.loads(nobody[1]) == []
