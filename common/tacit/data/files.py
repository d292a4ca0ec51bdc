"""A partner's files as examples in memory.

Nothing is cached on disk: a partner's data must not be copied beside its source. That is why the readers here use
csv, numpy, pyarrow and pillow, and not the `datasets` library, which writes what it reads into a cache.
"""

from __future__ import annotations

import os
import stat
from collections.abc import Mapping
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from tacit.data import arrays, folders, inputs, labels, tables
from tacit.data.content import Content
from tacit.data.examples import Examples
from tacit.data.screen import Screen
from tacit.data.source import Source, listed, unreadable
from tacit.errors import BadInput
from tacit.seal import Lock

__all__ = ["FORMATS", "kind_of", "read"]

FORMATS = ("auto", "csv", "idx", "image-folder", "jsonl", "npz", "parquet", "text", "tsv")
_SUFFIXES = {
    ".csv": "csv",
    ".jsonl": "jsonl",
    ".ndjson": "jsonl",
    ".npz": "npz",
    ".parquet": "parquet",
    ".tsv": "tsv",
}
_WITHOUT_COLUMNS = ("idx", "image-folder", "text")
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
    drop: tuple[str, ...] = (),
    pseudonymise: tuple[str, ...] = (),
    secret: bytes = b"",
    lock: Lock | None = None,
) -> Examples:
    """Reads and checks labelled examples; all of them fit or none are given.

    Args:
        path: a file; for idx also a folder, for image-folder and text the folder that holds one folder for each class.
            Files may be sealed; the format goes by their names without `.sealed`.
        format: one of `FORMATS`; `auto` goes by the suffix, or by what a folder holds.
        input: the column or array to learn from, or several numeric columns separated by commas; for idx the
            images' file name. None: the only one left.
        label: the column or array of labels; for idx the labels' file name. None: `label`, `labels`, `target` or `y`.
            Folders of classes need neither.
        columns: further columns to keep, such as the unit of privacy.
        classes: the names of the classes that training knows, in label order; None: the distinct labels, sorted.
        image_size: height and width in pixels that images are resized to; None leaves them.
        drop: columns that are not kept.
        pseudonymise: columns of which only pseudonyms are kept: 32 hexadecimal digits, equal for equal values.
        secret: what pseudonyms are made with; without it nobody can tell whose they are.
        lock: opens what is sealed; files in clear are read as they are.

    Returns:
        images as uint8 `[n, h, w]` or `[n, h, w, c]`, text as objects `[n]` or numbers as float32 `[n, features]`,
        with labels int64 `[n]`.

    Raises:
        BadInput: the file is missing, empty or corrupt, a column is not there, or a row can not be used; an input,
            label or column to keep that is in `drop`, an input or label in `pseudonymise`, pseudonyms without a secret;
            a sealed file without its key, or one that was changed.

    Guarantee: writes nothing; no message shows a value of an input. Once it returns, nothing of a dropped column and no
    value of a pseudonymised one is in memory; sealed data is in clear in memory only, and none of it is given unless
    all of it is as it was sealed.
    """
    screen = Screen(frozenset(drop), frozenset(pseudonymise), secret)
    source = _source(path, format=format, input=input, label=label, screen=screen, lock=lock)
    # idx and folders of classes: the flags named files, or nothing
    files = source.names == ("input", "label")
    target = "label" if files else label or _default_label(source, screen)
    names = _input_names(source, input="input" if files else input, others=(target, *columns), screen=screen)
    screen.check(source.names, place=source.place)
    screen.check_use(input=names, label=(target,), columns=columns)
    found = _take(source, names=(*names, target, *columns))
    indices, known = labels.index(found[target], classes=classes, place=source.place)
    values = _inputs({name: found[name] for name in names}, place=source.place, image_size=image_size)
    kept = {name: _filled(found[name], name=name, place=source.place) for name in columns}
    return Examples(values, indices, known, kept)


