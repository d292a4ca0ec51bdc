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

from tacit.link import enrolment, keyfile
from tacit.link.certificates import make_key, make_request, subject
from tacit.link.link_pb2 import Enrolment, Envelope, Greeting, Notice, Piece, Presence, Ticket, Welcome
from tacit.link.roster import SignedRoster, federation_of
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


def _greet(service: Service, certificate: bytes) -> Welcome:
    context = Context(certificate)
    try:
        return service.Greet(iter([Greeting(version="0")]), context)
    finally:
        context.end()


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


@pytest.mark.parametrize("method", ["members", "admit", "enrol"])
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


def _checked(folder: Folder, welcome: Welcome) -> SignedRoster:
    """The roster, as a partner checks it."""
    found = SignedRoster.unpack(welcome.roster)
    server = identity_of(keyfile.read_key(folder.signing_key))
    found.check(server=server, federation=federation_of(folder.authority.read_bytes()))
    return found


def test_whoever_joins_attends_or_greets_hears_the_same_signed_roster(service, folder, roster, joined):
    joined("b")
    certificate, asked = _enrolment(folder, roster, "a")
    enrolled = service.Enrol(iter([asked]), Context(certificate))
    heard = next(service.Attend(iter([Presence(session=ONE)]), Context(enrolled.certificate))).welcome
    greeted = _greet(service, enrolled.certificate)
    assert enrolled.roster == heard.roster == greeted.roster
    found = _checked(folder, greeted)
    assert (found.version, set(found.peers)) == (roster.version(), {"a", "b"})
    assert (heard.node > 0, greeted.node, abs(greeted.clock - time.time()) < 60) == (True, 0, True)
    roster.remove("b")
    later = _checked(folder, _greet(service, enrolled.certificate))
    assert (later.version > found.version, set(later.peers)) == (True, {"a"})


def test_a_greeting_changes_nothing_while_the_partner_attends(service, folder, roster, sessions, joined):
    certificate = joined("a")
    before = roster.partners()
    _greet(service, certificate)
    assert roster.partners() == before
    assert sessions.all() == []
    here = _attend(service, certificate, ONE)
    assert sessions.pump(sessions.of("a"))
    kept, rows = (folder.state / "sessions" / "a.json").read_bytes(), roster.partners()
    _greet(service, certificate)
    assert here
    assert roster.partners() == rows
    assert (folder.state / "sessions" / "a.json").read_bytes() == kept
    assert sessions.of("a").ticket is not None


def test_who_may_not_greet(service, folder, roster, joined):
    certificate, (invitation, _) = joined("a"), _enrolment(folder, roster, "b")
    assert _refused(lambda: _greet(service, invitation)).code is grpc.StatusCode.PERMISSION_DENIED
    greetings = iter(range(100))
    refused = _refused(lambda: [_greet(service, certificate) for _ in greetings])
    assert refused.code is grpc.StatusCode.RESOURCE_EXHAUSTED
    assert 20 <= next(greetings) < 60  # as often as it may come, renew and greet together
    roster.remove("a")
    assert _refused(lambda: _greet(service, certificate)).code is grpc.StatusCode.PERMISSION_DENIED


def test_a_server_without_its_signing_key_welcomes_nobody_and_says_no_path(service, folder, sessions, joined, caplog):
    certificate = joined("a")
    folder.signing_key.unlink()
    service._welcomes._last = None
    for call in (lambda: _greet(service, certificate), lambda: _attend(service, certificate, ONE)):
        found = _refused(call)
        assert (found.code, "/" in found.details) == (grpc.StatusCode.UNAVAILABLE, False)
    assert "signing.key" in caplog.text
    assert sessions.all() == []


def _give(service: Service, certificate: bytes, mark: bytes) -> Aborted:
    """Hand in an answer that is none, with a mark."""
    given = Piece(envelope=Envelope(ticket=Ticket(session=ONE, message="f" * 64), mark=mark))
    context = Context(certificate)
    try:
        return _refused(lambda: service.Give(iter([given]), context))
    finally:
        context.end()


def test_a_mark_comes_back_at_the_next_connection(service, roster, sessions, joined):
    certificate, other = joined("a"), joined("b")
    context, notices = _attend(service, certificate, ONE)
    for mark, kept in ((b"one", b"one"), (b"", b"one"), (b"two" * 80, b"two" * 80), (bytes(257), b"two" * 80)):
        assert sessions.pump(sessions.of("a"))
        found = _give(service, certificate, mark)
        assert found.code is grpc.StatusCode.INVALID_ARGUMENT
        assert ("expected a mark of at most 256 bytes" in found.details) == (len(mark) > 256)
        assert sessions.of("a").ticket is None  # and it hears of what comes next
        assert (_greet(service, certificate).mark, _greet(service, other).mark) == (kept, b"")
    context.end()
    list(notices)
    again = next(service.Attend(iter([Presence(session=ONE)]), Context(certificate))).welcome
    assert again.mark == roster.mark("a") == b"two" * 80


def test_the_mark_is_on_disk_before_the_answer_is_handed_on(service, roster, sessions, joined, monkeypatch):
    certificate, seen = joined("a"), []
    here = _attend(service, certificate, ONE)
    assert here
    assert sessions.pump(sessions.of("a"))
    monkeypatch.setattr("tacit_server.answers.check", lambda *args, **keys: None)
    for name in ("answer", "confirm"):
        monkeypatch.setattr(
            Node, name, lambda self, *args, name=name: seen.append((name, roster.mark("a"))), raising=False
        )
    given = Piece(envelope=Envelope(ticket=Ticket(session=ONE, message="f" * 64), mark=b"mark"))
    assert not service.Give(iter([given]), Context(certificate)).late
    assert seen == [("answer", b"mark"), ("confirm", b"mark")]


def test_an_answer_whose_mark_can_not_be_kept_goes_nowhere_and_may_come_again(
    service, roster, sessions, joined, monkeypatch
):
    certificate = joined("a")
    here = _attend(service, certificate, ONE)
    assert here
    assert sessions.pump(sessions.of("a"))
    monkeypatch.setattr(roster, "keep_mark", lambda *args: _fail())
    assert _give(service, certificate, b"mark").code is grpc.StatusCode.UNAVAILABLE
    assert sessions.of("a").ticket is not None
