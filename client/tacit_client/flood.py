"""What comes too often to be told one by one: the first of an hour whole, all others as a count."""

from __future__ import annotations

import math
from collections import Counter
from datetime import UTC, datetime
from typing import Any

__all__ = ["Flood"]

_HOUR = 3600.0


class Flood:
    """The messages of one hour after the other; an hour begins with the first message after the last one's end.

    Args:
        whole: messages of an hour that are told one by one.

    Guarantee: however many come, an hour gives at most `whole` lines and one for each doubling of the rest, and at any
    moment more than half of what was counted has been told.
    """

    def __init__(self, *, whole: int) -> None:
        self._most = self._room = whole
        self._began = -math.inf
        self._counts: Counter[str] = Counter()
        self._told, self._words = 0, ""

    def turn(self, now: float) -> dict[str, Any] | None:
        """Begin another hour where the last one is over, or lies ahead as with a clock that was set back.

        Args:
            now: seconds since 1970.

        Returns:
            What is left to be told of the last one, as `count`.
        """
        if 0 <= now - self._began < _HOUR:
            return None
        rest = self.rest()
        self._begin(now)
        return rest

    def whole(self) -> bool:
        """Whether one message more is told by itself; it is counted as that then."""
        self._room -= 1
        return self._room >= 0

    def count(self, what: str, *, words: str) -> dict[str, Any] | None:
        """Count a message that is not told by itself.

        Args:
            what: a word of a few that there are.
            words: in which it was answered.

        Returns:
            Facts of the line that is due: `since` when the hour began, what was counted in it so far, and the `last`
            words; None where none is due.
        """
        self._counts[what] += 1
        self._words = words
        return self.rest() if self._counts.total() >= 2 * self._told else None

    def rest(self) -> dict[str, Any] | None:
        """What was counted in this hour, where a part of it was not told yet."""
        if self._counts.total() == self._told:
            return None
        self._told = self._counts.total()
        since = datetime.fromtimestamp(self._began, UTC).isoformat(timespec="seconds")
        return {"since": since, "counts": dict(sorted(self._counts.items())), "last": self._words}

    def _begin(self, now: float) -> None:
        self._began, self._room, self._told = now, self._most, 0
        self._counts.clear()
