"""Which code made a statement: version and hash of the installed packages."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from functools import lru_cache
from importlib.metadata import version
from importlib.util import find_spec
from pathlib import Path

from tacit.errors import BadInput

__all__ = ["Code", "hash_tree", "installed"]

_SUFFIXES = frozenset({".py", ".proto", ".html", ".j2"})  # what runs, what goes over the link, what is printed


@dataclass(frozen=True)
class Code:
    """What a party ran.

    Attributes:
        version: of the distribution tacit.
        sha256: of its packages, 64 hex digits, as `hash_tree`.
    """

    version: str
    sha256: str


@lru_cache(maxsize=4)
def installed(*packages: str) -> Code:
    """The code of `packages`, as it lies on disk when this process first asks.

    Raises:
        BadInput: a package that is not installed as files.
    """
    return Code(version("tacit"), hash_tree({package: _folder(package) for package in packages}))


def hash_tree(packages: dict[str, Path]) -> str:
    """SHA-256, in hex, over the files of `packages` (folders by name) that end in .py, .proto, .html or .j2.

    A line `PATH SHA256\\n` for each file, sorted by path; PATH begins with the package's name and has slashes. Where
    the folders are makes no difference, nor whether they were installed from a wheel or are worked on in place.
    """
    lines = sorted(
        f"{package}/{path.relative_to(folder).as_posix()} {hashlib.sha256(path.read_bytes()).hexdigest()}\n"
        for package, folder in packages.items()
        for path in folder.rglob("*")
        if path.suffix in _SUFFIXES and path.is_file()
    )
    return hashlib.sha256("".join(lines).encode()).hexdigest()


def _folder(package: str) -> Path:
    found = find_spec(package)
    if found is None or found.origin is None:
        raise BadInput(f"expected the package {package} to be installed, found none", hint="install tacit anew")
    return Path(found.origin).parent
