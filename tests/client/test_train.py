"""Local training: equal to its slow twin, bounded in every example, noised in every parameter."""

from __future__ import annotations

import copy
import math

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn
from torch.nn.functional import cross_entropy
from twin import TASK, Case, batch_sizes, private, sgd, trained, twin

from tacit import vector
from tacit.errors import BadInput
from tacit.models import CnnOptions, TransformerOptions, build_cnn, build_transformer
from tacit.privacy.mechanism import Mechanism
from tacit.tasks.task import Encoded
from tacit_client.gradients import PerExample
from tacit_client.train import Shard, Trainer, pick_device

torch.set_num_threads(1)


def _images(*, n: int = 16, shape: tuple[int, ...] = (3, 8, 8)) -> Encoded:
    generator = torch.Generator().manual_seed(5)
    return Encoded((torch.randn(n, *shape, generator=generator),), torch.arange(n) % 3)


def _texts(*, n: int = 16, length: int = 6) -> Encoded:
    generator = torch.Generator().manual_seed(6)
    ids = torch.randint(0, 256, (n, length), generator=generator)
    kept = torch.randint(0, length + 1, (n,), generator=generator)
    mask = torch.arange(length)[None, :] < kept[:, None]
    mask[0] = False  # a text without words
    return Encoded((ids, torch.arange(length).expand(n, -1), mask), torch.arange(n) % 3)


def _network(kind: str) -> nn.Module:
    torch.manual_seed(3)
    match kind:
        case "cnn":
            return build_cnn(CnnOptions(classes=3, shape=(8, 8, 3), layers="small"))
        case "transformer":
            return build_transformer(TransformerOptions(classes=3, width=8, depth=1, heads=2, length=6))
        case _:
            return nn.Linear(4, 3)


DATA = {"cnn": _images(), "transformer": _texts(), "linear": _images(shape=(4,))}
OPTIMIZERS = {"momentum": sgd(momentum=0.9), "adam": sgd(optimizer="adam", learning_rate=0.01)}


def _case(kind: str, *, training: str = "momentum", mechanism: Mechanism | None = None, seed: int = 29) -> Case:
    mechanism = mechanism or private(steps=8, sampling_rate=0.15)
    return Case(_network(kind), DATA[kind], mechanism, OPTIMIZERS[training], seed=seed)


@pytest.mark.parametrize("training", OPTIMIZERS)
@pytest.mark.parametrize("kind", ["cnn", "transformer"])
def test_training_equals_one_example_at_a_time(kind, training):
    case = _case(kind, training=training)
    sizes = batch_sizes(case)
    assert min(sizes) == 0
    assert max(sizes) > 3  # an empty batch, and one that needs several chunks of 3
    expected = twin(case)
    assert np.abs(expected).max() > 0.01
    for chunk in (1, 3, 512):
        np.testing.assert_allclose(trained(case, max_physical_batch=chunk), expected, atol=1e-5)


@pytest.mark.parametrize("training", OPTIMIZERS)
def test_training_without_privacy_equals_one_example_at_a_time(training):
    open_one = Mechanism(
        kind="none", max_grad_norm=0.0, noise_multiplier=0.0, sampling_rate=0.4, expected_batch=6.0, steps=5
    )
    case = _case("cnn", training=training, mechanism=open_one)
    assert min(batch_sizes(case)) > 0  # torch's optimisers take no step without a gradient
    for chunk in (1, 3, 512):
        np.testing.assert_allclose(trained(case, max_physical_batch=chunk), twin(case), atol=2e-5)


def test_the_twin_clips_some_and_not_all():
    """Else the comparisons above would say nothing of clipping."""
    norms = []
    network = _network("cnn")
    for i in range(len(DATA["cnn"])):
        one = DATA["cnn"].take(torch.tensor([i]))
        loss = cross_entropy(network(*one.inputs), one.targets)
        gradient = torch.autograd.grad(loss, list(network.parameters()))
        norms.append(math.sqrt(sum(float(g.square().sum()) for g in gradient)))
    assert min(norms) < 0.98 * max(norms)
    clip = float(np.median(norms))
    case = _case("cnn", mechanism=private(steps=3, max_grad_norm=clip, sampling_rate=1.0))
    np.testing.assert_allclose(trained(case), twin(case), atol=1e-5)


def test_a_trainer_keeps_nothing_of_a_round():
    case = _case("cnn")
    trainer = Trainer(
        copy.deepcopy(case.network), task=TASK, private=True, device=torch.device("cpu"), max_physical_batch=4
    )
    first = trained(case, trainer=trainer)
    np.testing.assert_array_equal(trained(case, trainer=trainer), first)


def test_convolutions_give_right_gradients_in_channels_last():
    """Opacus reads its input by strides; without `.contiguous()` the second convolution's gradients are wrong."""
    network = _network("cnn").to(memory_format=torch.channels_last)
    plain = copy.deepcopy(network)
    data = DATA["cnn"]
    TASK.loss(PerExample(network, loss_reduction="sum")(*data.inputs), data.targets).sum().backward()
    compared = 0
    for i in range(len(data)):
        one = data.take(torch.tensor([i]))
        gradient = torch.autograd.grad(cross_entropy(plain(*one.inputs), one.targets), list(plain.parameters()))
        for parameter, expected in zip(network.parameters(), gradient, strict=True):
            torch.testing.assert_close(parameter.grad_sample[i], expected, rtol=1e-4, atol=1e-6)
            compared += 1
    assert compared == len(data) * 8


