"""Single calls of the gateway, beside the one long connection: to join, and to ask whether it would welcome."""

from __future__ import annotations

from dataclasses import dataclass
from importlib.metadata import version

import grpc

from tacit.errors import BadInput
from tacit.link.channel import Files, client_channel
from tacit.link.invitation import Invitation
from tacit.link.link_pb2 import Enrolment, Greeting, Membership, Welcome
from tacit.link.link_pb2_grpc import LinkStub
from tacit.link.roster import SignedRoster
from tacit.secagg.keys import PublicKey

__all__ = ["Enrolled", "Greeted", "enrol", "greet", "why"]

_ANSWER = 30.0  # seconds


@dataclass(frozen=True)
class Enrolled:
    """What a partner gets when it joins: its certificate (PEM), and the server's list of partners, not checked yet."""

    certificate: bytes
    roster: SignedRoster


@dataclass(frozen=True)
class Greeted:
    """What the gateway says to whoever greets it.

    Attributes:
        clock: the server's, seconds since 1970.
        roster: the server's list of partners, not checked yet.
        mark: the last one that this partner gave; empty where there is none.
    """

    clock: float
    roster: SignedRoster
    mark: bytes


def enrol(invitation: Invitation, *, request: bytes, identity: PublicKey, proof: bytes) -> Enrolled:
    """Ask the gateway to make a partner of whoever holds `invitation`.

    Raises:
        BadInput: no answer, or a refusal with the server's reason.
    """
    files = invitation.key, invitation.certificate, invitation.authority
    asked = Enrolment(name=invitation.name, request=request, identity=identity, proof=proof)
    with client_channel(invitation.address, files) as channel:
        try:
            found: Membership = LinkStub(channel).Enrol(asked, timeout=_ANSWER, wait_for_ready=False)
        except grpc.RpcError as error:
            raise why(error, invitation.address) from None
    return Enrolled(found.certificate, SignedRoster.unpack(found.roster))


def greet(address: str, files: Files, *, timeout: float = _ANSWER) -> Greeted:
    """Ask the gateway at `address` for what it would say first, with a partner's files; changes nothing there.

    It is no session: the partner's own process may be connected meanwhile. `timeout`: in seconds.

    Raises:
        BadInput: no answer, a refusal with the server's reason, or an answer that is none.
    """
    with client_channel(address, files) as channel:
        try:
            greeting = Greeting(version=version("tacit"))
            found: Welcome = LinkStub(channel).Greet(greeting, timeout=timeout, wait_for_ready=False)
        except grpc.RpcError as error:
            raise why(error, address) from None
    return Greeted(found.clock, SignedRoster.unpack(found.roster), found.mark)


def why(error: grpc.RpcError, address: str) -> BadInput:
    """What went wrong, in words for the partner's engineer."""
    code = error.code()
    said, _, hint = (error.details() or "").partition("\n")
    if said.startswith("expected"):  # the gateway's own words
        return BadInput(said, hint=hint or "ask the operator")
    if code is grpc.StatusCode.UNAVAILABLE and any(word in said for word in ("SSL", "Ssl", "andshak", "CERTIFICATE")):
        return BadInput(
            f"expected a TLS handshake with {address}, found it refused: {said[:200]}",
            hint="is this the server's address, is this machine's clock right? else ask for a new invitation",
        )
    if code in (grpc.StatusCode.UNAVAILABLE, grpc.StatusCode.DEADLINE_EXCEEDED):
        return BadInput(
            f"expected the server at {address} to answer, found no connection",
            hint="is it up, is the address right, and may this machine open that port?",
        )
    return BadInput(f"expected an answer of {address}, found {code.name}: {said[:200]}", hint="ask the operator")
