"""The one connection of a partner's process: outbound, to the gateway, over mutual TLS.

A thread attends: it keeps the stream open by which the gateway knows that this partner is there, and comes back after
every loss, with the same session. Training runs beside it, so that a long round never loses the link.
"""

from __future__ import annotations

import contextlib
import logging
import queue
import random
import secrets
import threading
import time
from collections.abc import Callable, Iterable, Iterator
from contextlib import suppress
from importlib.metadata import version

import grpc

from tacit.errors import BadInput, JobFailed, TacitError
from tacit.link.channel import Files, client_channel
from tacit.link.link_pb2 import Envelope, Membership, Notice, Piece, Presence, Receipt, Renewal, Ticket, Welcome
from tacit.link.link_pb2_grpc import LinkStub
from tacit.link.pieces import join, split
from tacit_client.calls import why
from tacit_client.stall import Stall

__all__ = ["Link", "Lost"]

_log = logging.getLogger(__name__)

_ANSWER = 30.0  # seconds for a short call
_FIRST_PAUSE, _LONGEST_PAUSE = 0.25, 5.0  # seconds between two tries
_SILENCE = 600.0  # seconds in which nothing of a message moves, after which its call is given up and made anew
_WAITING = 16  # announcements that are kept; an honest gateway has one
_FINAL = {grpc.StatusCode.PERMISSION_DENIED, grpc.StatusCode.UNAUTHENTICATED}


class Lost(Exception):
    """The message at hand is no longer: its run is over, or nobody waits for the answer."""


