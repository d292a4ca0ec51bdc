"""What the gateway answers: the link's calls, each admitted by the roster before anything else.

Guarantee: a call is made in the name that its certificate bears, and in no other; a partner sees its own messages and
no one else's; nothing of the SuperLink but the messages of that partner's node passes here.
"""

from __future__ import annotations

import logging
import queue
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from datetime import UTC, datetime

import grpc
from grpc_health.v1.health_pb2 import HealthCheckRequest, HealthCheckResponse

from tacit.errors import BadInput, TacitError
from tacit.link import certificates
from tacit.link.certificates import Role, Subject
from tacit.link.link_pb2 import (
    Enrolment,
    Envelope,
    Greeting,
    Membership,
    Notice,
    Piece,
    Presence,
    Receipt,
    Renewal,
    Ticket,
    Welcome,
)
from tacit.link.pieces import join, split
from tacit.secagg.keys import PublicKey
from tacit_server import answers, enrol
from tacit_server.database import Unusable
from tacit_server.fleet import Gone, Unreachable
from tacit_server.folder import Folder
from tacit_server.objects import Objects
from tacit_server.rate import Calls, Rate, within
from tacit_server.refusals import Absent, Busy, answered, first, own_files
from tacit_server.roster import Refused, Roster
from tacit_server.sessions import Session, Sessions, notices
from tacit_server.spool import Spool
from tacit_server.welcome import Welcomes

__all__ = ["Service"]

_log = logging.getLogger(__name__)

_PATIENCE = 60.0  # seconds for an object that the SuperLink does not have yet
_LAGS = 0.2  # seconds of a pause after which the SuperLink is asked for what its database does not show
_ARRIVALS, _AT_ONCE = 0.5, 30.0  # a second, and at once: times that a partner may come, renew or enrol
_SLOWEST = 16_384  # bytes a second below which an answer is given up
_SAME = "install the same version of tacit on both sides"


