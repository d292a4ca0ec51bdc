"""Joining, with the server's own enrolment behind a link that is cut where a test wants it."""

from __future__ import annotations

import os
import stat
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest

from tacit.errors import BadInput
from tacit.link import keyfile
from tacit.link.certificates import key_hash, subject
from tacit.link.enrolment import fingerprint
from tacit.link.roster import SignedRoster
from tacit.link.words import words
from tacit.lock import take
from tacit.secagg.keys import identity_of
from tacit_client import calls, roster, site
from tacit_client.audit import Audit
from tacit_client.calls import Enrolled
from tacit_client.join import join
from tacit_client.keys import Keys
from tacit_server import enrol
from tacit_server.roster import Refused, Roster
from tacit_server.setup import init
from tacit_server.welcome import Welcomes


class Server:
    """A real folder and roster; `cut` says after which step the answer is lost."""

    def __init__(self, path):
        self.folder = init(path, host="fl.example.org")
        self.roster = Roster(self.folder.roster_path)
        self.asked = 0
        self.cut = ""

    def invite(self, path, name="hospital-a", **change):
        made = enrol.invite(self.folder, self.roster, name=name, lifetime=timedelta(hours=1), now=datetime.now(UTC))
        replace(made, **change).write(path)
        return path

    def enrol(self, invitation, *, request, identity, proof):
        """In place of `tacit_client.calls.enrol`, whose words for a refusal are the server's."""
        self.asked += 1
        if self.cut == "before":
            raise BadInput("expected the server to answer, found no connection", hint="ask again later")
        try:
            certificate = enrol.enrol(
                self.folder,
                self.roster,
                invitation=subject(invitation.certificate),
                name=invitation.name,
                request=request,
                identity=identity,
                proof=proof,
                now=datetime.now(UTC),
            )
        except Refused as error:
            raise BadInput(error.message, hint=error.hint) from None
        if self.cut == "after":
            raise BadInput("expected the server to answer, found silence", hint="ask again later")
        return Enrolled(certificate, SignedRoster.unpack(Welcomes(self.folder, self.roster).roster()))

    def row(self, name="hospital-a"):
        return next(row for row in self.roster.partners() if row.name == name)


@pytest.fixture
def server(tmp_path, monkeypatch):
    made = Server(tmp_path / "server")
    monkeypatch.setattr(calls, "enrol", made.enrol)
    return made


@pytest.fixture
def invitation(server, tmp_path):
    return server.invite(tmp_path / "hospital-a.invitation.toml")


@pytest.fixture
def place(tmp_path):
    return tmp_path / "partner"


def _join(invitation, place, *, data=None, trust_new_peers=False):
    join(invitation, place, data=data, trust_new_peers=trust_new_peers)


def test_a_partner_s_folder(server, invitation, place, tmp_path, capsys):
    data = tmp_path / "scans.csv"
    data.write_text("a,b\n1,2\n", encoding="utf-8")
    _join(invitation, place, data=data)
    folder = site.Folder.open(place)
    assert (folder.config.name, folder.config.server.address) == ("hospital-a", "fl.example.org:9443")
    assert folder.config.data.path == str(data)
    assert not folder.config.policy.trust_new_peers
    assert stat.S_IMODE(place.stat().st_mode) == 0o700
    keys = Keys.open(folder.keys)
    server.roster.admit(subject(keys.certificate))
    assert server.row().identity == keys.public
    assert keys.server == identity_of(keyfile.read_key(server.folder.signing_key))
    assert roster.named(folder.roster, keys=keys) == {"hospital-a": keys.public}
    (line,) = Audit.of(folder).entries()
    assert (line.event, line.facts["server_key"], line.facts["identity"]) == (
        "joined",
        keys.server.hex(),
        keys.public.hex(),
    )
    out = capsys.readouterr().out
    for word in (
        fingerprint(keys.public),
        words(keys.public),
        fingerprint(keys.server),
        words(keys.server),
        f"tacit-client run {place}",
        f"tacit-client peers {place}",
        "site.toml",
    ):
        assert word in out
    assert keys.identity.hex() not in out
    assert "PRIVATE" not in out


def test_the_second_hears_of_the_first(server, invitation, place, tmp_path):
    _join(invitation, place)
    second = tmp_path / "second"
    _join(server.invite(tmp_path / "b.toml", "hospital-b"), second, trust_new_peers=True)
    folder = site.Folder.open(second)
    assert set(roster.named(folder.roster, keys=Keys.open(folder.keys))) == {"hospital-a", "hospital-b"}
    assert folder.config.policy.trust_new_peers


def test_a_folder_that_has_joined_is_left_alone(server, invitation, place, tmp_path):
    _join(invitation, place)
    before = _content(place)
    assert len(before) >= 8  # six of keys, site.toml, roster.toml
    for again in (invitation, server.invite(tmp_path / "b.toml", "hospital-b")):
        with pytest.raises(BadInput, match="found one that has joined") as raised:
            _join(again, place)
        assert f"tacit-client run {place}" in raised.value.hint
    assert _content(place) == before
    assert server.asked == 1


def _content(place):
    """What every file holds, but for the lock, which names the process that had it last."""
    return {path: path.read_bytes() for path in place.rglob("*") if path.is_file() and path.name != "run.lock"}


@pytest.mark.parametrize("cut", ["before", "after"])
def test_a_lost_answer_is_asked_for_again_with_the_same_keys(server, invitation, place, cut):
    server.cut = cut
    for _ in range(2):
        with pytest.raises(BadInput, match="expected the server to answer"):
            _join(invitation, place)
    assert not (place / "site.toml").exists()
    half = Keys(place / "keys")
    server.cut = ""
    _join(invitation, place)
    whole = Keys.open(place / "keys")
    assert whole.identity == half.identity
    assert key_hash(whole.request("a")) == key_hash(half.request("a"))
    server.roster.admit(subject(whole.certificate))
    assert server.asked == 3


