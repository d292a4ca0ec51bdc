"""One Flower node as the SuperLink sees it: spoken for by the gateway, over loopback.

The Fleet API of Flower 1.41 (`flwr.proto.fleet_pb2` over HTTP). Names that Flower does not promise are used here and
nowhere else; tests/server/test_fleet.py starts the real SuperLink to notice when they change.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from contextlib import suppress
from typing import TypeVar

import httpx
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.kdf.hkdf import HKDF
from flwr.proto.fleet_pb2 import (
    ActivateNodeRequest,
    DeactivateNodeRequest,
    PullMessagesRequest,
    PushMessagesRequest,
    RegisterNodeFleetRequest,
    UnregisterNodeFleetRequest,
)
from flwr.proto.heartbeat_pb2 import SendNodeHeartbeatRequest
from flwr.proto.message_pb2 import (
    ConfirmMessageReceivedRequest,
    Message,
    ObjectTree,
    PullObjectRequest,
    PushObjectRequest,
)
from flwr.proto.node_pb2 import Node
from flwr.supercore.primitives.asymmetric import public_key_to_bytes
from flwr.supernode.fleet_http_client import FleetHttpClient
from flwr.supernode.node_auth_http_interceptor import NodeAuthHttpInterceptor
from google.protobuf.message import DecodeError

from tacit.errors import BadInput
from tacit_server.neighbours import forget_proxies, listens

__all__ = ["BEAT", "FleetNode", "Gone", "Unreachable", "node_key"]

BEAT = 10.0
"""Seconds that a heartbeat promises; Flower's least. A node is offline after twice that without one."""

_SAME = "install the same version of tacit on both sides"
T = TypeVar("T")


class Unreachable(Exception):
    """The SuperLink does not answer now."""


class Gone(Exception):
    """The SuperLink knows nothing of it: a run that is over, a message that nobody waits for, a forgotten node."""


def node_key(secret: bytes, *, session: str) -> ec.EllipticCurvePrivateKey:
    """The key of a session's node, the same after a restart of the gateway. `secret`: 32 bytes of the gateway's."""
    drawn = HKDF(hashes.SHA256(), 48, salt=None, info=b"tacit fleet node v1 " + session.encode()).derive(secret)
    order = 0xFFFFFFFF00000000FFFFFFFFFFFFFFFFBCE6FAADA7179E84F3B9CAC2FC632551  # of P-256, FIPS 186-5
    return ec.derive_private_key(int.from_bytes(drawn) % (order - 1) + 1, ec.SECP256R1())


