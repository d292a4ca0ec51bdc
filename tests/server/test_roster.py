"""The roster: who is in, who was, and which node is whose."""

from __future__ import annotations

import os
import sqlite3
import subprocess
import sys
from contextlib import closing
from dataclasses import replace
from datetime import UTC, datetime, timedelta

import pytest

from tacit.errors import BadInput
from tacit.link.certificates import Role, Subject
from tacit.secagg.keys import PublicKey
from tacit_server.roster import Refused, Roster

NOW = datetime(2030, 6, 1, 12, tzinfo=UTC)
HOUR = timedelta(hours=1)


def _key(text):
    return PublicKey(text.encode().ljust(32))


def _enrol(roster, name="a", *, invitation="i", identity="A", key="k", certificate="c", now=NOW, most=None):
    roster.enrol(
        name=name,
        invitation=invitation,
        identity=_key(identity),
        key_hash=key,
        certificate_fingerprint=certificate,
        now=now,
        most=most,
    )


def _subject(name="a", *, certificate="c", role=Role.PARTNER, ends=NOW + 2000 * HOUR):
    return Subject(role, name, certificate, NOW - 24 * HOUR, ends)


@pytest.fixture
def roster(tmp_path):
    return Roster(tmp_path / "roster.db")


@pytest.fixture
def joined(roster):
    """One active partner, called a."""
    roster.invite("a", fingerprint="i", expires=NOW + HOUR)
    _enrol(roster)
    return roster


def _row(roster, name="a"):
    return next(row for row in roster.partners() if row.name == name)


def test_from_invited_to_active_to_removed_and_back(roster):
    assert roster.partners() == []
    roster.invite("a", fingerprint="i", expires=NOW + HOUR)
    row = _row(roster)
    assert (row.state, row.identity, row.joined, row.expires) == ("invited", None, None, NOW + HOUR)
    _enrol(roster)
    row = _row(roster)
    assert (row.state, row.identity, row.joined, row.expires) == ("active", _key("A"), NOW, None)
    roster.remove("a")
    assert _row(roster).state == "removed"
    roster.invite("a", fingerprint="j", expires=NOW + 3 * HOUR)
    assert _row(roster).state == "invited"
    _enrol(roster, invitation="j", identity="B", certificate="d", now=NOW + 2 * HOUR)
    row = _row(roster)
    assert (row.state, row.identity, row.joined) == ("active", _key("B"), NOW + 2 * HOUR)
    with pytest.raises(Refused, match="current certificate"):
        roster.admit(_subject(), now=NOW)


REFUSED = {
    "an unknown one": {"invitation": "j"},
    "found 'b'": {"name": "b"},
    "was used with other keys": {"identity": "B"},
    "used with other keys": {"key": "l"},
}


@pytest.mark.parametrize("reason", REFUSED)
def test_a_used_invitation_is_the_same_keys_alone(joined, reason):
    before = joined.partners()
    with pytest.raises(Refused, match=reason):
        _enrol(joined, **REFUSED[reason])
    assert joined.partners() == before
    joined.admit(_subject(), now=NOW)


def test_who_never_heard_the_answer_asks_again(joined):
    version = joined.version()
    _enrol(joined, certificate="d", now=NOW + 0.5 * HOUR)
    for certificate in "cd":  # whichever answer arrived
        joined.admit(_subject(certificate=certificate), now=NOW)
    assert _row(joined).joined == NOW
    assert joined.version() == version
    with pytest.raises(Refused, match="expired 2030-06-01 13:00 UTC"):
        _enrol(joined, certificate="e", now=NOW + HOUR)
    joined.remove("a")
    with pytest.raises(Refused, match="revoked"):
        _enrol(joined, certificate="e")


def test_expired_to_the_second(roster):
    roster.invite("a", fingerprint="i", expires=NOW + HOUR)
    with pytest.raises(Refused, match="expired 2030-06-01 13:00 UTC"):
        _enrol(roster, now=NOW + HOUR)
    _enrol(roster, now=NOW + HOUR - timedelta(seconds=1))


