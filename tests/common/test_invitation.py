"""The invitation file: read back as written, and refused where any part is another's."""

from __future__ import annotations

import stat
import tomllib
from dataclasses import replace
from datetime import UTC, datetime, timedelta

import pytest
import tomli_w
from hypothesis import given
from hypothesis import strategies as st

from tacit.errors import BadInput
from tacit.link import keyfile
from tacit.link.certificates import Role, issue, make_authority, make_key, make_request
from tacit.link.invitation import Invitation
from tacit.secagg.keys import Secret, identity_of

SERVER = identity_of(Secret(bytes(range(32))))
EXPIRES = datetime(2030, 6, 1, 12, 30, 15, tzinfo=UTC)


def _make(*, name="hospital-a", role=Role.INVITATION, address="fl.example.org:9443"):
    authority_key, authority = make_authority(name="authority", lifetime=timedelta(days=9))
    key = make_key()
    certificate = issue(
        authority_key=authority_key,
        authority=authority,
        request=make_request(key, name=name),
        role=role,
        name=name,
        lifetime=timedelta(days=1),
    )
    return Invitation("hospital-a", address, SERVER, authority, certificate, key, EXPIRES)


GOOD = _make()


@pytest.mark.parametrize("address", ["fl.example.org:9443", "192.0.2.7:1", "[2001:db8::1]:65535"])
def test_it_is_read_as_it_was_written(tmp_path, address):
    path = tmp_path / "file.toml"
    made = _make(address=address)
    made.write(path)
    assert Invitation.read(path) == made
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    path.chmod(0o644)  # as after scp
    assert Invitation.read(path) == made
    path.write_bytes(path.read_bytes().replace(b"\n", b"\r\n"))  # as after a mail program
    assert Invitation.read(path) == made


def test_the_key_is_in_the_file_and_in_no_words():
    assert "PRIVATE" not in repr(GOOD)
    assert "PRIVATE" not in f"{GOOD} {GOOD.key} {GOOD.key!r}"


def _edited(tmp_path, **changes):
    path = tmp_path / "file.toml"
    GOOD.write(path)
    content = tomllib.loads(path.read_text(encoding="utf-8")) | changes
    path.write_text(tomli_w.dumps({k: v for k, v in content.items() if v is not None}), encoding="utf-8")
    return path


OTHER = _make()
BAD = {
    "version": (1, 3, None, "2"),
    "name": ("hospital-b", "Hospital A", "", 5, None),
    "address": ("fl.example.org", "https://fl.example.org:9443", "0.0.0.0:9443", "", None),
    "expires": ("2030-06-01", "2030-06-01T12:30:15", "2030-06-01T12:30:15+00:00", "soon", None, EXPIRES),
    "server": (SERVER.hex().upper(), SERVER.hex()[2:], "01" + "00" * 31, "", None, 5),
    "authority": (OTHER.authority.decode(), "", "x", None),
    "certificate": (OTHER.certificate.decode(), GOOD.authority.decode(), "", None),
    "key": (OTHER.key.decode(), "", GOOD.certificate.decode(), None),
    "more": (1, ""),
}


@pytest.mark.parametrize("key", BAD)
def test_one_part_that_does_not_fit(tmp_path, key):
    assert Invitation.read(_edited(tmp_path)) == GOOD
    assert len(BAD[key]) >= 2
    for value in BAD[key]:
        with pytest.raises(BadInput) as raised:
            Invitation.read(_edited(tmp_path, **{key: value}))
        assert raised.value.message.startswith("expected")
        assert "PRIVATE" not in raised.value.message


def test_an_invitation_from_before_there_was_a_server_s_key(tmp_path):
    with pytest.raises(BadInput, match=r"of version 2 in .*, found one of version 1") as raised:
        Invitation.read(_edited(tmp_path, version=1, server=None))
    assert "to send a new invitation" in raised.value.hint


def test_other_roles_and_names_are_refused():
    with pytest.raises(BadInput, match="role invitation, found one for partner"):
        _make(role=Role.PARTNER)
    with pytest.raises(BadInput, match="found one for hospital-b"):
        _make(name="hospital-b")
    with pytest.raises(BadInput, match="another issuer's"):
        replace(GOOD, authority=OTHER.authority)


@given(st.binary(max_size=100))
def test_other_files_are_bad_input(tmp_path_factory, content):
    path = tmp_path_factory.mktemp("invitation") / "file"
    path.write_bytes(content)
    with pytest.raises(BadInput):
        Invitation.read(path)


def test_no_file_a_folder_and_an_endless_one(tmp_path):
    for path in (tmp_path / "none", tmp_path):
        with pytest.raises(BadInput, match="expected an invitation at"):
            Invitation.read(path)
    with pytest.raises(BadInput, match="another kind of file"):
        Invitation.read(_huge(tmp_path))


def _huge(tmp_path):
    GOOD.write(tmp_path / "file.toml")
    with (tmp_path / "file.toml").open("ab") as file:
        file.write(b"# long\n" * 20_000)
    return tmp_path / "file.toml"


def test_a_file_is_replaced_whole_and_leaves_nothing_beside_it(tmp_path):
    path = tmp_path / "file.toml"
    path.write_text("earlier", encoding="utf-8")
    path.chmod(0o644)
    GOOD.write(path)
    assert Invitation.read(path) == GOOD
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    assert [each.name for each in tmp_path.iterdir()] == ["file.toml"]
    with pytest.raises(BadInput, match="expected to write"):
        GOOD.write(tmp_path / "no folder" / "file.toml")


def test_a_write_that_fails_leaves_what_was_there(tmp_path, monkeypatch):
    path = tmp_path / "file.toml"
    keyfile.write(path, b"earlier")

    def full(handle):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(keyfile.os, "fsync", full)
    with pytest.raises(BadInput, match="No space left"):
        GOOD.write(path)
    assert keyfile.read(path) == b"earlier"
    assert [each.name for each in tmp_path.iterdir()] == ["file.toml"]


def test_files_that_others_can_read_are_no_key_files(tmp_path):
    path = tmp_path / "key"
    keyfile.write(path, b"secret")
    for mode in (0o640, 0o604, 0o620, 0o601):
        path.chmod(mode)
        with pytest.raises(BadInput, match=f"found mode 0{mode:o}") as raised:
            keyfile.read(path)
        assert raised.value.hint == f"run chmod 600 {path}"
    path.chmod(0o400)
    assert keyfile.read(path) == b"secret"
    assert repr(keyfile.read(path)) == "<secret>"
    folder = tmp_path / "keys"
    keyfile.make_folder(folder)
    keyfile.make_folder(folder)
    assert stat.S_IMODE(folder.stat().st_mode) == 0o700
    folder.chmod(0o755)
    with pytest.raises(BadInput, match="found mode 0755"):
        keyfile.make_folder(folder)
    with pytest.raises(BadInput, match="expected to write"):
        keyfile.make_folder(path)
