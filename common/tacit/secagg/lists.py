"""Lists in messages: a count in 4 bytes, then entries in strictly rising order of positions."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, TypeVar

from tacit.codec import Malformed, Reader, Writer
from tacit.secagg.constants import FIELD, KEY
from tacit.secagg.keys import PublicKey

__all__ = [
    "OutOfOrder",
    "read_key",
    "read_list",
    "read_pairs",
    "read_positions",
    "write_list",
    "write_pairs",
    "write_positions",
]

T = TypeVar("T")


class OutOfOrder(Exception):
    """A position twice, or after a higher one."""


def read_key(reader: Reader) -> PublicKey:
    """An X25519 key in its one canonical spelling: RFC 7748 reads others as the same key."""
    key = reader.fixed(size=KEY)
    if int.from_bytes(key, "little") >= FIELD:
        raise Malformed("expected a canonical X25519 key, found another spelling")
    return PublicKey(key)


def write_list(writer: Writer, items: Sequence[T], write: Callable[[T], Any]) -> None:
    """How many, then each by `write`."""
    writer.number(len(items), size=4)
    for item in items:
        write(item)


def read_list(reader: Reader, read: Callable[[], T], position: Callable[[T], int]) -> tuple[T, ...]:
    """What `write_list` wrote. Raises Malformed, or OutOfOrder where `position` does not rise."""
    items: list[T] = []
    for _ in range(reader.number(size=4)):
        item = read()
        if items and position(item) <= position(items[-1]):
            raise OutOfOrder
        items.append(item)
    return tuple(items)


def write_positions(writer: Writer, positions: Sequence[int]) -> None:
    """A list of positions, 4 bytes each."""
    write_list(writer, positions, lambda position: writer.number(position, size=4))


def read_positions(reader: Reader) -> tuple[int, ...]:
    """What `write_positions` wrote. Raises as `read_list`."""
    return read_list(reader, lambda: reader.number(size=4), lambda position: position)


def write_pairs(writer: Writer, pairs: Sequence[tuple[int, bytes]], *, size: int) -> None:
    """A list of a position and `size` bytes each."""
    write_list(writer, pairs, lambda pair: writer.number(pair[0], size=4).fixed(pair[1], size=size))


def read_pairs(reader: Reader, *, size: int) -> tuple[tuple[int, bytes], ...]:
    """What `write_pairs` wrote. Raises as `read_list`."""
    return read_list(reader, lambda: (reader.number(size=4), reader.fixed(size=size)), lambda pair: pair[0])
