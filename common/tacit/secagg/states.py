"""What a partner holds between two stages. Each state shows nothing of itself when printed."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from tacit.secagg.graph import Graph
from tacit.secagg.keys import Digest, Secret
from tacit.secagg.messages import Advert
from tacit.secagg.round import Party, Round

__all__ = ["Advertised", "Agreed", "Done", "Masked", "Opened", "Secretive", "Session", "Shared", "State"]


class Secretive:
    """Shows nothing but its name when printed."""

    def __repr__(self) -> str:
        return f"{type(self).__name__}(<secret>)"


@dataclass(frozen=True, repr=False)
class Advertised(Secretive):
    """After stage 0: the round's fresh keys. `me` is the own position in the cohort."""

    round: Round
    party: Party
    me: int
    share_key: Secret
    mask_key: Secret
    advert: Advert


@dataclass(frozen=True, repr=False)
class Session(Secretive):
    """What everybody's keys make of a round: `digest` binds them, `graph` follows from it.

    `step` is the number of the step in a block, and 0 in a round of its own.
    """

    begun: Advertised
    adverts: Mapping[int, Advert]
    digest: Digest
    graph: Graph
    neighbours: tuple[int, ...]
    step: int = 0


@dataclass(frozen=True, repr=False)
class Shared(Secretive):
    """After stage 1: the seed `b`, and the own shares of `b` and of the mask key."""

    session: Session
    seed: Secret
    kept: tuple[Secret, Secret]


@dataclass(frozen=True, repr=False)
class Opened(Secretive):
    """Within stage 2: every share opened, nothing trained or sent yet.

    `held` are shares of `b` and of the mask key by owner; `present` is U2.
    """

    shared: Shared
    held: Mapping[int, tuple[Secret, Secret]]
    present: frozenset[int]


@dataclass(frozen=True, repr=False)
class Masked(Secretive):
    """After stage 2: the masked vector is out. The own seed and keys are gone; others' shares are left.

    `needed` of the own holders, its `neighbours` and itself, must live on. `step` is that of the session.
    """

    round: Round
    party: Party
    me: int
    session: Digest
    request: Digest
    neighbours: tuple[int, ...]
    needed: int
    held: Mapping[int, tuple[Secret, Secret]]
    present: frozenset[int]
    step: int = 0


@dataclass(frozen=True, repr=False)
class Agreed(Secretive):
    """After stage 3: one list of survivors is signed."""

    masked: Masked
    survivors: tuple[int, ...]


@dataclass(frozen=True)
class Done:
    """After stage 4: nothing is left to give."""


State = Advertised | Shared | Opened | Masked | Agreed | Done
