"""Partners that vanish, for simulations."""

from __future__ import annotations

from collections.abc import Callable

from flwr.app import Context, Error, Message
from flwr.clientapp.typing import ClientAppCallable, Mod

from tacit.privacy.randomness import Randomness
from tacit.step import STEP
from tacit.wire import ADVERTISE, AGREE, SHARE, TRAIN, UNMASK

__all__ = ["VANISHED", "vanishing"]

TRAINING = ".train"  # how Flower's group id of a training message ends

VANISHED = "vanished"
_CODE = 0  # Flower's error code for an unknown cause

# Where a partner may vanish: before it answers a message, or after it did the work, when its noise is drawn, its
# ledger charged and its answer lost.
_CLEAR = ((TRAIN, False), (TRAIN, True))
_SECURE = ((ADVERTISE, False), (SHARE, False), (TRAIN, False), (TRAIN, True), (AGREE, False), (UNMASK, False))
_STEPS = ((STEP, False), (STEP, True), (AGREE, False), (UNMASK, False))
_ORDER = (ADVERTISE, SHARE, TRAIN, STEP, AGREE, UNMASK)


def vanishing(
    *,
    chance: float,
    randomness: Randomness,
    name: Callable[[Context], str],
    secure: bool,
    blocks: bool = False,
    number: int = 0,
) -> Mod:
    """A Flower mod under which a partner vanishes in a round of training with probability `chance`.

    It vanishes at a random stage and stays away for the rest of that round's training. Where rounds are `blocks` of
    steps it does so in each step, and is back for the next. With a `number` so many of all partners vanish, whatever
    the chance. Decided by seed, partner, round, attempt and step: the same under every engine.
    """
    places = _STEPS if blocks else _SECURE if secure else _CLEAR

    def mod(message: Message, context: Context, call_next: ClientAppCallable) -> Message:
        kind, group = message.metadata.message_type, message.metadata.group_id
        if kind not in _ORDER or not group.endswith(TRAINING) or (blocks and kind in (ADVERTISE, SHARE)):
            return call_next(message, context)
        drawn = randomness.stream("dropout", name(context), group).uniform(2)
        place, late = places[int(drawn[1] * len(places))]
        gone = _is_drawn(context, randomness, group, number) if number else drawn[0] < chance
        if not gone or _ORDER.index(kind) < _ORDER.index(place):
            return call_next(message, context)
        if late and kind == place:
            call_next(message, context)
        return Message(Error(_CODE, VANISHED), reply_to=message)

    return mod


def _is_drawn(context: Context, randomness: Randomness, group: str, number: int) -> bool:
    """Whether this partner is among the `number` that are drawn for `group`, the same whoever asks."""
    partners, me = (int(context.node_config[key]) for key in ("num-partitions", "partition-id"))
    return me in randomness.stream("dropout", group).choose(partners, k=number)
