"""The way to the server, step by step, so that each fault has its own remedy: name, TCP, TLS, admission, clock.

The link itself is gRPC's and says of all this only that there is no connection. What is tried here ends before a
message is sent; `calls.greet` then asks as the link does.
"""

from __future__ import annotations

import os
import socket
import ssl
import time
from collections.abc import Callable, Iterator
from concurrent.futures import Future
from contextlib import contextmanager
from threading import Thread
from typing import Any

from tacit.errors import BadInput
from tacit.link.names import check_address
from tacit_client.calls import Greeted, greet
from tacit_client.checkup.finding import Said
from tacit_client.keys import Keys
from tacit_client.site import Folder

__all__ = ["admission", "clock", "handshake", "name", "open_port"]

PATIENCE = 10.0  # seconds for each step
_ASK_OPERATOR = "is server.address in site.toml that of your own federation? else ask its operator for a new invitation"
_EXPIRED, _NOT_YET, _WRONG_HOST, _WRONG_ADDRESS = 10, 9, 62, 64  # OpenSSL's X509_V_ERR_ numbers
_NEAR, _FAR = 60.0, 3600.0  # seconds that clocks may differ before it is said, and before nothing goes

_Places = list[tuple[Any, ...]]


def name(folder: Folder) -> Said[None]:
    """The server's host name is known. Raises BadInput where it is not."""
    host, port = check_address(folder.config.server.address)
    try:
        found = _in_time(lambda: socket.getaddrinfo(host, port, type=socket.SOCK_STREAM))
    except (OSError, TimeoutError) as error:
        raise BadInput(
            f"expected an address of {host}, found none: {_reason(error)}",
            hint="correct server.address in site.toml, or see whether this machine's name service works",
        ) from None
    addresses = ", ".join(dict.fromkeys(str(place[4][0]) for place in found))
    return Said(f"{host} is {addresses}" if addresses != host else f"{host}, which needs no name service", None)


def open_port(folder: Folder) -> Said[None]:
    """Something listens there, and this machine may reach it. Raises BadInput."""
    address = folder.config.server.address
    try:
        socket.create_connection(check_address(address), timeout=PATIENCE).close()
    except ConnectionRefusedError:
        raise BadInput(
            f"expected the server at {address}, found that nothing listens there",
            hint="ask the operator whether tacit-server up runs and has this port; else correct server.address in "
            "site.toml",
        ) from None
    except OSError as error:
        raise BadInput(
            f"expected the server at {address}, found no way there: {_reason(error)}",
            hint="have the firewalls on the way let this machine out to that address and port; is that machine on?",
        ) from None
    return Said(f"{address} answers", None)


def handshake(folder: Folder, keys: Keys) -> Said[None]:
    """Both sides take the other's certificate. Raises BadInput with the side that does not."""
    address = folder.config.server.address
    host, port = check_address(address)
    try:
        with (
            socket.create_connection((host, port), timeout=PATIENCE) as plain,
            _context(folder, keys).wrap_socket(plain, server_hostname=host) as wrapped,
        ):
            said = wrapped.recv(1)  # in TLS 1.3 what the server thinks of our certificate comes after the handshake
    except ssl.SSLCertVerificationError as error:
        raise _untrusted(address, error) from None
    except ssl.SSLError as error:
        raise _no_handshake(address, error.reason or "an error") from None
    except OSError as error:
        raise _no_handshake(address, _reason(error)) from None
    if not said:
        raise _no_handshake(address, "a connection that was closed")
    return Said("each side knows the other's certificate", None)


def admission(folder: Folder, keys: Keys) -> Said[Greeted]:
    """The gateway lets this partner in. Raises BadInput with its reason."""
    found = greet(folder.config.server.address, keys.files(), timeout=PATIENCE)
    return Said(f"the server admits {folder.config.name}", found)


def clock(greeted: Greeted, *, now: Callable[[], float] = time.time) -> Said[None]:
    """This machine's clock beside the server's."""
    off = now() - greeted.clock
    words = f"{abs(off):.0f} s {'ahead of' if off > 0 else 'behind'} the server's"
    remedy = "set this machine's clock, best by a time service; if it is right, tell the operator"
    if abs(off) > _FAR:
        return Said(words, None, "FAIL", remedy)
    return Said(words, None, "warn", remedy) if abs(off) > _NEAR else Said(words, None)


def _context(folder: Folder, keys: Keys) -> ssl.SSLContext:
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.minimum_version = ssl.TLSVersion.TLSv1_2
    context.set_alpn_protocols(["h2"])
    context.load_verify_locations(cadata=keys.authority.decode("ascii"))
    with _readable(keys.files()[0]) as key:
        context.load_cert_chain(folder.keys / "link.pem", key)
    return context


@contextmanager
def _readable(key: bytes) -> Iterator[str]:
    """A name under which `ssl`, which takes keys from files alone, reads `key`: a pipe, as the key may lie sealed."""
    reading, writing = os.pipe()
    try:
        with os.fdopen(writing, "wb") as file:
            file.write(key)  # some hundred bytes, which a pipe takes at once
        yield f"/dev/fd/{reading}"
    finally:
        os.close(reading)


def _untrusted(address: str, error: ssl.SSLCertVerificationError) -> BadInput:
    """The server's certificate is not taken here."""
    said = f"expected the certificate of this federation's server at {address}, found"
    match error.verify_code:
        case code if code in (_EXPIRED, _NOT_YET):
            return BadInput(
                f"{said} one that is not in date", hint="is this machine's clock right? if so, tell the operator"
            )
        case code if code in (_WRONG_HOST, _WRONG_ADDRESS):
            return BadInput(
                f"{said} one for another address", hint="write server.address in site.toml as the invitation had it"
            )
    return BadInput(f"{said} one that this federation did not issue", hint=_ASK_OPERATOR)


def _no_handshake(address: str, found: str) -> BadInput:
    return BadInput(
        f"expected a TLS handshake with {address}, found {found.lower().replace('_', ' ')}",
        hint=f"is it a tacit server that listens there? {_ASK_OPERATOR}",
    )


def _reason(error: OSError) -> str:
    if isinstance(error, TimeoutError):
        return f"no answer within {PATIENCE:.0f} s"
    return error.strerror or type(error).__name__


def _in_time(ask: Callable[[], _Places]) -> _Places:
    """What `ask` gives; name services know no timeout. Raises TimeoutError, or what `ask` raises."""
    answer: Future[_Places] = Future()

    def work() -> None:
        try:
            answer.set_result(ask())
        except OSError as error:
            answer.set_exception(error)

    Thread(target=work, daemon=True).start()
    return answer.result(timeout=PATIENCE)
