"""Flower's SuperLink as a process that ends with its parent: `python -m tacit_server.superlink_child FLAGS`."""

from __future__ import annotations

import asyncio
import logging
import os
import signal
import sys
import threading
import time
from collections.abc import Mapping
from contextlib import suppress
from functools import partial
from typing import Any

from tacit_server.neighbours import connected
from tacit_server.parent import end_with_parent

__all__ = ["main"]

_log = logging.getLogger(__name__)

_LOOK = 1.0  # seconds
_CALLS = ("pull-messages", "push-messages", "pull-object", "push-object", "confirm-message-received")
_PLAIN = frozenset(f"/v1/{api}/{call}" for api in ("fleet", "runtime") for call in _CALLS)


def main() -> None:
    """Run flower-superlink with this process's arguments.

    Guarantee: no other user of this machine is answered, where the system tells who connects.
    """
    end_with_parent()
    threading.Thread(target=_watch_helper, name="helper", daemon=True).start()
    # A line for every request would be all that the log holds.
    logging.getLogger("uvicorn.access").addFilter(lambda record: False)
    import uvicorn
    from flwr.superlink.cli.flower_superlink import flower_superlink

    uvicorn.run = partial(uvicorn.run, http=_guarded())
    _unburden()
    sys.argv[0] = "flower-superlink"
    flower_superlink()


def _guarded() -> type[asyncio.Protocol]:
    """Uvicorn's protocol, which lets nobody in but this process's own user."""
    from uvicorn.protocols.http.auto import AutoHTTPProtocol

    class Guarded(AutoHTTPProtocol):  # type: ignore[misc, valid-type]  # which one it is, is chosen at run time
        def connection_made(self, transport: asyncio.Transport) -> None:
            super().connection_made(transport)
            if not connected(transport.get_extra_info("peername"), transport.get_extra_info("sockname")):
                _log.warning("another user of this machine was turned away")
                transport.abort()

    return Guarded


def _unburden() -> None:
    """Lead messages past the layers of Flower's HTTP server that do nothing for them.

    Each layer costs every request half a millisecond, and a round with a few partners is a hundred requests. Four of
    them are about the Control API alone, whose requests pass all of them as before; one writes events to a plugin, of
    which there is none; one traces tasks, which are asked for at other paths.
    """
    from flwr.supercore.routers.runtime.tracing import RuntimeTracingMiddleware
    from flwr.superlink.routers.control import middlewares as control
    from flwr.superlink.routers.fleet.middlewares import FleetEventLogMiddleware

    for layer in (
        control.ControlSensitiveResponseMiddleware,
        control.ControlAuthenticationMiddleware,
        control.ControlLicenseMiddleware,
        control.ControlEventLogMiddleware,
        FleetEventLogMiddleware,
        RuntimeTracingMiddleware,
    ):
        _skip(layer)


def _skip(layer: Any) -> None:
    """Have `layer` pass on what comes for the paths of `_PLAIN`."""
    whole = layer.__call__

    async def call(self: Any, scope: Mapping[str, Any], receive: Any, send: Any) -> None:
        plain = scope["type"] == "http" and scope["path"] in _PLAIN
        await (self.app(scope, receive, send) if plain else whole(self, scope, receive, send))

    layer.__call__ = call


def _watch_helper() -> None:
    """End this process when its SuperExec ended: Flower would go on without, and start no run ever again."""
    while True:
        time.sleep(_LOOK)
        with suppress(ChildProcessError):  # none yet
            if os.waitid(os.P_ALL, 0, os.WEXITED | os.WNOHANG | os.WNOWAIT) is not None:
                os.kill(os.getpid(), signal.SIGTERM)
                return


if __name__ == "__main__":
    main()
