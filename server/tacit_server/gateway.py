"""The gateway: the one open port, gRPC over mutual TLS, between partners and the SuperLink on loopback.

Started by `tacit_server.up` as a process of its own, so that what faces the network is neither the supervisor nor the
rounds, and can die and come back without them: `python -m tacit_server.gateway DIR`.
"""

from __future__ import annotations

import json
import logging
import os
import resource
import secrets
import signal
import sys
import threading
import time
from collections.abc import Callable, Iterable, Iterator
from concurrent import futures
from contextlib import contextmanager, suppress
from datetime import UTC, datetime
from pathlib import Path
from typing import TypeVar

import grpc
from google.protobuf.message import DecodeError, Message
from grpc_health.v1.health_pb2 import HealthCheckRequest

from tacit.errors import BadInput, TacitError
from tacit.link import keyfile
from tacit.link.channel import SERVER_OPTIONS, Files, server_credentials
from tacit.link.link_pb2 import DESCRIPTOR, Enrolment, Greeting, Piece, Presence, Renewal, Ticket
from tacit.link.names import join_address
from tacit_server.changes import Changes
from tacit_server.fleet import FleetNode, Gone, Unreachable, node_key
from tacit_server.folder import Folder
from tacit_server.parent import end_with_parent
from tacit_server.roster import Refused, Roster
from tacit_server.service import Service
from tacit_server.sessions import Session, Sessions
from tacit_server.setup import renew_gateway

__all__ = ["Gateway", "main"]

_log = logging.getLogger(__name__)

_LOOK = 0.01  # seconds between two looks at the SuperLink's database
_SWEEP = 5.0  # seconds after which every node is asked for, whatever the database seems to say
_BEAT = 5.0  # seconds between two heartbeats; Flower takes a node for offline after twenty without one
_DAY = 86_400.0

M = TypeVar("M", bound=Message)


class Gateway:
    """The gateway of one folder, until `stop`."""

    def __init__(self, folder: Folder) -> None:
        self._folder = folder
        self._roster = Roster(folder.roster_path)
        self._roster.nobody_online()
        self._secret = _secret(folder.state / "nodes.secret")
        self._sessions = Sessions(
            folder.state / "sessions", make=self._node, grace=folder.config.grace, lost=self._lost
        )
        self._news, self._stopping = threading.Event(), threading.Event()
        self._renewed, self._said = 0.0, ""
        folder.spool.mkdir(mode=0o700, exist_ok=True)
        for left in folder.spool.iterdir():  # what an earlier process left in the middle of an answer
            left.unlink()
        self._renew()
        self._server = self._make_server()

    def start(self) -> None:
        """Open the port and begin to carry messages. Returns at once."""
        self._server.start()
        for work in (self._pump, self._beat):
            threading.Thread(target=self._work, args=(work,), name=work.__name__, daemon=True).start()

    def stop(self) -> None:
        """Close the port; partners come back to the next gateway."""
        self._stopping.set()
        self._news.set()
        for session in self._sessions.all():
            session.tell(None)
        self._server.stop(grace=1.0).wait()

    def _work(self, work: Callable[[], None]) -> None:
        """Without `work` the gateway would seem to live and carry nothing: it ends, and is started again."""
        try:
            work()
        finally:
            if not self._stopping.is_set():
                os.kill(os.getpid(), signal.SIGTERM)

    @contextmanager
    def _noted(self) -> Iterator[None]:
        """What goes wrong with one session, or while a disk is full, is noted once, and the work goes on."""
        try:
            yield
        except (Unreachable, Gone):
            pass
        except (TacitError, OSError) as error:
            if str(error) != self._said:
                self._said = str(error)
                _log.error("%s", self._said)

    def _make_server(self) -> grpc.Server:
        config = self._folder.config
        workers = futures.ThreadPoolExecutor(max_workers=3 * config.max_partners, thread_name_prefix="link")
        server = grpc.server(workers, options=SERVER_OPTIONS, maximum_concurrent_rpcs=3 * config.max_partners)
        service = Service(self._folder, self._roster, self._sessions, wake=self._news.set)
        server.add_generic_rpc_handlers((_handler(service), _health(service)))
        server.add_secure_port(join_address(config.listen, port=config.port), server_credentials(self._files))
        return server

    def _files(self) -> Files:
        folder = self._folder
        return folder.gateway_key.read_bytes(), folder.gateway.read_bytes(), folder.authority.read_bytes()

    def _node(self, partner: str, session: str) -> FleetNode:
        # The name too: who learns of another partner's session must not get its node by calling its own the same.
        return FleetNode(self._superlink, node_key(self._secret, session=f"{partner} {session}"))

    def _lost(self, node: int) -> bool:
        database = Changes(self._folder.flower_db)
        try:
            return database.lost(node)
        finally:
            database.close()

    def _superlink(self) -> str:
        """Where the SuperLink listens now. Raises Unreachable."""
        try:
            return f"127.0.0.1:{json.loads(self._folder.superlink.read_bytes())['port']}"
        except (OSError, ValueError, KeyError):
            raise Unreachable("superlink.json") from None

    def _pump(self) -> None:
        """Hand on what waits, as soon as it does."""
        database, swept = Changes(self._folder.flower_db), 0.0
        while not self._stopping.is_set():
            changed = database.changed() or self._news.is_set()
            due = time.monotonic() - swept > _SWEEP
            if changed or due:
                self._news.clear()
                waiting = None if due else database.nodes()
                swept = time.monotonic() if waiting is None else swept
                for session in self._sessions.all():
                    if waiting is None or session.fleet.node in waiting:
                        self._hand_on(session)
            self._news.wait(_LOOK)

    def _hand_on(self, session: Session) -> None:
        with self._noted():
            self._sessions.pump(session)

    def _beat(self) -> None:
        """Keep nodes online, cut off whom the roster no longer admits, renew the gateway's certificate."""
        version = -1
        beaten = 0.0
        while not self._stopping.wait(0.5):
            with self._noted():
                if (found := self._roster.version()) != version:
                    self._expel()
                    version = found
            if time.monotonic() - beaten > _BEAT:
                beaten = time.monotonic()
                for session in self._sessions.all():
                    with self._noted():
                        self._sessions.beat(session)
            with self._noted():
                self._renew()

    def _expel(self) -> None:
        active = {row.name for row in self._roster.partners() if row.state == "active"}
        for session in self._sessions.all():
            if session.partner not in active:
                _log.info("%s is no partner any more", session.partner)
                self._forget(session)

    def _forget(self, session: Session) -> None:
        self._sessions.expel(session)
        with suppress(Refused):
            self._roster.forget_node(session.fleet.node)

    def _renew(self) -> None:
        if time.monotonic() - self._renewed > _DAY or not self._renewed:
            self._renewed = time.monotonic()
            renew_gateway(self._folder, datetime.now(UTC))


