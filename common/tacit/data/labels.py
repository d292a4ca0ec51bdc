"""Labels as they stand in a file, turned into indices into the classes' names."""

from __future__ import annotations

import re
import unicodedata
from typing import SupportsFloat

import numpy as np
from numpy.typing import NDArray

from tacit.data.source import listed
from tacit.errors import BadInput

__all__ = ["index", "missing", "text"]

_WHOLE = re.compile(r"(-?\d+)(?:\.0+)?")


def missing(value: object) -> bool:
    """Whether a cell holds nothing: None, NaN, or text without a visible character."""
    if value is None:
        return True
    if isinstance(value, str):
        return not value.strip()
    return isinstance(value, float | np.floating) and bool(np.isnan(value))


def text(value: object) -> str:
    """A value's name: its text in Unicode's form NFC, without blanks around it; of a whole number its digits.

    1, 1.0 and "1" are one name, and so is one whose letters two keyboards put together in two ways.
    """
    found = unicodedata.normalize("NFC", str(value)).strip()
    whole = _WHOLE.fullmatch(found)
    return whole[1] if whole else found


def index(
    values: NDArray[np.generic], *, classes: tuple[str, ...] | None, place: str
) -> tuple[NDArray[np.int64], tuple[str, ...]]:
    """Labels as indices, with the names of the classes in label order.

    A class is named by its `text`.

    Args:
        values: labels `[n]` or `[n, 1]`, numbers or text.
        classes: the known ones, told by their `text`; None takes the distinct labels, sorted, whole numbers by value.
        place: where the labels stand, for messages.

    Returns:
        int64 `[n]` and the classes.

    Raises:
        BadInput: a label is missing, is of no known class, or is not one value a row.
    """
    names = _names(values, place=place)
    known = _sorted(set(names)) if classes is None else classes
    position = {text(name): i for i, name in enumerate(known)}
    for row, name in enumerate(names, start=1):
        if name not in position:
            raise BadInput(
                f"expected one of the classes {listed(known)}, found {name!r} in row {row} of {place}: "
                "a class never seen in training",
                hint="mend or leave out the rows of that class, or start a job that has it",
            )
    return np.array([position[name] for name in names], dtype=np.int64), known


def _names(values: NDArray[np.generic], *, place: str) -> list[str]:
    if values.ndim == 2 and values.shape[1] == 1:
        values = values[:, 0]
    if values.ndim != 1:
        raise BadInput(
            f"expected one label a row, found an array of shape {list(values.shape)} in {place}",
            hint="name a column or an array with one label for each example",
        )
    return [_name(value, row=row, place=place) for row, value in enumerate(values.tolist(), start=1)]


def _name(value: object, *, row: int, place: str) -> str:
    if missing(value):
        raise BadInput(
            f"expected a label in every row, found none in row {row} of {place}",
            hint="label the row or leave it out",
        )
    if not isinstance(value, str | SupportsFloat):
        raise BadInput(
            f"expected labels as text or numbers, found a {type(value).__name__} in row {row} of {place}",
            hint="name a column with one label for each example",
        )
    return text(value)


def _sorted(names: set[str]) -> tuple[str, ...]:
    if all(re.fullmatch(r"-?\d+", name) for name in names):
        return tuple(sorted(names, key=lambda name: (int(name), name)))
    return tuple(sorted(names))
