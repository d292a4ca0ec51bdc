"""Certificates and the way to the server, as the doctor looks at them: sound, and broken in each of its steps."""

from __future__ import annotations

import shutil
import socket
import ssl
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import UTC, datetime, timedelta
from pathlib import Path

import folders
import pytest
from hypothesis import given
from hypothesis import strategies as st

from tacit.errors import BadInput
from tacit.link import certificates, keyfile
from tacit.link.certificates import Role
from tacit.passphrase import read_passphrase
from tacit_client import strongbox
from tacit_client.calls import Greeted
from tacit_client.checkup import connection, papers
from tacit_client.keys import Keys
from tacit_client.sealing import seal
from tacit_client.site import Folder

HOST = "127.0.0.1"


@pytest.fixture
def folder(tmp_path) -> Folder:
    """Of hospital `a`, which has accepted `b` and `c`; data of 90 examples."""
    data = folders.write_npz(tmp_path / "data.npz", n=90, seed=1)
    return folders.make_folders(tmp_path, dict.fromkeys("abc", data))["a"]


def _certified(folder: Folder, *, lifetime: timedelta = timedelta(days=90)) -> Keys:
    """Keys of an authority of this test, with a certificate of the folder's partner."""
    key, authority = certificates.make_authority(name="authority", lifetime=timedelta(days=400))
    shutil.rmtree(folder.keys)
    keys = Keys.make(folder.keys, authority=authority, server=folders.identity_of(folders.SIGNING))
    keys.keep(
        certificates.issue(
            authority_key=key, authority=authority, request=keys.request("a"), role=Role.PARTNER, name="a",
            lifetime=lifetime,
        )
    )  # fmt: skip
    return keys


@pytest.mark.parametrize(
    ("days", "verdict", "words"),
    [(-2, "FAIL", "not valid before"), (0, "ok", "of a, until"), (79, "ok", "of a"), (81, "warn", "ends"),
     (91, "FAIL", "expired")],
)  # fmt: skip
def test_a_certificate_is_in_date(folder, days, verdict, words):
    keys, now = _certified(folder), datetime.now(UTC)
    said = papers.certificate(keys, now=now + timedelta(days=days))
    assert (said.verdict, said.found[: len(words)]) == (verdict, words)
    assert bool(said.remedy) == (verdict != "ok")
    if verdict == "FAIL":
        assert f"{now + timedelta(days=days):%Y-%m-%d %H:%M} UTC" in said.found
    assert papers.authority(keys, now=now).verdict == "ok"
    assert papers.authority(keys, now=now + timedelta(days=399)).verdict == "warn"


def test_a_certificate_that_is_missing(folder):
    with pytest.raises(BadInput, match="found none yet"):
        papers.certificate(Keys(folder.keys))


def _at(folder: Folder, port: int, *, host: str = HOST) -> Folder:
    return folders.again(folder, "fl.example.org:9443", f"{host}:{port}")


@contextmanager
def _listening() -> Iterator[socket.socket]:
    with socket.socket() as listener:
        listener.bind((HOST, 0))
        listener.listen(8)
        yield listener


@contextmanager
def _answering(answer, *, count: int = 1) -> Iterator[int]:
    """A port where `answer` gets so many connections."""
    with _listening() as listener:

        def work() -> None:
            for _ in range(count):
                with listener.accept()[0] as opened:
                    answer(opened)

        thread = threading.Thread(target=work, daemon=True)
        thread.start()
        yield listener.getsockname()[1]
        thread.join(10)


def test_a_name_that_nobody_knows(folder, monkeypatch):
    assert connection.name(_at(folder, 9)).found == "127.0.0.1, which needs no name service"

    def unknown(*where, **how):
        raise socket.gaierror(-2, "Name or service not known")

    monkeypatch.setattr(socket, "getaddrinfo", unknown)
    with pytest.raises(BadInput, match=r"expected an address of 127.0.0.1, found none: Name or service"):
        connection.name(Folder.open(folder.path))


def test_a_name_service_that_never_answers_is_not_waited_for(folder, monkeypatch):
    over = threading.Event()
    monkeypatch.setattr(socket, "getaddrinfo", lambda *where, **how: over.wait(60) and [])
    monkeypatch.setattr(connection, "PATIENCE", 0.1)
    with pytest.raises(BadInput, match="no answer within"):
        connection.name(folder)
    over.set()


def test_a_port_where_nothing_listens_and_one_that_is_walled_off(folder, monkeypatch):
    with _listening() as listener:
        port = listener.getsockname()[1]
    folder = _at(folder, port)
    with pytest.raises(BadInput, match=f"server at {HOST}:{port}, found that nothing listens") as caught:
        connection.open_port(folder)
    assert "tacit-server up" in caught.value.hint

    def silent(*where, **how):
        raise TimeoutError

    monkeypatch.setattr(socket, "create_connection", silent)
    with pytest.raises(BadInput, match="found no way there: no answer within 10 s") as caught:
        connection.open_port(folder)
    assert "firewall" in caught.value.hint


