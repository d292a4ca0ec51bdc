"""Examples in memory: what a reader gives and a task takes."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

__all__ = ["Examples"]


@dataclass(frozen=True, repr=False)
class Examples:
    """Labelled examples, before any model-specific encoding.

    Attributes:
        inputs: images as uint8 `[n, h, w]` or `[n, h, w, c]`, texts as an object array of `str` `[n]`,
            or numeric rows as float32 `[n, features]`.
        labels: int64 `[n]`, indices into `classes`.
        classes: the classes' names, in label order.
        columns: further columns by name, each `[n]`, for splits and for the unit of privacy.

    Guarantee: `repr` shows sizes only, never an example.
    """

    inputs: NDArray[np.generic]
    labels: NDArray[np.int64]
    classes: tuple[str, ...]
    columns: Mapping[str, NDArray[np.generic]] = field(default_factory=dict)

    def __len__(self) -> int:
        return len(self.labels)

    def __repr__(self) -> str:
        return f"Examples(n={len(self)}, classes={len(self.classes)}, inputs={self.inputs.dtype})"

    def take(self, indices: NDArray[np.int64]) -> Examples:
        """The examples at `indices` (int64 `[m]`), in that order."""
        columns = {name: column[indices] for name, column in self.columns.items()}
        return Examples(self.inputs[indices], self.labels[indices], self.classes, columns)
