"""peers.toml: what is accepted stays as it was, whatever the server names."""

from __future__ import annotations

from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tacit.errors import BadInput
from tacit.secagg.keys import PublicKey
from tacit.secagg.round import Member, Rules
from tacit_client import peers

A, B, C = (PublicKey(bytes([i]) * 32) for i in range(3))


@pytest.fixture
def files(tmp_path: Path) -> tuple[Path, Path]:
    peers.write(tmp_path / "roster.toml", {"a": A, "b": B})
    return tmp_path / "peers.toml", tmp_path / "roster.toml"


@given(st.dictionaries(st.from_regex(r"[a-z0-9][a-z0-9-]{0,62}", fullmatch=True), st.binary(min_size=32, max_size=32)))
def test_what_is_written_is_read(tmp_path_factory, keys) -> None:
    path = tmp_path_factory.mktemp("peers") / "peers.toml"
    if len(set(keys.values())) < len(keys):
        return
    peers.write(path, keys)
    assert peers.read(path) == keys


def test_nobody_is_accepted_at_first(files) -> None:
    found = peers.overview(files[0], roster=files[1])
    assert [(peer.name, peer.state, peer.key) for peer in found] == [("a", "new", A), ("b", "new", B)]
    assert peers.read(files[0]) == {}


def test_accepting_and_removing(files) -> None:
    assert peers.accept(files[0], "a", roster=files[1]) == A
    assert peers.accept(files[0], "a", roster=files[1]) == A
    assert peers.read(files[0]) == {"a": A}
    rules = Rules(peers.read(files[0]))
    assert rules.accepts(Member("a", A))
    assert not rules.accepts(Member("a", B))
    peers.remove(files[0], "a")
    assert peers.read(files[0]) == {}
    with pytest.raises(BadInput, match="expected an accepted peer, found a"):
        peers.remove(files[0], "a")


def test_another_key_of_an_accepted_peer_is_an_alarm_and_never_taken_over(files) -> None:
    peers.accept(files[0], "a", roster=files[1])
    peers.write(files[1], {"a": C, "b": B})
    (a, _) = peers.overview(files[0], roster=files[1])
    assert (a.state, a.key, a.named) == ("changed", A, C)
    with pytest.raises(BadInput, match="found that the server names another") as caught:
        peers.accept(files[0], "a", roster=files[1])
    assert "over another channel" in caught.value.hint
    assert peers.read(files[0]) == {"a": A}
    peers.remove(files[0], "a")
    assert peers.accept(files[0], "a", roster=files[1]) == C


def test_a_peer_that_the_server_does_not_name_any_more_stays_accepted(files) -> None:
    peers.accept(files[0], "a", roster=files[1])
    peers.write(files[1], {})
    assert [peer.state for peer in peers.overview(files[0], roster=files[1])] == ["not named"]
    with pytest.raises(BadInput, match="expected one of no names yet"):
        peers.accept(files[0], "a", roster=files[1])


def test_only_a_named_partner_can_be_accepted(files) -> None:
    with pytest.raises(BadInput, match=r"expected one of a, b in .*, found z"):
        peers.accept(files[0], "z", roster=files[1])


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("a = ", "expected TOML"),
        (f'a = "{"0" * 63}"', "expected an identity key of 64 hex digits for a"),
        (f'a = "{"G" * 64}"', "expected an identity key of 64 hex digits for a"),
        (f'"../a" = "{"0" * 64}"', "expected a partner's name"),
        ("a = 3", "expected an identity key"),
        (f'a = "{"0" * 64}"\nb = "{"0" * 64}"', "expected a key of its own for every peer"),
    ],
)
def test_a_broken_file_is_refused(tmp_path: Path, text: str, said: str) -> None:
    (tmp_path / "peers.toml").write_text(text)
    with pytest.raises(BadInput, match=said) as caught:
        peers.read(tmp_path / "peers.toml")
    assert caught.value.hint


def test_what_is_no_name_or_key_is_not_written(tmp_path: Path) -> None:
    for bad in ({"A": A}, {"a": PublicKey(b"x")}):
        with pytest.raises(BadInput):
            peers.write(tmp_path / "roster.toml", bad)
    assert list(tmp_path.iterdir()) == []


def test_the_roster_is_kept_and_a_changed_key_is_told_in_the_log(tmp_path: Path, caplog) -> None:
    peers.write_roster(tmp_path, {"a": A})
    peers.accept(tmp_path / "peers.toml", "a", roster=tmp_path / "roster.toml")
    assert caplog.text == ""
    peers.write_roster(tmp_path, {"a": B})
    assert "ALARM: the server names another key for a" in caplog.text
    assert peers.read(tmp_path / "peers.toml") == {"a": A}


def test_a_roster_that_is_none_leaves_the_one_before(tmp_path: Path, caplog) -> None:
    peers.write_roster(tmp_path, {"a": A})
    for bad in ({"A b": A}, {"a": PublicKey(b"x")}, {"a": A, "b": A}):
        peers.write_roster(tmp_path, bad)
    assert caplog.text.count("was not kept") == 3
    assert peers.read(tmp_path / "roster.toml") == {"a": A}
