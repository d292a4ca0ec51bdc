"""A process that ends when its parent does, however the parent ended.

The parent holds the other end of the standard input; the system closes it when the parent dies, also under kill -9.
"""

from __future__ import annotations

import os
import signal
import threading
import time

__all__ = ["end_with_parent"]

_GRACE = 3.0  # seconds to end in an orderly way


def end_with_parent() -> None:
    """From now on, end this process's whole group once its standard input ends.

    The process must lead a group of its own, or it would end others.
    """
    threading.Thread(target=_watch, name="parent", daemon=True).start()


def _watch() -> None:
    while os.read(0, 1024):  # not sys.stdin: its lock would be held when the interpreter ends
        pass
    os.killpg(0, signal.SIGTERM)
    time.sleep(_GRACE)
    os.killpg(0, signal.SIGKILL)
