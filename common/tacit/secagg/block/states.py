"""What a partner holds of a block. Each state shows nothing of itself when printed."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from tacit.secagg.block.messages import BlockAdvert
from tacit.secagg.graph import Graph
from tacit.secagg.keys import Digest, Secret
from tacit.secagg.round import Party, Round
from tacit.secagg.states import Secretive

__all__ = ["Block", "BlockAdvertised", "BlockSession", "BlockShared", "StepSecrets"]

Shares = tuple[Secret, Secret]  # of `b` and of the mask key of one step


@dataclass(frozen=True, repr=False)
class BlockAdvertised(Secretive):
    """After stage 0: the fresh keys of all steps."""

    round: Round
    party: Party
    me: int
    steps: int
    share_key: Secret
    mask_keys: tuple[Secret, ...]
    advert: BlockAdvert


@dataclass(frozen=True, repr=False)
class BlockSession(Secretive):
    """What everybody's keys make of a block; without private keys."""

    round: Round
    party: Party
    me: int
    adverts: Mapping[int, BlockAdvert]
    digest: Digest
    graph: Graph
    neighbours: tuple[int, ...]


@dataclass(frozen=True, repr=False)
class BlockShared(Secretive):
    """After stage 1: the seed `b` and the own shares of each step."""

    session: BlockSession
    share_key: Secret
    mask_keys: tuple[Secret, ...]
    seeds: tuple[Secret, ...]
    kept: tuple[Shares, ...]


@dataclass(frozen=True, repr=False)
class StepSecrets(Secretive):
    """One step's own mask key and seed, and by owner the shares of both that are held."""

    mask_key: Secret
    seed: Secret
    held: Mapping[int, Shares]


@dataclass(frozen=True, repr=False)
class Block(Secretive):
    """All shares opened: `left` are the secrets of the steps to come, by number. The key that opened them is gone.

    `present` is U2 of the block.
    """

    session: BlockSession
    present: frozenset[int]
    left: Mapping[int, StepSecrets]
