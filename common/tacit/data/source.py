"""What every reader gives: named columns of one file or folder, fetched when asked for.

Rows are counted from 1 in messages, a header not included.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from tacit.errors import BadInput

__all__ = ["Source", "corrupt", "listed", "not_utf8", "unreadable"]


@dataclass(frozen=True, repr=False)
class Source:
    """One data file or folder, opened and not yet read.

    Attributes:
        place: its path as messages name it.
        names: the columns or arrays in it.
        take: `(names) -> {name: values [n, ...]}`. Raises BadInput where the content is unreadable.
    """

    place: str
    names: tuple[str, ...]
    take: Callable[[tuple[str, ...]], Mapping[str, NDArray[np.generic]]]


def corrupt(place: object, *, kind: str) -> BadInput:
    """The error for a file that is not whole or not of its format.

    Args:
        place: the file, as messages name it.
        kind: what it was expected to be.

    Guarantee: it quotes nothing that a parser said, because parsers quote the data.
    """
    return BadInput(
        f"expected a whole {kind} file, found a truncated or corrupt one at {place}",
        hint="copy or export the file again, or name its real format",
    )


def not_utf8(place: object) -> BadInput:
    """The error for a text in another encoding, such as spreadsheets write unless they are told otherwise."""
    return BadInput(
        f"expected text in UTF-8, found other bytes at {place}",
        hint="export it again as UTF-8 (in Excel: CSV UTF-8), or name its real format",
    )


def unreadable(place: object, error: OSError) -> BadInput:
    """The error for a file or folder that the system does not let be read."""
    return BadInput(
        f"expected readable data, found {error.strerror} at {place}",
        hint="grant this user the right, or correct the path",
    )


def listed(names: tuple[str, ...]) -> str:
    """`a, b, c`, or `none`; at most twelve names."""
    shown = ", ".join(names[:12]) or "none"
    return shown if len(names) <= 12 else f"{shown} and {len(names) - 12} more"
