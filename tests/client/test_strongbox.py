"""Keys that lie sealed on the disk."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest
from folders import SIGNING

from tacit.errors import BadInput
from tacit.secagg.keys import Secret, identity_of
from tacit_client import strongbox
from tacit_client.cli import main
from tacit_client.keys import Keys

PRIVATE = ("identity.key", "ledger.key", "link.key")


@pytest.fixture
def folder(tmp_path, monkeypatch) -> Path:
    """A folder of keys that were sealed by the command, with the passphrase at hand."""
    Keys.make(tmp_path / "keys", authority=b"authority", server=identity_of(SIGNING))
    words = tmp_path / "words"
    words.touch(mode=0o600)
    words.write_text("correct horse battery staple\n")
    monkeypatch.setenv(strongbox.VARIABLE, str(words))
    strongbox._opened.cache_clear()
    strongbox._passphrase.cache_clear()
    return tmp_path / "keys"


def _seal(folder: Path) -> None:
    for name in PRIVATE:
        secret = ["--passphrase-file", str(folder.parent / "words"), "--remove"]
        assert main(["seal", str(folder / name), *secret]) == 0


def test_sealed_keys_are_the_same_keys(folder, capsys):
    """Guarantee: opened in memory alone: after use the disk holds no key in clear."""
    before = Keys(folder)
    _seal(folder)
    after = Keys(folder)
    assert (after.identity, after.ledger, after.public) == (before.identity, before.ledger, before.public)
    assert isinstance(after.identity, Secret)
    assert {path.name for path in folder.iterdir()} >= {f"{name}.sealed" for name in PRIVATE}
    secrets = [bytes(before.identity), bytes(before.ledger)]
    for path in folder.rglob("*"):
        assert path.name not in PRIVATE
        assert not any(secret in path.read_bytes() for secret in secrets)


def test_joining_again_makes_no_new_keys_beside_sealed_ones(folder, capsys):
    public = Keys(folder).public
    _seal(folder)
    assert Keys.make(folder, authority=b"authority", server=identity_of(SIGNING)).public == public
    assert not (folder / "identity.key").exists()


def test_without_the_passphrase_or_with_another_they_stay_shut(folder, capsys, monkeypatch):
    _seal(folder)
    strongbox._opened.cache_clear()
    strongbox._passphrase.cache_clear()
    other = folder.parent / "other"
    other.touch(mode=0o600)
    other.write_text("correct horse battery stable\n")
    monkeypatch.setenv(strongbox.VARIABLE, str(other))
    with pytest.raises(BadInput, match=r"identity\.key\.sealed"):
        Keys(folder)
    code = "import sys; from pathlib import Path; from tacit_client.keys import Keys; Keys(Path(sys.argv[1]))"
    monkeypatch.delenv(strongbox.VARIABLE)
    words = [sys.executable, "-c", code, str(folder)]
    found = subprocess.run(words, check=False, capture_output=True, text=True, stdin=subprocess.DEVNULL)
    assert "expected a passphrase for the sealed keys, found neither a terminal nor a file" in found.stderr


def test_a_cut_sealed_key_is_refused_by_name(folder, capsys):
    _seal(folder)
    sealed = folder / "ledger.key.sealed"
    sealed.write_bytes(sealed.read_bytes()[:-1])
    with pytest.raises(BadInput, match=r"ledger\.key\.sealed"):
        Keys(folder)


def test_a_key_in_clear_is_read_as_ever(folder):
    assert strongbox.read_key(folder / "identity.key") == Keys(folder).identity
    (folder / "identity.key").write_bytes(b"short")
    with pytest.raises(BadInput, match="expected 32 bytes in"):
        strongbox.read_key(folder / "identity.key")
    (folder / "identity.key").unlink()
    with pytest.raises(BadInput, match=r"expected to read .*identity\.key"):
        strongbox.read_key(folder / "identity.key")
