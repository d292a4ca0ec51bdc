"""A partner's files as examples in memory.

Nothing is cached on disk: a partner's data must not be copied beside its source. That is why the readers here use
csv, numpy, pyarrow and pillow, and not the `datasets` library, which writes what it reads into a cache.
"""

from __future__ import annotations

import os
from collections.abc import Iterable, Mapping
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from tacit.data import arrays, images, inputs, labels, tables
from tacit.data.examples import Examples
from tacit.data.source import Source, listed
from tacit.errors import BadInput

__all__ = ["FORMATS", "read"]

FORMATS = ("auto", "csv", "idx", "image-folder", "jsonl", "npz", "parquet", "tsv")
_SUFFIXES = {
    ".csv": "csv",
    ".jsonl": "jsonl",
    ".ndjson": "jsonl",
    ".npz": "npz",
    ".parquet": "parquet",
    ".tsv": "tsv",
}
_LABELS = ("label", "labels", "target", "y")  # looked for in this order where the label is not named


def read(
    path: Path,
    *,
    format: str,  # noqa: A002 - the keys of a partner's [data]
    input: str | None = None,  # noqa: A002 - as `format`
    label: str | None = None,
    columns: tuple[str, ...] = (),
    classes: tuple[str, ...] | None = None,
    image_size: int | None = None,
) -> Examples:
    """Reads and checks labelled examples; all of them fit or none are given.

    Args:
        path: a file; for idx also a folder, for image-folder the folder that holds one folder for each class.
        format: one of `FORMATS`; `auto` goes by the suffix, or by what a folder holds.
        input: the column or array to learn from, or several numeric columns separated by commas; for idx the
            images' file name. None: the only one left.
        label: the column or array of labels; for idx the labels' file name. None: `label`, `labels`, `target` or `y`.
            An image-folder needs neither.
        columns: further columns to keep, such as the unit of privacy.
        classes: the names of the classes that training knows, in label order; None: the distinct labels, sorted.
        image_size: height and width in pixels that images are resized to; None leaves them.

    Returns:
        images as uint8 `[n, h, w]` or `[n, h, w, c]`, text as objects `[n]` or numbers as float32 `[n, features]`,
        with labels int64 `[n]`.

    Raises:
        BadInput: the file is missing, empty or corrupt, a column is not there, or a row can not be used.

    Guarantee: writes nothing; no message shows a value of an input.
    """
    source = _source(path, format=format, input=input, label=label)
    # idx and image-folder: the flags named files, or nothing
    files = source.names == ("input", "label")
    target = "label" if files else label or _default_label(source)
    names = _input_names(source, input="input" if files else input, others=(target, *columns))
    found = _take(source, names=(*names, target, *columns))
    indices, known = labels.index(found[target], classes=classes, place=source.place)
    values = _inputs({name: found[name] for name in names}, place=source.place, image_size=image_size)
    kept = {name: _filled(found[name], name=name, place=source.place) for name in columns}
    return Examples(values, indices, known, kept)


def _source(path: Path, *, format: str, input: str | None, label: str | None) -> Source:  # noqa: A002 - as in read
    if format not in FORMATS:
        raise BadInput(f"expected a format among {', '.join(FORMATS)}, found {format!r}", hint="name one of them")
    if not path.exists():
        raise BadInput(f"expected data at {path}, found nothing there", hint="correct the path")
    if not os.access(path, os.R_OK):
        raise BadInput(f"expected readable data, found no right to read {path}", hint="grant this user the right")
    if path.is_file() and path.stat().st_size == 0:
        raise BadInput(f"expected at least one example, found an empty file at {path}", hint="export the file again")
    kind = _guess(path) if format == "auto" else format
    if path.is_dir() != (kind == "image-folder") and kind != "idx":
        expected, found = ("a folder", "a file") if path.is_file() else ("a file", "a folder")
        raise BadInput(f"expected {expected} for format {kind}, found {found} at {path}", hint="correct path or format")
    match kind:
        case "csv" | "tsv":
            return tables.delimited(path, delimiter="," if kind == "csv" else "\t")
        case "jsonl":
            return tables.jsonl(path)
        case "parquet":
            return tables.parquet(path)
        case "npz":
            return arrays.npz(path)
        case "idx":
            return arrays.idx(path, input=input, label=label)
        case _:
            return images.folder(path)


def _guess(path: Path) -> str:
    if path.is_dir():
        return "idx" if any("-idx" in entry.name for entry in path.iterdir()) else "image-folder"
    plain = path.with_suffix("") if path.suffix.lower() == ".gz" else path
    kind = _SUFFIXES.get(plain.suffix.lower()) or ("idx" if "idx" in plain.name else None)
    if kind is None:
        raise BadInput(
            f"expected a file name that tells its format ({', '.join(_SUFFIXES)}, ...-idx3-ubyte), found {path}",
            hint=f"set the format to one of {', '.join(FORMATS[1:])}",
        )
    return kind


def _default_label(source: Source) -> str:
    for name in _LABELS:
        if name in source.names:
            return name
    raise BadInput(
        f"expected a column {', '.join(_LABELS)}, found {listed(source.names)} in {source.place}",
        hint="name the label",
    )


def _input_names(source: Source, *, input: str | None, others: Iterable[str]) -> tuple[str, ...]:  # noqa: A002 - as in read
    if input is not None:
        return (input,) if input in source.names else tuple(name.strip() for name in input.split(","))
    left = tuple(name for name in source.names if name not in set(others))
    if len(left) != 1:
        raise BadInput(
            f"expected one column beside the label, found {listed(left)} in {source.place}",
            hint="name the input; several numeric columns are separated by commas",
        )
    return left


def _take(source: Source, *, names: tuple[str, ...]) -> Mapping[str, NDArray[np.generic]]:
    """The wanted columns, equally long and not empty."""
    for name in names:
        if name not in source.names:
            raise BadInput(
                f"expected a column {name!r}, found {listed(source.names)} in {source.place}",
                hint="correct input, label or columns",
            )
    found = source.take(tuple(dict.fromkeys(names)))
    lengths = {name: values.shape[0] if values.ndim else 0 for name, values in found.items()}
    if len(set(lengths.values())) != 1:
        each = ", ".join(f"{length} in {name}" for name, length in lengths.items())
        raise BadInput(f"expected an input for every label, found {each} of {source.place}", hint="mend the file")
    if not all(lengths.values()):
        raise BadInput(f"expected at least one example, found none in {source.place}", hint="fill the file")
    return found


def _inputs(found: Mapping[str, NDArray[np.generic]], *, place: str, image_size: int | None) -> NDArray[np.generic]:
    if len(found) > 1:
        values: NDArray[np.generic] = inputs.from_columns(found, place=place)
    else:
        (column,) = found.values()
        values = inputs.from_column(column, place=place, image_size=image_size)
    if image_size is not None and values.ndim < 3:
        raise BadInput(
            f"expected images for image_size = {image_size}, found other inputs in {place}",
            hint="remove image_size or name the images",
        )
    return values


def _filled(values: NDArray[np.generic], *, name: str, place: str) -> NDArray[np.generic]:
    for row, value in enumerate(values.tolist(), start=1):
        if labels.missing(value):
            raise BadInput(
                f"expected a value in every row of column {name}, found none in row {row} of {place}",
                hint="fill the value or leave out the row",
            )
    return values
