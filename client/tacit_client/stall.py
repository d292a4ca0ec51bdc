"""Calls that stand still: given up, so that a server that says nothing holds a partner for no longer than that."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from typing import TypeVar

__all__ = ["Stall"]

T = TypeVar("T")


class Stall:
    """Watches one call.

    Args:
        silence: seconds in which nothing may move.
    """

    def __init__(self, *, silence: float) -> None:
        self._silence = silence
        self._moved, self._over = threading.Event(), threading.Event()

    def along(self, things: Iterable[T]) -> Iterator[T]:
        """`things`, each of which is a move."""
        for thing in things:
            self._moved.set()
            yield thing

    @contextmanager
    def watch(self, give_up: Callable[[], object]) -> Iterator[None]:
        """Call `give_up`, in another thread, where nothing moves for too long while the body runs."""
        threading.Thread(target=self._look, args=(give_up,), name="stall", daemon=True).start()
        try:
            yield
        finally:
            self._over.set()
            self._moved.set()

    def _look(self, give_up: Callable[[], object]) -> None:
        while self._moved.wait(self._silence):
            self._moved.clear()
            if self._over.is_set():
                return
        give_up()
