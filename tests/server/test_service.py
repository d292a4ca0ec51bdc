"""The gateway's calls, by callers who mean harm, or on a machine that fails."""

from __future__ import annotations

import queue
import threading
import time
from collections.abc import Callable, Iterator
from datetime import UTC, datetime, timedelta
from typing import Any, ClassVar

import grpc
import pytest
from flwr.proto.message_pb2 import Message, Metadata, ObjectTree

from tacit.link import enrolment
from tacit.link.certificates import make_key, make_request, subject
from tacit.link.link_pb2 import Enrolment, Envelope, Notice, Piece, Presence, Ticket
from tacit.secagg.keys import Secret, identity_of
from tacit_server import enrol, gateway
from tacit_server.database import Unusable
from tacit_server.folder import Folder
from tacit_server.gateway import Gateway
from tacit_server.roster import Roster
from tacit_server.service import Service
from tacit_server.sessions import Sessions
from tacit_server.setup import init

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


@pytest.fixture
def folder(tmp_path) -> Folder:
    return init(tmp_path / "server", host="localhost")


@pytest.fixture
def roster(folder) -> Roster:
    return Roster(folder.roster_path)


@pytest.fixture
def sessions(folder) -> Sessions:
    return Sessions(folder.state / "sessions", make=Node, grace=10.0)


@pytest.fixture
def service(folder, roster, sessions) -> Service:
    folder.spool.mkdir()
    return Service(folder, roster, sessions, wake=lambda: None)


def _enrolment(folder: Folder, roster: Roster, name: str) -> tuple[bytes, Enrolment]:
    """An invitation's certificate, and what its holder sends."""
    now, identity = datetime.now(UTC), Secret(name.encode().ljust(32))
    made = enrol.invite(folder, roster, name=name, lifetime=timedelta(hours=1), now=now)
    request = make_request(make_key(), name=name)
    proof = enrolment.sign(identity, name=name, request=request, invitation=subject(made.certificate).fingerprint)
    return made.certificate, Enrolment(name=name, request=request, identity=identity_of(identity), proof=proof)


@pytest.fixture
def joined(service, folder, roster) -> Callable[[str], bytes]:
    """Makes a partner; gives its certificate."""

    def join(name: str) -> bytes:
        certificate, asked = _enrolment(folder, roster, name)
        return service.Enrol(iter([asked]), Context(certificate)).certificate

    return join


def _attend(service: Service, certificate: bytes, session: str) -> tuple[Context, Iterator[Notice]]:
    context = Context(certificate)
    notices = service.Attend(iter([Presence(session=session)]), context)
    assert next(notices).WhichOneof("kind") == "welcome"
    return context, notices


def _refused(call: Callable[[], Any]) -> Aborted:
    with pytest.raises(Aborted) as caught:
        call()
    return caught.value


def test_a_failure_on_arrival_leaves_nobody_who_seems_to_be_there(service, roster, sessions, joined, monkeypatch):
    certificate = joined("a")
    with monkeypatch.context() as broken:
        broken.setattr(roster, "node", lambda *args, **keys: _fail())
        found = _refused(lambda: _attend(service, certificate, ONE))
    assert found.code is grpc.StatusCode.UNAVAILABLE
    assert sessions.of("a").stream is None
    context, _ = _attend(service, certificate, OTHER)  # its next process, at once
    context.end()


def _fail() -> None:
    raise Unusable("expected a database at /srv/tacit/roster.db, found a full disk", hint="look at /srv/tacit")


@pytest.mark.parametrize("method", ["partners", "admit", "enrol"])
def test_where_the_server_s_files_lie_is_not_told(service, roster, monkeypatch, method, caplog):
    certificate, asked = _enrolment(service._folder, roster, "a")
    monkeypatch.setattr(roster, method, lambda *args, **keys: _fail())
    found = _refused(lambda: service.Enrol(iter([asked]), Context(certificate)))
    assert (found.code, "/" in found.details) == (grpc.StatusCode.UNAVAILABLE, False)
    assert "/srv/tacit/roster.db" in caplog.text


def test_an_authority_that_can_not_be_read_is_not_told(service, folder, roster):
    certificate, asked = _enrolment(folder, roster, "a")
    folder.authority_key.chmod(0o640)
    found = _refused(lambda: service.Enrol(iter([asked]), Context(certificate)))
    assert (found.code, str(folder.path) in found.details) == (grpc.StatusCode.UNAVAILABLE, False)


def test_who_comes_and_goes_all_the_time_is_told_to_wait(service, joined):
    certificate, other = joined("a"), joined("b")
    sessions = iter(range(100))

    def come_and_go() -> None:
        for number in sessions:
            context, notices = _attend(service, certificate, f"{number:032x}")
            context.end()
            list(notices)

    assert _refused(come_and_go).code is grpc.StatusCode.RESOURCE_EXHAUSTED
    assert 20 <= next(sessions) < 60
    _attend(service, other, ONE)  # and nobody else is


