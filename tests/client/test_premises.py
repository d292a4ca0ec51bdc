"""What the doctor says of the folder and of the machine, sound and broken."""

from __future__ import annotations

import os
import shutil
from collections import namedtuple

import folders
import pytest
import torch

from tacit.errors import BadInput
from tacit.lock import take
from tacit_client.checkup import machine, premises
from tacit_client.holding import open_budget
from tacit_client.site import Folder


@pytest.fixture
def folder(tmp_path) -> Folder:
    """Of hospital `a`, which has accepted `b` and `c`; data of 90 examples."""
    data = folders.write_npz(tmp_path / "data.npz", n=90, seed=1)
    return folders.make_folders(tmp_path, dict.fromkeys("abc", data))["a"]


def test_rules_fail_in_their_own_words(folder):
    assert premises.site(folder.path).found == "the rules of a can be read"
    folders.change(folder.path, "min_cohort = 3", "min_cohorts = 3")
    with pytest.raises(BadInput, match=r"expected a known key in site.toml, found policy.min_cohorts") as caught:
        premises.site(folder.path)
    assert "min_cohort" in caught.value.hint


@pytest.mark.parametrize("name", ["identity.key", "ledger.key", "link.key", "server.pub", "authority.pem"])
def test_keys_that_others_can_read_fail(folder, name):
    assert premises.keys(folder.path).verdict == "ok"
    (folder.keys / name).chmod(0o644)
    with pytest.raises(BadInput, match=f"{name} to be open to its owner alone, found mode 0644") as caught:
        premises.keys(folder.path)
    assert caught.value.hint == f"run chmod 600 {folder.keys / name}"


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can give files away")
def test_files_of_another_user(folder):
    open_budget(folder).close()
    assert premises.files(folder).verdict == "ok"
    os.chown(folder.ledger, 12345, 12345)
    said = premises.files(folder)
    assert (said.verdict, said.found) == ("warn", f"{folder.ledger} is another user's")
    os.chown(folder.keys / "identity.key", 12345, 12345)
    with pytest.raises(BadInput, match="another owner"):
        premises.keys(folder.path)


def test_files_that_others_can_read_or_change(folder):
    open_budget(folder).close()
    assert premises.files(folder).verdict == "ok"
    folder.path.chmod(0o770)
    assert premises.files(folder).remedy == f"run chmod go-w {folder.path}"
    folder.path.chmod(0o755)
    assert premises.files(folder).verdict == "ok"
    folder.ledger.chmod(0o640)
    said = premises.files(folder)
    assert (said.verdict, said.remedy) == ("warn", f"run chmod 600 {folder.ledger}")


def test_files_that_can_not_be_written_fail(folder, monkeypatch):
    monkeypatch.setattr(os, "access", lambda path, mode: path != folder.path)  # root may write everything
    said = premises.files(folder)
    assert (said.verdict, said.found) == ("FAIL", f"this user can not write {folder.path}")


@pytest.mark.parametrize(
    ("free", "verdict", "words"),
    [
        (49_999_999, "FAIL", "50 MB free, too little"),
        (50_000_000, "warn", "50 MB free"),
        (2 * 10**9, "ok", "2.0 GB free"),
    ],
)
def test_room_on_the_disk(tmp_path, monkeypatch, free, verdict, words):
    usage = namedtuple("usage", "free")(free)
    monkeypatch.setattr(shutil, "disk_usage", lambda path: usage)
    said = premises.room(tmp_path)
    assert (said.verdict, said.found[: len(words)]) == (verdict, words)
    assert bool(said.remedy) == (verdict != "ok")


def test_a_process_in_the_folder_is_named(folder):
    assert premises.process(folder.path).found == "no process works in this folder now"
    with take(folder.lock, what="it"):
        assert premises.process(folder.path).found == f"process {os.getpid()} works in this folder now"


def test_what_the_policy_gives_up(folder):
    assert premises.rules(folder).verdict == "ok"
    said = premises.rules(folders.again(folder, "allow_unprotected = false", "allow_unprotected = true"))
    assert (said.verdict, said.remedy) == ("warn", "set policy.allow_unprotected = false in site.toml")
    said = premises.rules(
        folders.again(folder, "require_secure_aggregation = true", "require_secure_aggregation = false")
    )
    assert (said.verdict, said.remedy) == ("warn", "set policy.require_secure_aggregation = true in site.toml")


def test_versions_are_told():
    assert f"torch {torch.__version__}" in premises.versions().found


def test_the_device(folder, monkeypatch):
    assert machine.device(folder).found == "cpu, as device = 'cpu' says"
    if not torch.cuda.is_available():
        with pytest.raises(BadInput, match="expected a device cuda on this machine, found 0 of cuda"):
            machine.device(folders.again(folder, 'device = "cpu"', 'device = "cuda"'))
    monkeypatch.setattr(machine, "pick_device", lambda name: torch.device("cuda:0"))
    for free, verdict in ((2**29, "warn"), (2**31, "ok")):
        monkeypatch.setattr(torch.cuda, "mem_get_info", lambda device, free=free: (free, 2**33))
        said = machine.device(folder)
        assert (said.verdict, said.found) == (verdict, f"cuda:0, {free / 2**30:.1f} of 8.0 GiB free")


@pytest.mark.parametrize(("free", "verdict"), [(2**20 - 1, "warn"), (2**20, "ok")])
def test_memory(tmp_path, monkeypatch, free, verdict):
    told = tmp_path / "meminfo"
    told.write_text(f"MemFree:  1 kB\nMemAvailable:   {free} kB\n")
    monkeypatch.setattr(machine, "_MEMINFO", told)
    assert machine.memory().verdict == verdict
    monkeypatch.setattr(machine, "_MEMINFO", tmp_path / "none")
    assert machine.memory().found == "this system does not tell how much is free"
