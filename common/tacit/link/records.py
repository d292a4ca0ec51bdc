"""Parcels as Flower records and back.

Arrays travel as raw little-endian bytes under a serialisation name of our own: numpy's file format would copy a
model twice on each side, and no pickle-capable reader is ever near a message.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from flwr.app import Array, ArrayRecord, ConfigRecord, RecordDict
from numpy.typing import NDArray

from tacit.errors import BadInput
from tacit.wire import Parcel, Scalar

__all__ = ["to_parcel", "to_records"]

_RAW = "tacit.raw.v1"
_DTYPES: dict[str, np.dtype[Any]] = {
    "float32": np.dtype("<f4"),
    "int64": np.dtype("<i8"),
    "uint8": np.dtype("u1"),
    "uint32": np.dtype("<u4"),
    "uint64": np.dtype("<u8"),
}


def to_records(parcel: Parcel, *, written: dict[int, Array] | None = None) -> RecordDict:
    """`parcel` as the content of a Flower message.

    Args:
        written: arrays by `id` that were encoded before and are used again, as the model is in the messages of one
            round; filled by this call. The caller keeps the arrays alive meanwhile.
    """
    known = {} if written is None else written
    arrays = ArrayRecord()
    for name, array in parcel.arrays.items():
        if id(array) not in known:
            known[id(array)] = _write(array)
        arrays[name] = known[id(array)]
    return RecordDict({"arrays": arrays, "scalars": ConfigRecord(dict(parcel.scalars))})


def to_parcel(records: RecordDict) -> Parcel:
    """The parcel in a Flower message's content. Raises BadInput where it holds anything else."""
    arrays, scalars = records.get("arrays"), records.get("scalars")
    if set(records) != {"arrays", "scalars"} or not isinstance(arrays, ArrayRecord):
        raise _unfit("the records arrays and scalars", str(sorted(records)))
    if not isinstance(scalars, ConfigRecord):
        raise _unfit("a ConfigRecord called scalars", type(scalars).__name__)
    return Parcel({name: _read(array) for name, array in arrays.items()}, {k: _scalar(v) for k, v in scalars.items()})


def _write(array: NDArray[Any]) -> Array:
    dtype = str(array.dtype)
    return Array(dtype=dtype, shape=array.shape, stype=_RAW, data=array.astype(_DTYPES[dtype], copy=False).tobytes())


def _read(array: Array) -> NDArray[Any]:
    dtype = _DTYPES.get(array.dtype)
    if array.stype != _RAW or dtype is None:
        raise _unfit(f"an array of {_RAW}", f"{array.stype} of {array.dtype}")
    if len(array.shape) != 1 or len(array.data) != array.shape[0] * dtype.itemsize:
        raise _unfit("as many bytes as the shape says", f"{len(array.data)} for {tuple(array.shape)}")
    return np.frombuffer(array.data, dtype=dtype)


def _scalar(value: Any) -> Scalar:
    if isinstance(value, bool) or not isinstance(value, str | int | float):
        raise _unfit("a text or a number", type(value).__name__)
    return value


def _unfit(expected: str, found: str) -> BadInput:
    return BadInput(
        f"expected {expected} in a message, found {found}", hint="install the same version of tacit on both sides"
    )
