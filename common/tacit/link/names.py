"""What partners, hosts and addresses may be called."""

from __future__ import annotations

import re
from ipaddress import IPv6Address, ip_address

from tacit.errors import BadInput

__all__ = ["check_address", "check_host", "check_name", "join_address"]

_NAME = re.compile(r"[a-z0-9][a-z0-9-]{0,62}")  # one label of DNS (RFC 1123) in small letters: safe in files and URNs
_LABEL = re.compile(r"[a-z0-9]([a-z0-9-]{0,61}[a-z0-9])?")
_HOST_LENGTH = 253  # RFC 1035, section 2.3.4, without the final dot
_PORTS = range(1, 2**16)
_SHOWN = 80  # characters of a found text that an error repeats


def check_name(name: str) -> str:
    """`name`, where it may name a partner: a small letter or digit, then up to 62 of these or hyphens.

    Raises:
        BadInput: any other text.
    """
    if not _NAME.fullmatch(name):
        raise BadInput(
            f"expected a partner's name of a-z, 0-9 and hyphens, at most 63, found {name[:_SHOWN]!r}",
            hint="write for instance hospital-a",
        )
    return name


def check_host(host: str) -> str:
    """`host`, where partners can reach it: a DNS name in small letters, or an IP address in its usual form.

    Raises:
        BadInput: a wildcard, a URL, a host with a port, a name that is not ASCII.
    """
    try:
        address = ip_address(host)
    except ValueError:
        labels = host.split(".")
        if len(host) > _HOST_LENGTH or not all(map(_LABEL.fullmatch, labels)) or labels[-1].isdigit():
            raise _no_host(host) from None
        return host
    if address.is_unspecified or str(address) != host or "%" in host:
        raise _no_host(host)
    return host


def check_address(address: str) -> tuple[str, int]:
    """Host and port of `address`, which is written `host:port` or `[IPv6]:port`.

    Raises:
        BadInput: any other text.
    """
    host, _, port = address.rpartition(":")
    bare = host[1:-1] if host.startswith("[") and host.endswith("]") else host
    if not re.fullmatch(r"[1-9][0-9]{0,4}", port) or int(port) not in _PORTS:
        raise BadInput(
            f"expected an address as host:port, found {address[:_SHOWN]!r}", hint="write for instance host.org:9443"
        )
    if join_address(check_host(bare), port=int(port)) != address:
        raise BadInput(
            f"expected an IPv6 address in brackets, found {address[:_SHOWN]!r}",
            hint="write for instance [2001:db8::1]:9443",
        )
    return bare, int(port)


def join_address(host: str, *, port: int) -> str:
    """`host:port`, with brackets around an IPv6 address."""
    try:
        bare = not isinstance(ip_address(host), IPv6Address)
    except ValueError:
        bare = True
    return f"{host}:{port}" if bare else f"[{host}]:{port}"


def _no_host(found: str) -> BadInput:
    return BadInput(
        f"expected a host name in small letters or an IP address that partners can reach, found {found[:_SHOWN]!r}",
        hint="write for instance fl.example.org or 192.0.2.7",
    )
