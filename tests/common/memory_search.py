"""A process of its own that reads a table and then looks for texts in everything that is alive.

Its argument is JSON: `path`, `arguments` of `tacit.data.files.read` (or `screen`, to keep a reader of lines instead),
and `planted`, the beginnings of the texts to look for. It prints for each how many texts go on with a digit after it.
"""

from __future__ import annotations

import gc
import json
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np

from tacit.data.content import Content
from tacit.data.files import read
from tacit.data.screen import Screen
from tacit.data.tables import jsonl

__all__ = ["alive_after_reading", "alive_in_a_reader"]


def alive_after_reading(path: Path, *planted: str, **arguments: Any) -> list[int]:
    """How many texts that begin with each of `planted` are alive once `read` has returned."""
    return _asked({"path": str(path), "arguments": arguments, "planted": planted})


def alive_in_a_reader(path: Path, *planted: str, drop: str, pseudonymise: str) -> list[int]:
    """The same while the reader of a jsonl file is open."""
    return _asked({"path": str(path), "screen": [drop, pseudonymise], "planted": planted})


def _asked(question: dict[str, Any]) -> list[int]:
    done = subprocess.run([sys.executable, __file__, json.dumps(question)], capture_output=True, text=True, check=True)
    return [int(count) for count in done.stdout.split()]


def _main() -> None:
    question = json.loads(sys.argv[1])
    path = Path(question["path"])
    if "screen" in question:
        drop, pseudonymise = question["screen"]
        kept: object = jsonl(Content(path), screen=Screen(frozenset({drop}), frozenset({pseudonymise}), b"secret"))
    else:
        lists = {k: tuple(v) if isinstance(v, list) else v for k, v in question["arguments"].items()}
        kept = read(path, format="auto", input="text", secret=b"secret", **lists)
    for planted in question["planted"]:
        print(len(_alive(planted)))
    del kept


def _alive(planted: str) -> set[str]:
    gc.collect()
    pattern = re.compile(re.escape(planted) + r"\d")
    found: set[str] = set()
    seen: set[int] = set()
    left = gc.get_objects()
    while left:
        value = left.pop()
        kind = type(value)
        if id(value) in seen:
            continue
        seen.add(id(value))
        if issubclass(kind, str | bytes | bytearray):
            text = value if issubclass(kind, str) else value.decode("latin-1")
            found |= {text} if pattern.search(text) else set()
        elif kind is np.ndarray and value.dtype.kind == "U":
            found |= {text for text in value.ravel().tolist() if pattern.search(text)}
        elif kind is np.ndarray and value.dtype.kind == "O":
            left.extend(value.ravel().tolist())
        else:
            left.extend(gc.get_referents(value))
    return found


if __name__ == "__main__":
    _main()