def test_the_end_of_an_old_stream_is_no_end_of_the_partner(service, roster, joined):
    certificate = joined("a")
    first, notices = _attend(service, certificate, ONE)
    second, others = _attend(service, certificate, ONE)
    first.end()
    assert list(notices) == []
    assert [row.online for row in roster.partners()] == [True]
    second.end()
    assert list(others) == []
    assert [row.online for row in roster.partners()] == [False]


def test_a_second_answer_meanwhile_is_asked_to_come_again(service, sessions, joined):
    """It may be the same one, after a connection that broke unnoticed."""
    certificate = joined("a")
    here = _attend(service, certificate, ONE)
    assert here
    assert sessions.pump(sessions.of("a"))
    pieces: queue.SimpleQueue[Piece | None] = queue.SimpleQueue()
    envelope = Piece(envelope=Envelope(ticket=Ticket(session=ONE, message="f" * 64)))
    pieces.put(envelope)
    done: list[Aborted] = []
    slow = threading.Thread(
        target=lambda: done.append(_refused(lambda: service.Give(iter(pieces.get, None), Context(certificate))))
    )
    slow.start()
    deadline = time.monotonic() + 10
    while "a" not in service._giving:
        assert time.monotonic() < deadline
        time.sleep(0.01)
    assert _refused(lambda: service.Give(iter([envelope]), Context(certificate))).code in (
        grpc.StatusCode.RESOURCE_EXHAUSTED,
    )
    pieces.put(None)
    slow.join(10)
    assert [found.code for found in done] == [grpc.StatusCode.INVALID_ARGUMENT]  # it was empty


def test_an_answer_that_is_none_lets_the_next_message_come(service, sessions, joined):
    certificate = joined("a")
    here = _attend(service, certificate, ONE)
    assert here
    assert sessions.pump(sessions.of("a"))
    given = Piece(envelope=Envelope(ticket=Ticket(session=ONE, message="f" * 64)))
    assert _refused(lambda: service.Give(iter([given]), Context(certificate))).code is grpc.StatusCode.INVALID_ARGUMENT
    assert sessions.of("a").ticket is None


def test_nobody_takes_or_answers_another_s_message(service, sessions, joined):
    ours, theirs = joined("a"), joined("b")
    here = _attend(service, ours, ONE), _attend(service, theirs, OTHER)
    assert here
    assert sessions.pump(sessions.of("b"))
    for session in (ONE, OTHER):
        ticket = Ticket(session=session, message="f" * 64)
        calls = (
            lambda ticket=ticket: list(service.Take(iter([ticket]), Context(ours))),
            lambda ticket=ticket: service.Give(iter([Piece(envelope=Envelope(ticket=ticket))]), Context(ours)),
        )
        for call in calls:
            assert _refused(call).code in (grpc.StatusCode.NOT_FOUND, grpc.StatusCode.FAILED_PRECONDITION)
    assert sessions.of("b").ticket is not None


def test_who_joins_anew_does_not_find_its_old_process_in_the_way(service, roster, folder, joined):
    _, notices = _attend(service, joined("a"), ONE)
    roster.remove("a")
    certificate, asked = _enrolment(folder, roster, "a")  # before the gateway looked at the roster again
    made = service.Enrol(iter([asked]), Context(certificate)).certificate
    assert _refused(lambda: list(notices)).code is grpc.StatusCode.PERMISSION_DENIED
    _attend(service, made, OTHER)


@pytest.fixture
def made(folder, monkeypatch) -> Gateway:
    monkeypatch.setattr(Gateway, "_make_server", lambda self: None)
    return Gateway(folder)


def test_a_session_s_name_is_nobody_s_key_but_its_partner_s(made):
    nodes = [made._node(partner, ONE) for partner in ("a", "b", "a")]
    assert nodes[0]._public == nodes[2]._public != nodes[1]._public


@pytest.mark.parametrize("error", [OSError(28, "No space left on device"), Unusable("expected x", hint="y")])
def test_what_fails_for_one_does_not_end_the_work_for_all(made, monkeypatch, error, caplog):
    seen: list[str] = []

    def act(session: str) -> None:
        seen.append(session)
        if session == "a":
            raise error

    monkeypatch.setattr(made._sessions, "all", lambda: ["a", "b"])
    monkeypatch.setattr(made._sessions, "pump", act)
    monkeypatch.setattr(made._sessions, "beat", act)
    monkeypatch.setattr(made._roster, "version", _fail)
    monkeypatch.setattr(gateway, "_BEAT", 0.0)
    monkeypatch.setattr(gateway, "_SWEEP", 0.0)
    for work in (made._pump, made._beat):
        seen.clear()
        thread = threading.Thread(target=work)
        made._stopping.clear()
        thread.start()
        deadline = time.monotonic() + 10
        while seen.count("b") < 2:
            assert time.monotonic() < deadline
            time.sleep(0.01)
        made._stopping.set()
        thread.join(10)
        assert not thread.is_alive()
    assert 1 <= len(caplog.records) < 20  # not once a look
