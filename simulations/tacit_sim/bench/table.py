"""Measured numbers as a table for the terminal and as JSON, with the machine they were measured on."""

from __future__ import annotations

import json
import os
import platform
from collections.abc import Mapping
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path
from typing import Any

import torch

from tacit.errors import BadInput

__all__ = ["Table", "machine"]

_SCHEMA = 1


@dataclass(frozen=True)
class Table:
    """What a benchmark found.

    Attributes:
        name: of the benchmark.
        columns: keys of a row and how each is shown: a format such as `.2f`, or nothing for texts.
        rows: one mapping a row, with every key of `columns`.
        settings: what was run.
        notes: what a reader must know, a line each.
    """

    name: str
    columns: Mapping[str, str]
    rows: tuple[Mapping[str, Any], ...]
    settings: Mapping[str, Any]
    notes: tuple[str, ...]

    def text(self) -> str:
        """For the terminal: texts to the left, numbers to the right."""
        cells = [[format(row[key], spec) for key, spec in self.columns.items()] for row in self.rows]
        widths = [max(map(len, column)) for column in zip(self.columns, *cells, strict=True)]
        aligns = [">" if spec else "<" for spec in self.columns.values()]
        lines = [
            "  ".join(
                f"{cell:{align}{width}}" for cell, align, width in zip(line, aligns, widths, strict=True)
            ).rstrip()
            for line in [list(self.columns), *cells]
        ]
        facts = ", ".join(f"{key} {value}" for key, value in machine().items())
        return "\n".join([*lines, "", *self.notes, f"machine: {facts}"])

    def write(self, path: Path) -> None:
        """The same as JSON, numbers in full. Raises BadInput where `path` can not be written."""
        whole = {
            "schema": _SCHEMA,
            "bench": self.name,
            "machine": machine(),
            "settings": dict(self.settings),
            "rows": [dict(row) for row in self.rows],
            "notes": list(self.notes),
        }
        try:
            path.write_text(json.dumps(whole, indent=1) + "\n", encoding="utf-8")
        except OSError as error:
            raise BadInput(
                f"expected a file that can be written at {path}, found {error.strerror}", hint="choose another --json"
            ) from None


def machine() -> dict[str, Any]:
    """Facts that bear on speed: cores, the load of the last minute (processes), torch's threads, versions."""
    return {
        "system": f"{platform.system()} {platform.machine()}",
        "cores": os.cpu_count() or 1,
        "load": round(os.getloadavg()[0], 2) if hasattr(os, "getloadavg") else None,
        "threads": torch.get_num_threads(),
        "python": platform.python_version(),
        **{name: version(name) for name in ("torch", "opacus", "flwr")},
    }
