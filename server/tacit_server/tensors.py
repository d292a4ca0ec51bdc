"""Named arrays in one file, in the format of safetensors, with a checksum; written and read as they pass.

A file is one that any reader of safetensors opens (huggingface/safetensors, "Format": the length of a header in 8
bytes, lowest first; the header as JSON; the arrays one after the other). That library's own functions hold the whole
file in memory beside the arrays, which several gigabytes do not allow, and know no checksum.
"""

from __future__ import annotations

import hashlib
import json
import math
from collections.abc import Mapping
from typing import Any, BinaryIO, Protocol

import numpy as np
from numpy.typing import NDArray

from tacit.codec import Malformed

__all__ = ["Sink", "Unmarked", "read", "write"]

_DTYPES: dict[str, np.dtype[Any]] = {"F16": np.dtype("<f2"), "F32": np.dtype("<f4"), "F64": np.dtype("<f8")}
_NAMES = {dtype: name for name, dtype in _DTYPES.items()}


class Sink(Protocol):
    """Where bytes go: a file, or a `Sealer` in front of one."""

    def write(self, data: bytes | memoryview, /) -> object: ...


class Unmarked(Malformed):
    """A file without a checksum."""


def write(file: Sink, arrays: Mapping[str, NDArray[Any]], *, facts: str) -> None:
    """Write `arrays`, of float16, float32 or float64 in any shape, and the text `facts`.

    Guarantee: equal arrays and facts give equal bytes, whatever the order of `arrays`.
    """
    ordered = {name: np.ascontiguousarray(arrays[name]) for name in sorted(arrays)}
    index: dict[str, Any] = {}
    at = 0
    for name, array in ordered.items():
        entry = {"dtype": _NAMES[array.dtype], "shape": list(arrays[name].shape)}
        index[name] = {**entry, "data_offsets": [at, at + array.nbytes]}
        at += array.nbytes
    checksum = hashlib.sha256(_header(facts, index, checksum=""))
    for array in ordered.values():
        checksum.update(_bytes_of(array))
    header = _header(facts, index, checksum=checksum.hexdigest())
    file.write(len(header).to_bytes(8, "little") + header)
    for array in ordered.values():
        file.write(_bytes_of(array))


def read(file: BinaryIO, *, size: int) -> tuple[dict[str, NDArray[Any]], str]:
    """The arrays and the facts that `write` has written; nothing of them where a bit differs.

    Args:
        file: buffered, and read to its end.
        size: bytes in it at most, so that no damaged length asks for more memory than that.

    Raises:
        Malformed: cut, changed, or not of this format; `Unmarked` where it is and has no checksum.
    """
    try:
        return _read(file, size=size)
    except Malformed:
        raise
    except (KeyError, TypeError, AttributeError, ValueError) as error:
        raise Malformed(f"expected a header that describes arrays, found another: {error}") from None


def _read(file: BinaryIO, *, size: int) -> tuple[dict[str, NDArray[Any]], str]:
    header = _exactly(file, int.from_bytes(_exactly(file, 8, size=size), "little"), size=size)
    index = json.loads(header)
    metadata = index.pop("__metadata__")
    if "sha256" not in metadata:
        raise Unmarked("expected a checksum, found none")
    facts, marked = metadata["facts"], metadata["sha256"]
    checksum = hashlib.sha256(_header(facts, index, checksum=""))
    arrays, at = {}, 0
    for name, entry in index.items():
        array = _take(file, entry, at=at, size=size)
        at += array.nbytes
        checksum.update(_bytes_of(array))
        arrays[name] = array
    # The header as it would be written: spaces or keys that a parser drops are damage too.
    if file.read(1) or checksum.hexdigest() != marked or _header(facts, index, checksum=marked) != header:
        raise Malformed("expected bytes that fit their checksum, found others")
    return arrays, facts


def _header(facts: str, index: Mapping[str, Any], *, checksum: str) -> bytes:
    """With an empty checksum, what the checksum covers besides the arrays."""
    text = json.dumps({"__metadata__": {"facts": facts, "sha256": checksum}, **index}, separators=(",", ":"))
    return text.encode() + b" " * (-len(text) % 8)  # arrays begin at a multiple of 8


def _take(file: BinaryIO, entry: Mapping[str, Any], *, at: int, size: int) -> NDArray[Any]:
    """The array that `entry` describes, which begins `at` bytes behind the header."""
    dtype = _DTYPES[entry["dtype"]]
    shape: tuple[int, ...] = tuple(entry["shape"])
    end = at + math.prod(shape) * dtype.itemsize
    if entry["data_offsets"] != [at, end] or end > size:
        raise Malformed(f"expected an array of {end - at} bytes, found another place in the header")
    array: NDArray[Any] = np.empty(shape, dtype)
    if file.readinto(_bytes_of(array)) != array.nbytes:  # type: ignore[attr-defined]  # all binary files have it
        raise Malformed(f"expected an array of {array.nbytes} bytes, found the end of the file")
    return array


def _bytes_of(array: NDArray[Any]) -> memoryview:
    """The memory of `array`, which is contiguous."""
    return array.reshape(-1).view(np.uint8).data


def _exactly(file: BinaryIO, count: int, *, size: int) -> bytes:
    found = file.read(count) if count <= size else b""
    if len(found) != count:
        raise Malformed(f"expected {count} bytes, found the end of the file")
    return found