def _handler(service: Service) -> grpc.GenericRpcHandler:
    """The link's calls, each offered as one with a stream of requests, which is the same on the wire.

    gRPC would wait for the one request of another call without end, on a thread that then serves nobody else, before
    the service could see who calls.
    """
    one, many = grpc.stream_unary_rpc_method_handler, grpc.stream_stream_rpc_method_handler
    table = {
        "Enrol": one(lambda requests, context: service.Enrol(_read(requests, Enrolment), context), None, _write),
        "Renew": one(lambda requests, context: service.Renew(_read(requests, Renewal), context), None, _write),
        "Greet": one(lambda requests, context: service.Greet(_read(requests, Greeting), context), None, _write),
        "Attend": many(lambda requests, context: service.Attend(_read(requests, Presence), context), None, _write),
        "Take": many(lambda requests, context: service.Take(_read(requests, Ticket), context), None, _write),
        "Give": one(lambda requests, context: service.Give(_read(requests, Piece), context), None, _write),
    }
    return grpc.method_handlers_generic_handler(DESCRIPTOR.services_by_name["Link"].full_name, table)


def _health(service: Service) -> grpc.GenericRpcHandler:
    """gRPC's standard health service, asked once a call; its Watch would hold a place that partners need."""
    check = grpc.stream_unary_rpc_method_handler(
        lambda requests, context: service.Check(_read(requests, HealthCheckRequest), context), None, _write
    )
    return grpc.method_handlers_generic_handler("grpc.health.v1.Health", {"Check": check})


def _read(requests: Iterable[bytes], kind: type[M]) -> Iterator[M]:
    """Requests out of their bytes, one by one. Here and not by gRPC, which would log a traceback for every bad one."""
    for request in requests:
        try:
            yield kind.FromString(request)
        except DecodeError:
            raise BadInput(
                f"expected a request that is a {kind.__name__}, found other bytes",
                hint="install the same version of tacit on both sides",
            ) from None


def _write(reply: Message) -> bytes:
    return reply.SerializeToString()


def _secret(path: Path) -> bytes:
    """32 bytes from which the keys of this server's Flower nodes are drawn."""
    if not path.exists():
        keyfile.write(path, secrets.token_bytes(32))
    return keyfile.read(path)


def _raise_limits() -> None:
    """As many open files as this machine allows: every connection is one, the silent ones of a stranger too."""
    _, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    with suppress(OSError, ValueError):
        resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))


def main(argv: list[str]) -> int:
    """Serve until SIGTERM, or until the standard input ends: then the parent is gone."""
    folder = Folder.open(Path(argv[0]))
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(levelname)s %(message)s", stream=sys.stderr)
    logging.getLogger("httpx").setLevel(logging.WARNING)
    _raise_limits()
    over = threading.Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, lambda *_: over.set())
    end_with_parent()
    gateway = Gateway(folder)
    gateway.start()
    _log.info("open")
    over.wait()
    gateway.stop()
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
