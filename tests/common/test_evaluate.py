"""Evaluation equals counting one example at a time."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torch import nn

from tacit.evaluate import evaluate
from tacit.metrics import LOSS_UNIT
from tacit.tasks.task import Encoded, Task, cross_entropy

torch.set_num_threads(1)
TASK = Task(kind="t", models={}, encode=lambda options, examples: None, infer=lambda examples: {}, loss=cross_entropy)


def _network() -> nn.Module:
    torch.manual_seed(4)
    return nn.Sequential(nn.Linear(5, 8), nn.Dropout(0.5), nn.Linear(8, 3))


def _data(n: int) -> Encoded:
    generator = torch.Generator().manual_seed(n)
    targets = torch.randint(0, 3, (n,), generator=generator)
    return Encoded((torch.randn(n, 5, generator=generator),), targets)


@pytest.mark.parametrize("n", [0, 1, 1023, 1024, 1025, 2500])
def test_sums_are_those_of_single_examples(n):
    network, data = _network(), _data(n)
    counters = evaluate(network, data, task=TASK, classes=3, device=torch.device("cpu"))
    confusion, loss = np.zeros((3, 3), np.int64), 0.0
    network.eval()
    for x, y in zip(data.inputs[0], data.targets.tolist(), strict=True):
        logits = network(x[None])[0].detach()
        confusion[y, int(logits.argmax())] += 1
        loss += float(logits.double().logsumexp(0) - logits[y].double())
    np.testing.assert_array_equal(counters.confusion, confusion)
    assert counters.loss_sum * LOSS_UNIT == pytest.approx(loss, abs=n * LOSS_UNIT)


@pytest.mark.parametrize("training", [True, False])
def test_the_mode_is_left_as_found_and_no_gradient_is_kept(training):
    network = _network().train(training)
    before = torch.cat([p.detach().clone().reshape(-1) for p in network.parameters()])
    evaluate(network, _data(10), task=TASK, classes=3, device=torch.device("cpu"))
    assert network.training is training
    assert all(p.grad is None for p in network.parameters())
    assert torch.equal(before, torch.cat([p.detach().reshape(-1) for p in network.parameters()]))


def test_what_one_example_is_taken_for_does_not_hang_on_another_beside_it():
    """Guarantee: at weights that cancel, which a server may choose, one example more changes no other's answer."""
    answers = []
    for seed in range(24):
        torch.manual_seed(seed)
        network, image = nn.Linear(64, 10, bias=False), torch.rand(64)
        with torch.no_grad():
            weight = torch.randn(10, 64) * 1e9
            weight[:, -1] -= (weight @ image) / image[-1]
            network.weight.copy_(weight)
        found = [_guesses(network, image, count) for count in (1, 2)]
        answers.append(np.array_equal(2 * found[0], found[1]))
    assert answers == [True] * 24


def _guesses(network: nn.Module, image: torch.Tensor, count: int) -> np.ndarray:
    data = Encoded((image.repeat(count, 1),), torch.zeros(count, dtype=torch.long))
    return evaluate(network, data, task=TASK, classes=10, device=torch.device("cpu")).confusion
