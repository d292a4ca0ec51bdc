"""The bytes of a partner's file as they are in clear, whether it lies on the disk so or sealed.

A sealed file is opened in memory and its name counts without `.sealed`, so that every reader reads both.
"""

from __future__ import annotations

import io
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO

from tacit.errors import BadInput
from tacit.seal import CHUNK, FILE, SUFFIX, Lock, Unsealer, is_sealed

__all__ = ["Content"]


@dataclass(frozen=True, repr=False)
class Content:
    """A file of a partner.

    Attributes:
        path: where it lies.
        lock: what opens it where it is sealed.

    Guarantee: what is sealed is opened in memory only, and nothing of a chunk is given before the chunk was verified.
    """

    path: Path
    lock: Lock | None = None

    def __str__(self) -> str:
        return str(self.path)

    @property
    def name(self) -> str:
        """Its name as it is in clear."""
        return self.path.name.removesuffix(SUFFIX)

    @property
    def suffix(self) -> str:
        """The end of that name, in lower case, with its point."""
        return Path(self.name).suffix.lower()

    @property
    def is_sealed(self) -> bool:
        """Whether it lies sealed. Raises OSError where it can not be read."""
        with self.path.open("rb") as file:
            return self._sealed(file)

    @contextmanager
    def stream(self) -> Iterator[BinaryIO]:
        """Its bytes from first to last; of a sealed file only who has read to the end knows that all is there.

        Raises:
            OSError: it can not be read.
            BadInput: it is sealed and there is no key or another one, or (also while it is read) it was changed.
        """
        with self.path.open("rb") as file:
            if self._sealed(file):
                yield io.BufferedReader(self._unsealer(file), CHUNK)
            else:
                yield file

    @contextmanager
    def seekable(self) -> Iterator[BinaryIO]:
        """Its bytes in any order: a sealed file is wholly in memory. Raises as `stream`."""
        with self.path.open("rb") as file:
            yield io.BytesIO(self._unsealer(file).readall()) if self._sealed(file) else file

    def whole(self) -> bytes:
        """All its bytes. Raises as `stream`."""
        with self.stream() as stream:
            return stream.read()

    def _sealed(self, file: BinaryIO) -> bool:
        start = file.read(16)
        file.seek(0)
        return is_sealed(start)

    def _unsealer(self, file: BinaryIO) -> Unsealer:
        if self.lock is None:
            raise BadInput(
                f"expected a key for sealed data, found none for {self.path}",
                hint="name the key file or the file of the passphrase that it was sealed with",
            )
        return Unsealer(file, key=self.lock, use=FILE, where=str(self.path))
