"""What one example's gradient is does not hang on how many others are there, at weights chosen so that it would."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace

import numpy as np
import pytest
import torch
from torch import nn

from tacit import vector as vectors
from tacit.models.cnn import CnnOptions, build_cnn
from tacit.privacy.mechanism import Mechanism
from tacit.privacy.randomness import Stream
from tacit.tasks.table import find
from tacit.tasks.task import Encoded
from tacit_client.persons import Batch, Persons
from tacit_client.train import Shard, Trainer

_EVERYONE = Mechanism(
    kind="distributed-dp-sgd",
    max_grad_norm=1.0,
    noise_multiplier=1.0,
    sampling_rate=1.0,
    expected_batch=4.0,
    steps=1,
    colluders=1,
)


@pytest.fixture
def one_thread() -> Iterator[None]:
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


def _network(seed: int) -> tuple[nn.Module, torch.Tensor]:
    """A network whose logits are sums of huge numbers that cancel: what is left is how they were rounded."""
    torch.manual_seed(seed)
    network, image = build_cnn(CnnOptions(classes=10, shape=(28, 28))), torch.rand(1, 1, 28, 28)
    last = [module for module in network.modules() if isinstance(module, nn.Linear)][-1]
    seen: list[torch.Tensor] = []
    hook = last.register_forward_pre_hook(lambda _, inputs: seen.append(inputs[0]))
    with torch.no_grad():
        network(image)
        hook.remove()
        weight = torch.randn(last.weight.shape) * 1e9
        weight[:, -1] -= (weight @ seen[0][0]) / seen[0][0][-1]
        last.weight.copy_(weight)
    return network, image


def _moved(seed: int, *, persons: bool, size: int) -> float:
    """The distance of the sums of clipped gradients with two examples and with one."""
    network, image = _network(seed)
    data = Encoded((image.repeat(2, 1, 1, 1),), torch.tensor([seed % 10, (seed + 3) % 10]))
    task = find("image-classification").task
    start, sums = vectors.flatten(network), []
    trainer = Trainer(
        network, task=task, private=True, device=torch.device("cpu"), max_physical_batch=size, hardened=True
    )
    for rows in (1, 2):
        owners = Persons.of(np.arange(rows), unit="patient", most=1) if persons else None
        shard = Shard(data, torch.arange(rows), owners)
        mechanism = replace(_EVERYONE, unit=shard.unit)
        sums.append(trainer.clipped_sum(start, shard, mechanism=mechanism, sampling=Stream(bytes(32))))
    return float(np.linalg.norm(sums[1] - sums[0]))


@pytest.mark.parametrize(("persons", "size"), [(False, 512), (True, 512), (False, 2)])
def test_one_example_more_moves_the_sum_by_the_clip_norm_at_any_weights(one_thread, persons, size):
    """Guarantee: the server chooses the weights, and no choice makes one unit move others' gradients."""
    moved = [_moved(seed, persons=persons, size=size) for seed in range(12)]
    assert len(moved) == 12
    assert max(moved) <= 1.0 + 2.0**-20
    assert max(moved) > 0.9


def test_rows_that_fill_up_are_persons_of_their_own():
    padded = Batch(np.array([7, 8, 9]), np.array([0, 0, 1])).padded(5)
    np.testing.assert_array_equal(padded.rows, [7, 8, 9, 7, 7])
    assert padded.persons is not None
    np.testing.assert_array_equal(padded.persons, [0, 0, 1, 2, 3])
    assert len(Batch(np.array([], dtype=np.int64)).padded(5).rows) == 0
    assert len(Batch(np.arange(6)).padded(5).rows) == 6
