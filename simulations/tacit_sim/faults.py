"""Partners that vanish, for simulations."""

from __future__ import annotations

from collections.abc import Callable

from flwr.app import Context, Error, Message
from flwr.clientapp.typing import ClientAppCallable, Mod

from tacit.privacy.randomness import Randomness
from tacit.wire import TRAIN

__all__ = ["VANISHED", "vanishing"]

VANISHED = "vanished"
_CODE = 0  # Flower's error code for an unknown cause


def vanishing(*, chance: float, randomness: Randomness, name: Callable[[Context], str]) -> Mod:
    """A Flower mod under which a partner vanishes in a round of training with probability `chance`.

    It vanishes at a random stage: before it trained, when nothing was spent, or after, when its noise is drawn, its
    ledger charged and its update lost. Decided by seed, partner, round and attempt: the same under every engine.
    """

    def mod(message: Message, context: Context, call_next: ClientAppCallable) -> Message:
        if message.metadata.message_type != TRAIN:
            return call_next(message, context)
        labels = (name(context), message.metadata.group_id)
        vanishes, late = randomness.stream("dropout", *labels).uniform(2) < (chance, 0.5)
        if vanishes and late:
            call_next(message, context)
        return Message(Error(_CODE, VANISHED), reply_to=message) if vanishes else call_next(message, context)

    return mod
