"""The run as a Flower ServerApp."""

from __future__ import annotations

import threading
from collections.abc import Callable

from flwr.app import Context
from flwr.serverapp import Grid, ServerApp

from tacit_server.checkpoint import RunState
from tacit_server.rounds import Setup, federate

__all__ = ["make_server_app"]


def make_server_app(setup: Setup, state: RunState, done: Callable[[RunState], None]) -> ServerApp:
    """A ServerApp that runs the rounds `state` still lacks and hands the final state to `done`."""
    app = ServerApp()

    @app.main()
    def main(grid: Grid, context: Context) -> None:
        try:
            done(federate(grid, setup, state))
        except KeyboardInterrupt:
            # Flower may call this in a thread of its own, where nobody would hear it but the terminal.
            if threading.current_thread() is threading.main_thread():
                raise

    return app
