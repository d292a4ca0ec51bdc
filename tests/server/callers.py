"""The gateway's calls without a network: who calls, with which certificate, and how a call ends."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from datetime import UTC, datetime, timedelta
from typing import Any, ClassVar

import grpc
import pytest
from flwr.proto.message_pb2 import Message, Metadata, ObjectTree

from tacit.link import enrolment as proofs
from tacit.link.certificates import make_key, make_request, subject
from tacit.link.link_pb2 import Enrolment, Greeting, Notice, Presence, Welcome
from tacit.secagg.keys import Secret, identity_of
from tacit_server import enrol
from tacit_server.database import Unusable
from tacit_server.folder import Folder
from tacit_server.roster import Roster
from tacit_server.service import Service

__all__ = ["ONE", "OTHER", "Aborted", "Context", "Node", "attend", "enrolment", "fail", "greet", "refused"]

ONE, OTHER = "1" * 32, "2" * 32


class Aborted(Exception):
    """What a call ended with."""

    def __init__(self, code: grpc.StatusCode, details: str) -> None:
        self.code, self.details = code, details


class Context:
    """gRPC's side of one call."""

    def __init__(self, certificate: bytes) -> None:
        self._certificate = certificate
        self._callbacks: list[Callable[[], None]] = []

    def auth_context(self) -> dict[str, list[bytes]]:
        return {"x509_pem_cert": [self._certificate]}

    def abort(self, code: grpc.StatusCode, details: str) -> None:
        raise Aborted(code, details)

    def add_callback(self, callback: Callable[[], None]) -> bool:
        self._callbacks.append(callback)
        return True

    def is_active(self) -> bool:
        return True

    def cancel(self) -> None: ...

    def end(self) -> None:
        for callback in self._callbacks:
            callback()


class Node:
    """A Flower node."""

    count: ClassVar[list[int]] = []

    def __init__(self, partner: str, session: str) -> None:
        self.node = 0

    def appear(self, known: int = 0) -> int:
        self.count.append(1)
        self.node = known or len(self.count)
        return self.node

    def forget(self) -> None: ...

    def waiting(self) -> tuple[Message, ObjectTree]:
        return Message(metadata=Metadata(message_id="f" * 64)), ObjectTree(object_id="f" * 64)


def enrolment(folder: Folder, roster: Roster, name: str) -> tuple[bytes, Enrolment]:
    """An invitation's certificate, and what its holder sends."""
    now, identity = datetime.now(UTC), Secret(name.encode().ljust(32))
    made = enrol.invite(folder, roster, name=name, lifetime=timedelta(hours=1), now=now)
    request = make_request(make_key(), name=name)
    proof = proofs.sign(identity, name=name, request=request, invitation=subject(made.certificate).fingerprint)
    return made.certificate, Enrolment(name=name, request=request, identity=identity_of(identity), proof=proof)


def attend(service: Service, certificate: bytes, session: str) -> tuple[Context, Iterator[Notice]]:
    context = Context(certificate)
    notices = service.Attend(iter([Presence(session=session)]), context)
    assert next(notices).WhichOneof("kind") == "welcome"
    return context, notices


def greet(service: Service, certificate: bytes) -> Welcome:
    context = Context(certificate)
    try:
        return service.Greet(iter([Greeting(version="0")]), context)
    finally:
        context.end()


def refused(call: Callable[[], Any]) -> Aborted:
    with pytest.raises(Aborted) as caught:
        call()
    return caught.value


def fail() -> None:
    raise Unusable("expected a database at /srv/tacit/roster.db, found a full disk", hint="look at /srv/tacit")