class Service:
    """The link's calls, each with a stream of requests, although most have one: `tacit_server.gateway` says why.

    Args:
        folder: the server's.
        roster: who may call.
        sessions: who is there.
        wake: told that a message may wait.
    """

    def __init__(self, folder: Folder, roster: Roster, sessions: Sessions, *, wake: Callable[[], None]) -> None:
        self._folder, self._roster, self._sessions, self._wake = folder, roster, sessions, wake
        self._welcomes = Welcomes(folder, roster)
        self._calls = Calls()
        self._giving: set[str] = set()
        self._arrivals: dict[str, Rate] = {}
        self._lock = threading.Lock()

    def Enrol(self, requests: Iterator[Enrolment], context: grpc.ServicerContext) -> Membership:
        """With an invitation: become a partner."""
        with answered(context):
            invitation, request = self._admit(context, Role.INVITATION), first(requests, context)
            self._at_leisure(invitation)
            with own_files():
                certificate = enrol.enrol(
                    self._folder,
                    self._roster,
                    invitation=invitation,
                    name=request.name,
                    request=request.request,
                    identity=PublicKey(request.identity),
                    proof=request.proof,
                    now=datetime.now(UTC),
                )
            _log.info("%s joined", request.name)
            if (earlier := self._sessions.of(request.name)) is not None:  # of a membership that was ended just before
                self._sessions.expel(earlier)
            return Membership(certificate=certificate, roster=self._welcomes.roster())

    def Renew(self, requests: Iterator[Renewal], context: grpc.ServicerContext) -> Membership:
        """With a partner's certificate: another one."""
        with answered(context):
            partner, request = self._admit(context, Role.PARTNER), first(requests, context)
            self._at_leisure(partner)
            with own_files():
                certificate = enrol.renew(
                    self._folder, self._roster, partner=partner, request=request.request, now=datetime.now(UTC)
                )
            _log.info("%s has a new certificate", partner.name)
            return Membership(certificate=certificate, roster=self._welcomes.roster())

    def Greet(self, requests: Iterator[Greeting], context: grpc.ServicerContext) -> Welcome:
        """What `Attend` would say first, whether the partner attends or not; nothing changes by it."""
        with answered(context):
            partner = self._admit(context, Role.PARTNER)
            first(requests, context)
            self._at_leisure(partner)
            return self._welcomes.welcome(partner.name, node=0)

    def Check(self, requests: Iterator[HealthCheckRequest], context: grpc.ServicerContext) -> HealthCheckResponse:
        """Whether the gateway serves: gRPC's standard question, answered to partners as every other."""
        with answered(context):
            self._admit(context, Role.PARTNER)
            first(requests, context)
            return HealthCheckResponse(status=HealthCheckResponse.SERVING)

    def Attend(self, requests: Iterator[Presence], context: grpc.ServicerContext) -> Iterator[Notice]:
        """Be there until either side goes."""
        with answered(context):
            partner, request = self._admit(context, Role.PARTNER), first(requests, context)
            self._at_leisure(partner)
            welcome = self._welcomes.welcome(partner.name, node=0)
            session, stream = self._enter(partner.name, request)
            welcome.node = session.fleet.node
        context.add_callback(lambda: stream.put(None))
        _log.info("%s is there, node %d, %s", partner.name, session.fleet.node, _printable(request.device))
        try:
            yield Notice(welcome=welcome)
            yield from notices(stream)
            if context.is_active():
                self._explain(context, partner)
        finally:
            if self._sessions.leave(session, stream):
                now, device = datetime.now(UTC), _printable(request.device)
                self._roster.seen(partner.name, online=False, device=device, now=now)
            _log.info("%s has left", partner.name)

    def Take(self, requests: Iterator[Ticket], context: grpc.ServicerContext) -> Iterator[Piece]:
        """The message that waits."""
        with answered(context):
            session = self._at_hand(self._admit(context, Role.PARTNER), first(requests, context))
            envelope, run, names = session.ticket or Envelope(), session.message().metadata.run_id, session.objects()
        with answered(context):
            yield from split(envelope, self._fetch(session, run, names, context))

    def Give(self, requests: Iterator[Piece], context: grpc.ServicerContext) -> Receipt:
        """The answer to the message at hand."""
        with answered(context):
            partner, envelope = self._admit(context, Role.PARTNER), first(requests, context).envelope
            session = self._at_hand(partner, envelope.ticket)
            with self._alone(session), Spool(self._folder.spool) as spool:
                limit = session.allowance()
                with within(120 + limit / _SLOWEST, otherwise=context.cancel):
                    spool.keep(join(requests, limit=limit))
                return self._hand_in(session, envelope, spool, limit=limit)

    def _hand_in(self, session: Session, envelope: Envelope, spool: Spool, *, limit: int) -> Receipt:
        asked, late = session.message(), False
        metadata = asked.metadata
        try:
            if envelope.mark:  # on disk before anybody has the answer that it covers
                self._roster.keep_mark(session.partner, envelope.mark)
            answers.check(envelope.message, envelope.tree, spool, asked=asked, limit=limit)
        except Unusable:  # of the server's own files: the same answer may be taken later
            raise
        except BadInput:
            self._done(session)  # it would give the same again, and is to hear of what comes next
            raise
        try:
            session.fleet.answer(envelope.message, envelope.tree, spool.some)
            session.fleet.confirm(metadata.run_id, metadata.message_id)
        except Gone:
            late = True
        self._done(session)
        return Receipt(late=late)

    def _fetch(
        self, session: Session, run: int, names: list[str], context: grpc.ServicerContext
    ) -> Iterator[tuple[str, bytes]]:
        with Objects(self._folder.flower_db) as near:
            for name in names:
                pause, deadline = 0.01, time.monotonic() + _PATIENCE
                # The last one is the message itself: while the SuperLink gives that, its run goes on.
                while not (content := self._object(session, run, name, near if name != names[-1] else None, pause)):
                    if not context.is_active():
                        return
                    if time.monotonic() > deadline:
                        self._done(session)
                        raise Gone(name)
                    time.sleep(pause)
                    pause = min(2 * pause, 1.0)
                yield name, content

    def _object(self, session: Session, run: int, name: str, near: Objects | None, waited: float) -> bytes | None:
        """An object, or nothing while it can not be had: the SuperLink starts anew, or the ServerApp still sends it."""
        found = near.read(name) if near is not None else None
        if found or (found is not None and waited < _LAGS):
            return found
        try:
            return session.fleet.fetch(run, name)
        except Unreachable:
            return None
        except Gone:
            self._done(session)
            raise

    def _done(self, session: Session) -> None:
        """Nobody waits for an answer to the message at hand any more; look for the next."""
        self._sessions.answered(session)
        self._wake()

    def _admit(self, context: grpc.ServicerContext, role: Role) -> Subject:
        """Who calls. Raises Refused."""
        subject = certificates.subject(context.auth_context()["x509_pem_cert"][0])
        if subject.role is not role:
            raise Refused(
                f"expected a certificate for the role {role}, found one for {subject.role}",
                hint="join with an invitation",
            )
        self._roster.admit(subject)
        if not self._calls.begin(subject.name):
            raise Busy
        if not context.add_callback(lambda: self._calls.end(subject.name)):
            self._calls.end(subject.name)  # it is over already
        return subject

    def _at_leisure(self, caller: Subject) -> None:
        """For calls that write to disks: one a partner needs seldom. Raises Busy."""
        with self._lock:
            rate = self._arrivals.setdefault(caller.name, Rate(pace=_ARRIVALS, burst=_AT_ONCE))
        if not rate.spend():
            raise Busy

    def _enter(self, partner: str, presence: Presence) -> tuple[Session, queue.SimpleQueue[Notice | None]]:
        if len(presence.session) != 32 or not set(presence.session) <= set("0123456789abcdef"):
            raise BadInput("expected a session of 32 hexadecimal digits, found another", hint=_SAME)
        session, stream = self._sessions.enter(partner, presence.session)
        now, device = datetime.now(UTC), _printable(presence.device)
        try:
            self._roster.node(partner, session=presence.session, node=session.fleet.node, now=now)
            self._roster.seen(partner, online=True, device=device, now=now)
        except TacitError:  # or the partner would seem to be there, and its next process be turned away
            self._sessions.leave(session, stream)
            raise
        self._wake()
        return session, stream

    def _at_hand(self, partner: Subject, ticket: Ticket) -> Session:
        """The session whose message at hand is `ticket`'s."""
        session = self._sessions.find(partner.name, ticket.session)
        if session is None:
            raise Absent
        if session.ticket is None or session.ticket.ticket.message != ticket.message:
            raise Gone(ticket.message)
        return session

    @contextmanager
    def _alone(self, session: Session) -> Iterator[None]:
        with self._lock:
            if session.partner in self._giving:
                raise Busy  # perhaps with what is left of a connection that broke
            self._giving.add(session.partner)
        try:
            yield
        finally:
            with self._lock:
                self._giving.discard(session.partner)

    def _explain(self, context: grpc.ServicerContext, partner: Subject) -> None:
        """Why the gateway ended a stream."""
        try:
            self._roster.admit(partner)
        except Refused as error:
            context.abort(grpc.StatusCode.PERMISSION_DENIED, f"{error.message}\n{error.hint}")


def _printable(text: str) -> str:
    """A partner's words for the operator's terminal: one line, nothing that moves the cursor."""
    return "".join(c for c in text[:120] if c.isprintable())
