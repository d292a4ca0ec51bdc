"""The server's folder is opened only where all that it needs is there and its own."""

from __future__ import annotations

import shutil
import stat

import pytest

from tacit.errors import BadInput
from tacit_server.folder import Folder
from tacit_server.setup import init


@pytest.fixture
def folder(tmp_path):
    return init(tmp_path / "server", host="fl.example.org")


def test_a_folder_is_opened_from_anywhere(folder, monkeypatch):
    monkeypatch.chdir(folder.path.parent)
    from pathlib import Path

    found = Folder.open(Path("server"))
    monkeypatch.chdir("/")
    assert found.path == folder.path
    assert found.config.host == "fl.example.org"
    assert found.keys.is_dir()


def test_every_place_is_within(folder):
    places = [value for value in vars(folder).values() if hasattr(value, "relative_to") and value != folder.path]
    assert len(places) >= 15
    assert len(set(places)) == len(places)
    assert all(place.is_relative_to(folder.path) for place in places)


@pytest.mark.parametrize("make", [False, True])
def test_other_folders_are_none(tmp_path, make):
    if make:
        (tmp_path / "other").mkdir()
    with pytest.raises(BadInput, match=r"no server\.toml") as raised:
        Folder.open(tmp_path / "other")
    assert "tacit-server init" in raised.value.hint


def test_a_bad_config_is_told_when_the_folder_is_opened(folder):
    with folder.config_path.open("a", encoding="utf-8") as file:
        file.write("prot = 1\n")
    with pytest.raises(BadInput, match="found prot"):
        Folder.open(folder.path)


def test_keys_that_are_missing_or_open_to_others(folder):
    files = sorted(folder.keys.iterdir())
    assert [file.name for file in files] == [
        "authority.key",
        "authority.pem",
        "gateway.key",
        "gateway.pem",
        "seal.key",
        "signing.key",
    ]
    for file in files:
        assert stat.S_IMODE(file.stat().st_mode) == 0o600
        file.chmod(0o640)
        with pytest.raises(BadInput, match=f"expected {file} to be open to its owner alone, found mode 0640"):
            Folder.open(folder.path)
        file.chmod(0o600)
        aside = shutil.move(file, folder.path / "aside")
        with pytest.raises(BadInput, match=f"expected .*{file}, found"):
            Folder.open(folder.path)
        shutil.move(aside, file)
    folder.keys.chmod(0o750)
    with pytest.raises(BadInput, match="found mode 0750") as raised:
        Folder.open(folder.path)
    assert raised.value.hint == f"run chmod 700 {folder.keys}"
    folder.keys.chmod(0o700)
    Folder.open(folder.path)


def test_a_folder_from_before_there_was_a_signing_key(folder):
    folder.signing_key.unlink()
    with pytest.raises(BadInput, match="found none: lost, or the folder is older") as raised:
        Folder.open(folder.path)
    assert "invite every partner anew" in raised.value.hint
