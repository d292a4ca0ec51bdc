"""roster.toml: a later list of the same server takes its place, and nothing else does."""

from __future__ import annotations

import stat
from dataclasses import replace
from datetime import timedelta
from pathlib import Path

import pytest
from folders import AUTHORITY, SIGNING, signed
from hypothesis import given, settings
from hypothesis import strategies as st

from tacit.errors import BadInput
from tacit.link.certificates import make_authority
from tacit.link.roster import SignedRoster, federation_of
from tacit.secagg.keys import Secret, Signature, identity_of
from tacit_client import roster
from tacit_client.keys import Keys

A, B, C = (identity_of(Secret(bytes([i]) * 32)) for i in range(3))
FIRST = signed({"a": A, "b": B}, version=5)
ELSEWHERE = make_authority(name="authority", lifetime=timedelta(days=9))[1]


@pytest.fixture(scope="module")
def keys(tmp_path_factory) -> Keys:
    return Keys.make(tmp_path_factory.mktemp("partner") / "keys", authority=AUTHORITY, server=identity_of(SIGNING))


@pytest.fixture
def path(tmp_path, keys) -> Path:
    assert roster.read(tmp_path / "roster.toml", keys=keys) is None
    assert roster.named(tmp_path / "roster.toml", keys=keys) == {}
    roster.keep(tmp_path / "roster.toml", FIRST, keys=keys)
    return tmp_path / "roster.toml"


def test_what_is_kept_is_read(path, keys):
    assert roster.read(path, keys=keys) == FIRST
    assert roster.named(path, keys=keys) == {"a": A, "b": B}
    assert stat.S_IMODE(path.stat().st_mode) == 0o600


def test_a_later_one_takes_its_place_and_the_same_one_is_no_news(path, keys):
    before = path.stat().st_mtime_ns
    roster.keep(path, FIRST, keys=keys)
    assert path.stat().st_mtime_ns == before
    later = signed({"a": A, "c": C}, version=6)
    roster.keep(path, later, keys=keys)
    assert roster.read(path, keys=keys) == later


REFUSED = {
    "of version 5 or later, found version 4": signed({"a": A, "b": B}, version=4),
    "known as version 5, found another of the same version": signed({"a": A, "b": C}, version=5),
    "wrong signature": replace(signed({"a": A}, version=9), signature=Signature(bytes(64))),
    "found a wrong signature": signed({"a": A}, version=9, authority=ELSEWHERE),
    "signed with the server's key, found a wrong": SignedRoster.sign(
        {"a": A}, version=9, federation=federation_of(AUTHORITY), key=Secret(bytes(32))
    ),
}


@pytest.mark.parametrize("reason", REFUSED)
def test_the_one_on_disk_stays(path, keys, reason):
    before = path.read_bytes()
    with pytest.raises(BadInput, match=reason) as raised:
        roster.keep(path, REFUSED[reason], keys=keys)
    assert raised.value.hint
    assert "\n" not in raised.value.message
    assert path.read_bytes() == before


@given(st.lists(st.integers(1, 9), max_size=12))
@settings(deadline=None)
def test_in_any_order_the_latest_stays(tmp_path_factory, keys, versions):
    path, known = tmp_path_factory.mktemp("any") / "roster.toml", 0
    for version in versions:
        try:
            roster.keep(path, signed({"a": A}, version=version), keys=keys)
        except BadInput:
            assert version < known
        else:
            assert version >= known
            known = version
        assert roster.read(path, keys=keys).version == known


@pytest.mark.parametrize(
    "edit", ["cut", "a bit", "no TOML", "another form", "another key", "added", "deep", "long", "empty", "binary"]
)
def test_a_damaged_file_is_one_clear_line_with_a_remedy(path, keys, edit):
    text = path.read_text()
    damaged = {
        "cut": text[: len(text) // 2],
        "a bit": text.replace(A.hex(), C.hex()),
        "no TOML": "version = ",
        "another form": f'a = "{A.hex()}"\n',
        "another key": text.replace(A.hex(), "zz" * 32),
        "added": text + f'c = "{C.hex()}"\n',
        "deep": "version = " + "[" * 5000,
        "long": "version = " + "9" * 5000,
        "empty": "",
        "binary": "\x00\x01",
    }[edit]
    path.write_text(damaged)
    for use in (lambda: roster.read(path, keys=keys), lambda: roster.keep(path, FIRST, keys=keys)):
        with pytest.raises(BadInput, match=r"roster\.toml") as raised:
            use()
        assert raised.value.hint.startswith("delete that file")
        assert "\n" not in raised.value.message
    assert path.read_text() == damaged
    path.unlink()
    roster.keep(path, FIRST, keys=keys)


def test_a_file_that_can_not_be_read(path, keys):
    path.unlink()
    path.mkdir()
    with pytest.raises(BadInput, match=r"expected to read .*roster\.toml"):
        roster.read(path, keys=keys)


def test_a_version_that_nothing_comes_after_can_be_got_rid_of(path, keys):
    """Whoever stole the signing key may name one; the accepted keys lie elsewhere."""
    roster.keep(path, signed({"a": A}, version=2**63 - 1), keys=keys)
    with pytest.raises(BadInput, match="of version 9223372036854775807 or later, found version 6") as caught:
        roster.keep(path, signed({"a": A, "b": B}, version=6), keys=keys)
    assert f"was ever meant, delete {path}: what was accepted stays accepted" in caught.value.hint
    path.unlink()
    roster.keep(path, signed({"a": A, "b": B}, version=6), keys=keys)
    assert roster.read(path, keys=keys).version == 6
