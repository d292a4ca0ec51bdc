"""Canonical bytes: what is written is read back, and nothing else is."""

from __future__ import annotations

from contextlib import suppress

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tacit.codec import Malformed, Reader, Writer

SIZED = st.integers(1, 9).flatmap(
    lambda size: st.tuples(st.just("number"), st.integers(0, 256**size - 1), st.just(size))
)
FIXED = st.binary(max_size=9).map(lambda value: ("fixed", value, len(value)))
BLOB = st.tuples(st.just("blob"), st.binary(max_size=9), st.just(0))
TEXT = st.tuples(st.just("text"), st.text(max_size=9), st.just(0))
ITEMS = st.lists(SIZED | FIXED | BLOB | TEXT, max_size=6)


def _write(items) -> bytes:
    writer = Writer()
    for kind, value, size in items:
        write = getattr(writer, kind)
        assert (write(value, size=size) if size or kind == "fixed" else write(value)) is writer
    return writer.done()


def _read(reader, items) -> list:
    found = []
    for kind, _, size in items:
        read = getattr(reader, kind)
        found.append(read(size=size) if size or kind == "fixed" else read())
    return found


@given(ITEMS)
def test_what_is_written_is_read_back(items):
    reader = Reader(_write(items))
    assert _read(reader, items) == [value for _, value, _ in items]
    reader.done()


@given(ITEMS, st.data())
def test_a_truncation_is_malformed(items, data):
    whole = _write(items)
    cut = whole[: data.draw(st.integers(0, max(0, len(whole) - 1)))]
    if cut == whole:
        return
    with pytest.raises(Malformed, match=r"expected \d+ bytes more, found \d+$"):
        _read(Reader(cut), items)


@given(ITEMS, st.binary(min_size=1, max_size=3))
def test_a_trailing_byte_is_malformed(items, more):
    reader = Reader(_write(items) + more)
    _read(reader, items)
    with pytest.raises(Malformed, match=f"expected the end, found {len(more)} bytes more"):
        reader.done()


def test_the_bytes_are_big_endian_with_lengths_of_four():
    written = Writer().number(0x0102, size=3).blob(b"ab").text("é").fixed(b"z", size=1).done()
    assert written == b"\0\1\2" + b"\0\0\0\2ab" + b"\0\0\0\2\xc3\xa9" + b"z"


@pytest.mark.parametrize("value", [256, -1])
def test_a_number_that_does_not_fit(value):
    with pytest.raises(OverflowError):
        Writer().number(value, size=1)


@pytest.mark.parametrize("size", [1, 3])
def test_a_fixed_value_of_another_size(size):
    with pytest.raises(Malformed, match=f"expected {size} bytes, found 2"):
        Writer().fixed(b"ab", size=size)


def test_the_bytes_that_are_missing_are_counted():
    reader = Reader(b"abc")
    assert reader.fixed(size=1) == b"a"
    with pytest.raises(Malformed, match="expected 3 bytes more, found 2"):
        reader.fixed(size=3)


def test_a_failed_read_takes_nothing():
    reader = Reader(b"abc")
    with pytest.raises(Malformed):
        reader.fixed(size=4)
    assert reader.fixed(size=3) == b"abc"
    reader.done()


def test_other_bytes_than_utf_8():
    with pytest.raises(Malformed, match="expected a text in UTF-8") as caught:
        Reader(Writer().blob(b"\xff").done()).text()
    assert caught.value.__cause__ is None


@given(st.binary(max_size=40))
def test_random_bytes_raise_nothing_else(data):
    reader = Reader(data)
    with suppress(Malformed):
        found = [("text", reader.text(), 0), ("blob", reader.blob(), 0)]
        reader.done()
        assert _write(found) == data
