"""Flower messages out of the link's envelopes and back.

The bytes are Flower 1.41's own form of a message (a tree of objects, each named by its SHA-256). Names that Flower does
not promise are used here and nowhere else in the client; tests/client/test_letters.py pins them.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator

from flwr.app import Message
from flwr.app.message import remove_content_from_message
from flwr.common.serde import message_to_proto
from flwr.proto.message_pb2 import ObjectTree
from flwr.supercore.inflatable.inflatable_object import InflatableObject, get_all_nested_objects, get_object_tree
from flwr.supercore.inflatable.inflatable_utils import inflate_object_from_contents
from google.protobuf.message import DecodeError

from tacit.errors import BadInput
from tacit.link.link_pb2 import Envelope, Ticket
from tacit.link.objects import outline

__all__ = ["closed", "opened"]

_SAME = "install the same version of tacit on both sides"


def opened(envelope: Envelope, objects: Iterable[tuple[str, bytes]], *, node: int, most: int) -> Message:
    """The message in `envelope`, whose objects were checked against their hashes.

    Args:
        node: Flower's number of this session: messages for another are refused.
        most: bytes of its arrays once they are put together.

    Raises:
        BadInput: anything that is not a message for this node.

    Guarantee: what is decoded is data; no code comes with it, and none is looked for. Whatever the server sends, this
    raises BadInput or gives a message, in the memory that the objects and `most` take.
    """
    contents = dict(objects)
    try:
        name = ObjectTree.FromString(envelope.tree).object_id
    except DecodeError:
        raise BadInput("expected a Flower message from the server, found another tree", hint=_SAME) from None
    lengths = {each: len(content) for each, content in contents.items()}
    outline(name, lengths=lengths, read=lambda each, size: contents[each][:size], limit=most)
    message = inflate_object_from_contents(name, contents)
    if not isinstance(message, Message) or name != envelope.ticket.message:
        raise BadInput("expected the Flower message that was announced, found another", hint=_SAME)
    if message.metadata.dst_node_id != node:
        raise BadInput("expected a message for this node, found one for another", hint=_SAME)
    message.metadata.__dict__["_message_id"] = name  # its own hash can not be in it
    return message


def closed(
    reply: Message, asked: Message, *, ticket: Ticket, seconds: float
) -> tuple[Envelope, Iterator[tuple[str, bytes]]]:
    """`reply` as an envelope and its objects.

    Args:
        seconds: since `asked` came. Flower dates an answer by the clock of the machine that makes it, and discards what
            is dated outside the question's life; here it is dated by the server's own date on the question, so that a
            partner whose clock is an hour off takes part like any other.
    """
    dates = reply.metadata.__dict__
    dates["_created_at"] = asked.metadata.created_at + seconds
    dates["_ttl"] = max(asked.metadata.ttl - seconds, 1.0)
    dates["_message_id"] = reply.object_id
    nested: dict[str, InflatableObject] = get_all_nested_objects(reply)
    envelope = Envelope(
        ticket=ticket,
        message=message_to_proto(remove_content_from_message(reply)).SerializeToString(),
        tree=get_object_tree(reply).SerializeToString(),
    )
    return envelope, ((name, nested[name].deflate()) for name in nested)
