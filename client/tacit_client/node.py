"""The loop of a partner's process: take a message, let the ClientApp answer it, give the answer."""

from __future__ import annotations

import logging
import os
import threading
import time
from collections.abc import Callable
from contextlib import suppress
from datetime import UTC, datetime

import grpc
from flwr.app import Context, Error, Message, RecordDict, UserConfig
from flwr.clientapp import ClientApp

from tacit.errors import BadInput, JobFailed
from tacit.link import certificates
from tacit.link.link_pb2 import Envelope, Ticket
from tacit_client import roster
from tacit_client.arrival import Arrival
from tacit_client.audit import Audit
from tacit_client.keys import Keys
from tacit_client.letters import closed, opened
from tacit_client.link import Link, Lost
from tacit_client.office import Office
from tacit_client.site import Folder

__all__ = ["Node", "run"]

_log = logging.getLogger(__name__)

_FAILED = 0  # Flower's error code for an unknown cause
_HOUR = 3600.0


class Node:
    """One partner's loop over one link.

    Args:
        link: opened by `serve`.
        app: answers.
    """

    def __init__(self, link: Link, app: ClientApp) -> None:
        self._link, self._app = link, app
        self._most = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") // 2  # bytes of a message

    def serve(self, stop: threading.Event) -> None:
        """Answer messages, one at a time, until `stop` is set.

        Raises:
            JobFailed: the server does not admit this partner any more, or it must not go on by its own books.
        """
        self._link.open()
        renewed = time.monotonic()
        try:
            while not stop.is_set():
                if time.monotonic() - renewed > _HOUR:
                    renewed = time.monotonic()
                    self._link.renew()
                ticket = self._link.next(timeout=0.5)
                if ticket is not None:
                    self._answer(ticket)
        finally:
            self._link.close()

    def _answer(self, ticket: Ticket) -> None:
        began = time.monotonic()
        try:
            with self._link.take(ticket, limit=self._most) as (envelope, objects):
                asked = opened(envelope, objects, node=self._link.node, most=self._most)
            reply = self._call(asked)
            seconds = time.monotonic() - began
            envelope, _ = closed(reply, asked, ticket=ticket, seconds=seconds)
            self._link.give(envelope, lambda: closed(reply, asked, ticket=ticket, seconds=seconds)[1])
        except Lost as error:
            _log.info("a message was dropped: %s", error)
        except grpc.RpcError as error:
            _log.info("a message could not be taken (%s); trying again", error.code().name)
            self._link.again(ticket)
        except BadInput as error:
            _log.error("a message was not understood: %s", error.message)
            self._decline(ticket)

    def _decline(self, ticket: Ticket) -> None:
        """Let the gateway know that there will be no answer, so that it tells of the next message."""
        with suppress(Lost):
            self._link.give(Envelope(ticket=ticket), lambda: [])

    def _call(self, asked: Message) -> Message:
        metadata = asked.metadata
        context = Context(
            run_id=metadata.run_id,
            node_id=metadata.dst_node_id,
            node_config=UserConfig(),
            state=RecordDict(),
            run_config=UserConfig(),
        )
        try:
            return self._app(message=asked, context=context)
        except Exception:  # noqa: BLE001  # the edge of the process: no message may end it
            _log.exception("a message could not be answered")
            # Not even the error's name: what goes wrong may depend on the examples.
            return Message(Error(_FAILED, "the partner failed; its log says why"), reply_to=asked)


def run(folder: Folder, office: Office, *, stop: threading.Event) -> None:
    """Connect `folder`'s partner and answer until `stop` is set.

    Guarantee: every answer goes with a mark of the ledger as it is when the answer leaves, and no message is taken
    before the ledger was compared with the mark that the server kept.

    Raises:
        JobFailed: as `Node.serve`.
        BadInput: keys, or the list of partners in the folder, that can not be used.
    """
    keys = Keys.open(folder.keys)
    roster.read(folder.roster, keys=keys)
    told: set[str] = set()
    arrival = Arrival(folder, keys=keys, audit=Audit.of(folder), recall=office.recall)
    link = Link(
        folder.config.server.address,
        keys.files,
        device=office.device,
        welcome=arrival.welcome,
        left=arrival.left,
        mark=lambda: _mark(office),
        renew=lambda ask: _renew(keys, folder.config.name, ask, told=told),
    )
    Node(link, office.app()).serve(stop)


def _mark(office: Office) -> bytes:
    """Without a mark no answer leaves: the process ends."""
    try:
        return office.mark()
    except BadInput as error:
        raise JobFailed(error.message, hint=error.hint) from None


def _renew(keys: Keys, name: str, ask: Callable[[bytes], bytes], *, told: set[str]) -> bool:
    """Ask for another certificate where this one is due; one that can not be had now is asked for later.

    Each reason is told once: connections are tried without end.

    Returns whether there is a new one.
    """
    if not certificates.due(keys.certificate, now=datetime.now(UTC)):
        return False
    try:
        keys.keep(ask(keys.request(name)))
    except (grpc.RpcError, BadInput) as error:
        said = _not_renewed(certificates.subject(keys.certificate).not_after, error)
        if said not in told:
            told.add(said)
            _log.warning("%s", said)
        return False
    _log.info("the certificate of this partner was renewed")
    return True


def _not_renewed(until: datetime, error: grpc.RpcError | BadInput) -> str:
    """Whose certificate is over is let in nowhere, also to renew it."""
    if datetime.now(UTC) >= until:
        return (
            f"expected a certificate that is in date, found this partner's, which expired {until:%Y-%m-%d %H:%M} UTC; "
            "is this machine's clock right? if so, ask the operator for a new invitation and join in a new folder"
        )
    why = error.message if isinstance(error, BadInput) else f"the server's answer was {error.code().name}"
    return f"the certificate of this partner, which ends {until:%Y-%m-%d %H:%M} UTC, could not be renewed: {why}"
