"""What an attack came to, computed from what the attacker holds at its end."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

__all__ = ["Outcome", "join", "likeness"]


@dataclass(frozen=True)
class Outcome:
    """The outcome of one attack on Tacit.

    Attributes:
        attack: its name.
        refused: the attacker did not reach the attack's aim.
        what: what stopped it, or what it obtained, with measured numbers.
        without: of an attack on learning: what it obtained where nothing protects.
        picture: of what it obtained, as PNG; empty where there is none.
    """

    attack: str
    refused: bool
    what: str
    without: str = ""
    picture: bytes = field(default=b"", repr=False)


def join(attack: str, parts: Iterable[Outcome]) -> Outcome:
    """One outcome of several ways to carry out the same attack: refused if every way was."""
    found = tuple(parts)
    return Outcome(attack, all(part.refused for part in found), "; ".join(part.what for part in found))


def likeness(found: NDArray[np.float64], truth: NDArray[np.float32], *, within: float) -> tuple[int, float]:
    """How many entries of `found` are those of `truth`, and the correlation of the two; both of shape (d,).

    Args:
        within: how far off an entry may be and still count.
    """
    spread = float(found.std() * truth.std())
    related = float(((found - found.mean()) * (truth - truth.mean())).mean() / spread) if spread else 0.0
    return int((np.abs(found - truth) <= within).sum()), related
