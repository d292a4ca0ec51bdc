"""What a partner hears when it comes: the signed roster, the clock, and the mark that was kept for it."""

from __future__ import annotations

import time

import grpc
from callers import ONE, Aborted, Context, Node, attend, enrolment, fail, greet, refused

from tacit.link import keyfile
from tacit.link.link_pb2 import Envelope, Piece, Presence, Ticket, Welcome
from tacit.link.roster import SignedRoster, federation_of
from tacit.secagg.keys import identity_of
from tacit_server.folder import Folder
from tacit_server.service import Service


def _checked(folder: Folder, welcome: Welcome) -> SignedRoster:
    """The roster, as a partner checks it."""
    found = SignedRoster.unpack(welcome.roster)
    server = identity_of(keyfile.read_key(folder.signing_key))
    found.check(server=server, federation=federation_of(folder.authority.read_bytes()))
    return found


def test_whoever_joins_attends_or_greets_hears_the_same_signed_roster(service, folder, roster, joined):
    joined("b")
    certificate, asked = enrolment(folder, roster, "a")
    enrolled = service.Enrol(iter([asked]), Context(certificate))
    heard = next(service.Attend(iter([Presence(session=ONE)]), Context(enrolled.certificate))).welcome
    greeted = greet(service, enrolled.certificate)
    assert enrolled.roster == heard.roster == greeted.roster
    found = _checked(folder, greeted)
    assert (found.version, set(found.peers)) == (roster.version(), {"a", "b"})
    assert (heard.node > 0, greeted.node, abs(greeted.clock - time.time()) < 60) == (True, 0, True)
    roster.remove("b")
    later = _checked(folder, greet(service, enrolled.certificate))
    assert (later.version > found.version, set(later.peers)) == (True, {"a"})


def test_a_greeting_changes_nothing_while_the_partner_attends(service, folder, roster, sessions, joined):
    certificate = joined("a")
    before = roster.partners()
    greet(service, certificate)
    assert roster.partners() == before
    assert sessions.all() == []
    here = attend(service, certificate, ONE)
    assert sessions.pump(sessions.of("a"))
    kept, rows = (folder.state / "sessions" / "a.json").read_bytes(), roster.partners()
    greet(service, certificate)
    assert here
    assert roster.partners() == rows
    assert (folder.state / "sessions" / "a.json").read_bytes() == kept
    assert sessions.of("a").ticket is not None


def test_who_may_not_greet(service, folder, roster, joined):
    certificate, (invitation, _) = joined("a"), enrolment(folder, roster, "b")
    assert refused(lambda: greet(service, invitation)).code is grpc.StatusCode.PERMISSION_DENIED
    greetings = iter(range(100))
    told = refused(lambda: [greet(service, certificate) for _ in greetings])
    assert told.code is grpc.StatusCode.RESOURCE_EXHAUSTED
    assert 20 <= next(greetings) < 60  # as often as it may come, renew and greet together
    roster.remove("a")
    assert refused(lambda: greet(service, certificate)).code is grpc.StatusCode.PERMISSION_DENIED


def test_a_server_without_its_signing_key_welcomes_nobody_and_says_no_path(service, folder, sessions, joined, caplog):
    certificate = joined("a")
    folder.signing_key.unlink()
    service._welcomes._last = None
    for call in (lambda: greet(service, certificate), lambda: attend(service, certificate, ONE)):
        found = refused(call)
        assert (found.code, "/" in found.details) == (grpc.StatusCode.UNAVAILABLE, False)
    assert "signing.key" in caplog.text
    assert sessions.all() == []


def _give(service: Service, certificate: bytes, mark: bytes) -> Aborted:
    """Hand in an answer that is none, with a mark."""
    given = Piece(envelope=Envelope(ticket=Ticket(session=ONE, message="f" * 64), mark=mark))
    context = Context(certificate)
    try:
        return refused(lambda: service.Give(iter([given]), context))
    finally:
        context.end()


def test_a_mark_comes_back_at_the_next_connection(service, roster, sessions, joined):
    certificate, other = joined("a"), joined("b")
    context, notices = attend(service, certificate, ONE)
    for mark, kept in ((b"one", b"one"), (b"", b"one"), (b"two" * 80, b"two" * 80), (bytes(257), b"two" * 80)):
        assert sessions.pump(sessions.of("a"))
        found = _give(service, certificate, mark)
        assert found.code is grpc.StatusCode.INVALID_ARGUMENT
        assert ("expected a mark of at most 256 bytes" in found.details) == (len(mark) > 256)
        assert sessions.of("a").ticket is None  # and it hears of what comes next
        assert (greet(service, certificate).mark, greet(service, other).mark) == (kept, b"")
    context.end()
    list(notices)
    again = next(service.Attend(iter([Presence(session=ONE)]), Context(certificate))).welcome
    assert again.mark == roster.mark("a") == b"two" * 80


def test_the_mark_is_on_disk_before_the_answer_is_handed_on(service, roster, sessions, joined, monkeypatch):
    certificate, seen = joined("a"), []
    here = attend(service, certificate, ONE)
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
    here = attend(service, certificate, ONE)
    assert here
    assert sessions.pump(sessions.of("a"))
    monkeypatch.setattr(roster, "keep_mark", lambda *args: fail())
    assert _give(service, certificate, b"mark").code is grpc.StatusCode.UNAVAILABLE
    assert sessions.of("a").ticket is not None
