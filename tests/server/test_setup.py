"""A new server folder, and the gateway's certificate over the years."""

from __future__ import annotations

import os
import re
import stat
from datetime import UTC, datetime, timedelta

import pytest
from cryptography import x509
from cryptography.x509.verification import DNSName, PolicyBuilder, Store

from tacit.errors import BadInput
from tacit.link.certificates import Role, check_issued, hosts, subject
from tacit.seal import read_key
from tacit_server.folder import Folder
from tacit_server.roster import Roster
from tacit_server.setup import init, renew_gateway

DAY = timedelta(days=1)


@pytest.fixture
def folder(tmp_path):
    return init(tmp_path / "server", host="fl.example.org", port=9444)


def _verify(folder, *, now, host="fl.example.org"):
    """`cryptography`'s own verdict on what a partner sees."""
    authority = x509.load_pem_x509_certificate(folder.authority.read_bytes())
    verifier = PolicyBuilder().store(Store([authority])).time(now).build_server_verifier(DNSName(host))
    verifier.verify(x509.load_pem_x509_certificate(folder.gateway.read_bytes()), [])


def test_all_that_a_server_needs(folder):
    assert Folder.open(folder.path).config.address == "fl.example.org:9444"
    _verify(folder, now=datetime.now(UTC))
    _verify(folder, now=datetime.now(UTC) + 89 * DAY)
    assert Roster(folder.roster_path).partners() == []
    assert read_key(folder.seal_key) is not None
    authority = subject(folder.authority.read_bytes())
    assert authority.role is Role.AUTHORITY
    assert authority.not_after - authority.not_before > 3600 * DAY
    for place in (folder.runs, folder.state, folder.logs):
        assert place.is_dir()


def test_two_servers_share_nothing(tmp_path):
    first, second = (init(tmp_path / name, host="fl.example.org") for name in "ab")
    for one, other in zip(sorted(first.keys.iterdir()), sorted(second.keys.iterdir()), strict=True):
        assert one.read_bytes() != other.read_bytes()
    names = [subject(folder.authority.read_bytes()).name for folder in (first, second)]
    assert names[0] != names[1]


def test_a_folder_that_has_something_is_left_alone(folder, tmp_path):
    before = {path: path.read_bytes() for path in folder.path.rglob("*") if path.is_file()}
    with pytest.raises(BadInput, match="expected no server in"):
        init(folder.path, host="other.example.org")
    folder.config_path.unlink()  # as after an init that was interrupted
    with pytest.raises(BadInput, match="expected an empty folder") as raised:
        init(folder.path, host="other.example.org")
    assert "interrupted" in raised.value.hint
    after = {path: path.read_bytes() for path in folder.path.rglob("*") if path.is_file()}
    assert len(after) >= 6
    assert after.items() <= before.items()
    (tmp_path / "empty").mkdir()
    init(tmp_path / "empty", host="fl.example.org")


@pytest.mark.parametrize(
    ("host", "port"), [("0.0.0.0", 9443), ("https://a.b", 9443), ("", 9443), ("a.b", 0), ("a.b", 70_000)]
)
def test_nothing_is_made_for_a_host_or_port_that_is_none(tmp_path, host, port):
    with pytest.raises(BadInput, match="the command line"):
        init(tmp_path / "server", host=host, port=port)
    assert list(tmp_path.iterdir()) == []


def test_a_place_that_can_not_be_written(tmp_path):
    (tmp_path / "file").write_text("", encoding="utf-8")
    for place in (tmp_path / "file", tmp_path / "file" / "server"):
        with pytest.raises(BadInput, match="expected to make a server folder at"):
            init(place, host="fl.example.org")


def test_the_gateway_renews_itself_in_the_last_third(folder):
    now = datetime.now(UTC)
    before, key = folder.gateway.read_bytes(), folder.gateway_key.read_bytes()
    for days in (0, 30, 59):
        assert not renew_gateway(folder, now + days * DAY)
        assert folder.gateway.read_bytes() == before
    assert renew_gateway(folder, now + 61 * DAY)
    assert not renew_gateway(folder, now + 61 * DAY)
    assert folder.gateway_key.read_bytes() == key
    check_issued(folder.gateway.read_bytes(), authority=folder.authority.read_bytes(), key=key, role=Role.GATEWAY)
    _verify(folder, now=now + 150 * DAY)


def test_a_server_that_slept_for_years_wakes_up(folder):
    now = datetime.now(UTC) + 1000 * DAY
    with pytest.raises(x509.verification.VerificationError):
        _verify(folder, now=now)
    assert renew_gateway(folder, now)
    _verify(folder, now=now)
    with pytest.raises(BadInput, match="expected an authority that is still valid"):
        renew_gateway(folder, now + 3000 * DAY)


def test_another_host_gets_another_certificate(folder):
    text = folder.config_path.read_text(encoding="utf-8")
    folder.config_path.write_text(text.replace("fl.example.org", "new.example.org"), encoding="utf-8")
    moved, now = Folder.open(folder.path), datetime.now(UTC)
    assert renew_gateway(moved, now)
    assert not renew_gateway(moved, now)
    assert hosts(moved.gateway.read_bytes()) == ("new.example.org",)
    _verify(moved, now=now, host="new.example.org")


def test_a_renewal_that_dies_leaves_the_old_certificate(folder, monkeypatch):
    before = folder.gateway.read_bytes()

    def full(handle):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(BadInput, match="No space left"):
        renew_gateway(folder, datetime.now(UTC) + 80 * DAY)
    assert folder.gateway.read_bytes() == before


def test_no_key_is_in_an_error(folder):
    folder.authority_key.write_bytes(folder.gateway_key.read_bytes())
    with pytest.raises(BadInput, match="authority's own key") as raised:
        renew_gateway(folder, datetime.now(UTC) + 80 * DAY)
    assert not re.search("PRIVATE|MIG", str(raised.value) + raised.value.hint)


def test_nothing_of_it_is_for_other_users(tmp_path):
    before = os.umask(0)  # the most careless user there is
    try:
        folder = init(tmp_path / "server", host="fl.example.org")
        with Roster(folder.roster_path)._db.change() as db:
            db.execute("UPDATE membership SET version = version + 1")
            beside = sorted(folder.path.glob("roster.db*"))
    finally:
        os.umask(before)
    assert stat.S_IMODE(folder.path.stat().st_mode) == 0o700
    places = (folder.keys, folder.runs, folder.state, folder.logs)
    assert [stat.S_IMODE(place.stat().st_mode) for place in places] == [0o700] * 4
    assert len(beside) == 3
    assert [stat.S_IMODE(file.stat().st_mode) for file in beside] == [0o600] * 3
