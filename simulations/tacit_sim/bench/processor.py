"""Processor time of processes and all that they started, from /proc."""

from __future__ import annotations

import os
from collections.abc import Iterable
from contextlib import suppress
from pathlib import Path

__all__ = ["spent"]

_PARENT, _FIRST, _LAST = 1, 11, 14  # fields after the name: parent, utime, stime, cutime, cstime; proc(5)


def spent(roots: Iterable[int]) -> dict[int, float]:
    """Seconds of processor time by process id, each with all its descendants, those that have ended included.

    Empty on a system without /proc.
    """
    found = _processes()
    return {root: sum(found[pid][1] for pid in _family(root, found)) for root in roots if root in found}


def _processes() -> dict[int, tuple[int, float]]:
    """Parent and seconds, with the children that it has waited for, by process id."""
    tick, found = os.sysconf("SC_CLK_TCK"), {}
    for path in Path("/proc").glob("[0-9]*/stat"):
        with suppress(OSError):  # it ended meanwhile
            words = path.read_text(encoding="utf-8", errors="replace").rpartition(")")[2].split()
            seconds = sum(map(int, words[_FIRST : _LAST + 1])) / tick
            found[int(path.parent.name)] = int(words[_PARENT]), seconds
    return found


def _family(root: int, found: dict[int, tuple[int, float]]) -> set[int]:
    family, grown = {root}, True
    while grown:
        more = {pid for pid, (parent, _) in found.items() if parent in family} - family
        family, grown = family | more, bool(more)
    return family
