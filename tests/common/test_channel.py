"""A partner's certificate makes no gateway, whatever the partner is called."""

from __future__ import annotations

from collections.abc import Callable
from concurrent import futures
from datetime import timedelta

import grpc
import pytest

from tacit.link.certificates import Role, issue, make_authority, make_key, make_request
from tacit.link.channel import Files, client_channel, server_credentials

DAY = timedelta(days=1)


@pytest.fixture(scope="module")
def issued() -> Callable[[Role], Files]:
    key, authority = make_authority(name="authority-1", lifetime=DAY)

    def make(role: Role) -> Files:
        own = make_key()
        hosts = ("localhost",) if role is Role.GATEWAY else ()
        certificate = issue(
            authority_key=key,
            authority=authority,
            request=make_request(own, name="localhost"),
            role=role,
            name="localhost",
            lifetime=DAY,
            hosts=hosts,
        )
        return bytes(own), certificate, authority

    return make


@pytest.mark.parametrize("server", [Role.GATEWAY, Role.PARTNER, Role.INVITATION])
@pytest.mark.parametrize("client", [Role.PARTNER, Role.GATEWAY])
def test_only_a_gateway_is_believed_to_be_one_and_only_others_may_call(issued, server, client):
    listener = grpc.server(futures.ThreadPoolExecutor(1))
    files = issued(server)
    port = listener.add_secure_port("localhost:0", server_credentials(lambda: files))
    listener.start()
    try:
        with client_channel(f"localhost:{port}", issued(client)) as channel, pytest.raises(grpc.RpcError) as caught:
            channel.unary_unary("/nothing/is")(b"", timeout=5)
    finally:
        listener.stop(None).wait()
    reached = (server, client) == (Role.GATEWAY, Role.PARTNER)
    assert (caught.value.code() is grpc.StatusCode.UNIMPLEMENTED) == reached, caught.value.details()
