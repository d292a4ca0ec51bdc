"""The objects of one answer between the partner and the SuperLink: in memory while they are small, else on disk."""

from __future__ import annotations

import tempfile
from collections.abc import Iterable, Iterator
from pathlib import Path
from types import TracebackType
from typing import Self

__all__ = ["Spool"]

_MEMORY = 4 * 2**20  # bytes; the rest goes to disk


class Spool:
    """Objects by name. A context: what it held is gone afterwards.

    Args:
        folder: for the file, which has no name in it where the system can do without.

    Attributes:
        lengths: bytes of every object.
    """

    def __init__(self, folder: Path) -> None:
        self._file = tempfile.SpooledTemporaryFile(_MEMORY, dir=str(folder))  # noqa: SIM115  # the context closes it
        self._starts: dict[str, int] = {}
        self.lengths: dict[str, int] = {}

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        self._file.close()

    def keep(self, objects: Iterable[tuple[str, bytes]]) -> None:
        """Take `objects` as they come; one that comes twice is the same, by its hash. Raises OSError."""
        for name, content in objects:
            if name not in self._starts:
                self._starts[name], self.lengths[name] = self._file.tell(), len(content)
                self._file.write(content)

    def read(self, name: str, most: int) -> bytes:
        """The first bytes of an object, at most so many."""
        self._file.seek(self._starts[name])
        return self._file.read(min(most, self.lengths[name]))

    def some(self, wanted: set[str]) -> Iterator[tuple[str, bytes]]:
        """Those of the objects that are wanted, one in memory at a time."""
        return ((name, self.read(name, length)) for name, length in self.lengths.items() if name in wanted)