def kind_of(path: Path, *, format: str) -> str:  # noqa: A002 - as in read
    """The format of the data at `path`, one of `FORMATS` but `auto`.

    Raises:
        BadInput: no such format, nothing that can be read at `path`, a file for a folder or the reverse, or a name that
            tells no format.
    """
    if format not in FORMATS:
        raise BadInput(f"expected a format among {', '.join(FORMATS)}, found {format!r}", hint="name one of them")
    _check_readable(path)
    kind = _guess(path) if format == "auto" else format
    if path.is_dir() != (kind in {"image-folder", "text"}) and kind != "idx":
        expected, found = ("a folder", "a file") if path.is_file() else ("a file", "a folder")
        raise BadInput(f"expected {expected} for format {kind}, found {found} at {path}", hint="correct path or format")
    return kind


def _check_readable(path: Path) -> None:
    try:
        folder = stat.S_ISDIR(path.stat().st_mode)
    except (FileNotFoundError, NotADirectoryError, ValueError):  # the last: a name that no file can have
        raise BadInput(f"expected data at {path}, found nothing there", hint="correct the path") from None
    except OSError as error:  # a folder above may be closed to this user, which is not to say that nothing is there
        raise unreadable(path, error) from None
    if not os.access(path, os.R_OK | os.X_OK if folder else os.R_OK):
        raise BadInput(f"expected readable data, found no right to read {path}", hint="grant this user the right")


def _source(
    path: Path,
    *,
    format: str,  # noqa: A002 - as in read
    input: str | None,  # noqa: A002 - as in read
    label: str | None,
    screen: Screen,
    lock: Lock | None,
) -> Source:
    kind = kind_of(path, format=format)
    if path.is_file() and path.stat().st_size == 0:
        raise BadInput(f"expected at least one example, found an empty file at {path}", hint="export the file again")
    if kind in _WITHOUT_COLUMNS and (screen.drop or screen.pseudonymise):
        raise BadInput(
            f"expected nothing to drop or pseudonymise in format {kind}, which has no columns, found some for {path}",
            hint="remove drop and pseudonymise",
        )
    match kind:
        case "idx":
            return arrays.idx(path, input=input, label=label, lock=lock)
        case "text":
            return folders.texts(path, lock=lock)
        case "image-folder":
            return folders.images(path, lock=lock)
    return _table(Content(path, lock), kind=kind, screen=screen)


def _table(content: Content, *, kind: str, screen: Screen) -> Source:
    match kind:
        case "jsonl":
            return tables.jsonl(content, screen=screen)
        case "parquet":
            return tables.parquet(content, screen=screen)
        case "npz":
            return arrays.npz(content, screen=screen)
    return tables.delimited(content, delimiter="," if kind == "csv" else "\t", screen=screen)


def _guess(path: Path) -> str:
    if path.is_dir():
        if any("-idx" in entry.name for entry in path.iterdir()):
            return "idx"
        return "text" if folders.holds_texts(path) else "image-folder"
    name = Path(Content(path).name)
    plain = name.with_suffix("") if name.suffix.lower() == ".gz" else name
    kind = _SUFFIXES.get(plain.suffix.lower()) or ("idx" if "idx" in plain.name else None)
    if kind is None:
        raise BadInput(
            f"expected a file name that tells its format ({', '.join(_SUFFIXES)}, ...-idx3-ubyte), found {path}",
            hint=f"set the format to one of {', '.join(FORMATS[1:])}",
        )
    return kind


def _default_label(source: Source, screen: Screen) -> str:
    left = tuple(name for name in source.names if screen.shows(name))
    for name in _LABELS:
        if name in left:
            return name
    raise BadInput(
        f"expected a column {', '.join(_LABELS)}, found {listed(left)} in {source.place}",
        hint="name the label",
    )


def _input_names(
    source: Source,
    *,
    input: str | None,  # noqa: A002 - as in read
    others: tuple[str, ...],
    screen: Screen,
) -> tuple[str, ...]:
    if input is not None:
        return (input,) if input in source.names else tuple(name.strip() for name in input.split(","))
    left = tuple(name for name in source.names if name not in set(others) and screen.shows(name))
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
