"""Attacks run against Tacit and, by Flower's own functions, against Flower 1.41: a table, JSON and pictures."""

from __future__ import annotations

import json
import textwrap
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from itertools import zip_longest
from pathlib import Path
from typing import Any

import torch

from tacit.errors import BadInput
from tacit_sim.attacks.table import ATTACKS as PROTOCOL
from tacit_sim.attacks.table import LEARNING
from tacit_sim.bench.table import machine

__all__ = ["ATTACKS", "NO_COUNTERPART", "Line", "Report", "attack"]

ATTACKS = {**PROTOCOL, **LEARNING}

_SCHEMA = 1
_WIDTHS = 20, 46, 66  # 136 columns
_LINES = 2  # of an attack, where not every word is wanted
NO_COUNTERPART = {
    "clear-after-secure": "no counterpart: a node has no memory of what a run was",
    "roster-split": "no counterpart: no message is bound to the keys of all",
    "inbox-split": "no counterpart: nobody learns whom a node masked with",
    "graph": "no counterpart: the server chooses the graph",
    "strangers-at-the-end": "no counterpart: a node accepts anybody",
    "second-job": "no counterpart: no message names its job",
}


@dataclass(frozen=True)
class Line:
    """One attack on both.

    Attributes:
        attack: its name.
        refused: by Tacit.
        tacit: what stopped it, or what the attacker obtained.
        rival: whether Flower refused it; None where it has no counterpart.
        flower: the same in words; of an attack on learning, what it obtained where nothing protects.
        picture: of what the attack obtained, as PNG; empty where there is none.
    """

    attack: str
    refused: bool
    tacit: str
    rival: bool | None
    flower: str
    picture: bytes = field(default=b"", repr=False)


@dataclass(frozen=True)
class Report:
    """What came of every attack asked for."""

    lines: tuple[Line, ...]

    @property
    def refused(self) -> bool:
        """Whether Tacit refused each of them."""
        return all(line.refused for line in self.lines)

    def count(self) -> str:
        """How many attacks each refused."""
        own = f"Tacit refused {sum(line.refused for line in self.lines)} of {len(self.lines)}"
        known = [line.rival for line in self.lines if line.rival is not None]
        without = len(self.lines) - len(known)
        rival = f"; Flower {sum(known)} of {len(known)}" if known else ""
        rest = f"; {without} without counterpart there" if without else ""
        return f"{own}{rival}{rest}"

    def write(self, path: Path) -> None:
        """The same as JSON, words in full. Raises BadInput where `path` can not be written."""
        rows: list[dict[str, Any]] = [
            {
                "attack": line.attack,
                "tacit": {"refused": line.refused, "what": line.tacit},
                "flower": None if line.rival is None else {"refused": line.rival, "what": line.flower},
                "note": line.flower if line.rival is None else "",
            }
            for line in self.lines
        ]
        whole = {"schema": _SCHEMA, "machine": machine(), "attacks": rows, "count": self.count()}
        try:
            path.write_text(json.dumps(whole, indent=1) + "\n", encoding="utf-8")
        except OSError as error:
            raise BadInput(
                f"expected a file that can be written at {path}, found {error.strerror}", hint="choose another --json"
            ) from None

    def draw(self, folder: Path) -> None:
        """The pictures, as PNG files by the names of their attacks. Raises BadInput where they can not be written."""
        try:
            folder.mkdir(parents=True, exist_ok=True)
            for line in self.lines:
                if line.picture:
                    (folder / f"{line.attack}.png").write_bytes(line.picture)
        except OSError as error:
            raise BadInput(
                f"expected a folder that can be written at {folder}, found {error.strerror}",
                hint="choose another --out",
            ) from None


def attack(name: str, *, show: Callable[[str], object], whole: bool = False) -> Report:
    """Carry out the attack `name`, or `all`, on Tacit and on Flower; those on learning on Tacit, with and without.

    Args:
        show: is given the table as it grows, rows of 136 columns at most.
        whole: show every word; two lines of each cell otherwise.

    Raises:
        BadInput: another name.
    """
    if name not in ("all", *ATTACKS):
        raise BadInput(f"expected an attack or all, found {name}", hint=f"use one of: {', '.join(ATTACKS)}")
    show(_row(("attack", "Flower 1.41", "Tacit"), whole=whole))
    lines = []
    for found in ATTACKS if name == "all" else [name]:
        with _one_thread():
            lines.append(_line(found))
        show(_row(_cells(lines[-1]), whole=whole))
    return Report(tuple(lines))


def _line(name: str) -> Line:
    from tacit_sim.rivals.attack import ATTACKS as RIVALS

    own = ATTACKS[name]()
    if own.without:
        return Line(name, own.refused, own.what, None, f"unprotected: {own.without}", own.picture)
    if name not in RIVALS:
        return Line(name, own.refused, own.what, None, NO_COUNTERPART[name])
    rival = RIVALS[name]()
    return Line(name, own.refused, own.what, not rival.succeeded, rival.what)


@contextmanager
def _one_thread() -> Iterator[None]:
    """The networks are so small that threads of torch would mostly wait for each other."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(before)


def _cells(line: Line) -> tuple[str, str, str]:
    verdict = {True: "refused: ", False: "SUCCEEDED: ", None: ""}
    return line.attack, f"{verdict[line.rival]}{line.flower}", f"{verdict[line.refused]}{line.tacit}"


def _row(cells: Sequence[str], *, whole: bool) -> str:
    most = None if whole else _LINES
    columns = [
        textwrap.wrap(cell, width, max_lines=most, placeholder=" ...")
        for cell, width in zip(cells, _WIDTHS, strict=True)
    ]
    lines = zip_longest(*columns, fillvalue="")
    return "\n".join(
        "  ".join(f"{part:{width}}" for part, width in zip(line, _WIDTHS, strict=True)).rstrip() for line in lines
    )