def test_a_new_invitation_revokes_the_earlier_one(roster):
    roster.invite("a", fingerprint="i", expires=NOW + HOUR)
    roster.invite("b", fingerprint="b", expires=NOW + HOUR)
    roster.invite("a", fingerprint="j", expires=NOW + HOUR)
    with pytest.raises(Refused, match="revoked"):
        _enrol(roster)
    _enrol(roster, invitation="j")
    _enrol(roster, name="b", invitation="b", identity="B")
    with pytest.raises(Refused, match="revoked"):
        _enrol(roster)


def test_an_active_partner_is_not_invited(joined):
    with pytest.raises(BadInput, match="an active partner") as raised:
        joined.invite("a", fingerprint="j", expires=NOW + HOUR)
    assert "remove a first" in raised.value.hint
    joined.admit(_subject(), now=NOW)
    with pytest.raises(BadInput, match="partner's name"):
        joined.invite("A", fingerprint="j", expires=NOW + HOUR)


def test_an_identity_is_one_partner_s_for_ever(joined):
    joined.invite("b", fingerprint="b", expires=NOW + HOUR)
    for _ in range(2):
        with pytest.raises(Refused, match="that of another partner"):
            _enrol(joined, name="b", invitation="b")
        if _row(joined).state == "active":
            joined.remove("a")
    joined.invite("a", fingerprint="j", expires=NOW + HOUR)
    _enrol(joined, invitation="j")  # its own


def test_no_more_partners_than_are_wanted(joined):
    joined.invite("b", fingerprint="b", expires=NOW + HOUR)
    with pytest.raises(Refused, match="fewer than 1 partners, found 1"):
        _enrol(joined, name="b", invitation="b", identity="B", most=1)
    _enrol(joined, most=1)  # again, and no newcomer
    _enrol(joined, name="b", invitation="b", identity="B", most=2)
    joined.remove("a")
    joined.invite("c", fingerprint="x", expires=NOW + HOUR)
    _enrol(joined, name="c", invitation="x", identity="C", most=2)


def test_who_is_admitted(joined):
    joined.admit(_subject(), now=NOW)
    cases = {
        "who has not joined": _subject("z"),
        "current certificate": _subject(certificate="other"),
        "one that ended 2030-06-01": _subject(ends=NOW),
        "found one for gateway": _subject(role=Role.GATEWAY),
        "found one for authority": _subject(role=Role.AUTHORITY),
        "an unknown one": _subject(role=Role.INVITATION),
        "found an unknown": _subject("b", certificate="i", role=Role.INVITATION),
    }
    assert len(cases) == 7
    for reason, subject in cases.items():
        with pytest.raises(Refused, match=reason):
            joined.admit(subject, now=NOW)
    joined.admit(_subject(certificate="i", role=Role.INVITATION), now=NOW)
    joined.invite("b", fingerprint="b", expires=NOW + HOUR)
    with pytest.raises(Refused, match="who has not joined"):
        joined.admit(_subject("b"), now=NOW)
    joined.remove("a")
    with pytest.raises(Refused, match="a was removed"):
        joined.admit(_subject(), now=NOW)


def test_the_clock_is_the_machine_s_unless_given(joined):
    joined.admit(_subject(ends=datetime.now(UTC) + HOUR))
    with pytest.raises(Refused, match="in date"):
        joined.admit(_subject(ends=datetime.now(UTC) - HOUR))


def test_two_certificates_are_good_at_a_time(joined):
    def good():
        found = ""
        for certificate in "cdef":
            try:
                joined.admit(_subject(certificate=certificate), now=NOW)
            except Refused:
                continue
            found += certificate
        return found

    joined.renew("a", old="c", new="d")
    assert good() == "cd"
    joined.renew("a", old="c", new="e")  # d never arrived
    assert good() == "ce"
    joined.renew("a", old="e", new="f")
    assert good() == "ef"
    for old in "cd":
        with pytest.raises(Refused, match="current certificate"):
            joined.renew("a", old=old, new="x")
    joined.remove("a")
    with pytest.raises(Refused, match="a was removed"):
        joined.renew("a", old="f", new="x")
    assert good() == ""


