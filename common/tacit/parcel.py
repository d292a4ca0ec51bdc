"""A parcel: arrays and scalars by name, of which every message between server and partner consists.

`tacit.link.records` turns it into Flower's records and back. Reading is strict: what is missing, of another type or
left over is an error, and nothing but data is ever decoded.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from tacit.errors import BadInput

__all__ = ["Parcel", "Scalar", "unfit"]

Scalar = str | int | float
_KINDS: dict[str, type] = {
    "float32": np.float32,
    "int64": np.int64,
    "uint8": np.uint8,
    "uint32": np.uint32,
    "uint64": np.uint64,
}


@dataclass(frozen=True, repr=False)
class Parcel:
    """Arrays (one dimension, of a kind in `_KINDS`) and scalars by name."""

    arrays: Mapping[str, NDArray[Any]]
    scalars: Mapping[str, Scalar]

    def array(self, name: str, *, dtype: str) -> NDArray[Any]:
        """The array called `name`. Raises BadInput where it is missing, of another dtype or not a vector."""
        found = self.arrays.get(name)
        if found is None or found.dtype != _KINDS[dtype] or found.ndim != 1:
            shown = "nothing" if found is None else f"{found.dtype} of {found.ndim} dimensions"
            raise unfit(f"array {name} of {dtype}", shown)
        return found

    def bytes(self, name: str) -> bytes:
        """The array of bytes called `name`. Raises BadInput."""
        return self.array(name, dtype="uint8").tobytes()

    def text(self, name: str) -> str:
        """The text called `name`. Raises BadInput."""
        found = self.scalars.get(name)
        if not isinstance(found, str):
            raise unfit(f"text {name}", type(found).__name__)
        return found

    def json(self, name: str) -> Any:
        """The value in the JSON text called `name`. Raises BadInput."""
        try:
            return json.loads(self.text(name))
        except (ValueError, RecursionError) as error:  # numbers of thousands of digits; brackets nested by the thousand
            raise unfit("JSON", str(error)) from None

    def integer(self, name: str) -> int:
        """The integer called `name`. Raises BadInput."""
        found = self.scalars.get(name)
        if not isinstance(found, int) or isinstance(found, bool):
            raise unfit(f"integer {name}", type(found).__name__)
        return found

    def number(self, name: str) -> float:
        """The float called `name`. Raises BadInput."""
        found = self.scalars.get(name)
        if not isinstance(found, float):
            raise unfit(f"number {name}", type(found).__name__)
        return found

    def only(self, *, arrays: set[str], scalars: set[str]) -> None:
        """Raises BadInput where the parcel holds other names than these."""
        for found, expected in ((set(self.arrays), arrays), (set(self.scalars), scalars)):
            if found != expected:
                raise unfit(f"fields {sorted(expected)}", str(sorted(found)))


def unfit(expected: str, found: str) -> BadInput:
    """What to raise for a message that no honest party of this version sends."""
    return BadInput(
        f"expected {expected} in a message, found {found}", hint="install the same version of tacit on both sides"
    )
