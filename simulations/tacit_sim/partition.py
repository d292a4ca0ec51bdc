"""How a simulation deals one data set to partners.

`dirichlet` deals every class by proportions drawn from Dir(alpha) over the partners (arXiv:1905.12022, Section 4),
the usual form of the Dirichlet split of arXiv:1909.06335; `shards` is the pathological split of
arXiv:1602.05629v4, Section 3.
"""

from __future__ import annotations

import math
from typing import Any

import numpy as np
from numpy.typing import NDArray

from tacit.data.examples import Examples
from tacit.errors import BadInput

__all__ = ["KINDS", "sizes", "split"]

KINDS = ("by-column", "dirichlet", "iid", "shards")

_Part = NDArray[np.int64]


def split(
    examples: Examples, *, partners: int, kind: str, alpha: float, column: str | None, shards: int, seed: int
) -> list[_Part]:
    """The examples of each partner: disjoint, complete, and at least one each.

    Args:
        examples: the training set.
        partners: their number.
        kind: one of `KINDS`.
        alpha: for `dirichlet`, > 0; small is uneven, large is even.
        column: for `by-column`, whose values are dealt whole, such as the writer or the hospital.
        shards: for `shards`, runs of examples sorted by label that each partner gets.
        seed: of numpy's PCG64. A seeded split is for simulations: it is not private.

    Returns:
        for each partner int64 indices into `examples`, ascending.

    Raises:
        BadInput: an unknown kind, more partners (or shards) than examples or values, no such column, alpha not > 0.
    """
    _check_partners(examples, partners)
    rng = np.random.default_rng(seed)
    match kind:
        case "iid":
            parts = np.array_split(rng.permutation(len(examples)), partners)
        case "dirichlet":
            parts = _dirichlet(examples.labels, partners=partners, alpha=alpha, rng=rng)
        case "shards":
            parts = _shards(examples.labels, partners=partners, shards=shards, rng=rng)
        case "by-column":
            parts = _by_column(_column(examples, column), partners=partners, column=column)
        case _:
            raise BadInput(f"expected a partition among {', '.join(KINDS)}, found {kind!r}", hint="name one of them")
    return [np.sort(part).astype(np.int64) for part in parts]


def sizes(examples: Examples, parts: list[_Part]) -> list[dict[str, Any]]:
    """For each partner `{"examples": int, "classes": {class name: int}}`, every class named, for the report."""
    counts = [np.bincount(examples.labels[part], minlength=len(examples.classes)).tolist() for part in parts]
    return [
        {"examples": len(part), "classes": dict(zip(examples.classes, count, strict=True))}
        for part, count in zip(parts, counts, strict=True)
    ]


def _check_partners(examples: Examples, partners: int) -> None:
    if partners < 1:
        raise BadInput(f"expected at least 1 partner, found {partners}", hint="raise the number of partners")
    if partners > len(examples):
        raise BadInput(
            f"expected at least one example a partner, found {partners} partners and {len(examples)} examples",
            hint="lower the number of partners",
        )


def _dirichlet(labels: _Part, *, partners: int, alpha: float, rng: np.random.Generator) -> list[_Part]:
    if not (math.isfinite(alpha) and alpha > 0):
        raise BadInput(f"expected alpha > 0, found {alpha}", hint="give an alpha such as 0.5")
    dealt: list[list[_Part]] = [[] for _ in range(partners)]
    for label in np.unique(labels):
        members = rng.permutation(np.flatnonzero(labels == label))
        cuts = np.cumsum(rng.dirichlet(np.full(partners, alpha)))[:-1] * len(members)
        for mine, piece in zip(dealt, np.split(members, np.round(cuts).astype(np.int64)), strict=True):
            mine.append(piece)
    return _fed([np.concatenate(pieces) for pieces in dealt])


def _fed(parts: list[_Part]) -> list[_Part]:
    """One example from the largest partner (the first of equals) for every partner that has none."""
    fed = list(parts)
    for hungry in [i for i, part in enumerate(parts) if not len(part)]:
        largest = max(range(len(fed)), key=lambda i: len(fed[i]))
        fed[hungry], fed[largest] = fed[largest][-1:], fed[largest][:-1]
    return fed


def _shards(labels: _Part, *, partners: int, shards: int, rng: np.random.Generator) -> list[_Part]:
    pieces = partners * shards
    if not shards >= 1 or pieces > len(labels):
        raise BadInput(
            f"expected 1 to {len(labels) // partners} shards a partner for {partners} partners and "
            f"{len(labels)} examples, found {shards}",
            hint="change the number of shards or partners",
        )
    shuffled = rng.permutation(len(labels))
    by_label = shuffled[np.argsort(labels[shuffled], kind="stable")]
    cut = np.array_split(by_label, pieces)
    dealt = rng.permutation(pieces).reshape(partners, shards)
    return [np.concatenate([cut[i] for i in mine]) for mine in dealt]


def _column(examples: Examples, column: str | None) -> NDArray[np.generic]:
    if column is None or column not in examples.columns:
        raise BadInput(
            f"expected a column to split by, found {column!r} where the data has "
            f"{', '.join(sorted(examples.columns)) or 'none'}",
            hint="name a column of the data",
        )
    return examples.columns[column]


def _by_column(values: NDArray[np.generic], *, partners: int, column: str | None) -> list[_Part]:
    names, inverse, counts = np.unique(values, return_inverse=True, return_counts=True)
    if partners > len(names):
        raise BadInput(
            f"expected at least one value of column {column!r} a partner, found {partners} partners and "
            f"{len(names)} values",
            hint="lower the number of partners",
        )
    owner = _dealt(counts, partners=partners)[inverse.reshape(-1)]
    return [np.flatnonzero(owner == partner) for partner in range(partners)]


def _dealt(counts: _Part, *, partners: int) -> _Part:
    """The owner of each value: value i to partner i if they are as many, else largest first to the smallest."""
    if len(counts) == partners:
        return np.arange(partners)
    owner, load = np.zeros(len(counts), dtype=np.int64), np.zeros(partners, dtype=np.int64)
    for value in np.argsort(-counts, kind="stable"):
        owner[value] = int(np.argmin(load))
        load[owner[value]] += counts[value]
    return owner
