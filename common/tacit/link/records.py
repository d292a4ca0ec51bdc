"""Parcels as Flower records and back.

Arrays travel as raw little-endian bytes under a serialisation name of our own: numpy's file format would copy a
model twice on each side, and no pickle-capable reader is ever near a message.

A small parcel is one record, a large one has a record for each array. Flower stores and carries every record and every
array as an object with a call of its own each, so that a small message in one record takes a third of the time; a large
array is cut into chunks, which every message that holds it shares.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from flwr.app import Array, ArrayRecord, ConfigRecord, RecordDict
from numpy.typing import NDArray

from tacit.parcel import Parcel, Scalar, unfit

__all__ = ["to_parcel", "to_records"]

_RAW = "tacit.raw.v1"
_SMALL = 2**18  # bytes of all arrays
_TEXT = "scalar"  # kind of what is no array in a small parcel
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
    if sum(array.nbytes for array in parcel.arrays.values()) <= _SMALL:
        return RecordDict({"parcel": _small(parcel)})
    known = {} if written is None else written
    arrays = ArrayRecord()
    for name, array in parcel.arrays.items():
        if id(array) not in known:
            known[id(array)] = _write(array)
        arrays[name] = known[id(array)]
    return RecordDict({"arrays": arrays, "scalars": ConfigRecord(dict(parcel.scalars))})


def to_parcel(records: RecordDict) -> Parcel:
    """The parcel in a Flower message's content. Raises BadInput where it holds anything else."""
    small = records.get("parcel")
    if set(records) == {"parcel"} and isinstance(small, ConfigRecord):
        return _from_small(small)
    arrays, scalars = records.get("arrays"), records.get("scalars")
    if set(records) != {"arrays", "scalars"} or not isinstance(arrays, ArrayRecord):
        raise unfit("the records arrays and scalars", str(sorted(records)))
    if not isinstance(scalars, ConfigRecord):
        raise unfit("a ConfigRecord called scalars", type(scalars).__name__)
    return Parcel({name: _read(array) for name, array in arrays.items()}, {k: _scalar(v) for k, v in scalars.items()})


def _small(parcel: Parcel) -> ConfigRecord:
    found: dict[str, Any] = {f"{_TEXT}:{name}": value for name, value in parcel.scalars.items()}
    found |= {f"{array.dtype}:{name}": _bytes(array) for name, array in parcel.arrays.items()}
    return ConfigRecord(found)


def _from_small(record: ConfigRecord) -> Parcel:
    arrays: dict[str, NDArray[Any]] = {}
    scalars: dict[str, Scalar] = {}
    for key, value in record.items():
        kind, _, name = key.partition(":")
        if kind == _TEXT:
            scalars[name] = _scalar(value)
        elif kind in _DTYPES and isinstance(value, bytes) and not len(value) % _DTYPES[kind].itemsize:
            if name in arrays:
                raise unfit("an array once", "it under two kinds")
            arrays[name] = np.frombuffer(value, dtype=_DTYPES[kind])
        else:
            raise unfit("scalars and whole arrays of known kinds", f"{kind} of {type(value).__name__}")
    return Parcel(arrays, scalars)


def _write(array: NDArray[Any]) -> Array:
    return Array(dtype=str(array.dtype), shape=array.shape, stype=_RAW, data=_bytes(array))


def _bytes(array: NDArray[Any]) -> bytes:
    return array.astype(_DTYPES[str(array.dtype)], copy=False).tobytes()


def _read(array: Array) -> NDArray[Any]:
    dtype = _DTYPES.get(array.dtype)
    if array.stype != _RAW or dtype is None:
        raise unfit(f"an array of {_RAW}", f"{array.stype} of {array.dtype}")
    if len(array.shape) != 1 or len(array.data) != array.shape[0] * dtype.itemsize:
        raise unfit("as many bytes as the shape says", f"{len(array.data)} for {tuple(array.shape)}")
    return np.frombuffer(array.data, dtype=dtype)


def _scalar(value: Any) -> Scalar:
    if isinstance(value, bool) or not isinstance(value, str | int | float):
        raise unfit("a text or a number", type(value).__name__)
    return value
