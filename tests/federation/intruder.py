"""What somebody needs who means harm to a gateway: any certificate, raw calls, and a look at what they do to it."""

from __future__ import annotations

import hashlib
import os
import socket
import ssl
import threading
import time
from collections.abc import Callable, Iterable, Iterator
from contextlib import ExitStack, contextmanager
from datetime import UTC, datetime, timedelta
from pathlib import Path

import grpc
import numpy as np
import tomli_w
from flwr.app import Context, Message
from flwr.clientapp import ClientApp

from tacit.link.certificates import Role, issue, make_authority, make_key, make_request
from tacit.link.channel import Files
from tacit.link.link_pb2 import Notice, Object, Piece, Presence
from tacit.link.pieces import PIECE
from tacit.link.records import to_records
from tacit.wire import Hello
from tacit_client.join import join
from tacit_client.keys import Keys
from tacit_client.link import Link
from tacit_client.node import Node
from tacit_server.enrol import invite
from tacit_server.folder import Folder
from tacit_server.roster import Roster
from tacit_sim.rehearsal import HOST, Rehearsal

METHODS = ("Enrol", "Renew", "Greet", "Attend", "Take", "Give")
SIDE = 8


def address(federation: Rehearsal) -> str:
    """Of the gateway."""
    return f"{HOST}:{federation.port}"


def joined(federation: Rehearsal, name: str) -> Keys:
    """Keys of a new partner, which has no process yet and lies in `federation.folder / name`."""
    invitation = federation.folder / f"{name}.toml"
    folder, hours = Folder.open(federation.server), timedelta(hours=1)
    invite(folder, Roster(folder.roster_path), name=name, lifetime=hours, now=datetime.now(UTC)).write(invitation)
    place = federation.folder / name
    join(invitation, place, data=None, trust_new_peers=True)
    return Keys.open(place / "keys")


def foreign(server: Path, *, name: str) -> Files:
    """A partner's certificate of another federation, and the authority of the one in `server`."""
    authority_key, authority = make_authority(name="authority-other", lifetime=timedelta(days=1))
    return *_issued(authority_key, authority, role=Role.PARTNER, name=name), Folder(server).authority.read_bytes()


def issued(server: Path, *, role: Role, name: str, ended: timedelta = timedelta(hours=-1)) -> Files:
    """A certificate by the server's own authority that its roster does not know; it `ended` so long ago."""
    folder = Folder(server)
    key, authority = folder.authority_key.read_bytes(), folder.authority.read_bytes()
    return *_issued(key, authority, role=role, name=name, ended=ended), authority


def _issued(
    authority_key: bytes, authority: bytes, *, role: Role, name: str, ended: timedelta = timedelta(hours=-1)
) -> tuple[bytes, bytes]:
    key, lifetime = make_key(), timedelta(minutes=1)
    certificate = issue(
        authority_key=authority_key,
        authority=authority,
        request=make_request(key, name=name),
        role=role,
        name=name,
        lifetime=lifetime,
        now=datetime.now(UTC) - ended - lifetime,
    )
    return key, certificate


@contextmanager
def channel(federation: Rehearsal, files: Files | None) -> Iterator[grpc.Channel]:
    """A connection without the limits of an honest partner's; without a certificate where `files` is None."""
    authority = Folder(federation.server).authority.read_bytes()
    credentials = grpc.ssl_channel_credentials(authority)
    if files is not None:
        credentials = grpc.ssl_channel_credentials(authority, files[0], files[1])
    options = [
        ("grpc.max_send_message_length", -1),
        ("grpc.use_local_subchannel_pool", 1),
        ("grpc.enable_retries", 0),
        ("grpc.enable_http_proxy", 0),
    ]
    with grpc.secure_channel(address(federation), credentials, options=options) as opened:
        yield opened


def ask(opened: grpc.Channel, method: str, requests: Iterable[bytes], *, timeout: float = 20.0) -> Iterator[bytes]:
    """Call a method of the link with raw bytes, as many as wished."""
    name = method if method.startswith("/") else f"/tacit.link.v1.Link/{method}"
    stub = opened.stream_stream(name, request_serializer=_same, response_deserializer=_same)
    return stub(iter(requests), timeout=timeout)


def refusal(answers: Iterable[bytes]) -> tuple[grpc.StatusCode, str]:
    """With what a call ends; OK where it does well."""
    try:
        list(answers)
    except grpc.RpcError as error:
        return error.code(), error.details() or ""
    return grpc.StatusCode.OK, ""


def attend(opened: grpc.Channel, session: str, *, timeout: float = 120.0) -> Iterator[Notice]:
    """What the gateway tells whoever attends."""
    presence = Presence(session=session, version="0", device="a terminal\x1b[2J\nand more")
    return (
        Notice.FromString(found) for found in ask(opened, "Attend", [presence.SerializeToString()], timeout=timeout)
    )


