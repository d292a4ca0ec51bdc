"""Hostile callers at the real gateway: none gets in, none learns anything, and nobody else is kept out."""

from __future__ import annotations

import os
import socket
import ssl
import threading
from datetime import timedelta

import grpc
import httpx
import intruder
import pytest
from grpc_health.v1 import health_pb2, health_pb2_grpc
from intruder import METHODS, ask, attend, channel, hello_app, joined, refusal, serving, wait_until

from tacit.link.certificates import Role
from tacit.link.invitation import Invitation
from tacit.link.link_pb2 import Envelope, Object, Piece, Ticket
from tacit_server.folder import Folder
from tacit_server.roster import Roster
from tacit_sim.rehearsal import HOST, Rehearsal

pytestmark = pytest.mark.e2e

UNAVAILABLE, DENIED = grpc.StatusCode.UNAVAILABLE, grpc.StatusCode.PERMISSION_DENIED


@pytest.fixture(scope="module")
def federation(tmp_path_factory):
    """A server with a run that says hello to everybody and waits for more partners than there will be."""
    with Rehearsal(tmp_path_factory.mktemp("hostile")) as federation:
        federation.init()
        config = federation.server / "server.toml"
        config.write_text(config.read_text().replace("grace = 10.0", "grace = 1.0"))
        federation.up()
        job = intruder.write_job(federation.folder / "job.toml", partners=9)
        federation.run("tacit-server", "run", str(federation.server), str(job), "--name", "bait")
        yield federation


@pytest.fixture(scope="module")
def mallory(federation):
    """A partner whose process is whatever a test wants."""
    return joined(federation, "mallory")


def _log(federation) -> str:
    return (federation.server / "logs" / "gateway.log").read_text(errors="replace")


def _answers(federation, keys, *, name: str, seconds: float) -> None:
    """An honest partner comes, is asked and answers, within so many seconds."""
    said = threading.Event()
    with serving(federation, keys, hello_app(keys, name=name, said=said)):
        assert said.wait(seconds)


# who is let in


def test_nobody_without_a_certificate_in_date_of_this_authority_gets_an_answer(federation):
    ways = {
        "none": None,
        "another authority's": intruder.foreign(federation.server, name="mallory"),
        "expired": intruder.issued(federation.server, role=Role.PARTNER, name="mallory", ended=timedelta(seconds=5)),
    }
    found = {}
    for way, files in ways.items():
        with channel(federation, files) as opened:
            found[way] = refusal(ask(opened, "Attend", [b""]))[0]
    assert found == dict.fromkeys(ways, UNAVAILABLE)


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("role", [Role.PARTNER, Role.INVITATION])
def test_a_certificate_that_the_roster_does_not_know_is_refused_by_every_call(federation, method, role):
    with channel(federation, intruder.issued(federation.server, role=role, name="stranger")) as opened:
        code, said = refusal(ask(opened, method, [b""]))
    assert code is DENIED
    assert said.startswith("expected ")


@pytest.mark.parametrize("method", METHODS[1:])
def test_an_invitation_opens_no_call_but_one(federation, method):
    name = f"invited-{method.lower()}"
    federation.run("tacit-server", "invite", str(federation.server), name, "--out", str(federation.folder / name))
    found = Invitation.read(federation.folder / name)
    with channel(federation, (found.key, found.certificate, found.authority)) as opened:
        code, said = refusal(ask(opened, method, [b""]))
    assert code is DENIED
    assert said.startswith("expected a certificate for the role partner, found one for invitation")


def test_a_partner_can_not_enrol_again(federation, mallory):
    with channel(federation, mallory.files()) as opened:
        assert refusal(ask(opened, "Enrol", [b""]))[0] is DENIED


def test_nobody_speaks_without_tls(federation):
    words = [
        b"GET / HTTP/1.1\r\nHost: gateway\r\n\r\n",
        b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n\0\0\0\4\0\0\0\0\0",
        bytes(range(256)) * 64,
        b"\x16\x03\x01\xff\xff" + bytes(1000),
    ]
    for spoken in words:
        with socket.create_connection((HOST, federation.port), timeout=20) as one:
            one.sendall(spoken)
            assert _all_of(one)[:1] in (b"", b"\x15")  # nothing, or an alert of TLS
    assert len(words) == 4


def _all_of(one: socket.socket) -> bytes:
    found = b""
    try:
        while part := one.recv(4096):
            found += part
    except ConnectionResetError:
        pass
    return found


# what a partner can do to another


