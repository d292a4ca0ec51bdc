"""The form of a message and its size, known before its arrays are put together.

A message of Flower's (1.41) is a tree of objects that name each other by their hashes, and a few bytes can say "this
object, a million times" or fit no message at all. Who inflates such objects as they come runs out of memory or ends
with an error of Flower's. Here the same objects are first inflated with every array's bytes left out.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Mapping

from flwr.app import Message
from flwr.supercore.inflatable.inflatable_object import get_object_head_values_from_object_content
from flwr.supercore.inflatable.inflatable_utils import inflate_object_from_contents
from google.protobuf.message import DecodeError

from tacit.errors import BadInput
from tacit.link.pieces import Oversize

__all__ = ["outline"]

_BROKEN = (
    DecodeError,
    LookupError,
    ValueError,
    TypeError,
    AttributeError,
    ArithmeticError,
    AssertionError,
    RecursionError,
)
"""What Flower raises on objects that are no message."""

_FRAME = 4 * 2**20  # bytes of everything but arrays' bytes; small parcels, which lie in it, have a quarter of one
_CHUNK = re.compile(rb"ArrayChunk  ([0-9]{1,8})\x00")
_EMPTY = b"ArrayChunk  0\x00"
_HINT = "install the same version of tacit on both sides"


def outline(root: str, *, lengths: Mapping[str, int], read: Callable[[str, int], bytes], limit: int) -> Message:
    """The message whose outermost object is `root`, with every array empty.

    Args:
        root: its hash.
        lengths: bytes of every object, by its hash, all of which belong to the message.
        read: gives the first bytes of an object, as many as it is asked for.
        limit: bytes of all arrays together once they are put together.

    Guarantee: takes a few MiB of memory whatever the objects say, and what passes can be inflated in about `limit`
    bytes without an error.

    Raises:
        BadInput: no message, an object that is missing, left over or of another form.
        Oversize: more bytes than `limit`, or than any message has beside its arrays.
    """
    try:
        frames, sizes = _frames(lengths, read)
        if sum(_expanded(content, sizes) for content in frames.values()) > limit:
            raise Oversize(f"expected arrays of at most {limit} bytes in a message, found more", hint=_HINT)
        message = inflate_object_from_contents(root, frames)  # takes out what it uses
    except _BROKEN as error:
        raise BadInput(f"expected the objects of a message, found {type(error).__name__}", hint=_HINT) from None
    if frames or not isinstance(message, Message):
        raise BadInput("expected the objects of one message, found others", hint=_HINT)
    return message


def _frames(lengths: Mapping[str, int], read: Callable[[str, int], bytes]) -> tuple[dict[str, bytes], dict[str, int]]:
    """The objects with arrays' bytes left out, and how many were left out of each."""
    frames: dict[str, bytes] = {}
    sizes: dict[str, int] = {}
    total = 0
    for name, length in lengths.items():
        chunk = _CHUNK.match(read(name, 64))
        if chunk:
            sizes[name] = length - chunk.end()
            if sizes[name] != int(chunk[1]):
                raise ValueError(name)
            frames[name] = _EMPTY
            continue
        total += length
        if total > _FRAME:
            raise Oversize(f"expected at most {_FRAME} bytes of a message beside its arrays, found more", hint=_HINT)
        frames[name] = read(name, length)
    return frames, sizes


def _expanded(content: bytes, sizes: Mapping[str, int]) -> int:
    """Bytes of the array that `content` describes, 0 for other objects. An array may name a chunk many times."""
    kind, children, _ = get_object_head_values_from_object_content(content)
    if kind != "Array":
        return 0
    body = json.loads(content[content.index(b"\x00") + 1 :])
    return sum(sizes[children[index]] for index in body["arraychunk_ids"])
