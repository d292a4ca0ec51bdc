"""The cohort of an attack: honest partners, one of them the victim, and partners that the server runs."""

from __future__ import annotations

import os
from collections.abc import Collection, Mapping
from dataclasses import dataclass

from tacit.job import Job
from tacit.secagg.constants import KEY
from tacit.secagg.keys import Secret, identity_of
from tacit.secagg.round import Member, Party, Rules
from tacit_sim.attacks.partners import Partners

__all__ = ["JOB", "OWNED", "PRIVATE", "SEVEN", "VICTIM", "Cohort", "gather_cohort", "job"]

SEVEN = 7
OWNED = (0, 6)
"""Fewer than a third of seven: accepted peers whose keys the server has."""
VICTIM = 3


@dataclass(frozen=True)
class Cohort:
    """Who is in a round.

    Attributes:
        members: by position.
        honest: positions of partners that keep to the protocol.
        owned: identity keys that the server has, by position.
        victim: whose update the server is after.
        partners: the honest ones.
    """

    members: tuple[Member, ...]
    honest: tuple[int, ...]
    owned: Mapping[int, Secret]
    victim: int
    partners: Partners

    @property
    def others(self) -> tuple[int, ...]:
        """The honest partners but the victim."""
        return tuple(i for i in self.honest if i != self.victim)


def gather_cohort(
    n: int = SEVEN,
    *,
    owned: Collection[int] = OWNED,
    strangers: Collection[int] = (),
    victim: int = VICTIM,
    min_cohort: int = 3,
) -> Cohort:
    """A cohort with fresh identity keys.

    Args:
        n: partners.
        owned: positions that the server runs.
        strangers: positions whose keys no honest partner has pinned.
        victim: position of an honest partner.
        min_cohort: accepted partners that each honest one insists on.
    """
    keys = {i: Secret(os.urandom(KEY)) for i in range(n)}
    members = tuple(Member(f"partner-{i:0{len(str(n - 1))}}", identity_of(key)) for i, key in keys.items())
    rules = Rules({m.name: m.identity for i, m in enumerate(members) if i not in strangers}, min_cohort=min_cohort)
    honest = tuple(i for i in keys if i not in owned)
    partners = Partners({i: Party(members[i].name, keys[i], rules) for i in honest})
    return Cohort(members, honest, {i: keys[i] for i in owned}, victim, partners)


def job(*, noise: float | None = None, secure: bool = True, max_weight: int | None = None) -> Job:
    """The job of the attacks: two local steps a round.

    Args:
        noise: noise multiplier of DP-SGD; without, no privacy mechanism.
        secure: whether the server is to see the sum alone.
        max_weight: examples that make an update count in full; without, every update does.
    """
    weighting = {} if max_weight is None else {"weighting": "examples", "max_weight": max_weight}
    dp_sgd = {"mechanism": "dp-sgd", "noise_multiplier": noise, "delta": 1e-3, "max_grad_norm": 1.0}
    return Job.model_validate(
        {
            "name": "attacked",
            "task": {"kind": "image-classification", "model": "cnn"},
            "training": {"rounds": 9, "local_steps": 2, "batch_size": 20, "learning_rate": 0.5},
            "privacy": {"mechanism": "none"} if noise is None else dp_sgd,
            "aggregation": {"secure": secure, **weighting},
        }
    )


JOB = job()
PRIVATE = job(noise=1.0)
