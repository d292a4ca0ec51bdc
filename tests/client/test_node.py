"""The loop of a partner's process: whatever comes, the next message is answered too."""

from __future__ import annotations

import threading
from contextlib import contextmanager
from datetime import UTC, datetime, timedelta

import grpc
import pytest
from flwr.app import ConfigRecord, Message, RecordDict
from flwr.clientapp import ClientApp
from flwr.supercore.inflatable.inflatable_object import get_all_nested_objects, get_object_tree
from flwr.supercore.task_identity import TaskIdentity

from tacit.link.certificates import Role, issue, make_authority
from tacit.link.link_pb2 import Envelope, Ticket
from tacit.secagg.keys import Secret, identity_of
from tacit_client import node
from tacit_client.keys import Keys
from tacit_client.link import Lost
from tacit_client.node import Node

NODE = 7
SERVER = identity_of(Secret(bytes(32)))
SESSION = "a" * 32


class Broken(grpc.RpcError):
    """A call that failed in a way that passes."""

    def code(self):
        return grpc.StatusCode.UNAVAILABLE


def _asked(text: str) -> tuple[Envelope, list[tuple[str, bytes]]]:
    TaskIdentity.run_id, TaskIdentity.node_id, TaskIdentity.task_id = 1, 1, 1
    message = Message(RecordDict({"a": ConfigRecord({"b": text})}), NODE, "query.echo")
    nested = get_all_nested_objects(message)
    ticket = Ticket(session=SESSION, message=message.object_id)
    envelope = Envelope(ticket=ticket, tree=get_object_tree(message).SerializeToString())
    return envelope, [(name, nested[name].deflate()) for name in nested]


class Gateway:
    """A link whose other end says what the test wants.

    Args:
        messages: what `take` gives: a message, or an error to be raised.
    """

    node = NODE

    def __init__(self, *messages) -> None:
        self.waiting = list(messages)
        self.given: list[Envelope] = []
        self.renewals = 0
        self.stop = threading.Event()

    def open(self) -> None:
        self.opened = True

    def close(self) -> None:
        self.closed = True

    def renew(self) -> None:
        self.renewals += 1

    def next(self, *, timeout: float) -> Ticket | None:
        if not self.waiting:
            self.stop.set()
            return None
        first = self.waiting[0]
        return first[0].ticket if isinstance(first, tuple) else Ticket(session=SESSION, message="m")

    @contextmanager
    def take(self, ticket: Ticket, *, limit: int):
        found = self.waiting.pop(0)
        if isinstance(found, Exception):
            raise found
        yield found

    def again(self, ticket: Ticket) -> None:
        self.repeated = ticket

    def give(self, envelope: Envelope, objects) -> None:
        assert len(list(objects())) == len(list(objects()))  # it may be sent twice
        self.given.append(envelope)


@pytest.fixture
def app() -> ClientApp:
    app = ClientApp()

    @app.query("echo")
    def _echo(message, context):
        if message.content["a"]["b"] == "fail":
            raise RuntimeError("inside")
        return Message(message.content, reply_to=message)

    return app


def _serve(app: ClientApp, *messages) -> Gateway:
    gateway = Gateway(*messages)
    Node(gateway, app).serve(gateway.stop)
    assert gateway.opened
    assert gateway.closed
    return gateway


def test_every_message_is_answered_with_its_ticket(app):
    one, two = _asked("one"), _asked("two")
    gateway = _serve(app, one, two)
    assert [e.ticket.message for e in gateway.given] == [one[0].ticket.message, two[0].ticket.message]
    assert all(e.message and e.tree for e in gateway.given)


@pytest.mark.parametrize("wrong", [Lost("over"), Broken()])
def test_after_a_message_that_could_not_be_taken_comes_the_next(app, wrong):
    gateway = _serve(app, wrong, _asked("next"))
    assert len(gateway.given) == 1
    assert hasattr(gateway, "repeated") == isinstance(wrong, Broken)


def test_an_app_that_fails_answers_with_an_error_without_its_words(app):
    gateway = _serve(app, _asked("fail"), _asked("next"))
    assert len(gateway.given) == 2
    assert b"the partner failed" in gateway.given[0].message
    for word in (b"inside", b"RuntimeError"):  # which error it was may depend on the examples
        assert word not in gateway.given[0].message


def test_a_message_that_is_not_understood_is_declined(app):
    envelope, objects = _asked("x")
    other = Envelope(ticket=Ticket(session=SESSION, message="f" * 64), tree=envelope.tree)
    gateway = _serve(app, (other, objects), _asked("next"))
    assert [bool(e.message) for e in gateway.given] == [False, True]
    assert gateway.given[0].ticket.message == "f" * 64


def test_the_certificate_is_looked_at_every_hour(app, monkeypatch):
    now = [0.0]

    def clock() -> float:
        now[0] += 1000.0
        return now[0]

    monkeypatch.setattr(node.time, "monotonic", clock)
    assert _serve(app, *(_asked(str(i)) for i in range(20))).renewals >= 5


@pytest.mark.parametrize(("age", "renewed"), [(10, False), (55, False), (65, True), (85, True)])
def test_a_certificate_is_renewed_in_the_last_third_of_its_life(tmp_path, age, renewed):
    key, authority = make_authority(name="a", lifetime=timedelta(days=1000))
    keys = Keys.make(tmp_path / "keys", authority=authority, server=SERVER)

    def sign(request: bytes, *, days: int = 0) -> bytes:
        now = datetime.now(UTC) - timedelta(days=days)
        return issue(
            authority_key=key, authority=authority, request=request, role=Role.PARTNER, name="p",
            lifetime=timedelta(days=90), now=now,
        )  # fmt: skip

    keys.keep(sign(keys.request("p"), days=age))
    before = keys.certificate
    assert node._renew(keys, "p", sign, told=set()) is renewed
    assert (keys.certificate != before) is renewed
    assert Keys.open(tmp_path / "keys").certificate == keys.certificate


@pytest.mark.parametrize(
    ("age", "said"),
    [(89, "could not be renewed: the server's answer was UNAVAILABLE"), (92, "this partner's, which expired ")],
)
def test_a_renewal_that_fails_leaves_the_certificate_and_is_told_once(tmp_path, caplog, age, said):
    key, authority = make_authority(name="a", lifetime=timedelta(days=1000))
    keys = Keys.make(tmp_path / "keys", authority=authority, server=SERVER)
    keys.keep(
        issue(
            authority_key=key,
            authority=authority,
            request=keys.request("p"),
            role=Role.PARTNER,
            name="p",
            lifetime=timedelta(days=90),
            now=datetime.now(UTC) - timedelta(days=age),
        )
    )
    before, told = keys.certificate, set()

    def fail(request: bytes) -> bytes:
        raise Broken

    for _ in range(3):
        assert node._renew(keys, "p", fail, told=told) is False
    assert keys.certificate == before
    (record,) = caplog.records
    assert said in record.getMessage()
    assert "Broken" not in record.getMessage()
