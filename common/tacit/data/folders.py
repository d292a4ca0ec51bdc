"""Folders with one folder of files for each class: images, and texts in UTF-8."""

from __future__ import annotations

from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from tacit.data.content import Content
from tacit.data.source import Source, not_utf8, unreadable
from tacit.errors import BadInput
from tacit.seal import Lock

__all__ = ["classed", "holds_texts", "images", "texts"]

_IMAGES = {".bmp", ".gif", ".jpeg", ".jpg", ".pgm", ".png", ".ppm", ".tif", ".tiff", ".webp"}
_TEXTS = {".txt"}
_FOREIGN = {"thumbs.db", "desktop.ini"}  # written by file browsers


def images(path: Path, *, lock: Lock | None) -> Source:
    """Image files as the columns `input`, each a `Content`, and `label`. Raises as `_sorted_files`."""
    files = _sorted_files(path, lock=lock, suffixes=_IMAGES, kind="images")
    return _source(path, list(files), files)


def texts(path: Path, *, lock: Lock | None) -> Source:
    """Text files in UTF-8 as the columns `input` and `label`.

    Raises:
        BadInput: as `_sorted_files`, or a file that is not UTF-8 or holds nothing that is seen.
    """
    files = _sorted_files(path, lock=lock, suffixes=_TEXTS, kind="texts")
    return _source(path, [_text(file) for file in files], files)


def classed(path: Path, *, lock: Lock | None = None) -> list[Content]:
    """Every file in a folder of `path`, which is its class, folder by folder and by name.

    Hidden files are passed over, as are files beside the class folders and those that file browsers write. Raises
    BadInput where a folder can not be read.
    """
    folders = sorted(entry for entry in path.iterdir() if entry.is_dir() and not entry.name.startswith("."))
    return [
        Content(entry, lock)
        for folder in folders
        for entry in sorted(_entries(folder))
        if not entry.name.startswith(".") and entry.name.lower() not in _FOREIGN
    ]


def _entries(folder: Path) -> list[Path]:
    try:
        return list(folder.iterdir())
    except OSError as error:
        raise unreadable(folder, error) from None


def holds_texts(path: Path) -> bool:
    """Whether the first file of a class in `path` is a text."""
    return next((file.suffix in _TEXTS for file in classed(path)), False)


def _sorted_files(path: Path, *, lock: Lock | None, suffixes: set[str], kind: str) -> list[Content]:
    """The files of every class. Raises BadInput: no class folders, or something else than `kind` in one."""
    files = classed(path, lock=lock)
    if not files:
        raise BadInput(
            f"expected a folder of {kind} for each class, found none in {path}",
            hint=f"put the {kind} into one folder for each class",
        )
    for file in files:
        if file.path.is_dir() or file.suffix not in suffixes:
            raise BadInput(
                f"expected only {kind} ({', '.join(sorted(suffixes))}) in a class folder, found {file}",
                hint="move it out of the class folder",
            )
    return files


def _text(file: Content) -> str:
    try:
        text = file.whole().decode("utf-8-sig")
    except OSError as error:
        raise unreadable(file, error) from None
    except UnicodeDecodeError:
        raise not_utf8(file) from None
    if not text.strip():
        raise BadInput(f"expected text in every file, found none in {file}", hint="fill the file or remove it")
    return text


def _source(path: Path, values: list[object], files: list[Content]) -> Source:
    columns: dict[str, NDArray[np.generic]] = {
        "input": np.array([*values, None], dtype=object)[:-1],
        "label": np.array([file.path.parent.name for file in files], dtype=object),
    }
    return Source(str(path), tuple(columns), lambda names: {name: columns[name] for name in names})
