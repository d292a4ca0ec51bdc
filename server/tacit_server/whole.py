"""From the sum of clipped updates to what the server optimiser is handed: the mechanism `client` on the server's side.

McMahan, Ramage, Talwar, Zhang 2018 (arXiv:1710.06963v3), with noise in integers; Andrew et al. 2021
(arXiv:1905.03871v5) for the norm that moves.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from tacit.errors import BadInput
from tacit.job import Job
from tacit.privacy.events import Event
from tacit.privacy.grid import noised_sum
from tacit.privacy.mechanism import Mechanism, plan
from tacit.privacy.quantile import follow, joint_norm, part
from tacit.privacy.randomness import Stream
from tacit.privacy.shares import update_grid
from tacit.quantize import Ring
from tacit.wire import Ask
from tacit_server.replies import Replies

__all__ = ["RATE", "Users", "check_shares", "first_norm", "release"]

RATE = 0.2
"""`privacy.clip_rate` when left out, as in the paper."""


@dataclass(frozen=True)
class Users:
    """Users whom the server draws by chance, in simulations.

    Attributes:
        number: of all of them.
        chance: of each to be drawn in a round, independently of all others.
    """

    number: int
    chance: float

    @property
    def expected(self) -> float:
        """In a round; a public number, the divisor of every sum."""
        return self.number * self.chance


def first_norm(job: Job) -> float | None:
    """L2 bound of the first round's updates where it moves, else None."""
    return None if job.privacy.clip_quantile is None else job.privacy.max_update_norm


def check_shares(events: tuple[Event, ...], *, planned: Event) -> None:
    """Raises BadInput where a partner charged another noise than the sum is said to have."""
    for event in events:
        found = event.kind, event.noise_multiplier, event.colluders
        if event.kind != "metrics" and found != (planned.kind, planned.noise_multiplier, planned.colluders):
            raise BadInput(
                f"expected the one noise multiplier {planned.noise_multiplier:.6g} of {planned.kind}, found "
                f"{event.noise_multiplier:.6g} of {event.kind}: the sum would not have the guarantee of "
                "privacy.epsilon",
                hint="install the same version of tacit on both sides",
            )


def release(replies: Replies, ask: Ask, *, users: Users | None, noise: Stream) -> None:
    """Turn `replies.total` into the mean update in `replies.deltas`, and the next round's norm.

    Args:
        replies: of the round; nothing happens where it was abandoned.
        ask: of the round.
        users: where they are drawn by chance: the mean is over as many as are expected. None: it is over the partners
            in the sum, whom the server sees.
        noise: where the server's noise comes from; not touched where partners add it.

    Guarantee: mean and norm depend on the updates only through one sum with noise of deviation `noise_multiplier`
    times the most that one partner moves it. With noise by the server that is the norm and its rounding, sqrt(d) steps
    of the ring; also where the sum is empty. With noise by partners the sum has it already.
    """
    if replies.total is None:
        return
    mechanism = plan(ask.job, units=0, chance=1.0 if users is None else users.chance)
    total = _sum(replies.total.update, ask, mechanism, noise)
    partners = float(len(replies.counted)) if users is None else users.expected
    if ask.norm is not None:
        total, share = part(total, norm=ask.norm, partners=partners)
        replies.norm = _next(ask, share)
    replies.deltas = [total / partners]


def _sum(total: NDArray[np.uint32], ask: Ask, mechanism: Mechanism, noise: Stream) -> NDArray[np.float64]:
    if ask.job.shares_noise:
        return update_grid(ask.job, mechanism, cohort=ask.cohort, length=ask.entries, norm=ask.norm).decode(total)
    norm = mechanism.max_grad_norm if ask.norm is None else joint_norm(ask.norm)
    ring = Ring(norm=norm, partners=ask.cohort)
    most = norm + math.sqrt(len(total)) * ring.step  # rounding moves each entry by less than a step
    exact = ring.decode(total, weight=1.0)
    return noised_sum(exact, clip=most, noise_multiplier=mechanism.noise_multiplier, noise=noise)


def _next(ask: Ask, share: float) -> float | None:
    privacy = ask.job.privacy
    if ask.norm is None or privacy.clip_quantile is None:
        return None
    return follow(ask.norm, share=share, quantile=privacy.clip_quantile, rate=privacy.clip_rate or RATE)
