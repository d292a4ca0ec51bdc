"""Inputs as they stand in a file, turned into images, texts or numeric rows.

Guarantee: no message shows a value of an input, only its row, its type and its shape.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray

from tacit.data import images
from tacit.data.content import Content
from tacit.data.labels import missing
from tacit.errors import BadInput

__all__ = ["from_column", "from_columns"]


def from_columns(columns: Mapping[str, NDArray[np.generic]], *, place: str) -> NDArray[np.float32]:
    """Several numeric columns, each `[n]`, side by side as float32 `[n, features]`.

    Raises:
        BadInput: a cell is missing, not a number, NaN or infinite.
    """
    rows = [_numbers(values, place=f"column {name} of {place}") for name, values in columns.items()]
    return np.concatenate(rows, axis=1)


def from_column(values: NDArray[np.generic], *, place: str, image_size: int | None) -> NDArray[np.generic]:
    """One column or array as inputs: its type decides what they are.

    Args:
        values: `[n, ...]`: text, numbers, image arrays, or objects (text, files or bytes of images, lists of numbers).
        place: where the values stand, for messages.
        image_size: images are resized to this height and width in pixels; None leaves them.

    Returns:
        text as objects `[n]`; images as uint8 `[n, h, w]` or `[n, h, w, c]`; numbers as float32 `[n, features]`.

    Raises:
        BadInput: an input is missing, unreadable, not finite, or unlike the others.
    """
    if values.dtype.kind == "U":
        return _texts(values, place=place)
    if values.dtype.kind in "buif":
        return _arrays(values, place=place, image_size=image_size)
    if values.dtype.kind != "O":
        raise BadInput(
            f"expected text, numbers or images, found values of type {values.dtype} in {place}",
            hint="name another input",
        )
    return _objects(values, place=place, image_size=image_size)


def _objects(values: NDArray[Any], *, place: str, image_size: int | None) -> NDArray[np.generic]:
    match next((value for value in values if not missing(value)), ""):
        case str():
            return _texts(values, place=place)
        case bytes() | Content() | dict():
            return images.decode(values.tolist(), place=place, size=image_size)
        case _:
            return _numbers(values, place=place)


def _texts(values: NDArray[Any], *, place: str) -> NDArray[np.object_]:
    found = np.empty(len(values), dtype=object)
    for i, value in enumerate(values.tolist()):
        if missing(value) or not isinstance(value, str):
            what = "none" if missing(value) else f"a {type(value).__name__}"
            raise BadInput(
                f"expected text in every row, found {what} in row {i + 1} of {place}",
                hint="fill the row or leave it out",
            )
        found[i] = value
    return found


def _arrays(values: NDArray[Any], *, place: str, image_size: int | None) -> NDArray[np.generic]:
    if values.ndim < 3:
        return _numbers(values, place=place)
    _finite(values, place=place)
    if values.ndim > 4 or (values.ndim == 4 and values.shape[3] not in {1, 3}):
        raise BadInput(
            f"expected images of shape [n, h, w], [n, h, w, 1] or [n, h, w, 3], found {list(values.shape)} in {place}",
            hint="put the channels last",
        )
    if values.dtype != np.uint8 and not bool(np.all((values == np.round(values)) & (values >= 0) & (values <= 255))):
        raise BadInput(
            f"expected images as whole numbers from 0 to 255, found other {values.dtype} values in {place}",
            hint="scale the images to 0..255 and save them as uint8",
        )
    pixels = values.astype(np.uint8, copy=False)
    return pixels if image_size is None else images.resize(pixels, size=image_size)


def _numbers(values: NDArray[Any], *, place: str) -> NDArray[np.float32]:
    """Numbers, texts of numbers or equally long lists of numbers as float32 `[n, features]`."""
    try:
        found = np.asarray(values.tolist(), dtype=np.float64)
    except (ValueError, TypeError, OverflowError):
        row = next((i for i, value in enumerate(values.tolist(), start=1) if not _numeric(value)), None)
        where = "rows of several lengths" if row is None else f"something else in row {row}"
        # "from None": the parser's message shows the value
        raise BadInput(
            f"expected numbers, found {where} of {place}",
            hint="mend or leave out the row, or name another input",
        ) from None
    found = found.reshape(len(values), -1)
    with np.errstate(over="ignore"):
        narrow = found.astype(np.float32)
    _finite(narrow, place=place)
    return narrow


def _numeric(value: Any) -> bool:
    try:
        np.asarray(value, dtype=np.float64)
    except (ValueError, TypeError, OverflowError):
        return False
    return True


def _finite(values: NDArray[Any], *, place: str) -> None:
    fine = np.isfinite(values).reshape(len(values), -1).all(axis=1)
    if not fine.all():
        row = int(np.argmin(fine)) + 1
        raise BadInput(
            f"expected finite numbers, found a missing, NaN or infinite one in row {row} of {place}",
            hint="fill the value or leave out the row",
        )
