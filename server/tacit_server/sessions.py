"""Who is there: the sessions of partners' processes, each of which is one Flower node.

A session is one life of one partner's process. While its stream stands, the node is kept online; when the stream has
been gone for a grace period, the node is offline, and Flower tells the rounds at once that nobody will answer. A
partner that comes back with the same session goes on with the same node and the message that it had taken; one with a
new session is a new node, and the old one is forgotten.

What a session must know after a restart of the gateway lies in one small file a partner.
"""

from __future__ import annotations

import base64
import json
import queue
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path

from flwr.proto.message_pb2 import Message, ObjectTree

from tacit.link.link_pb2 import Envelope, Notice, Ticket
from tacit_server.checkpoint import write_atomic
from tacit_server.fleet import FleetNode, Gone, Unreachable

__all__ = ["Session", "Sessions", "Taken", "notices"]

_OBJECT_ALLOWANCE = 8 * 2**20  # bytes of an answer for every object that was asked, and for a few more
_MORE_OBJECTS = 4


class Taken(Exception):
    """Another process of this partner is here."""


@dataclass(eq=False)
class Session:
    """One life of one partner's process.

    Attributes:
        partner: its name, as its certificate says.
        session: 32 hexadecimal digits.
        fleet: its Flower node.
        ticket: the message that it is to answer, or None.
        stream: what stands for the stream by which it attends, or None.
        left: when the last stream ended, seconds of a clock that only goes up.
    """

    partner: str
    session: str
    fleet: FleetNode
    ticket: Envelope | None = None
    stream: queue.SimpleQueue[Notice | None] | None = None
    left: float = field(default_factory=time.monotonic)
    online: bool = True

    def message(self) -> Message:
        """The metadata of the message at hand."""
        return Message.FromString(self.ticket.message if self.ticket else b"")

    def objects(self) -> list[str]:
        """The ids of the objects of the message at hand, each once."""
        found: dict[str, None] = {}
        _walk(ObjectTree.FromString(self.ticket.tree if self.ticket else b""), found)
        return list(found)

    def allowance(self) -> int:
        """Bytes that an answer to the message at hand may have: about what was asked, and never without bound."""
        return (len(self.objects()) + _MORE_OBJECTS) * _OBJECT_ALLOWANCE

    def tell(self, notice: Notice | None) -> None:
        """Put `notice` into the stream; None ends it."""
        if self.stream is not None:
            self.stream.put(notice)


