"""The gateway's calls, by callers who mean harm, or on a machine that fails."""

from __future__ import annotations

import queue
import threading
import time

import grpc
import pytest
from callers import ONE, OTHER, Aborted, Context, attend, enrolment, fail, refused

from tacit.link.link_pb2 import Envelope, Piece, Ticket


def test_a_failure_on_arrival_leaves_nobody_who_seems_to_be_there(service, roster, sessions, joined, monkeypatch):
    certificate = joined("a")
    with monkeypatch.context() as broken:
        broken.setattr(roster, "node", lambda *args, **keys: fail())
        found = refused(lambda: attend(service, certificate, ONE))
    assert found.code is grpc.StatusCode.UNAVAILABLE
    assert sessions.of("a").stream is None
    context, _ = attend(service, certificate, OTHER)  # its next process, at once
    context.end()


@pytest.mark.parametrize("method", ["members", "admit", "enrol"])
def test_where_the_server_s_files_lie_is_not_told(service, roster, monkeypatch, method, caplog):
    certificate, asked = enrolment(service._folder, roster, "a")
    monkeypatch.setattr(roster, method, lambda *args, **keys: fail())
    found = refused(lambda: service.Enrol(iter([asked]), Context(certificate)))
    assert (found.code, "/" in found.details) == (grpc.StatusCode.UNAVAILABLE, False)
    assert "/srv/tacit/roster.db" in caplog.text


def test_an_authority_that_can_not_be_read_is_not_told(service, folder, roster):
    certificate, asked = enrolment(folder, roster, "a")
    folder.authority_key.chmod(0o640)
    found = refused(lambda: service.Enrol(iter([asked]), Context(certificate)))
    assert (found.code, str(folder.path) in found.details) == (grpc.StatusCode.UNAVAILABLE, False)


def test_who_comes_and_goes_all_the_time_is_told_to_wait(service, joined):
    certificate, other = joined("a"), joined("b")
    sessions = iter(range(100))

    def come_and_go() -> None:
        for number in sessions:
            context, notices = attend(service, certificate, f"{number:032x}")
            context.end()
            list(notices)

    assert refused(come_and_go).code is grpc.StatusCode.RESOURCE_EXHAUSTED
    assert 20 <= next(sessions) < 60
    attend(service, other, ONE)  # and nobody else is


def test_the_end_of_an_old_stream_is_no_end_of_the_partner(service, roster, joined):
    certificate = joined("a")
    first, notices = attend(service, certificate, ONE)
    second, others = attend(service, certificate, ONE)
    first.end()
    assert list(notices) == []
    assert [row.online for row in roster.partners()] == [True]
    second.end()
    assert list(others) == []
    assert [row.online for row in roster.partners()] == [False]


def test_a_second_answer_meanwhile_is_asked_to_come_again(service, sessions, joined):
    """It may be the same one, after a connection that broke unnoticed."""
    certificate = joined("a")
    here = attend(service, certificate, ONE)
    assert here
    assert sessions.pump(sessions.of("a"))
    pieces: queue.SimpleQueue[Piece | None] = queue.SimpleQueue()
    envelope = Piece(envelope=Envelope(ticket=Ticket(session=ONE, message="f" * 64)))
    pieces.put(envelope)
    done: list[Aborted] = []
    slow = threading.Thread(
        target=lambda: done.append(refused(lambda: service.Give(iter(pieces.get, None), Context(certificate))))
    )
    slow.start()
    deadline = time.monotonic() + 10
    while "a" not in service._giving:
        assert time.monotonic() < deadline
        time.sleep(0.01)
    assert refused(lambda: service.Give(iter([envelope]), Context(certificate))).code in (
        grpc.StatusCode.RESOURCE_EXHAUSTED,
    )
    pieces.put(None)
    slow.join(10)
    assert [found.code for found in done] == [grpc.StatusCode.INVALID_ARGUMENT]  # it was empty


def test_an_answer_that_is_none_lets_the_next_message_come(service, sessions, joined):
    certificate = joined("a")
    here = attend(service, certificate, ONE)
    assert here
    assert sessions.pump(sessions.of("a"))
    given = Piece(envelope=Envelope(ticket=Ticket(session=ONE, message="f" * 64)))
    assert refused(lambda: service.Give(iter([given]), Context(certificate))).code is grpc.StatusCode.INVALID_ARGUMENT
    assert sessions.of("a").ticket is None


def test_nobody_takes_or_answers_another_s_message(service, sessions, joined):
    ours, theirs = joined("a"), joined("b")
    here = attend(service, ours, ONE), attend(service, theirs, OTHER)
    assert here
    assert sessions.pump(sessions.of("b"))
    for session in (ONE, OTHER):
        ticket = Ticket(session=session, message="f" * 64)
        calls = (
            lambda ticket=ticket: list(service.Take(iter([ticket]), Context(ours))),
            lambda ticket=ticket: service.Give(iter([Piece(envelope=Envelope(ticket=ticket))]), Context(ours)),
        )
        for call in calls:
            assert refused(call).code in (grpc.StatusCode.NOT_FOUND, grpc.StatusCode.FAILED_PRECONDITION)
    assert sessions.of("b").ticket is not None


def test_who_joins_anew_does_not_find_its_old_process_in_the_way(service, roster, folder, joined):
    _, notices = attend(service, joined("a"), ONE)
    roster.remove("a")
    certificate, asked = enrolment(folder, roster, "a")  # before the gateway looked at the roster again
    made = service.Enrol(iter([asked]), Context(certificate)).certificate
    assert refused(lambda: list(notices)).code is grpc.StatusCode.PERMISSION_DENIED
    attend(service, made, OTHER)
