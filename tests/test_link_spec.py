"""The link's spec says what the code does: its numbers and its bytes."""

from __future__ import annotations

import hashlib
import re
from pathlib import Path

import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PublicKey

from tacit.link import certificates, channel, enrolment, pieces
from tacit.link.link_pb2 import DESCRIPTOR
from tacit.link.roster import SignedRoster
from tacit.secagg.keys import Secret, Signature, identity_of
from tacit_client import link
from tacit_server import answers, membership, rate, refusals, service
from tacit_server.config import ServerConfig

SPEC = (Path(__file__).parents[1] / "common" / "tacit" / "spec" / "link.md").read_text(encoding="utf-8")
CONFIG = ServerConfig(host="localhost")
SERVER = dict(channel.SERVER_OPTIONS)


def test_the_proof_byte_by_byte():
    identity, name, request, mark = Secret(bytes(range(32))), "hospital-a", b"a request", "ab" * 32
    proof = enrolment.sign(identity, name=name, request=request, invitation=mark)
    message = b"tacit-enrolment" + b"\x01" + len(name).to_bytes(4, "big") + name.encode()
    message += hashlib.sha256(request).digest() + bytes.fromhex(mark)
    assert (len(message), "| 52 + m | 32 |" in SPEC) == (84 + len(name), True)
    Ed25519PublicKey.from_public_bytes(identity_of(identity)).verify(proof, message)


@pytest.mark.parametrize("call", [method.name for method in DESCRIPTOR.services_by_name["Link"].methods])
def test_every_call_is_told(call):
    assert f"| `{call}` |" in SPEC


@pytest.mark.parametrize("role", certificates.Role)
def test_every_role_is_told(role):
    assert f"| `{role}` |" in SPEC


def _row(start: str) -> str:
    (found,) = [line for line in SPEC.splitlines() if line.startswith(f"| {start}")]
    return found


@pytest.mark.parametrize(
    ("row", "numbers"),
    [
        ("TLS handshake", [f"{SERVER['grpc.server_handshake_timeout_ms'] // 1000} s"]),
        ("TLS handshake", [f"{SERVER['grpc.max_connection_idle_ms'] // 1000} s"]),
        ("TLS handshake", [f"{(SERVER['grpc.keepalive_time_ms'] + SERVER['grpc.keepalive_timeout_ms']) // 1000} s"]),
        ("calls of a connection", [f"| {SERVER['grpc.max_concurrent_streams']}; {rate.Calls()._most} |"]),
        ("calls at the gateway", [str(CONFIG.max_partners)]),
        ("first request", [f"{refusals._SOON:g} s"]),
        ("one gRPC message", [f"{SERVER['grpc.max_receive_message_length'] // 2**20} MiB", "8 KiB"]),
        ("an object", [f"{pieces.MOST_OBJECT // 2**20} MiB", f"{pieces._LEAST // 2**10} KiB"]),
        ("an answer", [f"{service._SLOWEST // 2**10} KiB a second"]),
        ("a call of the partner's", [f"{link._SILENCE:g} s"]),
        ("announcements", [f"| {link._WAITING} |"]),
        ("`Enrol`", [f"{service._AT_ONCE:g} at once", f"one in {'two' if service._ARRIVALS == 0.5 else '?'} seconds"]),
        ("a mark", [f"| {membership.MARK} bytes |"]),
        ("offline", [f"{CONFIG.grace:g} s"]),
        ("`partner`", [f"{CONFIG.partner_days:g} days"]),
        ("`gateway`", [f"{CONFIG.gateway_days:g} days"]),
    ],
)
def test_the_numbers_are_the_code_s(row, numbers):
    assert numbers
    for number in numbers:
        assert number in _row(row)


def test_the_roster_byte_by_byte():
    """The table of the spec, added up."""
    begin = SPEC.index("## The roster")
    table = re.findall(r"^\| (\d+) \| (\d+)", SPEC[begin : SPEC.index("## Marks")], re.M)
    assert [(int(offset), int(size)) for offset, size in table] == [
        (0, 12),
        (12, 1),
        (13, 32),
        (45, 8),
        (53, 4),
        (57, 4),
    ]
    peers = {"a": identity_of(Secret(bytes(32))), "bc": identity_of(Secret(bytes(range(32))))}
    message = SignedRoster(7, peers, Signature(bytes(64))).message(b"f" * 32)
    assert len(message) == 57 + sum(4 + len(name) + 32 for name in peers)
    assert (message[:12], message[12], message[13:45], message[45:53]) == (
        b"tacit-roster",
        1,
        b"f" * 32,
        bytes(7) + b"\x07",
    )


def test_what_is_small_is_small():
    assert (answers._NODES, answers._REASON) == (10_000, 1000)
