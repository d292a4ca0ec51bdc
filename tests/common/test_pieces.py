"""Messages in pieces: bounded, checked against their hashes, in one order only."""

from __future__ import annotations

import hashlib

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tacit.errors import BadInput
from tacit.link.link_pb2 import Envelope, Object, Piece, Ticket
from tacit.link.pieces import MOST_OBJECT, PIECE, Oversize, join, split

ENVELOPE = Envelope(ticket=Ticket(session="s", message="m"), message=b"metadata", tree=b"tree")


def _named(content: bytes) -> tuple[str, bytes]:
    return hashlib.sha256(content).hexdigest(), content


def _objects(pieces, *, limit: int = 2**40) -> list[tuple[str, bytes]]:
    return list(join(pieces[1:], limit=limit))


@given(st.lists(st.binary(max_size=100), max_size=5))
def test_what_was_split_is_joined(contents):
    objects = [_named(content) for content in contents]
    pieces = list(split(ENVELOPE, objects))
    assert pieces[0].envelope == ENVELOPE
    assert _objects(pieces) == objects


@pytest.mark.parametrize("length", [0, 1, PIECE - 1, PIECE, PIECE + 1, 3 * PIECE, MOST_OBJECT])
def test_no_piece_is_larger_than_the_bound(length):
    objects = [_named(bytes(length)), _named(b"after")]
    pieces = list(split(ENVELOPE, objects))
    assert max(piece.ByteSize() for piece in pieces) <= PIECE + 100
    assert len(pieces) == 1 + 2 + -(-length // PIECE) + 1
    assert _objects(pieces) == objects


def test_an_object_that_is_too_large_is_refused_before_its_bytes_are_read():
    def pieces():
        yield Piece(object=Object(id="a" * 64, length=MOST_OBJECT + 1))
        pytest.fail("read on")

    with pytest.raises(Oversize):
        list(join(pieces(), limit=2**40))


def test_a_message_that_is_too_large_is_refused_at_the_object_that_is_too_much():
    objects = [_named(bytes([i]) * 4096) for i in range(4)]
    stream = join(list(split(ENVELOPE, objects))[1:], limit=3 * 4096)
    assert [next(stream) for _ in range(3)] == objects[:3]
    with pytest.raises(Oversize, match="at most 12288 bytes"):
        next(stream)


@pytest.mark.parametrize("content", [b"", b"x"])
def test_an_endless_stream_of_tiny_objects_ends_at_the_limit(content):
    def pieces():
        while True:
            yield from list(split(ENVELOPE, [_named(content)]))[1:]

    stream = join(pieces(), limit=10 * 4096)
    assert len([next(stream) for _ in range(10)]) == 10
    with pytest.raises(Oversize):
        next(stream)


def _altered(change) -> list[Piece]:
    pieces = list(split(ENVELOPE, [_named(b"one" * 5), _named(b"two")]))
    change(pieces)
    return pieces


def _flip(pieces):
    pieces[2].data = b"x" + pieces[2].data[1:]


def _cut(pieces):
    del pieces[-1]


def _swap(pieces):
    pieces[2], pieces[4] = pieces[4], pieces[2]


def _twice(pieces):
    pieces.insert(2, pieces[2])


def _endless(pieces):
    pieces[2:2] = [Piece(data=b"")] * 3


def _no_object(pieces):
    del pieces[1]


def _envelope_again(pieces):
    pieces.insert(3, pieces[0])


def _empty(pieces):
    pieces.insert(3, Piece())


@pytest.mark.parametrize("change", [_flip, _cut, _swap, _twice, _endless, _no_object, _envelope_again, _empty])
def test_another_order_or_other_bytes_are_refused(change):
    assert len(_objects(_altered(lambda pieces: None))) == 2
    with pytest.raises(BadInput, match=r"^expected "):
        _objects(_altered(change))