def tiny_pieces(envelope: Piece) -> Iterator[bytes]:
    """An answer whose objects of a few bytes never end."""
    yield envelope.SerializeToString()
    number = 0
    while True:
        content = number.to_bytes(4)
        yield Piece(object=Object(id=hashlib.sha256(content).hexdigest(), length=4)).SerializeToString()
        yield Piece(data=content).SerializeToString()
        number += 1


def large_pieces(envelope: Piece) -> Iterator[bytes]:
    """An answer whose objects of 8 MiB never end."""
    yield envelope.SerializeToString()
    part = bytes(PIECE)
    name = hashlib.sha256(part * 8).hexdigest()
    while True:
        yield Piece(object=Object(id=name, length=8 * PIECE)).SerializeToString()
        for _ in range(8):
            yield Piece(data=part).SerializeToString()


def hello_app(keys: Keys, *, name: str, said: threading.Event | None = None) -> ClientApp:
    """A ClientApp that says it is `name` with the key of `keys`, and nothing else."""
    app = ClientApp()

    @app.query("hello")
    def hello(message: Message, context: Context) -> Message:
        if said is not None:
            said.set()
        return Message(to_records(Hello(name, keys.public).pack()), reply_to=message)

    return app


@contextmanager
def serving(federation: Rehearsal, keys: Keys, app: ClientApp) -> Iterator[Link]:
    """A partner's loop with `app`, in a thread of this process."""
    link = Link(
        address(federation),
        keys.files,
        device="test",
        welcome=lambda welcome: None,
        left=lambda reason: None,
        mark=lambda: b"",
        renew=lambda ask: False,
    )
    stop = threading.Event()
    thread = threading.Thread(target=Node(link, app).serve, args=(stop,), daemon=True)
    thread.start()
    try:
        yield link
    finally:
        stop.set()
        thread.join(30)
        assert not thread.is_alive()


@contextmanager
def half_open(federation: Rehearsal, *, silent: int, begun: int) -> Iterator[None]:
    """TCP connections that say nothing, and TLS handshakes that stop in the middle."""
    flight = _client_hello()
    with ExitStack() as stack:
        for words in [*[b""] * silent, *[flight] * begun]:
            stack.enter_context(socket.create_connection((HOST, federation.port))).sendall(words)
        yield


def _client_hello() -> bytes:
    """The first flight of a TLS handshake."""
    context = ssl.create_default_context()
    context.check_hostname = False
    outgoing = ssl.MemoryBIO()
    halfway = context.wrap_bio(ssl.MemoryBIO(), outgoing)
    try:
        halfway.do_handshake()
    except ssl.SSLWantReadError:
        return outgoing.read()
    raise RuntimeError("a handshake without the other side")


def gateway(federation: Rehearsal) -> int:
    """The process id of the gateway."""
    wanted = ["tacit_server.gateway", str(federation.server)]
    found = [pid for pid in map(int, filter(str.isdigit, os.listdir("/proc"))) if _words(pid)[-2:] == wanted]
    assert len(found) == 1
    return found[0]


def memory(pid: int) -> int:
    """Bytes that a process has in memory."""
    lines = Path(f"/proc/{pid}/status").read_text().splitlines()
    (line,) = [line for line in lines if line.startswith("VmRSS")]
    return int(line.split()[1]) * 1024


def descriptors(pid: int) -> int:
    """Files and connections that a process has open."""
    return len(os.listdir(f"/proc/{pid}/fd"))


def wait_until(condition: Callable[[], bool], *, seconds: float, what: str) -> None:
    """Wait until `condition`; fails after `seconds`."""
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline, f"{what} did not happen within {seconds} s"
        time.sleep(0.05)


def write_data(path: Path, *, seed: int, examples: int = 60) -> Path:
    """Pictures of noise of three classes, the class being where it is bright."""
    rng = np.random.default_rng(seed)
    labels = rng.integers(3, size=examples)
    images = rng.integers(60, size=(examples, SIDE, SIDE), dtype=np.uint8)
    images[np.arange(examples), labels] += 150
    np.savez(path, x=images, y=labels)
    return path


def write_job(path: Path, *, partners: int, threshold: int | None = None, rounds: int = 1) -> Path:
    """A job of seconds, without secure aggregation, that begins with so many partners."""
    aggregation = {"secure": False, "min_cohort": partners, "threshold": threshold or partners}
    options = {"shape": [SIDE, SIDE]}
    job = {
        "name": "small",
        "task": {"kind": "image-classification", "model": "cnn", "options": options, "labels": ["0", "1", "2"]},
        "training": {"rounds": rounds, "local_steps": 1, "batch_size": 16, "learning_rate": 0.1},
        "privacy": {"mechanism": "dp-sgd", "noise_multiplier": 20.0, "delta": 1e-5, "max_grad_norm": 1.0},
        "aggregation": aggregation,
        "evaluation": {"every": 100, "partner_holdout": 0.0},
    }
    path.write_text(tomli_w.dumps(job), encoding="utf-8")
    return path


def _words(pid: int) -> list[str]:
    try:
        return Path(f"/proc/{pid}/cmdline").read_bytes().decode().rstrip("\0").split("\0")
    except OSError:
        return []


def _same(content: bytes) -> bytes:
    return content