class FleetNode:
    """One node. Every call raises Unreachable where the SuperLink does not answer.

    Args:
        address: gives host:port of the SuperLink, which may change when it is started anew.
        key: the node's.
    """

    def __init__(self, address: Callable[[], str], key: ec.EllipticCurvePrivateKey) -> None:
        self._address, self._key = address, key
        self._public = public_key_to_bytes(key.public_key())
        self._client: FleetHttpClient | None = None
        self.node = 0

    def appear(self, known: int = 0) -> int:
        """Be online, as node `known` if this key had one before. Returns the node's number."""
        if known:
            self.node = known
            with suppress(Gone):
                self.beat()
                return known
        with suppress(Gone):  # the key is registered already
            self._call(lambda fleet: fleet.RegisterNode(RegisterNodeFleetRequest(public_key=self._public)))
        request = ActivateNodeRequest(public_key=self._public, heartbeat_interval=BEAT)
        self.node = self._call(lambda fleet: fleet.ActivateNode(request)).node_id
        return self.node

    def beat(self) -> None:
        """Say that the node is there. Raises Gone."""
        request = SendNodeHeartbeatRequest(node=self._me(), heartbeat_interval=BEAT)
        if not self._call(lambda fleet: fleet.SendNodeHeartbeat(request)).success:
            raise Gone("node")

    def rest(self) -> None:
        """Be offline."""
        with suppress(Gone):
            self._call(lambda fleet: fleet.DeactivateNode(DeactivateNodeRequest(node_id=self.node)))

    def forget(self) -> None:
        """Be no more."""
        with suppress(Gone):
            self._call(lambda fleet: fleet.UnregisterNode(UnregisterNodeFleetRequest(node_id=self.node)))
        self.close()

    def waiting(self) -> tuple[Message, ObjectTree] | None:
        """A message that waits for this node, without content; it is handed out once."""
        found = self._call(lambda fleet: fleet.PullMessages(PullMessagesRequest(node=self._me())))
        return (found.messages_list[0], found.message_object_trees[0]) if found.messages_list else None

    def fetch(self, run: int, name: str) -> bytes:
        """An object of a message. Raises Gone."""
        request = PullObjectRequest(node=self._me(), run_id=run, object_id=name)
        found = self._call(lambda fleet: fleet.PullObject(request))
        if not found.object_found:
            raise Gone(name)
        if not found.object_available:  # the ServerApp has announced it and is still sending it
            raise Unreachable(name)
        return bytes(found.object_content)

    def answer(self, message: bytes, tree: bytes, objects: Callable[[set[str]], Iterable[tuple[str, bytes]]]) -> None:
        """Hand in a reply; `objects` gives those of them that are asked for.

        Raises:
            BadInput: bytes that are no reply of this node's.
            Gone: nobody waits for it.
        """
        reply = self._reply(message)
        request = PushMessagesRequest(node=self._me(), messages_list=[reply], message_object_trees=[_tree(tree)])
        found = self._call(lambda fleet: fleet.PushMessages(request))
        for name, content in objects(set(found.objects_to_push)):
            self._push(reply.metadata.run_id, found.session_id, name, content)

    def confirm(self, run: int, message: str) -> None:
        """Let the SuperLink forget the content of a message that has been answered."""
        request = ConfirmMessageReceivedRequest(node=self._me(), run_id=run, message_object_id=message)
        with suppress(Gone):
            self._call(lambda fleet: fleet.ConfirmMessageReceived(request))

    def close(self) -> None:
        """Close the connection; the next call opens another."""
        client, self._client = self._client, None
        if client is not None:
            client.close()

    def _me(self) -> Node:
        return Node(node_id=self.node)

    def _reply(self, message: bytes) -> Message:
        try:
            reply = Message.FromString(message)
        except DecodeError:
            raise BadInput("expected an answer that is a message, found other bytes", hint=_SAME) from None
        if reply.metadata.src_node_id != self.node:
            raise BadInput("expected an answer from the node that gives it, found another's", hint=_SAME)
        return reply

    def _push(self, run: int, session: str, name: str, content: bytes) -> None:
        request = PushObjectRequest(
            node=self._me(), run_id=run, object_id=name, object_content=content, session_id=session
        )
        if not self._call(lambda fleet: fleet.PushObject(request)).stored:
            raise Gone(name)

    def _call(self, ask: Callable[[FleetHttpClient], T]) -> T:
        try:
            if self._client is None:
                self._client = self._connect()
            return ask(self._client)
        except httpx.HTTPStatusError as error:
            if error.response.is_server_error:
                raise Unreachable(str(error)) from None
            raise Gone(str(error)) from None
        except (httpx.HTTPError, RuntimeError) as error:  # RuntimeError: another thread closed it meanwhile
            self.close()
            raise Unreachable(str(error)) from None

    def _connect(self) -> FleetHttpClient:
        forget_proxies()
        address = self._address()
        if not listens(int(address.rpartition(":")[2])):  # the port of one that ended is anybody's
            raise Unreachable("nobody there, or another user")
        signing = NodeAuthHttpInterceptor(self._key, self._key.public_key())
        return FleetHttpClient.from_server_address(address, True, None, interceptors=[signing])


def _tree(data: bytes) -> ObjectTree:
    try:
        return ObjectTree.FromString(data)
    except DecodeError:
        raise BadInput("expected an answer with a tree of objects, found other bytes", hint=_SAME) from None
