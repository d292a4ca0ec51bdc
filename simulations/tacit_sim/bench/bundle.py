"""The echo as Flower's bundle, for the SuperLink: an import and nothing else."""

from __future__ import annotations

from tacit_server.submit import make_bundle

__all__ = ["echo_bundle"]

_APP = b'"""An echo."""\n\nfrom tacit_sim.bench import echo\n\nserver = echo.server\nclient = echo.client\n'


def echo_bundle() -> bytes:
    """ServerApp and ClientApp of `tacit_sim.bench.echo`; its config names a folder, as the rounds' does."""
    return make_bundle("tacit_echo", code=_APP, server="server", client="client")
