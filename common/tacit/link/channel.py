"""What both ends of the link agree on below the messages: TLS, keepalive and limits.

TLS is always mutual, versions 1.2 and 1.3 as gRPC's BoringSSL offers them; there is no option to do without.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import grpc

from tacit.link.pieces import PIECE

__all__ = ["CLIENT_OPTIONS", "SERVER_OPTIONS", "Files", "client_channel", "server_credentials"]

Files = tuple[bytes, bytes, bytes]
"""Key, certificate and the authority's certificate, each PEM."""

_MOST = 2 * PIECE  # bytes of one gRPC message; an envelope with the tree of an 8 GB model has 200 kB
_PING = 10_000  # milliseconds of silence after which a side asks whether the other is there; NATs forget after 60 s
_PONG = 10_000  # milliseconds to answer

CLIENT_OPTIONS: list[tuple[str, Any]] = [
    ("grpc.max_receive_message_length", _MOST),
    ("grpc.max_send_message_length", _MOST),
    ("grpc.keepalive_time_ms", _PING),
    ("grpc.keepalive_timeout_ms", _PONG),
    ("grpc.http2.ping_timeout_ms", _PONG),  # of a process that hangs while its system still acknowledges; else 60 s
    ("grpc.keepalive_permit_without_calls", 1),
    ("grpc.http2.max_pings_without_data", 0),
    ("grpc.initial_reconnect_backoff_ms", 200),
    ("grpc.min_reconnect_backoff_ms", 200),
    ("grpc.max_reconnect_backoff_ms", 5_000),
    ("grpc.enable_retries", 0),  # what is asked again is decided here, not below
    ("grpc.enable_http_proxy", 0),  # the address of the invitation and no other
    ("grpc.use_local_subchannel_pool", 1),  # a new certificate means a new connection
]

SERVER_OPTIONS: list[tuple[str, Any]] = [
    ("grpc.max_receive_message_length", _MOST),
    ("grpc.max_send_message_length", _MOST),
    ("grpc.max_metadata_size", 8_192),
    ("grpc.max_concurrent_streams", 8),  # of one connection: a partner needs two
    ("grpc.so_reuseport", 0),  # or two gateways would share a port in silence
    ("grpc.server_handshake_timeout_ms", 10_000),  # a connection that says nothing is closed
    ("grpc.max_connection_idle_ms", 60_000),  # one without a call too
    ("grpc.keepalive_time_ms", _PING),
    ("grpc.keepalive_timeout_ms", _PONG),
    ("grpc.http2.ping_timeout_ms", _PONG),  # of a process that hangs while its system still acknowledges; else 60 s
    ("grpc.http2.max_pings_without_data", 0),
    ("grpc.http2.min_ping_interval_without_data_ms", 5_000),
]


def client_channel(address: str, files: Files) -> grpc.Channel:
    """A connection to the gateway at `address` (host:port) with a partner's or an invitation's certificate."""
    key, certificate, authority = files
    credentials = grpc.ssl_channel_credentials(authority, key, certificate)
    return grpc.secure_channel(address, credentials, options=CLIENT_OPTIONS)


def server_credentials(files: Callable[[], Files]) -> grpc.ServerCredentials:
    """The gateway's side. `files` is asked at every handshake, so that a renewed certificate is served at once.

    Guarantee: who has no certificate that the authority signed and that is in date never reaches a handler.
    """
    current = files()

    def fetch() -> grpc.ServerCertificateConfiguration | None:
        nonlocal current
        found = files()
        if found == current:
            return None  # as before
        current = found
        return _configuration(found)

    return grpc.dynamic_ssl_server_credentials(_configuration(current), fetch, require_client_authentication=True)


def _configuration(files: Files) -> grpc.ServerCertificateConfiguration:
    key, certificate, authority = files
    return grpc.ssl_server_certificate_configuration([(key, certificate)], authority)
