"""Partners' folders as join leaves them, made without a server."""

from __future__ import annotations

import csv
import os
from collections.abc import Mapping
from datetime import timedelta
from pathlib import Path

import numpy as np

from tacit.link.certificates import make_authority
from tacit.link.roster import SignedRoster, federation_of
from tacit.secagg.keys import PublicKey, Secret, identity_of
from tacit_client import peers, roster, site
from tacit_client.keys import Keys
from tacit_client.site import Folder

__all__ = [
    "AUTHORITY", "CLASSES", "SIDE", "SIGNING", "again", "change", "make_folder", "make_folders", "name_peers", "signed",
    "write_csv", "write_npz",
]  # fmt: skip

SIGNING = Secret(bytes(range(32)))
"""The server's signing key."""

AUTHORITY = make_authority(name="authority", lifetime=timedelta(days=9))[1]

SIDE, CLASSES = 8, ("axe", "bow", "cup")


def make_folder(path: Path, *, name: str, data: Path | None, **policy: object) -> Folder:
    """A partner's folder at `path` with keys of its own."""
    path.mkdir(mode=0o700)
    Keys.make(path / "keys", authority=AUTHORITY, server=identity_of(SIGNING))
    site.write(path, name=name, address="fl.example.org:9443", data=data, trust_new_peers=False)
    change(path, 'device = "auto"', 'device = "cpu"')
    for key, value in policy.items():
        lines = (path / "site.toml").read_text().splitlines()
        found = [line for line in lines if line.startswith(f"{key} =")]
        assert len(found) == 1, key
        change(path, found[0], f"{key} = {value}")
    return Folder.open(path)


def make_folders(root: Path, data: dict[str, Path], **policy: object) -> dict[str, Folder]:
    """Folders of partners who have all accepted each other."""
    made = {name: make_folder(root / name, name=name, data=path, **policy) for name, path in data.items()}
    keys: dict[str, PublicKey] = {name: Keys(folder.keys).public for name, folder in made.items()}
    for name, folder in made.items():
        name_peers(folder, keys)
        for other in keys.keys() - {name}:
            peers.accept(folder.peers, other, named=keys)
    return made


def signed(named: Mapping[str, PublicKey], *, version: int = 1, authority: bytes = AUTHORITY) -> SignedRoster:
    """The server's list of partners."""
    return SignedRoster.sign(named, version=version, federation=federation_of(authority), key=SIGNING)


def name_peers(folder: Folder, named: Mapping[str, PublicKey], *, version: int = 1) -> None:
    """Let the server name these partners."""
    roster.keep(folder.roster, signed(named, version=version), keys=Keys(folder.keys))


def change(path: Path, old: str, new: str) -> None:
    """Edit the site.toml in the folder at `path`."""
    text = (path / "site.toml").read_text()
    assert text.count(old) == 1, old
    (path / "site.toml").write_text(text.replace(old, new))


def again(folder: Folder, old: str, new: str) -> Folder:
    """The folder after an edit of its site.toml."""
    change(folder.path, old, new)
    return Folder.open(folder.path)


def write_npz(path: Path, *, n: int, seed: int, classes: tuple[str, ...] = CLASSES) -> Path:
    """Pictures of noise, the class being where it is bright."""
    rng = np.random.default_rng(seed)
    labels = rng.integers(len(classes), size=n)
    images = rng.integers(60, size=(n, SIDE, SIDE), dtype=np.uint8)
    images[np.arange(n), labels] += 150
    np.savez(path, image=images, label=np.array(classes)[labels])
    return path


def write_csv(path: Path, *, rows: list[tuple[str, str]], header: tuple[str, str] = ("text", "label")) -> Path:
    """Texts with labels."""
    with path.open("w", newline="", encoding="utf-8") as file:
        csv.writer(file).writerows([header, *rows])
    os.utime(path)
    return path
