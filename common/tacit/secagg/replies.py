"""Answers by position at the server: a partner whose message does not stand up is set aside and named."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sized
from typing import Protocol, TypeVar

from tacit.secagg.abort import Abort, Reason, Stage
from tacit.secagg.keys import PublicKey

__all__ = ["Replies", "check_sender", "enough", "sift", "unlike"]

Replies = Mapping[int, bytes]


class _Shown(Protocol):
    @property
    def keys(self) -> tuple[PublicKey, ...]: ...


A = TypeVar("A", bound=_Shown)
M = TypeVar("M")


def sift(replies: Replies, check: Callable[[int, bytes], M]) -> tuple[dict[int, M], dict[int, Abort]]:
    """What stands up, in the order of positions, and why the rest does not."""
    found: dict[int, M] = {}
    rejected: dict[int, Abort] = {}
    for sender in sorted(replies):
        try:
            found[sender] = check(sender, replies[sender])
        except Abort as error:
            rejected[sender] = error
    return found, rejected


def unlike(adverts: dict[int, A], rejected: dict[int, Abort]) -> dict[int, A]:
    """Without those whose key somebody before them has shown: partners would refuse the whole roster."""
    seen: set[bytes] = set()
    kept = {}
    for sender, advert in adverts.items():
        keys = set(advert.keys)
        if len(keys) < len(advert.keys) or keys & seen:
            rejected[sender] = Abort(Stage.ADVERTISE, Reason.DUPLICATE, "expected keys of its own, found used ones")
            continue
        seen |= keys
        kept[sender] = advert
    return kept


def check_sender(named: int, sender: int, stage: Stage) -> None:
    """A message names who sent it. Raises Abort."""
    if named != sender:
        raise Abort(stage, Reason.NOT_LISTED, f"expected a message of position {sender}, found one of {named}")


def enough(found: Sized, threshold: int, stage: Stage, rejected: Mapping[int, Abort]) -> None:
    """Raises Abort where fewer than the threshold are left."""
    if len(found) < threshold:
        text = f"expected at least {threshold} partners, found {len(found)}"
        raise Abort(stage, Reason.TOO_FEW, text, rejected=rejected)
