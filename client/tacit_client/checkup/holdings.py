"""The data: whether it can be read as site.toml says, and whether training on it makes sense."""

from __future__ import annotations

from pathlib import Path

from tacit.data.content import Content
from tacit.data.source import listed
from tacit.privacy.events import EXAMPLE
from tacit_client import policy
from tacit_client.checkup.finding import Said
from tacit_client.data import Data
from tacit_client.site import Folder

__all__ = ["balance", "data", "size"]

_FEW = 50  # examples or persons, below which a share of a round is mostly noise
_RARE = 0.01  # share of a class of which training sees next to nothing


def data(folder: Folder) -> Said[Data]:
    """Everything that the readers check, by reading all of it. Raises BadInput as they do."""
    # Of the key only the split and the pseudonyms depend, and neither is looked at.
    found = Data(folder.data, folder.config.data, key=bytes(32), lock=folder.data_lock)
    persons = "" if found.unit == EXAMPLE else f", {found.units} different {found.unit}"
    return Said(f"{len(found)} examples of {len(found.classes)} classes{persons}{_sealed(folder.data)}", found)


def _sealed(path: Path) -> str:
    """How much lies sealed, by what is in the files: a name is soon given."""
    files = [file for file in (path.rglob("[!.]*") if path.is_dir() else [path]) if file.is_file()]
    count = sum(Content(file).is_sealed for file in files)
    if count in (0, len(files)):
        return ", sealed" if count else ""
    return f", {count} of {len(files)} files sealed"


def balance(found: Data) -> Said[None]:
    """How the examples lie in the classes."""
    counts = found.classes
    if len(counts) < 2:
        return Said(
            f"all {len(found)} examples are of the one class {next(iter(counts))}",
            None, "FAIL", "is data.label in site.toml the right column? add examples of the other classes",
        )  # fmt: skip
    rare = tuple(name for name, count in counts.items() if count < _RARE * len(found))
    if rare:
        return Said(
            f"under {_RARE:.0%} of the examples are of {listed(rare)}",
            None, "warn", "add examples of these classes, or expect little of the model for them",
        )  # fmt: skip
    least, most = min(counts.values()), max(counts.values())
    return Said(f"{least} to {most} examples a class" if least < most else f"{least} examples a class", None)


def size(folder: Folder, found: Data) -> Said[None]:
    """Enough for the promise of the policy's delta, and to learn from. Raises BadInput as `policy.check_delta`."""
    rules, what = folder.config.policy, "examples" if found.unit == EXAMPLE else f"different {found.unit}"
    policy.check_delta(rules, examples=found.units)
    words = f"{found.units} {what}, delta {rules.delta:g} is below one over that"
    if found.units < _FEW:
        return Said(words, None, "warn", f"train with {_FEW} or more: of fewer, noise leaves little to learn")
    return Said(words, None)
