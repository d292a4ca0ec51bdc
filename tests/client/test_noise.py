"""Noise, sampling and divisor as they leave the trainer: accepted where right, rejected at 0.8 and 1.25 times.

Every p-value is two-sided. A right value passes at p > 0.001 with the seeds given here; a wrong one fails at p < 1e-6.
"""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from scipy import stats
from torch import nn
from twin import TASK, Case, private, sgd, trained

from tacit import vector
from tacit.privacy.mechanism import Mechanism
from tacit.privacy.randomness import Randomness
from tacit.tasks.task import Encoded, Task
from tacit_client.optimizer import PrivateOptimizer
from tacit_client.train import Shard, Trainer

torch.set_num_threads(1)

ACCEPT, REJECT = 1e-3, 1e-6
WRONG = (0.8, 1.25)

FLAT = Task(
    kind="flat",
    models={},
    encode=lambda options, examples: None,
    infer=lambda examples: {},
    loss=lambda logits, targets: 0.0 * logits.sum(dim=1),
)
"""A loss without gradient: what training releases is noise and nothing else."""

STEEP = Task(
    kind="steep",
    models={},
    encode=lambda options, examples: None,
    infer=lambda examples: {},
    loss=lambda logits, targets: 1e4 * logits.sum(dim=1),
)
"""A loss whose gradient every clip norm cuts: each example adds exactly the clip norm in one direction."""


def _spread_p(draws: np.ndarray, std: float) -> float:
    """Chance of a spread at least this far from `std`, were `draws` normal around zero with `std` (chi-squared)."""
    lower = stats.chi2.cdf(float(np.square(draws, dtype=np.float64).sum()) / std**2, df=draws.size)
    return 2 * min(lower, 1 - lower)


def _check_spread(draws: np.ndarray, std: float) -> None:
    assert _spread_p(draws, std) > ACCEPT
    for factor in WRONG:
        assert _spread_p(draws, factor * std) < REJECT


def _wide(*, steps: int = 1, n: int = 40, rate: float = 0.5) -> Case:
    """20,301 parameters without any gradient."""
    torch.manual_seed(2)
    network = nn.Sequential(nn.Linear(30, 150), nn.Tanh(), nn.Linear(150, 100), nn.LayerNorm(100), nn.Linear(100, 3))
    data = Encoded((torch.randn(n, 30),), torch.zeros(n, dtype=torch.int64))
    mechanism = private(max_grad_norm=0.3, noise_multiplier=1.7, expected_batch=20.0, sampling_rate=rate, steps=steps)
    return Case(network, data, mechanism, sgd(learning_rate=1.0), seed=11, task=FLAT)


@pytest.mark.statistical
@pytest.mark.parametrize("steps", [1, 4])
def test_the_released_noise_has_the_scale_of_the_mechanism(steps):
    case = _wide(steps=steps)
    delta = trained(case, max_physical_batch=7)
    std = 0.3 * 1.7 / 20.0 * math.sqrt(steps)
    _check_spread(delta, std)
    assert stats.kstest(delta / std, "norm").pvalue > ACCEPT
    for factor in WRONG:
        assert stats.kstest(delta / (factor * std), "norm").pvalue < REJECT


@pytest.mark.statistical
def test_every_parameter_gets_noise_of_that_scale():
    case = _wide()
    parts = vector.named(case.network, trained(case))
    assert len(parts) == 8
    for name, part in parts.items():
        assert np.count_nonzero(part) == part.size, name
        assert _spread_p(part.ravel(), 0.3 * 1.7 / 20.0) > ACCEPT, name


@pytest.mark.statistical
def test_noise_is_drawn_once_a_step_however_the_batch_is_cut():
    case = _wide(rate=1.0)
    for chunk in (1, 13, 512):
        _check_spread(trained(case, max_physical_batch=chunk), 0.3 * 1.7 / 20.0)


