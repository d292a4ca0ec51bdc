"""Parcels as Flower's records: raw bytes in, raw bytes out, and no reader that could run anything."""

from __future__ import annotations

import io
import pickle

import numpy as np
import pytest
from flwr.app import Array, ArrayRecord, ConfigRecord, MetricRecord, RecordDict
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as arrays

from tacit.errors import BadInput
from tacit.link.records import to_parcel, to_records
from tacit.parcel import Parcel

RAW = "tacit.raw.v1"
NAMES = st.text(min_size=1, max_size=10)
ARRAYS = st.one_of(
    arrays.arrays(np.float32, st.integers(0, 30), elements=st.floats(width=32)),
    *(arrays.arrays(kind, st.integers(0, 30)) for kind in (np.int64, np.uint8, np.uint32, np.uint64)),
)
LARGE = {"z": np.zeros(2**17, np.uint32)}  # beside it, every array has a record of its own
SCALARS = st.one_of(st.text(max_size=20), st.integers(-(2**63), 2**63 - 1), st.floats())


@given(st.dictionaries(NAMES, ARRAYS, max_size=4), st.dictionaries(NAMES, SCALARS, max_size=4), st.booleans())
def test_a_parcel_comes_back_bit_for_bit(vectors, scalars, large):
    vectors |= LARGE if large else {}
    parcel = to_parcel(to_records(Parcel(vectors, scalars)))
    assert {k: (v.dtype, v.tobytes()) for k, v in parcel.arrays.items()} == {
        k: (v.dtype, v.tobytes()) for k, v in vectors.items()
    }
    assert {k: repr(v) for k, v in parcel.scalars.items()} == {k: repr(v) for k, v in scalars.items()}


def test_bytes_are_little_endian_and_no_more():
    records = to_records(Parcel({"a": np.array([1, -2], np.int64)} | LARGE, {}))
    array = records["arrays"]["a"]
    small = to_records(Parcel({"a": np.array([1, -2], np.int64)}, {"b": "c"}))["parcel"]
    assert dict(small) == {"int64:a": array.data, "scalar:b": "c"}
    assert (array.stype, array.dtype, tuple(array.shape)) == (RAW, "int64", (2,))
    assert array.data == (1).to_bytes(8, "little") + (-2).to_bytes(8, "little", signed=True)


@pytest.mark.parametrize(("kind", "size"), [("uint8", 1), ("uint32", 4), ("uint64", 8)])
def test_ring_entries_are_little_endian_too(kind, size):
    top = 2 ** (8 * size) - 1
    array = to_records(Parcel({"a": np.array([1, top - 1], kind)} | LARGE, {}))["arrays"]["a"]
    assert array.data == (1).to_bytes(size, "little") + (top - 1).to_bytes(size, "little")


def test_an_array_used_again_is_encoded_once():
    common, own = np.ones(2**17, np.float32), np.ones(3, np.float32)
    written: dict[int, Array] = {}
    one, other = (to_records(Parcel({"a": common, "b": b}, {}), written=written) for b in (own, own + 1))
    assert one["arrays"]["a"] is other["arrays"]["a"]
    assert to_parcel(other).arrays["b"].tolist() == [2, 2, 2]
    assert len(written) == 3


def test_a_strided_vector_is_written_in_order():
    parcel = to_parcel(to_records(Parcel({"a": np.arange(10, dtype=np.float32)[::-2]}, {})))
    assert parcel.arrays["a"].tolist() == [9, 7, 5, 3, 1]


def _array(*, dtype: str = "float32", shape: tuple[int, ...] = (2,), stype: str = RAW, data: bytes = bytes(8)) -> Array:
    return Array(dtype=dtype, shape=shape, stype=stype, data=data)


def _records(array: Array) -> RecordDict:
    return RecordDict({"arrays": ArrayRecord({"a": array}), "scalars": ConfigRecord({})})


def test_the_plain_array_of_these_tests_is_accepted():
    assert to_parcel(_records(_array())).arrays["a"].tolist() == [0, 0]


@pytest.mark.parametrize(
    "array",
    [
        _array(stype="numpy.ndarray"),
        _array(stype=""),
        _array(stype="tacit.raw.v2"),
        _array(dtype="float64", data=bytes(16)),
        _array(dtype="object"),
        _array(dtype=">f4"),
        _array(data=bytes(7)),
        _array(data=bytes(9)),
        _array(data=b""),
        _array(shape=(3,)),
        _array(shape=(1, 2)),
        _array(shape=()),
        _array(shape=(-2,)),
        _array(dtype="int64"),
    ],
    ids=lambda a: f"{a.stype}-{a.dtype}-{tuple(a.shape)}-{len(a.data)}",
)
def test_another_array_is_refused(array):
    with pytest.raises(BadInput, match=r"^expected .* in a message, found "):
        to_parcel(_records(array))


@pytest.mark.parametrize(
    "records",
    [
        {},
        {"arrays": ArrayRecord({})},
        {"scalars": ConfigRecord({})},
        {"arrays": ArrayRecord({}), "scalars": ConfigRecord({}), "more": ConfigRecord({})},
        {"arrays": ConfigRecord({}), "scalars": ConfigRecord({})},
        {"arrays": ArrayRecord({}), "scalars": MetricRecord({})},
        {"arrays": ArrayRecord({}), "scalars": ConfigRecord({"a": True})},
        {"arrays": ArrayRecord({}), "scalars": ConfigRecord({"a": b"x"})},
        {"arrays": ArrayRecord({}), "scalars": ConfigRecord({"a": [1, 2]})},
        {"parcel": ArrayRecord({})},
        {"parcel": ConfigRecord({}), "scalars": ConfigRecord({})},
        {"parcel": ConfigRecord({"a": 1})},
        {"parcel": ConfigRecord({"scalar:a": True})},
        {"parcel": ConfigRecord({"scalar:a": b"x"})},
        {"parcel": ConfigRecord({"float32:a": b"123"})},
        {"parcel": ConfigRecord({"float32:a": 1.0})},
        {"parcel": ConfigRecord({"float64:a": bytes(8)})},
        {"parcel": ConfigRecord({"object:a": bytes(8)})},
        {"parcel": ConfigRecord({"int64:a": bytes(8), "uint64:a": bytes(8)})},
    ],
    ids=range(19),
)
def test_other_records_are_refused(records):
    with pytest.raises(BadInput, match=r"^expected .* in a message, found "):
        to_parcel(RecordDict(records))


class _Bomb:
    def __reduce__(self):
        return (_explode, ())


def _explode() -> None:
    raise SystemExit("a message was run")


@pytest.mark.parametrize("stype", [RAW, "numpy.ndarray", "pickle"])
def test_nothing_in_a_message_is_unpickled(stype):
    """Guarantee: a pickle under any serialisation name is bytes or a refusal, never run."""
    file = io.BytesIO()
    np.save(file, np.array([_Bomb()], dtype=object), allow_pickle=True)
    for data in (file.getvalue(), pickle.dumps(_Bomb())):
        padded = data + bytes(-len(data) % 4)
        records = _records(_array(stype=stype, shape=(len(padded) // 4,), data=padded))
        if stype == RAW:
            assert to_parcel(records).arrays["a"].tobytes() == padded
        else:
            with pytest.raises(BadInput):
                to_parcel(records)
    with pytest.raises(SystemExit):
        pickle.loads(pickle.dumps(_Bomb()))
