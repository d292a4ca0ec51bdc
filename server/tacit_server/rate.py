"""How often one may ask: a bucket of tokens that fills at a steady pace."""

from __future__ import annotations

import threading
import time

__all__ = ["Rate"]


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
