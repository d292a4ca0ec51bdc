"""Who else is on loopback: whose process is at the other end of a connection, as Linux tells it in /proc/net/tcp.

Flower's APIs (1.41) ask nobody on loopback for a password, and one of them runs whatever program it is handed. Every
user of the machine can reach loopback, so connections of others than this process's own user are closed before a byte
of theirs is read. Where there is no such file, as on other systems than Linux, nobody else may have an account.
"""

from __future__ import annotations

import os
import socket
import struct
from pathlib import Path

__all__ = ["Address", "connected", "forget_proxies", "listens"]

Address = tuple[str, int]
"""IPv4 address and port."""

_TABLE = Path("/proc/net/tcp")
_LISTEN = "0A"  # include/net/tcp_states.h
_NOBODY = "0"  # inode of a socket that no process has any more; its user then reads as 0


def connected(client: Address, server: Address) -> bool:
    """Whether this process's user has `client`, the far end of a connection to `server`.

    Guarantee: False for a connection of another user, and for one whose process has closed it or is gone: it no longer
    tells whose it was. True where this system does not say.
    """
    return _mine([(_hex(client), _hex(server))], state=None)


def listens(port: int) -> bool:
    """Whether this process's user listens on `port` of 127.0.0.1. True where this system does not say."""
    return _mine([(_hex((host, port)), "00000000:0000") for host in ("127.0.0.1", "0.0.0.0")], state=_LISTEN)


def forget_proxies() -> None:
    """Take out of this process's environment, which children get, whatever names a proxy.

    Guarantee: what is said over loopback is said to nobody else: Flower's clients would ask a proxy for 127.0.0.1 too
    wherever the machine has one and `no_proxy` does not name that address.
    """
    for name in [name for name in os.environ if name.lower().endswith("_proxy")]:
        del os.environ[name]


def _mine(wanted: list[tuple[str, str]], *, state: str | None) -> bool:
    try:
        lines = _TABLE.read_text(encoding="ascii").splitlines()[1:]
    except FileNotFoundError:
        return True
    found = [words for words in map(str.split, lines) if (words[1], words[2]) in wanted and state in (None, words[3])]
    return bool(found) and all(words[9] != _NOBODY and int(words[7]) == os.geteuid() for words in found)


def _hex(address: Address) -> str:
    """As the table writes it: the four bytes as one number of this machine, in hex."""
    (number,) = struct.unpack("=I", socket.inet_aton(address[0]))
    return f"{number:08X}:{address[1]:04X}"