def test_the_session_and_the_message_of_another_partner_are_closed_to_a_partner(federation, mallory):
    other = joined(federation, "alice")
    with channel(federation, other.files()) as hers, channel(federation, mallory.files()) as his:
        ticket = _ticket(hers, "a" * 32)
        for session in ("a" * 32, "b" * 32):
            stolen = Ticket(session=session, message=ticket.message)
            assert refusal(ask(his, "Take", [stolen.SerializeToString()]))[0] is not grpc.StatusCode.OK
            answer = Piece(envelope=Envelope(ticket=stolen, message=b"", tree=b""))
            assert refusal(ask(his, "Give", [answer.SerializeToString()]))[0] is not grpc.StatusCode.OK
        assert refusal(ask(hers, "Take", [ticket.SerializeToString()]))[0] is grpc.StatusCode.OK


def _ticket(opened: grpc.Channel, session: str) -> Ticket:
    """Attend, and wait for the message that the run sends."""
    stream = attend(opened, session)
    assert next(stream).WhichOneof("kind") == "welcome"
    return next(stream).waiting


@pytest.mark.parametrize("lie", ["name", "key"])
def test_who_says_that_it_is_somebody_else_is_left_out_and_named(federation, mallory, lie):
    victim = joined(federation, f"victim-of-{lie}")
    keys, name = (mallory, f"victim-of-{lie}") if lie == "name" else (victim, "mallory")
    log = federation.server / "runs" / "bait" / "run.log"
    told = f"left out: expected mallory with its own key at node {{}}, found one that calls itself {name}"
    with serving(federation, _Under(mallory, keys), hello_app(keys, name=name)) as link:
        wait_until(lambda: link.node != 0, seconds=60, what="mallory's connection")
        wait_until(lambda: told.format(link.node) in log.read_text(), seconds=60, what="that mallory is left out")


class _Under:
    """Mallory's certificate with the identity of whoever it pretends to be."""

    def __init__(self, real, claimed):
        self.files, self.public = real.files, claimed.public


# what bytes can do


def test_malformed_bytes_end_one_call_and_nothing_else(federation, mallory):
    broken = [b"\xff" * 40, b"\x0a\xff\xff\xff\xff\x0f", os.urandom(500), b"\x0a\x02\xff\xfe"]
    with channel(federation, mallory.files()) as opened:
        codes = {refusal(ask(opened, method, [bytes_])) for method in METHODS[1:] for bytes_ in broken}
        assert len(codes) >= 1
        assert grpc.StatusCode.OK not in {code for code, _ in codes}
        assert {code for code, _ in codes} <= {grpc.StatusCode.INTERNAL, grpc.StatusCode.INVALID_ARGUMENT, DENIED}
        assert not any("/" in said or "Traceback" in said for _, said in codes)
    _answers(federation, mallory, name="mallory", seconds=60)


@pytest.mark.parametrize("method", METHODS)
def test_a_call_that_sends_nothing_holds_nobody_up(federation, mallory, method):
    with channel(federation, mallory.files()) as opened:
        code, _ = refusal(ask(opened, method, []))
    assert code in (grpc.StatusCode.INVALID_ARGUMENT, DENIED)


def test_a_message_over_two_mebibytes_is_not_read(federation, mallory):
    before = intruder.memory(intruder.gateway(federation))
    with channel(federation, mallory.files()) as opened:
        for method in METHODS[1:]:
            assert refusal(ask(opened, method, [bytes(64 * 2**20)]))[0] is grpc.StatusCode.RESOURCE_EXHAUSTED
    assert intruder.memory(intruder.gateway(federation)) - before < 48 * 2**20


def test_answers_without_end_are_cut_off_and_leave_neither_memory_nor_files(federation, mallory):
    spool, pid = Folder(federation.server).spool, intruder.gateway(federation)
    with channel(federation, mallory.files()) as opened:
        ticket = _ticket(opened, "c" * 32)
        envelope = Piece(envelope=Envelope(ticket=ticket))
        too_large = [envelope, Piece(object=Object(id="a" * 64, length=8 * 2**20 + 1))]
        wrong = [envelope, Piece(object=Object(id="a" * 64, length=3)), Piece(data=b"abc")]
        before = intruder.memory(pid)
        ends = [
            refusal(ask(opened, "Give", [piece.SerializeToString() for piece in too_large])),
            refusal(ask(opened, "Give", [piece.SerializeToString() for piece in wrong])),
            refusal(ask(opened, "Give", intruder.large_pieces(envelope), timeout=120)),
            refusal(ask(opened, "Give", intruder.tiny_pieces(envelope), timeout=240)),
        ]
        # The message is still there to be answered.
        assert refusal(ask(opened, "Take", [ticket.SerializeToString()]))[0] is grpc.StatusCode.OK
    expected = [grpc.StatusCode.OUT_OF_RANGE, grpc.StatusCode.INVALID_ARGUMENT, *[grpc.StatusCode.OUT_OF_RANGE] * 2]
    assert [code for code, _ in ends] == expected
    assert intruder.memory(pid) - before < 100 * 2**20
    wait_until(lambda: not list(spool.iterdir()), seconds=10, what="an empty spool")