def _greets(opened: socket.socket) -> None:
    opened.sendall(b"SSH-2.0-OpenSSH_9.6\r\n")
    opened.recv(10_000)


def _hangs_up(opened: socket.socket) -> None:
    opened.recv(10_000)


@pytest.mark.parametrize(("answer", "found"), [(_greets, "wrong version number"), (_hangs_up, "")])
def test_another_service_on_the_port(folder, answer, found):
    keys = _certified(folder)
    with (
        _answering(answer) as port,
        pytest.raises(BadInput, match=f"handshake with .*{port}, found .*{found}") as caught,
    ):
        connection.handshake(_at(folder, port), keys)
    assert "is it a tacit server that listens there?" in caught.value.hint


def test_a_port_that_says_nothing_is_not_waited_for(folder, monkeypatch):
    keys, over = _certified(folder), threading.Event()
    monkeypatch.setattr(connection, "PATIENCE", 0.2)
    with _answering(lambda opened: over.wait(10)) as port:
        with pytest.raises(BadInput, match=r"handshake with .*, found no answer within"):
            connection.handshake(_at(folder, port), keys)
        over.set()


def _server(
    place: Path, *, lifetime: timedelta, host: str, now: datetime | None = None
) -> tuple[bytes, ssl.SSLContext]:
    """The authority of another federation, and its gateway's side of TLS."""
    key, authority = certificates.make_authority(name="authority", lifetime=timedelta(days=400))
    own = certificates.make_key()
    issued = certificates.issue(
        authority_key=key, authority=authority, request=certificates.make_request(own, name="gateway"),
        role=Role.GATEWAY, name="gateway", lifetime=lifetime, hosts=(host,), now=now,
    )  # fmt: skip
    keyfile.write(place / "own.key", own)
    keyfile.write(place / "own.pem", issued)
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(place / "own.pem", place / "own.key")
    return authority, context


@pytest.mark.parametrize("sealed", [False, True])
def test_each_side_takes_the_others_certificate(folder, tmp_path, monkeypatch, sealed):
    keys = _certified(folder)
    theirs, context = _server(tmp_path, lifetime=timedelta(days=1), host=HOST)
    context.verify_mode = ssl.CERT_REQUIRED
    context.load_verify_locations(cadata=keys.authority.decode())
    if sealed:  # with the passphrase in the file that the variable names
        keyfile.write(tmp_path / "words", b"correct horse battery staple\n")
        monkeypatch.setenv(strongbox.VARIABLE, str(tmp_path / "words"))
        seal(folder.keys / "link.key", out=None, lock=read_passphrase(tmp_path / "words"), remove=True)
        keys = Keys(folder.keys)
        assert not (folder.keys / "link.key").exists()
    keys.authority = theirs

    def answer(opened: socket.socket) -> None:
        with context.wrap_socket(opened, server_side=True) as wrapped:
            wrapped.sendall(b"settings")

    with _answering(answer) as port:
        assert connection.handshake(_at(folder, port), keys).found == "each side knows the other's certificate"


@pytest.mark.parametrize(
    ("host", "found", "hint"),
    [
        ("elsewhere", "one that this federation did not issue", "ask its operator for a new invitation"),
        (HOST, "one that is not in date", "clock"),
        ("192.0.2.1", "one for another address", "as the invitation had it"),
    ],
)
def test_a_server_whose_certificate_is_not_taken(folder, tmp_path, host, found, hint):
    keys = _certified(folder)
    now = datetime.now(UTC) - timedelta(days=9) if host == HOST else None
    authority, context = _server(tmp_path, lifetime=timedelta(days=1), host=host, now=now)
    if host != "elsewhere":
        keys.authority = authority

    def answer(opened: socket.socket) -> None:
        with pytest.raises(ssl.SSLError):
            context.wrap_socket(opened, server_side=True)

    with _answering(answer) as port, pytest.raises(BadInput, match=found) as caught:
        connection.handshake(_at(folder, port), keys)
    assert hint in caught.value.hint


def test_a_server_that_takes_no_certificate_of_ours(folder, tmp_path):
    keys = _certified(folder)
    keys.authority, context = _server(tmp_path, lifetime=timedelta(days=1), host=HOST)
    context.verify_mode = ssl.CERT_REQUIRED
    context.load_verify_locations(cadata=keys.authority.decode())

    def answer(opened: socket.socket) -> None:
        with pytest.raises(ssl.SSLError):
            context.wrap_socket(opened, server_side=True)

    with _answering(answer) as port, pytest.raises(BadInput, match=r"handshake with .*, found .*unknown ca"):
        connection.handshake(_at(folder, port), keys)


@given(off=st.integers(-100_000, 100_000))
def test_the_clock_beside_the_servers(off):
    said = connection.clock(Greeted(1e9, None, b""), now=lambda: 1e9 + off)
    assert said.verdict == ("FAIL" if abs(off) > 3600 else "warn" if abs(off) > 60 else "ok")
    assert ("ahead of" if off > 0 else "behind") in said.found
    assert bool(said.remedy) == (said.verdict != "ok")
