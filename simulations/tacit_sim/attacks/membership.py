"""Membership inference: whether an example was trained on, from its loss under the final model.

Yeom et al. 2018, "Privacy Risk in Machine Learning" (arXiv:1709.01604v5, adversary 1): an example with a loss below the
average of those trained on is said to be a member. A partner's own trainer learns 300 examples, with DP-SGD and
without; the attacker has those and 300 that were not trained on, and the final model, which is less than partners and
server see. Without protection training is long enough to learn the examples by heart. At epsilon 8 a little is left to
see: the attack counts as refused where the area under the curve is below 0.6, and below the interval of the model
without.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray

from tacit import vector as vectors
from tacit.privacy.accounting import calibrate
from tacit.privacy.mechanism import Mechanism
from tacit.privacy.randomness import Randomness
from tacit.sections import TrainingSection
from tacit_client.train import Shard
from tacit_sim.attacks.outcome import Outcome
from tacit_sim.attacks.pupils import Class, gather_class, losses

__all__ = ["Separation", "membership", "separation"]

_MEMBERS, _BATCH, _STEPS = 300, 60, 300
_EPSILON, _DELTA, _CLIP = 8.0, 1e-3, 0.1
_NORMAL = 1.959964  # 97.5 % of a standard normal lie below
_NEAR = 0.1  # of an area of one half: no more than this above is near chance


@dataclass(frozen=True)
class Separation:
    """How well losses tell members from others.

    Attributes:
        area: under the ROC curve: the chance that a member's loss is below another's; 0.5 is guessing.
        low: of its 95 % confidence interval.
        high: of the same.
        advantage: true less false positives of the threshold at the members' mean loss, -1 to 1.
    """

    area: float
    low: float
    high: float
    advantage: float

    def __str__(self) -> str:
        return f"AUC {self.area:.2f} ({self.low:.2f} to {self.high:.2f}), advantage {self.advantage:.2f}"


def membership() -> Outcome:
    """The attack on a model that was trained with DP-SGD at epsilon 8, and on one without."""
    pupils = gather_class()
    rate = _BATCH / _MEMBERS
    noise = calibrate(target=_EPSILON, delta=_DELTA, sampling_rate=rate, steps=_STEPS)
    private = _tried(pupils, _mechanism(noise=noise))
    plain = _tried(pupils, _mechanism(noise=None))
    return Outcome(
        "membership",
        plain.low > 0.5 and private.area < min(plain.low, 0.5 + _NEAR),
        f"{private} with DP-SGD at epsilon {_EPSILON:g}",
        without=f"{plain} from a model trained without",
    )


def separation(members: NDArray[np.float64], others: NDArray[np.float64]) -> Separation:
    """From the losses of both, float64 `[m]` and `[n]`.

    The interval is that of Hanley and McNeil 1982 (Radiology 143, p. 29).
    """
    m, n = len(members), len(others)
    order = np.sort(others)
    above = n - np.searchsorted(order, members, side="right")
    ties = np.searchsorted(order, members, side="right") - np.searchsorted(order, members, side="left")
    area = float((above + ties / 2).sum() / (m * n))
    one, two = area / (2 - area), 2 * area**2 / (1 + area)
    variance = (area * (1 - area) + (m - 1) * (one - area**2) + (n - 1) * (two - area**2)) / (m * n)
    half = _NORMAL * math.sqrt(max(0.0, variance))
    threshold = members.mean()
    advantage = float((members <= threshold).mean() - (others <= threshold).mean())
    return Separation(area, max(0.0, area - half), min(1.0, area + half), advantage)


def _mechanism(*, noise: float | None) -> Mechanism:
    return Mechanism(
        kind="none" if noise is None else "dp-sgd",
        max_grad_norm=0.0 if noise is None else _CLIP,
        noise_multiplier=noise or 0.0,
        sampling_rate=_BATCH / _MEMBERS,
        expected_batch=_BATCH,
        steps=_STEPS,
    )


def _tried(pupils: Class, mechanism: Mechanism) -> Separation:
    # Drawn at random: neighbours in a file may be of one hand, and tell apart by that.
    drawn = Randomness(1).stream("members").words(len(pupils.train)).argsort(kind="stable")[: 2 * _MEMBERS]
    members, others = torch.from_numpy(drawn[:_MEMBERS]), torch.from_numpy(drawn[_MEMBERS:])
    trainer = pupils.trainer(private=mechanism.private)
    rate = 2.0 if mechanism.private else 0.1  # clipped gradients are short
    delta = trainer.train(
        pupils.start,
        Shard(pupils.train, members),
        mechanism=mechanism,
        training=TrainingSection(rounds=1, local_steps=_STEPS, batch_size=_BATCH, learning_rate=rate, momentum=0.9),
        learning_rate=rate,
        sampling=Randomness(1).stream("sampling"),
        noise=Randomness(1).stream("noise"),
    )
    network = pupils.network()
    vectors.load(network, pupils.start + delta)
    return separation(*(losses(network, pupils.train.take(rows)) for rows in (members, others)))
