"""A cohort whose members have all accepted each other, and the round of secure aggregation that it meets in."""

from __future__ import annotations

import os
from dataclasses import dataclass
from functools import cached_property

import numpy as np
from numpy.typing import NDArray

from tacit.secagg.constants import EDGE_UNIT, KEY
from tacit.secagg.graph import default_threshold, edge_chance
from tacit.secagg.keys import Secret, identity_of
from tacit.secagg.round import Member, Party, Round, Rules

__all__ = ["COUNTERS", "Cohort", "make_cohort", "make_update"]

COUNTERS = 3
"""Entries of the channel `counters` in a round of training."""

_LEAST_COHORT = 2
_NORM = 10.0


@dataclass(frozen=True, repr=False)
class Cohort:
    """A round and the identity keys of its members, by position."""

    round: Round
    keys: tuple[Secret, ...]

    @cached_property
    def _rules(self) -> Rules:
        return Rules({m.name: m.identity for m in self.round.members}, min_cohort=_LEAST_COHORT)

    def party(self, i: int) -> Party:
        """The member at position `i`, its identity worked out."""
        party = Party(self.round.members[i].name, self.keys[i], self._rules)
        _ = party.identity  # a partner knows it before the round
        return party


def make_cohort(n: int, *, length: int, complete: bool) -> Cohort:
    """Fresh identities and a round of training with the default threshold.

    Args:
        n: members.
        length: entries of the update.
        complete: everyone shares masks with everyone; else the graph that a server of ours asks for.
    """
    keys = tuple(Secret(os.urandom(KEY)) for _ in range(n))
    members = tuple(Member(f"partner-{i:05}", identity_of(key)) for i, key in enumerate(keys))
    threshold = default_threshold(n)
    edges = EDGE_UNIT if complete else edge_chance(n, threshold=threshold)
    return Cohort(Round("bench", "0" * 64, 1, 1, "train", members, threshold, length, COUNTERS, edges), keys)


def make_update(length: int) -> NDArray[np.float32]:
    """float32 `[length]`, normal, of an L2 norm near 10: nothing is clipped, and what it says does not matter."""
    update = np.random.default_rng(0).standard_normal(length, dtype=np.float32)
    update *= np.float32(_NORM / np.sqrt(length))
    return update
