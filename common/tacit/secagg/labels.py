"""Domain separation: the one place where a string for a hash, a signature, a key or a seal is made."""

from __future__ import annotations

from tacit.codec import Writer
from tacit.secagg.constants import VERSION

__all__ = ["USAGES", "label"]

USAGES = (
    "advert",
    "agree",
    "block",
    "commit",
    "graph",
    "pair",
    "present",
    "round",
    "self",
    "session",
    "share",
    "step",
)
"""What labels are made for: no two uses share one."""


def label(usage: str, *parts: bytes | int | str) -> bytes:
    """The bytes that bind one use of a primitive to its place.

    Args:
        usage: one of `USAGES`.
        parts: what the use is bound to: digests and keys as bytes, positions as numbers, roles as texts. Each
            carries its type and length, so that no two lists of parts give the same bytes.

    Raises:
        ValueError: another usage.
        TypeError: another kind of part, such as numpy's numbers.

    Guarantee: the protocol's name and version, the usage and every part can be read back, so labels that differ in
    any of them differ.
    """
    if usage not in USAGES:
        raise ValueError(f"expected one of {', '.join(USAGES)}, found {usage}")
    writer = Writer().fixed(b"tacit-secagg", size=12).number(VERSION, size=1).text(usage)
    for part in parts:
        match part:
            case bytes():
                writer.number(0, size=1).blob(part)
            case str():
                writer.number(1, size=1).text(part)
            case int():
                writer.number(2, size=1).number(part, size=8)
            case _:  # a part left out would leave the label unbound
                raise TypeError(f"expected parts of bytes, text or numbers, found {type(part).__name__}")
    return writer.done()
