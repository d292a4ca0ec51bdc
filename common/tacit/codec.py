"""Canonical bytes: one encoding for every value, and a reader that takes nothing else.

Numbers are unsigned and big-endian, texts and blobs carry their length in four bytes, and nothing is optional: two
values are equal exactly where their encodings are.
"""

from __future__ import annotations

__all__ = ["Malformed", "Reader", "Writer"]


class Malformed(ValueError):
    """Bytes that no writer has written. The message says what was expected and what was found."""


class Writer:
    """Appends values; `bytes` are the result."""

    def __init__(self) -> None:
        self._parts: list[bytes] = []

    def number(self, value: int, *, size: int) -> Writer:
        """`value` in `size` bytes. Raises OverflowError where it does not fit."""
        self._parts.append(value.to_bytes(size, "big"))
        return self

    def fixed(self, value: bytes, *, size: int) -> Writer:
        """`value`, which must be `size` bytes long. Raises Malformed."""
        if len(value) != size:
            raise Malformed(f"expected {size} bytes, found {len(value)}")
        self._parts.append(value)
        return self

    def blob(self, value: bytes) -> Writer:
        """The length of `value` and `value`."""
        return self.number(len(value), size=4).fixed(value, size=len(value))

    def text(self, value: str) -> Writer:
        """`value` in UTF-8, as a blob."""
        return self.blob(value.encode())

    def done(self) -> bytes:
        """All that was written."""
        return b"".join(self._parts)


class Reader:
    """Takes values off `data` in the order in which they were written. Every method raises Malformed."""

    def __init__(self, data: bytes) -> None:
        self._data = memoryview(data)
        self._at = 0

    def number(self, *, size: int) -> int:
        """The number in the next `size` bytes."""
        return int.from_bytes(self.fixed(size=size), "big")

    def fixed(self, *, size: int) -> bytes:
        """The next `size` bytes."""
        end = self._at + size
        if end > len(self._data):
            raise Malformed(f"expected {size} bytes more, found {len(self._data) - self._at}")
        found = bytes(self._data[self._at : end])
        self._at = end
        return found

    def blob(self) -> bytes:
        """A length and as many bytes."""
        return self.fixed(size=self.number(size=4))

    def text(self) -> str:
        """A blob that holds UTF-8."""
        try:
            return self.blob().decode()
        except UnicodeDecodeError:
            raise Malformed("expected a text in UTF-8, found other bytes") from None

    def done(self) -> None:
        """The end of the data."""
        if self._at != len(self._data):
            raise Malformed(f"expected the end, found {len(self._data) - self._at} bytes more")
