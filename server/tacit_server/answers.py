"""Whether what a partner hands in is an answer to its question, before the SuperLink and the rounds see any of it.

The rounds read answers with Flower's own code (1.41), which believes what an answer says of itself, waits hours for
objects that were announced and never came, and ends with an error on what it does not understand.
"""

from __future__ import annotations

import math

from flwr.app.message import remove_content_from_message
from flwr.common.serde import message_to_proto
from flwr.proto.message_pb2 import Message, ObjectTree
from google.protobuf.message import DecodeError

from tacit.errors import BadInput
from tacit.link.objects import outline
from tacit_server.spool import Spool

__all__ = ["check"]

_REASON = 1000  # bytes of an error's words
_NODES = 10_000  # of a tree; each is asked for by a call of its own
_HINT = "install the same version of tacit on both sides"


def check(message: bytes, tree: bytes, spool: Spool, *, asked: Message, limit: int) -> None:
    """Look at everything that an answer consists of.

    Args:
        message: Flower's message without content.
        tree: its objects, as the answer says.
        spool: the objects that came.
        asked: the question, without content.
        limit: bytes of the answer, before and after its arrays are put together.

    Guarantee: what passes answers this question and no other, in the name of the node that was asked, both on its
    cover and inside; all of it is there; and it can be read without an error in about `limit` bytes.

    Raises:
        BadInput: anything else.
    """
    cover, root = _cover(message), _tree(tree)
    names = [node.object_id for node in _walk(root)]
    if set(names) != set(spool.lengths) or len(names) > _NODES or sum(spool.lengths[name] for name in names) > limit:
        raise _unfit("an answer that is whole, with each of its objects", "another")
    found = outline(root.object_id, lengths=spool.lengths, read=spool.read, limit=limit)
    inside = message_to_proto(remove_content_from_message(found))
    inside.metadata.message_id = root.object_id  # its own hash can not be in it
    if inside != cover:
        raise _unfit("an answer that says the same on its cover and inside", "another")
    _check_fits(cover, asked)


def _check_fits(answer: Message, asked: Message) -> None:
    said, wanted = answer.metadata, asked.metadata
    found = said.run_id, said.src_node_id, said.dst_node_id, said.reply_to_message_id
    if found != (wanted.run_id, wanted.dst_node_id, wanted.src_node_id, wanted.message_id):
        raise _unfit("an answer to the message at hand, from the node that was asked", "another")
    if (said.message_type, said.group_id) != (wanted.message_type, wanted.group_id):
        raise _unfit(f"an answer of the kind {wanted.message_type}", "another")
    if not math.isfinite(said.created_at) or not math.isfinite(said.ttl):
        raise _unfit("an answer with a date", "none")
    if len(answer.error.reason.encode()) > _REASON:
        raise _unfit(f"an error in at most {_REASON} bytes", "more")


def _cover(message: bytes) -> Message:
    try:
        return Message.FromString(message)
    except DecodeError:
        raise _unfit("an answer that is a message", "other bytes") from None


def _tree(data: bytes) -> ObjectTree:
    try:
        return ObjectTree.FromString(data)
    except DecodeError:
        raise _unfit("an answer with a tree of objects", "other bytes") from None


def _walk(tree: ObjectTree) -> list[ObjectTree]:
    """Every node of the tree, which is at most as deep as protobuf reads: 100."""
    found = [tree]
    for node in found:
        found.extend(node.children)
    return found


def _unfit(expected: str, found: str) -> BadInput:
    return BadInput(f"expected {expected}, found {found}", hint=_HINT)