STEPS = ("keys.make_key", "keys.Keys.keep", "roster.keep", "site.write", "audit.Audit.write")


@pytest.mark.parametrize("step", STEPS)
def test_a_kill_at_any_step_is_gone_on_from(server, invitation, place, monkeypatch, step):
    class Killed(BaseException):
        pass

    def kill(*args, **kwargs):
        raise Killed

    with monkeypatch.context() as patch:
        patch.setattr(f"tacit_client.{step}", kill)
        with pytest.raises(Killed):
            _join(invitation, place)
    identity = (place / "keys" / "identity.key").read_bytes()
    _join(invitation, place)
    assert Keys.open(place / "keys").identity == identity
    server.roster.admit(subject(Keys.open(place / "keys").certificate))
    assert site.Folder.open(place).config.name == "hospital-a"
    assert [entry.event for entry in Audit.of(site.Folder.open(place)).entries()] == ["joined"]


def test_the_keys_are_on_disk_before_the_server_is_asked(server, invitation, place, monkeypatch):
    seen = {}

    def look(made, **sent):
        seen.update(_content(place / "keys"))
        return server.enrol(made, **sent)

    monkeypatch.setattr(calls, "enrol", look)
    _join(invitation, place)
    assert len(seen) == 5
    assert seen.items() <= _content(place).items()


def test_a_stolen_invitation_is_noticed(server, invitation, place, tmp_path):
    _join(invitation, tmp_path / "thief")
    with pytest.raises(BadInput, match="used with other keys") as raised:
        _join(invitation, place)
    assert "somebody else has joined in your name" in raised.value.hint
    assert not (place / "site.toml").exists()


def test_the_server_s_reasons_come_through(server, invitation, place, tmp_path):
    server.invite(tmp_path / "newer.toml")
    with pytest.raises(BadInput, match="one that was revoked"):
        _join(invitation, place)
    server.roster.remove("hospital-a")
    with pytest.raises(BadInput, match="one that was revoked"):
        _join(tmp_path / "newer.toml", place)


def test_a_lost_partner_is_invited_anew_into_a_new_folder(server, invitation, place, tmp_path):
    _join(invitation, place)
    old = subject(Keys.open(place / "keys").certificate)
    server.roster.remove("hospital-a")
    _join(server.invite(tmp_path / "again.toml"), tmp_path / "new")
    with pytest.raises(Refused, match="current certificate"):
        server.roster.admit(old)


def _asks_nothing(server, invitation, place, *, match, data=None):
    with pytest.raises(BadInput, match=match) as raised:
        _join(invitation, place, data=data)
    assert "\n" not in raised.value.message
    assert server.asked == 0
    assert server.row().state == "invited"


def test_a_folder_that_can_not_be_written(server, invitation, tmp_path, monkeypatch):
    (tmp_path / "file").write_text("", encoding="utf-8")
    for place in (tmp_path / "file", tmp_path / "file" / "partner"):
        _asks_nothing(server, invitation, place, match=f"expected to make the folder {place}")

    def full(handle):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "fsync", full)
    _asks_nothing(server, invitation, tmp_path / "full", match="expected to write .*, found No space left")


@pytest.mark.skipif(os.geteuid() == 0, reason="root writes everywhere")
def test_a_folder_of_somebody_else(server, invitation, tmp_path):
    (tmp_path / "theirs").mkdir(mode=0o500)
    _asks_nothing(server, invitation, tmp_path / "theirs" / "partner", match="Permission denied")
    _asks_nothing(server, invitation, tmp_path / "theirs", match="Permission denied")


def test_what_is_seen_before_anything_is_made(server, invitation, place, tmp_path):
    _asks_nothing(server, invitation, place, match="expected data at", data=tmp_path / "none.csv")
    _asks_nothing(server, invitation, place, match="expected data at", data=Path("~nobody-of-that-name/none.csv"))
    _asks_nothing(server, tmp_path / "none", place, match="expected an invitation at")
    old = server.invite(tmp_path / "old.toml", expires=datetime(2020, 1, 2, 3, 4, tzinfo=UTC))
    _asks_nothing(server, old, place, match="expired 2020-01-02 03:04 UTC; this machine's clock says 2")
    assert not place.exists()


def test_another_federation_s_half_made_folder(server, invitation, place, tmp_path):
    server.cut = "before"
    with pytest.raises(BadInput, match="no connection"):
        _join(invitation, place)
    other = Server(tmp_path / "other")
    before = _content(place)
    with pytest.raises(BadInput, match="found those of another"):
        _join(other.invite(tmp_path / "other.toml"), place)
    assert _content(place) == before
    assert (server.asked, other.asked) == (1, 0)


def test_two_joins_at_once_in_one_folder(server, invitation, place):
    place.mkdir(mode=0o700)
    with take(place / "run.lock", what="a test"):
        _asks_nothing(server, invitation, place, match=f"found process {os.getpid()}")
    _join(invitation, place)


def test_a_server_with_another_signing_key_is_refused_before_anything_is_kept(server, invitation, place):
    """The gateway of this federation, but not who made the invitation."""
    keyfile.write(server.folder.signing_key, bytes(range(32)))
    with pytest.raises(BadInput, match="signed with the server's key, found a wrong signature"):
        _join(invitation, place)
    assert sorted(path.name for path in place.iterdir()) == ["keys", "run.lock"]
    assert not (place / "keys" / "link.pem").exists()