class Link:
    """A partner's connection to its gateway.

    Args:
        address: host:port.
        files: asked at every connection, so that a renewed certificate is used at once.
        device: what this partner computes on, for the operator's eyes.
        welcome: told what the gateway says first, at every connection, before a message is taken; a TacitError of its
            ends the link for good.
        left: told why, when a connection is gone.
        mark: asked whenever an answer is handed in, and goes with it.
        renew: called at every connection and by `renew`, with a function that turns a certificate request into a
            certificate; says whether there is a new one.
    """

    def __init__(
        self,
        address: str,
        files: Callable[[], Files],
        *,
        device: str,
        welcome: Callable[[Welcome], None],
        left: Callable[[str], None],
        mark: Callable[[], bytes],
        renew: Callable[[Callable[[bytes], bytes]], bool],
    ) -> None:
        self._address, self._files, self._device = address, files, device
        self._welcome, self._left, self._mark, self._renew = welcome, left, mark, renew
        self._session = secrets.token_hex(16)
        self._tickets: queue.Queue[Ticket] = queue.Queue(_WAITING)
        self._here, self._over, self._lock = threading.Event(), threading.Event(), threading.Lock()
        self._stub: LinkStub | None = None
        self._channel: grpc.Channel | None = None
        self._failure: JobFailed | None = None
        self.node = 0

    def open(self) -> None:
        """Begin to attend. Returns at once."""
        threading.Thread(target=self._work, name="link", daemon=True).start()

    def close(self) -> None:
        """Leave."""
        self._over.set()
        self._drop("this partner leaves")

    def next(self, *, timeout: float) -> Ticket | None:
        """A message that waits, or None after `timeout` seconds.

        Raises:
            JobFailed: the server does not admit this partner any more, or what it said first was found wanting.
        """
        if self._failure is not None:
            raise self._failure
        with suppress(queue.Empty):
            return self._tickets.get(timeout=timeout)
        return None

    def again(self, ticket: Ticket) -> None:
        """Announce `ticket` once more, after a moment: it could not be taken now."""
        self._over.wait(_FIRST_PAUSE)
        self._note(ticket)

    def renew(self) -> None:
        """Have the certificate renewed where it is due, and connect with it. Not while a message is at hand."""
        if self._here.is_set() and self._renew(self._ask):
            self._drop("another certificate is used from now on")

    @contextlib.contextmanager
    def take(self, ticket: Ticket, *, limit: int) -> Iterator[tuple[Envelope, Iterable[tuple[str, bytes]]]]:
        """The message that `ticket` announces, while it comes.

        Raises:
            Lost: it is no longer.
            grpc.RpcError: the connection broke; take it anew.
        """
        try:
            call = self._connected(ticket).Take(ticket)
            stall = Stall(silence=_SILENCE)
            with stall.watch(call.cancel):
                pieces = stall.along(call)
                yield next(pieces, Piece()).envelope, join(pieces, limit=limit)
        except grpc.RpcError as error:
            raise _lost(error) from None

    def give(self, envelope: Envelope, objects: Callable[[], Iterable[tuple[str, bytes]]]) -> None:
        """Hand in an answer, however often the connection breaks meanwhile, each time with the mark of that moment.

        Raises:
            Lost: nobody waits for it.
            TacitError: of `mark`; then nothing has left.
        """
        pause = _FIRST_PAUSE
        while not self._over.is_set():
            envelope.mark = self._mark()
            try:
                receipt = self._given(envelope, objects())
            except grpc.FutureCancelledError:
                _log.warning("nothing of an answer moved for %.0f s; trying again", _SILENCE)
            except grpc.RpcError as error:
                failure = _lost(error)
                if isinstance(failure, Lost):
                    raise failure from None
                self._over.wait(pause)
                pause = min(2 * pause, _LONGEST_PAUSE)
            else:
                if receipt.late:
                    raise Lost("nobody waits for the answer any more")
                return

    def _given(self, envelope: Envelope, objects: Iterable[tuple[str, bytes]]) -> Receipt:
        stall = Stall(silence=_SILENCE)
        call = self._connected(envelope.ticket).Give.future(stall.along(split(envelope, objects)))
        with stall.watch(call.cancel):
            found: Receipt = call.result()
        return found

    def _connected(self, ticket: Ticket) -> LinkStub:
        """Wait until the gateway has said welcome. Raises Lost: this partner leaves, or began another session."""
        while not self._here.wait(0.2):
            if self._over.is_set() or self._failure is not None:
                raise Lost("leaving")
        if ticket.session != self._session:
            raise Lost("it belongs to an earlier session")
        if self._stub is None:
            raise Lost("leaving")
        return self._stub

    def _work(self) -> None:
        """A partner without this thread would look well and never be asked again: it ends, and may be started anew."""
        try:
            self._attend()
        finally:
            if not self._over.is_set() and self._failure is None:
                self._failure = JobFailed(
                    "expected a connection that is looked after, found an error that nobody foresaw",
                    hint="see the log of this partner, and start it anew",
                )

    def _attend(self) -> None:
        pause, said, reason = _FIRST_PAUSE, "", "an error that nobody foresaw"
        while not self._over.is_set():
            try:
                for notice in self._stream():
                    if notice.WhichOneof("kind") == "welcome":
                        pause, said = _FIRST_PAUSE, ""
                    self._hear(notice)
                reason = "the gateway closed the connection"
            except grpc.RpcError as error:
                reason = why(error, self._address).message
                if error.code() in _FINAL:
                    hint = "ask the operator; a removed partner needs a new invitation"
                    self._failure = JobFailed(reason, hint=hint)
                    return
                if (
                    error.code() is grpc.StatusCode.NOT_FOUND
                ):  # another process of this partner came between, or a crash
                    self._session, reason = secrets.token_hex(16), "the gateway has forgotten this session"
            except OSError as error:
                reason = f"expected this partner's keys, found {error.strerror}"
            except TacitError as error:  # of `welcome`
                reason = error.message
                self._failure = JobFailed(error.message, hint=error.hint)
                return
            finally:
                self._drop(reason)
            if reason != said and not self._over.is_set():
                _log.warning("not connected: %s; trying again", reason)
            said = reason
            self._over.wait(pause * random.uniform(0.5, 1.0))  # so that partners do not come in step
            pause = min(2 * pause, _LONGEST_PAUSE)

    def _stream(self) -> Iterable[Notice]:
        self._channel = client_channel(self._address, self._files())
        self._stub = LinkStub(self._channel)
        if self._renew(self._ask):
            self._channel.close()
            self._channel = client_channel(self._address, self._files())
            self._stub = LinkStub(self._channel)
        presence = Presence(session=self._session, version=version("tacit"), device=self._device)
        notices: Iterable[Notice] = self._stub.Attend(presence)
        return notices

    def _ask(self, request: bytes) -> bytes:
        """A certificate for `request`. Raises grpc.RpcError."""
        stub = self._stub
        if stub is None:
            raise BadInput("expected a connection, found none", hint="wait for it")
        found: Membership = stub.Renew(Renewal(request=request), timeout=_ANSWER)
        return found.certificate

    def _hear(self, notice: Notice) -> None:
        match notice.WhichOneof("kind"):
            case "welcome":
                self.node = notice.welcome.node
                self._welcome(notice.welcome)
                self._here.set()
                _skew(notice.welcome.clock)
                _log.info("connected to %s", self._address)
            case "waiting":
                self._note(notice.waiting)

    def _note(self, ticket: Ticket) -> None:
        with suppress(queue.Full):
            self._tickets.put_nowait(ticket)

    def _drop(self, reason: str) -> None:
        with self._lock:
            here = self._here.is_set()
            self._here.clear()
        if here:
            self._left(reason)
        channel, self._channel = self._channel, None
        if channel is not None:
            channel.close()


def _skew(clock: float) -> None:
    off = time.time() - clock
    if abs(off) > 60.0:
        _log.warning("this machine's clock is %+.0f s off the server's; set it", off)


def _lost(error: grpc.RpcError) -> Exception:
    """Lost where asking again can not help; else the error itself."""
    gone = {grpc.StatusCode.NOT_FOUND, grpc.StatusCode.INVALID_ARGUMENT, grpc.StatusCode.OUT_OF_RANGE} | _FINAL
    return Lost(error.details()) if error.code() in gone else error
