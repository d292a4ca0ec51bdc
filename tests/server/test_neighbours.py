"""Other users of the operator's machine: the SuperLink, which runs whatever it is handed, does not answer them."""

from __future__ import annotations

import os
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest

from tacit.errors import JobFailed
from tacit_server import neighbours, superlink
from tacit_server.child import environment
from tacit_server.fleet import FleetNode, Unreachable, node_key
from tacit_server.folder import Folder
from tacit_server.neighbours import connected, listens
from tacit_server.submit import Control

linux = pytest.mark.skipif(not Path("/proc/net/tcp").exists(), reason="needs /proc/net/tcp")
root = pytest.mark.skipif(os.geteuid() != 0, reason="only root can be somebody else")
NOBODY = 65534

ASK = """
import os, socket, sys
b"a".decode("idna")  # the interpreter's files may be out of another user's reach
os.setgid(int(sys.argv[2]))
os.setuid(int(sys.argv[2]))
with socket.socket() as peer:
    peer.settimeout(20)
    peer.connect(("127.0.0.1", int(sys.argv[1])))
    try:
        peer.sendall(b"GET /nowhere HTTP/1.1\\r\\nHost: a\\r\\nConnection: close\\r\\n\\r\\n")
        print(peer.recv(100).decode())
    except ConnectionError:
        pass
"""


@pytest.fixture
def listener() -> Iterator[socket.socket]:
    with socket.create_server(("127.0.0.1", 0)) as found:
        yield found


@linux
def test_one_s_own_connection_is_known(listener):
    with socket.create_connection(listener.getsockname()) as client:
        accepted, _ = listener.accept()
        with accepted:
            assert connected(client.getsockname(), listener.getsockname())
            assert not connected(("127.0.0.1", 1), listener.getsockname())  # no such connection
    assert listens(listener.getsockname()[1])
    assert not listens(1)


@linux
def test_who_has_hung_up_is_nobody(listener):
    """The system then says 0, which is root: a request that was left behind must not pass as root's."""
    client = socket.create_connection(listener.getsockname())
    accepted, _ = listener.accept()
    address = client.getsockname()
    client.sendall(b"x")
    client.close()
    time.sleep(0.1)
    with accepted:
        assert not connected(address, listener.getsockname())


@linux
def test_what_belongs_to_another_user_is_not_one_s_own(listener, monkeypatch):
    with socket.create_connection(listener.getsockname()) as client:
        _be_somebody_else(monkeypatch)
        assert not connected(client.getsockname(), listener.getsockname())
        assert not listens(listener.getsockname()[1])


def test_a_system_that_does_not_say_is_believed(monkeypatch, tmp_path):
    monkeypatch.setattr(neighbours, "_TABLE", tmp_path / "none")
    assert connected(("127.0.0.1", 1), ("127.0.0.1", 2))
    assert listens(1)


@linux
def test_a_gateway_does_not_speak_to_another_user_s_superlink(listener, monkeypatch):
    """The port of a SuperLink that ended is free for anybody to take."""
    _be_somebody_else(monkeypatch)
    port = listener.getsockname()[1]
    node = FleetNode(lambda: f"127.0.0.1:{port}", node_key(bytes(32), session="a" * 32))
    with pytest.raises(Unreachable, match="another user"):
        node.appear()


@pytest.mark.e2e
@linux
@root
def test_the_superlink_answers_nobody_else(tmp_path):
    folder = Folder(tmp_path)
    for path in (folder.state, folder.logs, folder.runs):
        path.mkdir(mode=0o700)
    process, port = superlink.start(folder)
    try:
        deadline = time.monotonic() + 60
        while not listens(port):
            assert time.monotonic() < deadline
            time.sleep(0.1)
        said = {user: _ask(port, user=user) for user in (os.geteuid(), NOBODY)}
    finally:
        process.kill()
        process.wait()
        superlink.clear(folder)
    assert said[os.geteuid()].startswith("HTTP/1.1 404")
    assert said[NOBODY].strip() == ""


def _ask(port: int, *, user: int) -> str:
    command = [sys.executable, "-c", ASK, str(port), str(user)]
    return subprocess.run(command, capture_output=True, text=True, timeout=60, check=True).stdout


def _be_somebody_else(monkeypatch: pytest.MonkeyPatch) -> None:
    user = os.geteuid()
    monkeypatch.setattr(os, "geteuid", lambda: user + 1)


@root
def test_a_process_of_another_user_that_is_called_like_ours_is_left_alone(tmp_path):
    """To end it is not allowed, and a server that tried would not start."""
    folder = Folder(tmp_path)
    script = f"import os, time; os.setuid({NOBODY}); print(flush=True); time.sleep(60)"
    command = [sys.executable, "-c", script, "--database", str(folder.flower_db)]
    with subprocess.Popen(command, stdout=subprocess.PIPE) as process:
        try:
            assert process.stdout is not None
            process.stdout.readline()
            assert superlink.remains(folder) == []
        finally:
            process.kill()


@pytest.fixture
def proxy(monkeypatch) -> Iterator[list[str]]:
    """A machine with a proxy, as its environment says; gives what the proxy was asked for."""
    asked: list[str] = []

    class Proxy(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            asked.append(self.path)
            self.send_error(502)

        def log_message(self, *args: object) -> None: ...

    with ThreadingHTTPServer(("127.0.0.1", 0), Proxy) as server:
        for name in ("http_proxy", "HTTP_PROXY", "ALL_PROXY"):
            monkeypatch.setenv(name, f"http://127.0.0.1:{server.server_port}")
        monkeypatch.setenv("no_proxy", "localhost,.hospital.org")
        threading.Thread(target=server.serve_forever, daemon=True).start()
        yield asked
        server.shutdown()


def test_no_proxy_is_asked_for_what_is_on_loopback(proxy, monkeypatch, tmp_path) -> None:
    """Guarantee: messages of partners and orders to the SuperLink leave this machine by no other way."""
    monkeypatch.setattr("tacit_server.fleet.listens", lambda port: True)
    with pytest.raises(Unreachable):
        FleetNode(lambda: "127.0.0.1:9", node_key(bytes(32), session="s")).appear()
    monkeypatch.setenv("all_proxy", "http://127.0.0.1:9")
    with pytest.raises(JobFailed):
        Control(9).alive()
    assert proxy == []
    monkeypatch.setenv("https_proxy", "http://127.0.0.1:9")
    assert [name for name in environment(Path("/bin/python"), home=tmp_path) if name.lower().endswith("_proxy")] == []