def test_an_empty_batch_is_a_step_of_noise_alone():
    case = _wide(rate=1e-12)
    start = vector.flatten(case.network)
    noise = case.stream("noise")
    draws = np.concatenate([noise.gaussian(p.numel()) for p in case.network.parameters()])
    std = case.mechanism.noise_std
    expected = (start - np.float32(draws * np.float32(std) / np.float32(20.0))) - start
    np.testing.assert_allclose(trained(case), expected, atol=1e-7)
    assert np.count_nonzero(trained(case)) == len(start)


def _counts(mechanism: Mechanism, *, n: int, rounds: int) -> list[float]:
    """The length of each round's released sum, in clip norms: examples over the divisor."""
    network = nn.Linear(2, 2)
    trainer = Trainer(network, task=STEEP, private=True, device=torch.device("cpu"), max_physical_batch=64)
    shard = Shard(Encoded((torch.ones(n, 2),), torch.zeros(n, dtype=torch.int64)), torch.arange(n))
    start, lengths = vector.flatten(network), []
    for index in range(rounds):
        delta = trainer.train(
            start,
            shard,
            mechanism=mechanism,
            training=sgd(),
            learning_rate=1.0,
            sampling=Randomness(21).stream("sampling", index),
            noise=Randomness(21).stream("noise", index),
        )
        lengths.append(float(np.linalg.norm(delta)) / mechanism.max_grad_norm)
    return lengths


@pytest.mark.statistical
def test_the_rate_is_the_mechanisms_and_the_divisor_its_expected_batch():
    """Without noise each drawn example adds one clip norm, so that lengths tell the batches drawn."""
    n, rate, rounds = 100, 0.23, 60
    mechanism = private(sampling_rate=rate, expected_batch=20.0, noise_multiplier=0.0)
    sizes = np.array(_counts(mechanism, n=n, rounds=rounds)) * 20.0
    np.testing.assert_allclose(sizes, np.round(sizes), atol=1e-2)  # a drawn divisor would make all lengths one
    assert len(set(np.round(sizes))) > 5
    drawn = int(np.round(sizes).sum())
    assert stats.binomtest(drawn, n * rounds, rate).pvalue > ACCEPT
    for factor in WRONG:
        assert stats.binomtest(drawn, n * rounds, factor * rate).pvalue < REJECT


@pytest.mark.statistical
@pytest.mark.parametrize("hardened", [False, True])
def test_a_parameter_without_dimensions_is_clipped_and_noised(hardened):
    scalar, row = nn.Parameter(torch.zeros(())), nn.Parameter(torch.zeros(3))
    mechanism = private(max_grad_norm=2.0, noise_multiplier=0.5, expected_batch=4.0)
    optimizer = PrivateOptimizer(
        torch.optim.SGD([scalar, row], lr=1.0),
        mechanism=mechanism,
        noise=Randomness(8).stream("noise"),
        hardened=hardened,
    )
    released = []
    for _ in range(1500):
        optimizer.zero_grad(set_to_none=True)
        optimizer.release()
        released.append(float(scalar.grad))
    _check_spread(np.array(released), 2.0 * 0.5 / 4.0)
    scalar.grad_sample, row.grad_sample = torch.tensor([30.0, 0.0]), torch.tensor([[0.0, 40.0, 0.0], [0.1, 0.0, 0.0]])
    optimizer.accumulate()
    assert float(scalar.summed_grad) == pytest.approx(2.0 * 30 / 50)
    assert row.summed_grad.tolist() == pytest.approx([0.1, 2.0 * 40 / 50, 0.0])


def test_two_rounds_of_the_operating_systems_randomness_differ():
    case = _wide()
    trainer = Trainer(case.network, task=TASK, private=True, device=torch.device("cpu"), max_physical_batch=64)
    shard = Shard(case.data, torch.arange(len(case.data)))
    start = vector.flatten(case.network)
    first, second = (
        trainer.train(
            start,
            shard,
            mechanism=case.mechanism,
            training=sgd(),
            learning_rate=1.0,
            sampling=Randomness().stream("sampling"),
            noise=Randomness().stream("noise"),
        )
        for _ in range(2)
    )
    assert np.count_nonzero(first == second) < 10
