"""Whose the examples are, and which of them a step draws.

User-level sampling as in Charles et al. 2024 (arXiv:2407.07737v1, there DP-SGD-ULS): a step draws persons, and of each
person drawn a few of its examples; what they give is clipped together. McMahan et al. 2018 (arXiv:1710.06963v3) bound a
user's contribution in the same way.
"""

from __future__ import annotations

import hashlib
import hmac
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from tacit.data.labels import text
from tacit.data.splits import kept
from tacit.privacy.randomness import Stream

__all__ = ["Batch", "Persons", "held_out", "number"]

_Indices = NDArray[np.int64]


@dataclass(frozen=True, repr=False)
class Batch:
    """The examples that a step drew.

    Attributes:
        rows: int64 `[m]`, places in the shard.
        persons: int64 `[m]`, rising from 0 without a gap: which rows are one person's; None where each row is a unit.
    """

    rows: _Indices
    persons: _Indices | None = None

    def chunks(self, size: int) -> list[Batch]:
        """In parts of `size` rows at most, to be held in memory at once.

        Guarantee: all rows of a person are in one part, or it would be clipped in several. A person with more than
        `size` of them is a part alone: the memory of a part grows to `max_per_unit` rows where that is more.
        """
        if self.persons is None:
            return [Batch(self.rows[start : start + size]) for start in range(0, len(self.rows), size)]
        parts, start = [], 0
        ends = np.flatnonzero(np.diff(self.persons, append=-1)) + 1  # one past each person's last row
        while start < len(self.rows):
            fitting = ends[(ends > start) & (ends <= start + size)]
            end = int(fitting[-1]) if len(fitting) else int(ends[ends > start][0])
            parts.append(Batch(self.rows[start:end], self.persons[start:end] - self.persons[start]))
            start = end
        return parts

    def padded(self, least: int) -> Batch:
        """With its first row repeated until there are `least` rows; each of these is a person of its own.

        The caller leaves them out of the loss. They are there because libraries multiply few rows in another order than
        many: with weights that cancel, one example more would else change the others' gradients altogether.
        """
        missing = least - len(self.rows)
        if missing <= 0 or not len(self.rows):
            return self
        rows = np.append(self.rows, np.repeat(self.rows[:1], missing))
        if self.persons is None:
            return Batch(rows)
        return Batch(rows, np.append(self.persons, self.persons[-1] + 1 + np.arange(missing)))


@dataclass(frozen=True, repr=False)
class Persons:
    """The persons of a shard.

    Attributes:
        unit: the column that names them.
        most: examples that one of them gives to a step, at most.
        order: int64 `[n]`, the shard's places, person after person.
        starts: int64 `[persons + 1]`, where in `order` each person's places begin, and the end.
    """

    unit: str
    most: int
    order: _Indices
    starts: _Indices

    @classmethod
    def of(cls, owners: _Indices, *, unit: str, most: int) -> Persons:
        """Of the examples whose persons are `owners` (int64 `[n]`, any numbers, equal for one person)."""
        _, owners, counts = np.unique(owners, return_inverse=True, return_counts=True)
        starts = np.concatenate([[0], np.cumsum(counts)]).astype(np.int64)
        return cls(unit, most, np.argsort(owners, kind="stable"), starts)

    def __len__(self) -> int:
        return len(self.starts) - 1

    def __repr__(self) -> str:
        return f"Persons(n={len(self)})"

    def draw(self, sampling: Stream, *, rate: float) -> Batch:
        """What a step takes.

        Guarantee: each person is drawn with chance `rate`, independently of all others and of how many examples it
        has; of a person drawn come `most` examples, or all where it has fewer, every choice of them with one chance.
        The draw is fresh at every call.
        """
        drawn = sampling.poisson_sample(len(self), rate=rate)
        sizes = self.starts[drawn + 1] - self.starts[drawn]
        person, place = sampling.choose_each(sizes, k=self.most)
        return Batch(self.order[self.starts[drawn[person]] + place], person)


def number(names: Sequence[object]) -> _Indices:
    """The persons' names `[n]` as numbers from 0, int64 `[n]`, by first appearance; one `text` is one person."""
    known: dict[str, int] = {}
    return np.array([known.setdefault(text(name), len(known)) for name in names], dtype=np.int64)


def held_out(names: Sequence[object], *, share: float, key: bytes) -> NDArray[np.bool_]:
    """Which of the examples of these persons are held out, bool `[n]`: those of a `share` of the persons, never all.

    Persons are ranked by HMAC-SHA-256 of their name under `key`; the first `share` of them, rounded, is held out.

    Guarantee: no person has examples on both sides. Who is held out depends on the names and `key` alone, so one
    person more or less moves, besides itself, one other across the cut at most; and a person that is held out in one
    round is in all.
    """
    ranked = sorted({text(name) for name in names}, key=lambda name: hmac.digest(key, name.encode(), hashlib.sha256))
    held = set(ranked[: len(ranked) - kept(len(ranked), share=share)])
    return np.array([text(name) in held for name in names], dtype=np.bool_)
