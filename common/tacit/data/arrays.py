"""Files of arrays: npz (numpy's) and idx (MNIST's, Y. LeCun, yann.lecun.com/exdb/mnist), idx plain or with .gz."""

from __future__ import annotations

import gzip
import math
import zipfile
import zlib
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from tacit.data.content import Content
from tacit.data.screen import Screen
from tacit.data.source import Source, corrupt, listed
from tacit.errors import BadInput
from tacit.seal import SUFFIX, Lock

__all__ = ["idx", "idx_pair", "npz", "read_idx"]

_TYPES = {0x08: ">u1", 0x09: ">i1", 0x0B: ">i2", 0x0C: ">i4", 0x0D: ">f4", 0x0E: ">f8"}
_BROKEN_NPZ = (OSError, EOFError, ValueError, KeyError, RuntimeError, zipfile.BadZipFile, zlib.error)


def npz(content: Content, *, screen: Screen) -> Source:
    """A file written by `numpy.savez`; its columns are the arrays. Pickled objects are refused, for they run code.

    Raises:
        BadInput: truncated or corrupt, or (on `take`) an array of objects.
    """
    try:
        with content.seekable() as stream, np.load(stream, allow_pickle=False) as archive:
            names = tuple(archive.files)
    except (*_BROKEN_NPZ, AttributeError, TypeError) as error:  # the last two: a single array, which has no names
        raise corrupt(content, kind="npz") from error
    return Source(str(content), names, lambda wanted: {name: _member(content, name, screen) for name in wanted})


def idx(path: Path, *, input: str | None, label: str | None, lock: Lock | None) -> Source:  # noqa: A002 - the keys of a partner's [data]
    """The files of `idx_pair` as the columns `input` and `label`."""
    files = idx_pair(path, input=input, label=label)
    return Source(str(path), tuple(files), lambda names: {name: read_idx(files[name], lock=lock) for name in names})


def idx_pair(path: Path, *, input: str | None, label: str | None) -> dict[str, Path]:  # noqa: A002 - as `idx`
    """The two idx files, of `input` and `label`.

    Args:
        path: the images' file, or the folder with both.
        input: the images' file name in the folder; None: the only one whose name has `images`.
        label: the labels' file name; None: the images' name with `labels` and `idx1` in it.

    Raises:
        BadInput: no such pair of files.
    """
    root = path if path.is_dir() else path.parent
    images = _file(root, input or (path.name if path.is_file() else _only_images(root)))
    guess = images.name.replace("images", "labels").replace("idx3", "idx1").replace("idx4", "idx1")
    labels = _file(root, label or guess)
    if labels == images:
        raise BadInput(f"expected a file of labels beside {images}, found none", hint="name it as the label")
    return {"input": images, "label": labels}


def read_idx(path: Path, *, lock: Lock | None = None) -> NDArray[np.generic]:
    """One idx file: two zero bytes, a type byte, the number of dimensions, their big-endian uint32 sizes, the values.

    Returns:
        an array of the type and shape that the header states, in the machine's byte order.

    Raises:
        BadInput: missing, not idx, or of another length than its header says.
    """
    content = _content(Content(path, lock))
    if len(content) < 4 or content[:2] != b"\0\0" or content[2] not in _TYPES:
        raise BadInput(
            f"expected an idx header 00 00 type dimensions, found {content[:4].hex(' ') or 'an empty file'} at {path}",
            hint="name an idx file, or its real format",
        )
    dtype, start = np.dtype(_TYPES[content[2]]), 4 + 4 * content[3]
    shape = tuple(int(size) for size in np.frombuffer(content[4:start].ljust(4 * content[3], b"\0"), dtype=">u4"))
    expected = start + dtype.itemsize * math.prod(shape)
    if len(content) != expected:
        raise BadInput(
            f"expected {expected} bytes as the idx header says, found {len(content)} at {path}", hint="copy it again"
        )
    values = np.frombuffer(content, dtype=dtype, offset=start).reshape(shape)
    return values.astype(dtype.newbyteorder("="))


def _content(file: Content) -> bytes:
    try:
        return gzip.decompress(file.whole()) if file.suffix == ".gz" else file.whole()
    except FileNotFoundError:
        raise BadInput(f"expected a file at {file}, found none", hint="correct the path") from None
    except (OSError, EOFError, zlib.error) as error:
        raise corrupt(file, kind="gzip") from error


def _member(content: Content, name: str, screen: Screen) -> NDArray[np.generic]:
    try:
        with content.seekable() as stream, np.load(stream, allow_pickle=False) as archive:
            member: NDArray[np.generic] = archive[name]
    except _BROKEN_NPZ as error:
        if isinstance(error, ValueError) and "pickle" in str(error):  # what numpy says of objects
            raise BadInput(
                f"expected numbers or texts, found an array of objects as {name} of {content}",
                hint="save it as text with .astype(str), or as numbers of one type",
            ) from None
        raise corrupt(content, kind="npz") from error
    if name not in screen.pseudonymise:
        return member
    return np.array([screen.value(name, value) for value in member.tolist()], dtype=object)


def _file(root: Path, name: str) -> Path:
    plain = name.removesuffix(SUFFIX).removesuffix(".gz")
    for candidate in (root / name, *(root / f"{plain}{end}" for end in ("", ".gz", SUFFIX, f".gz{SUFFIX}"))):
        if candidate.is_file():
            return candidate
    raise BadInput(f"expected the idx file {name} in {root}, found none", hint="name the files as input and label")


def _only_images(root: Path) -> str:
    names = tuple(sorted(file.name for file in root.iterdir() if file.is_file() and "images" in file.name))
    if len(names) != 1:
        raise BadInput(
            f"expected one file of images in {root}, found {listed(names)}",
            hint="name the files as input and label",
        )
    return names[0]