def test_a_layer_used_twice_and_volumes_train():
    class Twice(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.layer, self.head = nn.Linear(4, 4), nn.Linear(4, 3)

        def forward(self, x):
            return self.head(self.layer(torch.tanh(self.layer(x))))

    volumes = nn.Sequential(nn.Conv3d(1, 2, 2), nn.Tanh(), nn.Flatten(), nn.Linear(16, 3))
    mechanism = private(steps=3, sampling_rate=0.5)
    for network, data in ((Twice(), DATA["linear"]), (volumes, _images(shape=(1, 3, 3, 3)))):
        case = Case(network, data, mechanism, OPTIMIZERS["momentum"])
        np.testing.assert_allclose(trained(case), twin(case), atol=1e-5)


WILD = st.sampled_from([0.0, 1e-30, 1.0, -1e6, 1e19, 3e38, -3e38, math.inf, -math.inf, math.nan])


WHOLE = nn.Sequential(nn.Linear(4, 4), nn.Tanh(), nn.Linear(4, 3))
PARTS = nn.Sequential(nn.Unflatten(1, (2, 2)), nn.Linear(2, 4), nn.Tanh(), nn.Flatten(), nn.Linear(8, 3))


@pytest.mark.parametrize("layers", [WHOLE, PARTS], ids=["rows", "sequences"])
@settings(max_examples=40, deadline=None)
@given(example=st.lists(WILD, min_size=4, max_size=4), scale=st.sampled_from([1.0, 1e10, 1e30]))
def test_no_example_moves_the_sum_by_more_than_the_clip_norm(layers, example, scale):
    """Whatever it holds and whatever weights the server chose: a NaN would tell of it through any noise."""
    network = copy.deepcopy(layers)
    with torch.no_grad():
        network[-1].weight *= scale
    x, y = DATA["linear"].inputs[0], DATA["linear"].targets
    # All examples in every step, no noise, and a step of the whole sum.
    mechanism = private(sampling_rate=1.0, noise_multiplier=0.0, expected_batch=1.0)
    network_data = (Encoded((x,), y), Encoded((torch.cat([x, torch.tensor([example])]),), torch.cat([y, y[:1]])))
    without, with_it = (_gradient_sum(network, data, mechanism) for data in network_data)
    assert np.isfinite(with_it).all()
    assert np.linalg.norm(with_it - without) <= mechanism.max_grad_norm * (1 + 1e-4)


def _gradient_sum(network: nn.Module, data: Encoded, mechanism: Mechanism) -> np.ndarray:
    """The sum of clipped gradients, float64 `[d]`, read at weights zero, where no rounding of weights hides it."""
    trainer = Trainer(copy.deepcopy(network), task=TASK, private=True, device=torch.device("cpu"), max_physical_batch=5)
    sums = []
    original = torch.optim.SGD.step

    def spy(self):
        sums.extend(p.grad.double().reshape(-1).clone() for group in self.param_groups for p in group["params"])
        return original(self)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(torch.optim.SGD, "step", spy)
        trained(Case(network, data, mechanism, sgd()), trainer=trainer)
    return torch.cat(sums).numpy()


@pytest.mark.parametrize("layer", [nn.BatchNorm1d(3), nn.PReLU()])
def test_a_layer_without_gradients_by_example_is_refused(layer):
    with pytest.raises(BadInput, match="keep examples apart"):
        Trainer(
            nn.Sequential(nn.Linear(4, 3), layer),
            task=TASK,
            private=True,
            device=torch.device("cpu"),
            max_physical_batch=1,
        )


def test_a_layer_that_is_not_used_is_refused():
    class Network(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.used, self.idle = nn.Linear(4, 3), nn.Linear(2, 5)

        def forward(self, x):
            return self.used(x)

    case = Case(Network(), DATA["linear"], private(sampling_rate=1.0), sgd())
    with pytest.raises(BadInput, match=r"found one of \[5, 2\] left out"):
        trained(case)


def test_training_that_leaves_the_finite_numbers_is_refused():
    case = Case(_network("linear"), DATA["linear"], private(noise_multiplier=1e37), sgd(learning_rate=1e4))
    with pytest.raises(BadInput, match="NaN or infinity"):
        trained(case)


def test_a_start_of_another_length_is_refused():
    trainer = Trainer(_network("linear"), task=TASK, private=True, device=torch.device("cpu"), max_physical_batch=1)
    shard = Shard(DATA["linear"], torch.arange(4))
    with pytest.raises(BadInput, match="expected a model of 15 parameters, found 14"):
        trainer.evaluate(np.zeros(14, np.float32), shard, classes=3)


def test_evaluation_counts_the_rows_of_the_shard_and_no_other():
    network = _network("linear")
    trainer = Trainer(network, task=TASK, private=True, device=torch.device("cpu"), max_physical_batch=1)
    rows = torch.tensor([3, 1, 1])
    counters = trainer.evaluate(vector.flatten(network), Shard(DATA["linear"], rows), classes=3)
    expected = np.zeros((3, 3), np.int64)
    for row in rows:
        guess = network(DATA["linear"].inputs[0][row]).argmax()
        expected[DATA["linear"].targets[row], guess] += 1
    np.testing.assert_array_equal(counters.confusion, expected)


def test_devices():
    assert pick_device("cpu") == torch.device("cpu")
    assert pick_device("auto").type in ("cpu", "cuda", "mps")
    with pytest.raises(BadInput, match="cuda:9999"):
        pick_device("cuda:9999")


def test_a_shard_shows_its_size_only():
    shard = Shard(Encoded((torch.full((2, 1), 31337.0),), torch.tensor([31337, 31337])), torch.tensor([1]))
    assert repr(shard) == "Shard(n=1)"
    assert "31337" not in repr(shard) + repr(shard.data) + str(shard)