def test_nothing_of_an_earlier_membership_comes_back(joined):
    joined.renew("a", old="c", new="d")
    joined.node("a", session="s", node=7, now=NOW)
    joined.remove("a")
    joined.invite("a", fingerprint="j", expires=NOW + HOUR)
    _enrol(joined, invitation="j", identity="B", certificate="e")
    assert joined.nodes() == {}
    joined.admit(_subject(certificate="e"), now=NOW)
    for certificate in "cd":
        with pytest.raises(Refused, match="current certificate"):
            joined.admit(_subject(certificate=certificate), now=NOW)


def test_removing_who_is_not_there(joined):
    with pytest.raises(BadInput, match="no such name"):
        joined.remove("b")
    joined.remove("a")
    with pytest.raises(BadInput, match="removed before"):
        joined.remove("a")
    joined.invite("c", fingerprint="x", expires=NOW + HOUR)
    joined.remove("c")
    with pytest.raises(Refused, match="revoked"):
        _enrol(joined, name="c", invitation="x", identity="C")


def test_a_node_is_one_active_partner_s(joined):
    most = 2**64 - 1
    joined.node("a", session="s", node=most, now=NOW)
    assert joined.nodes() == {most: ("a", _key("A"))}
    joined.node("a", session="t", node=7, now=NOW)
    assert joined.nodes() == {7: ("a", _key("A"))}
    joined.node("a", session="t", node=7, now=NOW)
    joined.invite("b", fingerprint="b", expires=NOW + HOUR)
    with pytest.raises(Refused, match="b, who has not joined"):
        joined.node("b", session="s", node=8, now=NOW)
    _enrol(joined, name="b", invitation="b", identity="B")
    with pytest.raises(Refused, match="that of another"):
        joined.node("b", session="s", node=7, now=NOW)
    joined.node("b", session="s", node=8, now=NOW)
    joined.forget_node(8)
    joined.forget_node(8)
    assert joined.nodes() == {7: ("a", _key("A"))}
    joined.remove("a")
    assert joined.nodes() == {}
    with pytest.raises(Refused, match="a was removed"):
        joined.node("a", session="s", node=9, now=NOW)


def test_what_the_operator_sees_of_a_partner(joined):
    joined.seen("a", online=True, device="NVIDIA\x1b[2J H200\n" + "x" * 500, now=NOW + HOUR)
    row = _row(joined)
    assert row.online
    assert row.last_seen == NOW + HOUR
    assert row.device.startswith("NVIDIA[2J H200x")
    assert len(row.device) == 120
    joined.nobody_online()
    assert replace(row, online=False) == _row(joined)
    joined.remove("a")
    joined.seen("a", online=True, device="cpu", now=NOW)
    assert not _row(joined).online
    joined.seen("nobody", online=True, device="cpu", now=NOW)
    assert [row.name for row in joined.partners()] == ["a"]


def test_the_version_rises_with_membership_alone(tmp_path):
    roster = Roster(tmp_path / "roster.db", clock=lambda: 0.0)

    def change(act):
        before = roster.version()
        act()
        return roster.version() - before

    assert change(lambda: roster.invite("a", fingerprint="i", expires=NOW + HOUR)) == 0
    assert change(lambda: _enrol(roster)) == 1
    assert change(lambda: roster.renew("a", old="c", new="d")) == 0
    assert change(lambda: roster.node("a", session="s", node=1, now=NOW)) == 0
    assert change(lambda: roster.seen("a", online=True, device="", now=NOW)) == 0
    assert change(lambda: roster.remove("a")) == 1


