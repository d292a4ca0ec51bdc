"""Flower's SuperLink as a process that ends with its parent: `python -m tacit_server.superlink_child FLAGS`."""

from __future__ import annotations

import logging
import os
import signal
import sys
import threading
import time
from contextlib import suppress

from tacit_server.parent import end_with_parent

__all__ = ["main"]

_LOOK = 1.0  # seconds


def main() -> None:
    """Run flower-superlink with this process's arguments."""
    end_with_parent()
    threading.Thread(target=_watch_helper, name="helper", daemon=True).start()
    # A line for every request would be all that the log holds.
    logging.getLogger("uvicorn.access").addFilter(lambda record: False)
    from flwr.superlink.cli.flower_superlink import flower_superlink

    sys.argv[0] = "flower-superlink"
    flower_superlink()


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
