"""The least that carrying a model there and back can cost: its bytes through gRPC, and nothing around them.

`python loopback.py PORT [KEY CERTIFICATE AUTHORITY]` is the end that gives back what it got.
"""

from __future__ import annotations

import os
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from concurrent import futures
from datetime import timedelta
from pathlib import Path

import grpc

from tacit.link import certificates, keyfile
from tacit.link.certificates import Role
from tacit.link.channel import Files, client_channel, server_credentials
from tacit.link.pieces import PIECE
from tacit_sim.rehearsal import HOST, free_port

__all__ = ["loopback_seconds", "main"]

_CALL = "/copy/Echo"
_DAY = timedelta(days=1)
_PATIENCE = 60.0  # seconds for the other process to start
_SLACK = 1024  # bytes of a message beside its piece


def loopback_seconds(length: int, *, repeats: int, tls: Path | None) -> list[float]:
    """Seconds to carry `length` bytes to another process of this machine and back, over loopback.

    Args:
        length: of the bytes each way.
        repeats: measurements; one more before them is thrown away.
        tls: an empty folder for keys, for mutual TLS as the link has it; None for no TLS.
    """
    port = free_port()
    files = None if tls is None else _make_files(tls)
    words = [] if tls is None else [str(tls / name) for name in ("key.pem", "certificate.pem", "authority.pem")]
    # By its file, as its package would load torch first.
    other = subprocess.Popen([sys.executable, "-P", __file__, str(port), *words], stdin=subprocess.PIPE, env=_place())
    try:
        with _channel(port, files) as channel:
            grpc.channel_ready_future(channel).result(_PATIENCE)
            return [_once(channel, length) for _ in range(repeats + 1)][1:]
    finally:
        other.kill()
        other.wait()


def _place() -> dict[str, str]:
    """This environment, in which the other process finds the same packages."""
    return os.environ | {"PYTHONPATH": os.pathsep.join(filter(None, sys.path))}


def _once(channel: grpc.Channel, length: int) -> float:
    content = bytes(length)
    echo = channel.stream_stream(_CALL)
    started = time.perf_counter()
    found = sum(len(piece) for piece in echo(_pieces(content)))
    if found != length:
        raise RuntimeError(f"expected {length} bytes back, found {found}")
    return time.perf_counter() - started


def _pieces(content: bytes) -> Iterator[bytes]:
    for start in range(0, len(content), PIECE):
        yield content[start : start + PIECE]


def _echo(pieces: Iterator[bytes], context: grpc.ServicerContext) -> Iterator[bytes]:
    yield from list(pieces)  # all of it first, as a partner trains before it answers


def _channel(port: int, files: Files | None) -> grpc.Channel:
    if files is not None:
        return client_channel(f"{HOST}:{port}", files)
    return grpc.insecure_channel(f"{HOST}:{port}", options=_options())


def _options() -> list[tuple[str, int]]:
    most = PIECE + _SLACK
    return [("grpc.max_receive_message_length", most), ("grpc.max_send_message_length", most)]


def _make_files(folder: Path) -> Files:
    """Keys for both ends under one authority: the partner's are returned, the server's are in `folder`."""
    authority_key, authority = certificates.make_authority(name="copy", lifetime=_DAY)
    server, partner = certificates.make_key(), certificates.make_key()

    def issue(key: bytes, role: Role, hosts: Sequence[str]) -> bytes:
        request = certificates.make_request(key, name="copy")
        return certificates.issue(
            authority_key=authority_key, authority=authority, request=request, role=role, name="copy", lifetime=_DAY,
            hosts=hosts,
        )  # fmt: skip

    keyfile.write(folder / "key.pem", server)
    keyfile.write(folder / "certificate.pem", issue(server, Role.GATEWAY, (HOST,)))
    keyfile.write(folder / "authority.pem", authority)
    return partner, issue(partner, Role.PARTNER, ()), authority


def main(argv: list[str]) -> int:
    """Give back what comes, until the standard input ends."""
    handler = grpc.stream_stream_rpc_method_handler(_echo)
    server = grpc.server(futures.ThreadPoolExecutor(2), options=_options())
    server.add_generic_rpc_handlers([grpc.method_handlers_generic_handler("copy", {"Echo": handler})])
    address = f"{HOST}:{argv[0]}"
    if argv[1:]:
        key, certificate, authority = (Path(name).read_bytes() for name in argv[1:4])
        server.add_secure_port(address, server_credentials(lambda: (key, certificate, authority)))
    else:
        server.add_insecure_port(address)
    server.start()
    sys.stdin.read()
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