def test_the_version_is_the_time_and_always_rises(tmp_path):
    now = [1_900_000_000.7]
    roster = Roster(tmp_path / "roster.db", clock=lambda: now[0])
    seen = [roster.version()]
    for name, step in (("a", 0.0), ("b", 0.1), ("c", 50.0), ("d", -10_000.0)):
        now[0] += step
        roster.invite(name, fingerprint=name, expires=NOW + HOUR)
        _enrol(roster, name, invitation=name, identity=name)
        seen.append(roster.version())
    assert seen == [0, 1_900_000_000, 1_900_000_001, 1_900_000_050, 1_900_000_051]
    roster.remove("a")
    assert roster.version() == 1_900_000_052
    assert roster.members() == (1_900_000_052, {name: _key(name) for name in "bcd"})


def test_a_roster_from_a_backup_gets_past_what_was_given_out(tmp_path):
    """With its first change; until then partners see an older one, and refuse it."""
    now = [1_900_000_000.0]
    path, backup = tmp_path / "roster.db", tmp_path / "backup.db"
    roster = Roster(path, clock=lambda: now[0])
    roster.invite("a", fingerprint="i", expires=NOW + HOUR)
    _enrol(roster)
    with closing(sqlite3.connect(backup)) as copy:
        roster._db._db.backup(copy)
    for _ in range(3):
        now[0] += 60
        roster.invite("b", fingerprint=str(now[0]), expires=NOW + HOUR)
        roster.remove("b")
    given_out = roster.version()
    restored = Roster(backup, clock=lambda: now[0] + 60)
    assert restored.version() < given_out
    restored.remove("a")
    assert restored.version() > given_out


def test_a_mark_is_kept_for_who_gave_it(joined):
    joined.invite("b", fingerprint="b", expires=NOW + HOUR)
    _enrol(joined, "b", invitation="b", identity="B")
    assert [joined.mark(name) for name in ("a", "b", "z")] == [b"", b"", b""]
    for mark in (b"\x00first", b"second" * 42):
        version = joined.version()
        joined.keep_mark("a", mark)
        assert [joined.mark(name) for name in ("a", "b")] == [mark, b""]
        assert joined.version() == version
    with pytest.raises(BadInput, match="at most 256 bytes, found 257"):
        joined.keep_mark("a", bytes(257))
    joined.keep_mark("b", bytes(256))
    for stranger in ("z", "c"):
        with pytest.raises(Refused):
            joined.keep_mark(stranger, b"x")
    assert joined.mark("a") == b"second" * 42


@pytest.mark.parametrize(("identity", "left"), [("A", b"mark"), ("B", b"")])
def test_who_joins_anew_has_its_mark_with_the_same_identity_alone(joined, identity, left):
    joined.keep_mark("a", b"mark")
    joined.remove("a")
    assert joined.mark("a") == b"mark"
    with pytest.raises(Refused, match="a was removed"):
        joined.keep_mark("a", b"later")
    joined.invite("a", fingerprint="j", expires=NOW + HOUR)
    assert joined.mark("a") == b"mark"
    _enrol(joined, invitation="j", identity=identity, certificate="d")
    assert joined.mark("a") == left


def test_a_mark_is_on_disk_once_it_is_kept(tmp_path):
    """A process that is killed the moment after has kept it."""
    code = (
        "import os, sys; from pathlib import Path; from datetime import *; from tacit_server.roster import Roster\n"
        "roster = Roster(Path(sys.argv[1])); now = datetime.now(UTC)\n"
        "roster.invite('a', fingerprint='i', expires=now + timedelta(hours=1))\n"
        "roster.enrol(name='a', invitation='i', identity=b'A', key_hash='k', certificate_fingerprint='c', now=now)\n"
        "roster.keep_mark('a', b'mark'); os.kill(os.getpid(), 9)"
    )
    path = tmp_path / "roster.db"
    environment = os.environ | {"PYTHONPATH": os.pathsep.join(sys.path)}
    done = subprocess.run([sys.executable, "-c", code, str(path)], env=environment, check=False, timeout=60)
    assert done.returncode == -9
    assert Roster(path).mark("a") == b"mark"