# what numbers can do


def test_calls_that_only_wait_take_nobodys_place(federation):
    idle, stop = joined(federation, "idle"), threading.Event()

    def silence():
        stop.wait(60)
        yield from ()

    with channel(federation, idle.files()) as one, channel(federation, idle.files()) as another:
        # Eight, as many as one caller may have open: more on one connection are refused by HTTP/2 itself.
        calls = [ask(one, method, silence(), timeout=60) for method in (METHODS[1:] * 2)[:8]]
        wait_until(
            lambda: refusal(ask(another, "Take", [b""]))[0] is grpc.StatusCode.RESOURCE_EXHAUSTED,
            seconds=20,
            what="a refusal of more calls, over another connection too",
        )
        _answers(federation, joined(federation, "patient"), name="patient", seconds=60)
        stop.set()
        assert {refusal(call)[0] for call in calls} == {grpc.StatusCode.INVALID_ARGUMENT}


def test_a_thousand_half_open_connections_keep_nobody_out(federation):
    pid, keys = intruder.gateway(federation), joined(federation, "late")
    before = intruder.descriptors(pid)
    with intruder.half_open(federation, silent=1000, begun=100):
        wait_until(lambda: intruder.descriptors(pid) > before + 900, seconds=20, what="the intruder's connections")
        _answers(federation, keys, name="late", seconds=15)
        # The gateway closes them although the other side does not.
        wait_until(lambda: intruder.descriptors(pid) < before + 20, seconds=40, what="the end of the connections")


def test_who_asks_too_often_is_told_to_wait_and_others_are_not(federation):
    greedy, modest = joined(federation, "greedy"), joined(federation, "modest")
    with channel(federation, greedy.files()) as opened:
        codes = [refusal(ask(opened, "Take", [b""]))[0] for _ in range(400)]
        assert codes[0] is grpc.StatusCode.FAILED_PRECONDITION
        assert grpc.StatusCode.RESOURCE_EXHAUSTED in codes
        _answers(federation, modest, name="modest", seconds=60)


# what is not there


@pytest.mark.parametrize(
    "path",
    [
        "/flwr.proto.Control/ListRuns",
        "/flwr.proto.Fleet/PullMessages",
        "/flwr.proto.ServerAppIo/PushMessages",
        "/tacit.link.v1.Link/Nothing",
        "/grpc.reflection.v1alpha.ServerReflection/ServerReflectionInfo",
    ],
)
def test_nothing_of_flower_is_there_for_grpc(federation, mallory, path):
    with channel(federation, mallory.files()) as opened:
        assert refusal(ask(opened, path, [b""]))[0] is grpc.StatusCode.UNIMPLEMENTED


@pytest.mark.parametrize("path", ["/", "/v1/control/list-runs", "/v1/runtime/pull-messages", "/v1/fleet/pull-messages"])
def test_nothing_of_flower_is_there_for_http(federation, mallory, tmp_path, path):
    key, certificate, authority = mallory.files()
    (tmp_path / "key.pem").write_bytes(key)
    (tmp_path / "certificate.pem").write_bytes(certificate)
    context = ssl.create_default_context(cadata=authority.decode())
    context.load_cert_chain(tmp_path / "certificate.pem", tmp_path / "key.pem")
    with httpx.Client(verify=context, trust_env=False, timeout=20) as client, pytest.raises(httpx.HTTPError):
        client.post(f"https://{intruder.address(federation)}{path}", content=b"")


def test_health_is_told_to_partners(federation, mallory):
    with channel(federation, mallory.files()) as opened:
        said = health_pb2_grpc.HealthStub(opened).Check(health_pb2.HealthCheckRequest(), timeout=20)
        assert said.status == health_pb2.HealthCheckResponse.SERVING


def test_nothing_but_the_link_and_health_is_served(federation, mallory):
    """Another call would not ask the roster, and would take the places of partners."""
    with channel(federation, mallory.files()) as opened:
        watched = opened.unary_stream("/grpc.health.v1.Health/Watch")(b"", timeout=20)
        assert refusal(watched)[0] is grpc.StatusCode.UNIMPLEMENTED


def test_one_gateway_has_lived_through_all_of_this(federation, mallory):
    _answers(federation, mallory, name="mallory", seconds=60)
    assert _log(federation).count(" open\n") == 1
    assert "Traceback" not in _log(federation)
    assert "\x1b" not in _log(federation)
    known = {row.name for row in Roster(Folder(federation.server).roster_path).partners()}
    assert "mallory" in known
    assert "stranger" not in known
