"""Arrays in a file: what was written comes back bit for bit, and nothing else is ever taken for it."""

from __future__ import annotations

import io
import json

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as arrays_of
from safetensors.numpy import load

from tacit.codec import Malformed
from tacit_server import tensors

SHAPES = arrays_of.array_shapes(min_dims=0, max_dims=3, min_side=0, max_side=4)
ARRAYS = st.sampled_from(["<f2", "<f4", "<f8"]).flatmap(lambda dtype: arrays_of.arrays(dtype, SHAPES))
NAMES = st.text(st.characters(codec="utf-8"), max_size=8).filter(lambda name: name != "__metadata__")


def _written(arrays: dict, facts: str = "facts") -> bytes:
    file = io.BytesIO()
    tensors.write(file, arrays, facts=facts)
    return file.getvalue()


def _read(content: bytes):
    return tensors.read(io.BytesIO(content), size=len(content))


@given(st.dictionaries(NAMES, ARRAYS, max_size=4), st.text(st.characters(codec="utf-8")))
def test_arrays_come_back_bit_for_bit(arrays, facts):
    found, told = _read(_written(arrays, facts))
    assert told == facts
    assert {k: (v.dtype, v.shape, v.tobytes()) for k, v in found.items()} == {
        k: (v.dtype, v.shape, v.tobytes()) for k, v in arrays.items()
    }


@given(st.dictionaries(st.text("abcdef", min_size=1, max_size=8), ARRAYS, max_size=4))
def test_the_library_reads_the_same(arrays):
    found = load(_written(arrays))
    assert {k: (v.dtype, v.shape, v.tobytes()) for k, v in found.items()} == {
        k: (v.dtype, v.shape, v.tobytes()) for k, v in arrays.items()
    }


def test_order_and_layout_in_memory_change_nothing():
    grid = np.arange(12, dtype=np.float32).reshape(3, 4)
    one = _written({"a": grid, "b": np.asfortranarray(grid), "c": grid[:, ::2]})
    other = _written({"c": grid[:, ::2].copy(), "b": grid, "a": grid})
    assert one == other
    np.testing.assert_array_equal(_read(one)[0]["c"], grid[:, ::2])


GOOD = _written({"a": np.ones(3, np.float32), "b": np.zeros((2, 2))})


@given(st.integers(0, len(GOOD) - 1), st.integers(1, 255))
def test_a_changed_byte_is_noticed(place, change):
    content = bytearray(GOOD)
    content[place] ^= change
    with pytest.raises(Malformed):
        _read(bytes(content))


def test_a_file_cut_anywhere_is_noticed():
    for end in range(len(GOOD)):
        with pytest.raises(Malformed):
            _read(GOOD[:end])


def _header(change) -> bytes:
    size = int.from_bytes(GOOD[:8], "little")
    header = json.loads(GOOD[8 : 8 + size])
    change(header)
    text = json.dumps(header, separators=(",", ":")).encode()
    return len(text).to_bytes(8, "little") + text + GOOD[8 + size :]


CHANGES = {
    "another dtype": lambda h: h["a"].update(dtype="I8"),
    "a huge array": lambda h: h["a"].update(shape=[2**40], data_offsets=[0, 2**42]),
    "negative sides": lambda h: h["b"].update(shape=[-2, -2]),
    "sides of another kind": lambda h: h["a"].update(shape=["3"]),
    "a gap": lambda h: h["b"].update(data_offsets=[13, 45]),
    "an array too few": lambda h: h.pop("b"),
    "facts changed": lambda h: h["__metadata__"].update(facts="other"),
    "no entry": lambda h: h.update(a=None),
    "no metadata": lambda h: h.pop("__metadata__"),
    "more metadata": lambda h: h["__metadata__"].update(more="x"),
}


@pytest.mark.parametrize(
    "content", [b"\2\0\0\0\0\0\0\0[]", b"\1\0\0\0\0\0\0\0{", bytes(8), b"", b"\3\0\0\0\0\0\0\0\xff\xfe\xfd"]
)
def test_what_is_no_header_is_refused(content):
    with pytest.raises(Malformed, match=r"^expected "):
        _read(content)


@pytest.mark.parametrize("name", CHANGES)
def test_a_header_that_was_not_written_is_refused(name):
    with pytest.raises(Malformed):
        _read(_header(CHANGES[name]))


def test_a_damaged_length_asks_for_no_memory():
    with pytest.raises(Malformed, match="found the end of the file"):
        _read((2**62).to_bytes(8, "little") + GOOD[8:])


def test_no_checksum_is_told_apart():
    with pytest.raises(tensors.Unmarked):
        _read(_header(lambda h: h["__metadata__"].pop("sha256")))
