"""A message in pieces: its envelope, then its objects, each announced with its hash and cut to a bounded size.

Neither side ever holds more of a message than one piece beyond what it keeps, whatever the size of the model, and
HTTP/2's flow control makes a fast sender wait for a slow receiver.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Iterator

from tacit.errors import BadInput
from tacit.link.link_pb2 import Envelope, Object, Piece

__all__ = ["MOST_OBJECT", "PIECE", "Oversize", "join", "split"]

PIECE = 2**20
"""Bytes of an object in one piece."""

MOST_OBJECT = 8 * 2**20
"""Bytes of one object: Flower cuts arrays into objects of 5 MiB."""


_LEAST = 4096  # bytes that an object counts for at least: a receiver remembers every object, however small

_HINT = "install the same version of tacit on both sides"


class Oversize(BadInput):
    """More bytes than this receiver takes."""


def split(envelope: Envelope, objects: Iterable[tuple[str, bytes]]) -> Iterator[Piece]:
    """The pieces of a message."""
    yield Piece(envelope=envelope)
    for name, content in objects:
        yield Piece(object=Object(id=name, length=len(content)))
        for start in range(0, len(content), PIECE):
            yield Piece(data=content[start : start + PIECE])


def join(pieces: Iterable[Piece], *, limit: int) -> Iterator[tuple[str, bytes]]:
    """The objects in `pieces`, which follow an envelope, one by one.

    Args:
        limit: bytes of all objects together; a small object counts as 4 KiB.

    Raises:
        BadInput: another order, an object whose bytes are not those its hash names, or a message that ends in one.
        Oversize: before the bytes that are too many are kept.
    """
    stream, total = iter(pieces), 0
    for piece in stream:
        if piece.WhichOneof("kind") != "object":
            raise BadInput("expected an object in a message, found another piece", hint=_HINT)
        name, length = piece.object.id, piece.object.length
        total += max(length, _LEAST)
        if length > MOST_OBJECT or total > limit:
            raise Oversize(f"expected a message of at most {limit} bytes, found more", hint=_HINT)
        yield name, _object(stream, name, length=length)


def _object(stream: Iterator[Piece], name: str, *, length: int) -> bytes:
    content = bytearray()
    while len(content) < length:
        piece = next(stream, None)
        if piece is None or not piece.data:
            raise BadInput(f"expected {length} bytes of an object, found {len(content)}", hint=_HINT)
        content += piece.data
    if len(content) != length or hashlib.sha256(content).hexdigest() != name:
        raise BadInput("expected an object with the bytes that its hash names, found others", hint=_HINT)
    return bytes(content)
