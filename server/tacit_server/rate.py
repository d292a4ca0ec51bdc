"""How much one caller may ask: how often, how many calls at a time, and for how long."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager

__all__ = ["Calls", "Rate", "within"]


class Rate:
    """A bucket of `burst` tokens that fills with `pace` a second; safe for many threads."""

    def __init__(self, *, pace: float = 50.0, burst: float = 200.0) -> None:
        self._pace, self._burst = pace, burst
        self._tokens, self._at = burst, time.monotonic()
        self._lock = threading.Lock()

    def spend(self) -> bool:
        """Take a token; False where there is none."""
        with self._lock:
            now = time.monotonic()
            self._tokens = min(self._burst, self._tokens + (now - self._at) * self._pace)
            self._at = now
            if self._tokens < 1.0:
                return False
            self._tokens -= 1.0
            return True


class Calls:
    """Everybody's calls; safe for many threads.

    Args:
        most: open calls of one caller.

    Guarantee: one caller, however many connections it opens, takes no more than `most` of the calls that the gateway
    can serve at a time.
    """

    def __init__(self, *, most: int = 8) -> None:
        self._most = most
        self._rates: dict[str, Rate] = {}
        self._open: dict[str, int] = {}
        self._lock = threading.Lock()

    def begin(self, caller: str) -> bool:
        """Open a call, which `end` ends; False where there are too many, or too many a second."""
        with self._lock:
            if not self._rates.setdefault(caller, Rate()).spend() or self._open.get(caller, 0) >= self._most:
                return False
            self._open[caller] = self._open.get(caller, 0) + 1
            return True

    def end(self, caller: str) -> None:
        """A call that `begin` opened is over."""
        with self._lock:
            self._open[caller] -= 1


@contextmanager
def within(seconds: float, *, otherwise: Callable[[], object]) -> Iterator[None]:
    """Call `otherwise`, in another thread, where the body takes longer than `seconds`."""
    watch = threading.Timer(seconds, otherwise)
    watch.daemon = True
    watch.start()
    try:
        yield
    finally:
        watch.cancel()
