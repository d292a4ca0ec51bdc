"""Servers that say nothing, and a link's thread that ends: a partner's process notices both."""

from __future__ import annotations

import threading
import time
from concurrent import futures

import grpc
import pytest

from tacit.errors import JobFailed
from tacit.link.link_pb2 import Envelope, Notice, Piece, Receipt, Ticket
from tacit.link.link_pb2_grpc import LinkServicer, LinkStub, add_LinkServicer_to_server
from tacit_client import link as module
from tacit_client.link import Link
from tacit_client.stall import Stall

CALLBACKS = {
    "welcome": lambda welcome: None, "left": lambda reason: None, "mark": lambda: b"", "renew": lambda ask: False,
}  # fmt: skip
TICKET = Ticket(session="a" * 32, message="f" * 64)


class Silent(LinkServicer):
    """Takes a call and says nothing, the first time."""

    def __init__(self) -> None:
        self.calls, self.over = 0, threading.Event()

    def Take(self, request, context):  # noqa: N802  # the call's name
        yield Piece(envelope=Envelope(ticket=request))
        self.over.wait(60)

    def Give(self, request_iterator, context):  # noqa: N802  # the call's name
        self.calls += 1
        list(request_iterator)
        if self.calls == 1:
            self.over.wait(60)
        return Receipt()


@pytest.fixture
def silent(monkeypatch):
    """A link to a server that holds it; it waits half a second."""
    service = Silent()
    server = grpc.server(futures.ThreadPoolExecutor(4))
    add_LinkServicer_to_server(service, server)
    port = server.add_insecure_port("127.0.0.1:0")
    server.start()
    monkeypatch.setattr(module, "_SILENCE", 0.5)
    with grpc.insecure_channel(f"127.0.0.1:{port}") as channel:
        link = Link("", lambda: (b"", b"", b""), device="", **CALLBACKS)
        monkeypatch.setattr(link, "_connected", lambda ticket: LinkStub(channel))
        yield link, service
    service.over.set()
    server.stop(None).wait()


def test_a_message_that_stops_coming_is_given_up(silent):
    link, _ = silent
    began = time.monotonic()
    with pytest.raises(grpc.RpcError) as caught:
        _take(link)
    assert caught.value.code() is grpc.StatusCode.CANCELLED
    assert 0.4 < time.monotonic() - began < 20


def _take(link: Link) -> None:
    with link.take(TICKET, limit=2**20) as (envelope, objects):
        assert envelope.ticket == TICKET
        list(objects)


def test_an_answer_that_nobody_takes_is_given_again(silent):
    link, service = silent
    link.give(Envelope(ticket=TICKET), lambda: [])
    assert service.calls == 2


def test_a_call_that_moves_is_left_alone():
    given_up = threading.Event()
    stall = Stall(silence=0.6)
    with stall.watch(given_up.set):
        for _ in stall.along(range(6)):
            time.sleep(0.2)
    time.sleep(0.8)
    assert not given_up.is_set()


def test_a_link_that_is_not_looked_after_ends_the_process(monkeypatch):
    def fail():
        raise RuntimeError("unforeseen")

    link = Link("127.0.0.1:1", fail, device="", **CALLBACKS)
    monkeypatch.setattr(threading, "excepthook", lambda args: None)
    link.open()
    deadline = time.monotonic() + 10
    while link._failure is None and time.monotonic() < deadline:
        time.sleep(0.01)
    with pytest.raises(JobFailed, match="looked after"):
        link.next(timeout=0.1)


def test_announcements_without_end_are_not_kept():
    link = Link("", lambda: (b"", b"", b""), device="", **CALLBACKS)
    for _ in range(10_000):
        link._hear(Notice(waiting=TICKET))
    kept = [link.next(timeout=0.01) for _ in range(20)]
    assert 1 <= sum(ticket is not None for ticket in kept) <= 16
