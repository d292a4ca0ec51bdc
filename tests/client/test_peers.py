"""peers.toml: what is accepted stays as it was, whatever the server names."""

from __future__ import annotations

import os
import stat
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tacit.errors import BadInput
from tacit.secagg.keys import PublicKey, Secret, identity_of
from tacit.secagg.round import Member, Rules
from tacit_client import peers

A, B, C = (PublicKey(bytes([i]) * 32) for i in range(1, 4))
NAMED = {"a": A, "b": B}
NAMES = st.from_regex(r"[a-z0-9][a-z0-9-]{0,62}", fullmatch=True)
KEYS = st.binary(min_size=32, max_size=32).map(lambda seed: identity_of(Secret(seed)))


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "peers.toml"


@given(st.dictionaries(NAMES, KEYS))
def test_what_is_written_is_read(tmp_path_factory, keys) -> None:
    path = tmp_path_factory.mktemp("peers") / "peers.toml"
    if len(set(keys.values())) < len(keys):
        return
    peers.write(path, keys)
    assert peers.read(path) == keys


def test_nobody_is_accepted_at_first(path) -> None:
    found = peers.overview(path, named=NAMED)
    assert [(peer.name, peer.state, peer.key) for peer in found] == [("a", "new", A), ("b", "new", B)]
    assert peers.read(path) == {}


def test_accepting_and_removing(path) -> None:
    assert peers.accept(path, "a", named=NAMED) == A
    assert peers.accept(path, "a", named=NAMED) == A
    assert peers.read(path) == {"a": A}
    rules = Rules(peers.read(path))
    assert rules.accepts(Member("a", A))
    assert not rules.accepts(Member("a", B))
    peers.remove(path, "a")
    assert peers.read(path) == {}
    with pytest.raises(BadInput, match="expected an accepted peer, found a"):
        peers.remove(path, "a")


def test_another_key_of_an_accepted_peer_is_an_alarm_and_never_taken_over(path) -> None:
    peers.accept(path, "a", named=NAMED)
    named = {"a": C, "b": B}
    (a, _) = peers.overview(path, named=named)
    assert (a.state, a.key, a.named) == ("changed", A, C)
    with pytest.raises(BadInput, match="found that the server names another") as caught:
        peers.accept(path, "a", named=named)
    assert "over another channel" in caught.value.hint
    assert peers.read(path) == {"a": A}
    peers.remove(path, "a")
    assert peers.accept(path, "a", named=named) == C


def test_a_peer_that_the_server_does_not_name_any_more_stays_accepted(path) -> None:
    peers.accept(path, "a", named=NAMED)
    assert [peer.state for peer in peers.overview(path, named={})] == ["not named"]
    with pytest.raises(BadInput, match="expected one of no names yet"):
        peers.accept(path, "a", named={})


def test_only_a_named_partner_can_be_accepted(path) -> None:
    with pytest.raises(BadInput, match=r"expected one of a, b in .*, found z"):
        peers.accept(path, "z", named=NAMED)


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("a = ", "expected TOML"),
        ("a = " + "[" * 5000, "expected TOML"),
        ("a = " + "9" * 5000, "expected TOML"),
        (f'a = "{"0" * 63}"', "expected an identity key of 64 hex digits for a"),
        (f'a = "{"G" * 64}"', "expected an identity key of 64 hex digits for a"),
        (f'"../a" = "{"0" * 64}"', "expected a partner's name"),
        ("a = 3", "expected an identity key"),
        (f'a = "{"01" * 32}"\nb = "{"01" * 32}"', "expected a key of its own for every peer"),
        (f'a = "01{"00" * 31}"', "for a, found one of small order in"),
    ],
)
def test_a_broken_file_is_refused(tmp_path: Path, text: str, said: str) -> None:
    (tmp_path / "peers.toml").write_text(text)
    with pytest.raises(BadInput, match=said) as caught:
        peers.read(tmp_path / "peers.toml")
    assert caught.value.hint


def test_what_is_no_name_or_key_is_not_written(tmp_path: Path) -> None:
    for bad in ({"A": A}, {"a": PublicKey(b"x")}, {"a": PublicKey(bytes(32))}):
        with pytest.raises(BadInput):
            peers.write(tmp_path / "peers.toml", bad)
    assert list(tmp_path.iterdir()) == []


def test_the_file_is_its_owner_s_whatever_others_are_given(path) -> None:
    before = os.umask(0)
    try:
        peers.accept(path, "a", named=NAMED)
    finally:
        os.umask(before)
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    assert [left.name for left in path.parent.iterdir()] == ["peers.toml"]
