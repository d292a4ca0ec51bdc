"""The partner's folder and the machine it is on: rules, keys, rights, room, and who works there now."""

from __future__ import annotations

import os
import platform
import shutil
import stat
from collections.abc import Iterator
from importlib.metadata import version
from pathlib import Path

from tacit.lock import holder
from tacit_client.checkup.finding import Said
from tacit_client.keys import Keys
from tacit_client.site import Folder, check_modes, load

__all__ = ["files", "keys", "process", "room", "rules", "site", "versions"]

_LEAST = 50 * 10**6  # bytes without which a ledger can not be relied on to grow
_LITTLE = 10**9  # bytes below which it is time to look for what fills the disk
_OTHERS_WRITE = 0o022
_OTHERS = 0o077


def versions() -> Said[None]:
    """What runs here."""
    packages = ", ".join(f"{name} {version(name)}" for name in ("torch", "flwr", "opacus"))
    return Said(f"tacit {version('tacit')}, Python {platform.python_version()}, {packages}", None)


def site(path: Path) -> Said[Folder]:
    """The rules in site.toml. Raises BadInput for what is wrong with them, in their own words."""
    folder = Folder(path, load(path / "site.toml"))
    return Said(f"the rules of {folder.config.name} can be read", folder)


def keys(path: Path) -> Said[Keys]:
    """Keys that are there, fit together and are closed to others; the certificate may be missing. Raises BadInput."""
    check_modes(path / "keys")
    return Said("all there, for this user alone", Keys(path / "keys"))


def files(folder: Folder) -> Said[None]:
    """Owner and modes of the folder and of what is written in it; those of the keys are looked at with the keys."""
    for path in (folder.path, *_written(folder)):
        if not os.access(path, os.W_OK):
            return Said(
                f"this user can not write {path}", None, "FAIL", "run as the user who joined, or mend the rights"
            )
        found = path.stat()
        if found.st_uid != os.geteuid():
            return Said(f"{path} is another user's", None, "warn", "run as the user who joined, or change its owner")
        mode = stat.S_IMODE(found.st_mode)
        if mode & (_OTHERS_WRITE if path.is_dir() else _OTHERS):
            usual = "go-w" if path.is_dir() else "600"
            return Said(f"{path} is open to other users, mode {mode:04o}", None, "warn", f"run chmod {usual} {path}")
    return Said("folder, ledger and log belong to this user, and are closed to others", None)


def _written(folder: Folder) -> Iterator[Path]:
    yield from (path for path in (folder.ledger, folder.audit, folder.mark) if path.exists())


def room(path: Path) -> Said[None]:
    """Free space on the disk of the folder."""
    free = shutil.disk_usage(path).free
    words = f"{free / 1e9:.1f} GB free" if free >= _LITTLE else f"{free / 1e6:.0f} MB free"
    if free < _LEAST:
        return Said(f"{words}, too little to keep books", None, "FAIL", f"make room for {_LEAST // 10**6} MB or more")
    if free < _LITTLE:
        return Said(words, None, "warn", "make room: on a full disk nothing is trained")
    return Said(words, None)


def process(path: Path) -> Said[None]:
    """Whether `tacit-client run` is at work in the folder. Raises BadInput where the lock can not be read."""
    found = holder(path / "run.lock")
    if found is None:
        return Said("no process works in this folder now", None)
    return Said(f"process {found} works in this folder now", None)


def rules(folder: Folder) -> Said[None]:
    """What the policy gives up."""
    policy = folder.config.policy
    if not policy.require_secure_aggregation:
        return Said(
            "require_secure_aggregation = false: in such jobs the server sees this partner's own update",
            None, "warn", "set policy.require_secure_aggregation = true in site.toml",
        )  # fmt: skip
    if policy.allow_unprotected:
        return Said(
            "allow_unprotected = true: nothing bounds what jobs without differential privacy tell",
            None, "warn", "set policy.allow_unprotected = false in site.toml",
        )  # fmt: skip
    return Said("only jobs with secure aggregation and differential privacy", None)