class Sessions:
    """Every partner's session; safe for many threads.

    Args:
        folder: for the small files.
        make: gives the Flower node of a partner's session.
        grace: seconds that a node stays online without a stream.
        lost: whether a message was taken for a node and never answered.
    """

    def __init__(
        self,
        folder: Path,
        *,
        make: Callable[[str, str], FleetNode],
        grace: float,
        lost: Callable[[int], bool] = lambda node: False,
    ) -> None:
        folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        self._folder, self._make, self._grace, self._lost = folder, make, grace, lost
        self._lock = threading.RLock()
        self._sessions: dict[str, Session] = {}
        self._entering: dict[str, threading.Lock] = {}

    def enter(self, partner: str, session: str) -> tuple[Session, queue.SimpleQueue[Notice | None]]:
        """A partner's process is there. Returns its session, and the stream that this call began.

        Raises:
            Taken: another process of the partner is there.
            Gone: the session can not go on; the partner is to begin another.
            Unreachable: the SuperLink does not answer.
        """
        with self._lock:
            gate = self._entering.setdefault(partner, threading.Lock())
        with gate:
            known = self._known(partner)
            if known is not None and known.session != session:
                if known.stream is not None:
                    raise Taken
                self._end(known)
                known = None
            if known is not None and self._lacks(known):
                self._end(known)
                raise Gone(session)
            current = known or Session(partner, session, self._make(partner, session))
            current.fleet.appear(current.fleet.node)
            return current, self._begin(current)

    def leave(self, session: Session, stream: queue.SimpleQueue[Notice | None]) -> bool:
        """The stream that `enter` gave is over. Returns whether it was the last: none had taken its place."""
        with self._lock:
            last = session.stream is stream
            if last:
                session.stream, session.left = None, time.monotonic()
            return last

    def find(self, partner: str, session: str) -> Session | None:
        """The session of a partner that attends or did a moment ago."""
        with self._lock:
            found = self._sessions.get(partner)
        return found if found is not None and found.session == session else None

    def of(self, partner: str) -> Session | None:
        """The session of a partner, whether its stream stands or not."""
        with self._lock:
            return self._sessions.get(partner)

    def all(self) -> list[Session]:
        """Every session, whether its stream stands or not."""
        with self._lock:
            return list(self._sessions.values())

    def expel(self, session: Session) -> None:
        """End a session for good: its stream, its node and its file."""
        session.tell(None)
        with suppress(Unreachable):
            self._end(session)

    def pump(self, session: Session) -> bool:
        """Hand on what waits for `session`. Returns whether something did. Raises Unreachable."""
        if session.stream is None or session.ticket is not None:
            return False
        found = session.fleet.waiting()
        if found is None:
            return False
        message, tree = found
        ticket = Ticket(session=session.session, message=message.metadata.message_id)
        envelope = Envelope(ticket=ticket, message=message.SerializeToString(), tree=tree.SerializeToString())
        try:
            self._hold(session, envelope)
        finally:  # it is handed out once; a disk that is full loses what a restart would need, and no more
            session.tell(Notice(waiting=ticket))
        return True

    def answered(self, session: Session) -> None:
        """The message at hand is answered, or nobody waits for its answer any more."""
        self._hold(session, None)

    def beat(self, session: Session) -> None:
        """Keep a node online whose stream stands or broke a moment ago; else let it be offline.

        Where the node is none any more, the stream ends: the partner comes back with another session.

        Raises:
            Unreachable: the SuperLink does not answer.
        """
        if session.stream is None and time.monotonic() - session.left > self._grace:
            if session.online:
                session.fleet.rest()
                session.online = False
            return
        try:
            session.fleet.beat()
        except Gone:
            self._appear_anew(session)

    def _appear_anew(self, session: Session) -> None:
        """Be a new node of a SuperLink that lost its memory."""
        try:
            session.fleet.appear()
        except Gone:  # forgotten on purpose: no key is ever a node twice
            session.tell(None)
        else:
            self._write(session)

    def _lacks(self, session: Session) -> bool:
        """Whether an earlier gateway died with a message for `session` in its hand: nobody would ever answer it."""
        with self._lock:
            told = self._sessions.get(session.partner) is session
        return not told and session.ticket is None and self._lost(session.fleet.node)

    def _known(self, partner: str) -> Session | None:
        with self._lock:
            found = self._sessions.get(partner)
        return found or self._read(partner)

    def _begin(self, session: Session) -> queue.SimpleQueue[Notice | None]:
        stream: queue.SimpleQueue[Notice | None] = queue.SimpleQueue()
        with self._lock:
            session.tell(None)  # a stream of the same process that broke unnoticed
            session.stream, session.online = stream, True
            self._sessions[session.partner] = session
        self._write(session)
        if session.ticket is not None:
            stream.put(Notice(waiting=session.ticket.ticket))
        return stream

    def _end(self, session: Session) -> None:
        with self._lock:
            if self._sessions.get(session.partner) is session:
                del self._sessions[session.partner]
        session.fleet.forget()
        with self._lock:
            if session.partner not in self._sessions:
                self._path(session.partner).unlink(missing_ok=True)

    def _hold(self, session: Session, ticket: Envelope | None) -> None:
        with self._lock:
            session.ticket = ticket
            self._write(session)

    def _path(self, partner: str) -> Path:
        return self._folder / f"{partner}.json"

    def _write(self, session: Session) -> None:
        """One thread at a time, and nothing of a session in whose place another came."""
        with self._lock:
            if self._sessions.get(session.partner) is session:
                write_atomic(self._path(session.partner), self._facts(session), durable=False)

    @staticmethod
    def _facts(session: Session) -> bytes:
        ticket = "" if session.ticket is None else base64.b64encode(session.ticket.SerializeToString()).decode()
        facts = {"session": session.session, "node": session.fleet.node, "ticket": ticket}
        return json.dumps(facts).encode()

    def _read(self, partner: str) -> Session | None:
        try:
            facts = json.loads(self._path(partner).read_bytes())
            session = Session(partner, facts["session"], self._make(partner, facts["session"]))
            session.fleet.node = facts["node"]
            if facts["ticket"]:
                session.ticket = Envelope.FromString(base64.b64decode(facts["ticket"]))
        except (OSError, ValueError, KeyError, TypeError):  # none, or one that a crash tore: a new session then
            return None
        return session


def _walk(tree: ObjectTree, found: dict[str, None]) -> None:
    for child in tree.children:
        _walk(child, found)
    found[tree.object_id] = None


def notices(stream: queue.SimpleQueue[Notice | None]) -> Iterator[Notice]:
    """What is put into `stream`, until None."""
    while (notice := stream.get()) is not None:
        yield notice
