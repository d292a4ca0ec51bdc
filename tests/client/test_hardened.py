"""Noise in integers: as much of it as there should be, everywhere, and nothing that a float's digits give away.

Every p-value is two-sided. A right value passes at p > 0.001 with the seeds given here; a wrong one fails at p < 1e-6.
"""

from __future__ import annotations

import copy
import math

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import stats
from torch import nn
from twin import TASK, Case, private, sgd, trained, twin

from tacit import vector
from tacit.privacy.grid import noised_sum
from tacit.privacy.randomness import Randomness, Stream
from tacit.tasks.task import Encoded
from tacit_client import clipping, optimizer
from tacit_client.clipping import Outer, Rows, clipped_sums, whole
from tacit_client.optimizer import PrivateOptimizer
from tacit_client.train import Trainer

torch.set_num_threads(1)

ACCEPT, REJECT = 1e-3, 1e-6
WRONG = (0.9, 1.1)


def _trainer(case: Case, *, hardened: bool = True) -> Trainer:
    return Trainer(
        copy.deepcopy(case.network),
        task=case.task,
        private=True,
        device=torch.device("cpu"),
        max_physical_batch=7,
        hardened=hardened,
    )


def _case(**changes: float) -> Case:
    torch.manual_seed(3)
    network = nn.Sequential(nn.Linear(20, 150), nn.Tanh(), nn.Linear(150, 60), nn.LayerNorm(60), nn.Linear(60, 3))
    data = Encoded((torch.randn(30, 20),), torch.randint(0, 3, (30,)))
    return Case(network, data, private(**changes), sgd(learning_rate=1.0), seed=12)


def _optimizer(parameters: list[nn.Parameter], *, hardened: bool = True, seed: int = 6, **changes: float):
    mechanism = private(**changes)
    plain = torch.optim.SGD(parameters, lr=0.0)
    return PrivateOptimizer(plain, mechanism=mechanism, noise=Randomness(seed).stream("noise"), hardened=hardened)


def _spread_p(draws: np.ndarray, std: float) -> float:
    lower = stats.chi2.cdf(float(np.square(draws, dtype=np.float64).sum()) / std**2, df=draws.size)
    return 2 * min(lower, 1 - lower)


@pytest.mark.statistical
@pytest.mark.parametrize("rate", [1e-12, 0.5])
def test_every_parameter_gets_noise_of_that_scale_also_in_an_empty_batch(rate):
    """The same draw with a step without noise, whose sum is known, taken away."""
    case = _case(max_grad_norm=0.3, noise_multiplier=1.7, expected_batch=20.0, sampling_rate=rate)
    released = vector.named(case.network, trained(case, trainer=_trainer(case)))
    trainer = _trainer(case)
    start = vector.flatten(case.network)
    total = trainer.clipped_sum(start, case.shard, mechanism=case.mechanism, sampling=case.stream("sampling"))
    without = vector.named(case.network, (-total / 20.0).astype(np.float32))
    assert (np.abs(total).max() > 0) == (rate == 0.5)
    std = 0.3 * 1.7 / 20.0
    assert len(released) == 8
    for name, part in released.items():
        noise = (part - without[name]).ravel()
        assert np.count_nonzero(noise) > 0.99 * noise.size, name
        assert _spread_p(noise, std) > ACCEPT, name
    everything = np.concatenate([(released[name] - without[name]).ravel() for name in released])
    assert len(everything) > 12_000
    for factor in WRONG:
        assert _spread_p(everything, factor * std) < REJECT


@pytest.mark.parametrize("persons", [None, (0, 0, 1, 2, 2, 2, 3, 4, 4, 5) * 3])
def test_all_but_the_noise_is_that_of_the_twin(persons):
    """The slow twin is written without noise; so is what is left when the noise that was drawn is taken away."""
    owners = None if persons is None else tuple(sorted(p + 6 * (i // 10) for i, p in enumerate(persons)))
    unit = {} if persons is None else {"unit": "patient"}
    plain = _case(noise_multiplier=0.0, sampling_rate=0.6, **unit)
    noisy = _case(noise_multiplier=0.8, sampling_rate=0.6, **unit)
    plain, noisy = (Case(**{**case.__dict__, "owners": owners, "most": 2}) for case in (plain, noisy))
    size = vector.size(noisy.network)
    noise = noised_sum(np.zeros(size), clip=0.7, noise_multiplier=0.8, noise=noisy.stream("noise"))
    found = trained(noisy, trainer=_trainer(noisy)) + noise / 4.0
    expected = twin(plain)
    assert np.abs(expected).max() > 1e-3
    np.testing.assert_allclose(found, expected, atol=2e-6)


def test_a_released_sum_is_a_multiple_of_the_grid():
    """Beside the network's numbers stand numbers of float64, which hold every digit."""
    parameter = nn.Parameter(torch.zeros(4000, dtype=torch.float64))
    noisy = _optimizer([parameter], max_grad_norm=0.5, noise_multiplier=1.1, expected_batch=1.0)
    parameter.grad_sample = torch.randn(5, 4000, dtype=torch.float64, generator=torch.Generator().manual_seed(1))
    noisy.accumulate()
    assert parameter.summed_grad.dtype == torch.float64
    noisy.release()
    steps = parameter.grad.numpy() / (0.5 * 2.0**-36)
    np.testing.assert_array_equal(steps, np.rint(steps))
    assert np.unique(steps % 16).size == 16
    drawn = noised_sum(np.zeros(4000), clip=0.5, noise_multiplier=1.1, noise=Randomness(6).stream("noise"))
    rounded = np.rint(parameter.summed_grad.numpy() / (0.5 * 2.0**-36))
    np.testing.assert_array_equal(steps - drawn / (0.5 * 2.0**-36), rounded)  # nothing of the sum is lost on the way
    assert np.abs(rounded).max() > 2**26


def _reached(released: np.ndarray, *, std: float) -> np.ndarray:
    """Which float32 numbers are some float32 number times `std`: all that the quick noise alone can come to.

    The attack of Mironov 2012 (doi:10.1145/2382196.2382264) on this noise.
    """
    found = np.zeros(len(released), dtype=bool)
    factor = (released / np.float32(std)).astype(np.float32)
    for _ in range(3):
        factor = np.nextafter(factor, np.float32(-np.inf))
    for _ in range(7):
        found |= factor * np.float32(std) == released
        factor = np.nextafter(factor, np.float32(np.inf))
    return found


def _release(gradient: float, *, hardened: bool) -> np.ndarray:
    """Of 20,000 entries, each of which an example moves by `gradient`, or nobody does."""
    parameter = nn.Parameter(torch.zeros(20_000))
    noisy = _optimizer([parameter], hardened=hardened, max_grad_norm=1.0, noise_multiplier=1.7, expected_batch=1.0)
    parameter.grad_sample = torch.full((1, 20_000), gradient)
    noisy.accumulate()
    noisy.release()
    return parameter.grad.numpy()


def test_the_quick_noise_gives_an_example_away():
    """Float noise alone comes to some numbers only, and with an example added to others: one of them is proof."""
    assert _reached(_release(0.0, hardened=False), std=1.7).all()
    assert _reached(_release(0.003, hardened=False), std=1.7).mean() < 0.9  # every tenth number


@pytest.mark.statistical
def test_integer_noise_does_not():
    without, with_one = (_reached(_release(gradient, hardened=True), std=1.7) for gradient in (0.0, 0.003))
    assert 0.85 < without.mean() < 0.95
    table = [[int(x.sum()), int((~x).sum())] for x in (without, with_one)]
    assert stats.chi2_contingency(table).pvalue > ACCEPT


NORMS = st.sampled_from([1e-6, 0.1, 1e6])
FORMS = st.sampled_from(["dense", "outer", "rows"])


def _gradients(form: str, *, n: int, seed: int, size: float):
    draw = torch.Generator().manual_seed(seed)

    def normal(*shape: int) -> torch.Tensor:
        return size * torch.randn(*shape, generator=draw)

    match form:
        case "dense":
            return normal(n, 3, 1, 2)
        case "outer":
            return Outer(normal(n, 3), normal(n, 5))
    return Rows.of(torch.randint(0, 5, (n, 4), generator=draw), normal(n, 4, 2), count=5)


@settings(max_examples=100, deadline=None)
@given(
    scales=st.tuples(st.sampled_from([1e-18, 1e-3, 1.0, 1e15]), NORMS),
    form=FORMS,
    sizes=st.lists(st.integers(1, 4), min_size=1, max_size=6),
    seed=st.integers(0, 999),
    by_person=st.booleans(),
)
def test_an_exact_sum_is_right_to_twelve_digits_and_bounds_every_unit(scales, form, sizes, seed, by_person):
    size, max_norm = scales
    owners = [p for p, count in enumerate(sizes) for _ in range(count)]
    found = [_gradients(form, n=len(owners), seed=seed, size=size), size * torch.ones(len(owners), 2)]
    persons = torch.tensor(owners) if by_person else None
    written = [whole(g).double().reshape(len(owners), -1) for g in found]
    joined = torch.cat(written, dim=1)
    if by_person:
        joined = torch.stack([joined[persons == p].mean(dim=0) for p in range(len(sizes))])
    lengths = joined.norm(dim=1, keepdim=True)
    expected = (joined * (max_norm / (lengths + 1e-6)).clamp(max=1.0)).sum(dim=0)
    sums = clipped_sums(found, max_norm=max_norm, persons=persons, exact=True)
    total = torch.cat([part.reshape(-1) for part in sums])
    assert total.dtype == torch.float64
    scale = float(torch.minimum(lengths, torch.tensor(max_norm).double()).sum())
    # In a mean of three, and in an outer product whose factors are brought to one size, a part is float32.
    assert float((total - expected).norm()) <= 3e-7 * scale


@settings(max_examples=150, deadline=None)
@given(
    scales=st.tuples(st.sampled_from([1e-30, 1.0, 1e18]), NORMS),
    form=FORMS,
    n=st.integers(1, 5),
    seed=st.integers(0, 999),
    owners=st.sampled_from([None, (0, 0, 0, 0, 0), (0, 1, 1, 2, 2)]),
)
def test_one_unit_moves_an_exact_sum_by_no_more_than_the_clip(scales, form, n, seed, owners):
    """Guarantee: to a part in 2^22, also where others are in the batch and means are taken for their sake."""
    size, max_norm = scales
    alone = _gradients(form, n=1, seed=seed, size=size)
    (found,) = clipped_sums([alone], max_norm=max_norm, exact=True)
    assert float(found.norm()) <= max_norm * (1 + 2**-22)
    others = _gradients("dense", n=n, seed=seed + 1, size=size)
    persons = None if owners is None else torch.tensor(owners[:n])
    extra = _gradients("dense", n=1, seed=seed + 2, size=size)
    after = None if persons is None else torch.cat([persons, persons[-1:] + 1])
    (before,) = clipped_sums([others], max_norm=max_norm, persons=persons, exact=True)
    (more,) = clipped_sums([torch.cat([others, extra])], max_norm=max_norm, persons=after, exact=True)
    assert float((more - before).norm()) <= max_norm * (1 + 2**-22)


def test_the_others_means_do_not_hang_on_who_is_there():
    """A person of one example is summed as a product or as a mean written out, by who else is in the batch."""
    outer = Outer(torch.randn(200, 30), torch.randn(200, 40))

    def summed(rows: slice, owners: list[int] | None) -> torch.Tensor:
        persons = None if owners is None else torch.tensor(owners)
        part = Outer(outer.left[rows], outer.right[rows])
        return clipped_sums([part], max_norm=1.0, persons=persons, exact=True)[0]

    before, after = summed(slice(199), list(range(199))), summed(slice(200), [*range(199), 198])
    once, twice = summed(slice(198, 199), None), summed(slice(198, 200), [0, 0])
    assert float((after - before - (twice - once)).norm()) < 1e-12


def test_a_device_without_float64_hands_its_gradients_over(monkeypatch):
    monkeypatch.setattr(clipping, "_NO_DOUBLES", ("cpu",))
    moved = []
    monkeypatch.setattr(torch.Tensor, "cpu", lambda self: moved.append(self.shape) or self)
    for form, tensors in (("dense", 1), ("outer", 2), ("rows", 3)):
        moved.clear()
        found = clipped_sums(
            [_gradients(form, n=3, seed=1, size=1.0)], max_norm=1.0, persons=torch.tensor([0, 0, 1]), exact=True
        )
        assert found[0].dtype == torch.float64
        assert len(moved) == tensors + 1  # and the persons


def test_a_real_partner_draws_its_noise_in_integers(make, monkeypatch):
    drawn = []

    def draw(total: np.ndarray, **more: object) -> np.ndarray:
        drawn.append(len(total))
        return noised_sum(total, **more)

    monkeypatch.setattr(optimizer, "noised_sum", draw)
    monkeypatch.setattr(Stream, "gaussian", None)  # the quick noise: nobody may ask for it
    federation = make()
    federation.whole(federation.open())
    assert drawn == [len(federation.model)] * 3 * federation.job.training.local_steps


def test_the_quick_way_is_as_it_was():
    case = _case(sampling_rate=0.7)
    quick = trained(case, trainer=_trainer(case, hardened=False))
    np.testing.assert_allclose(quick, twin(case), atol=2e-6)
    assert not Trainer(
        nn.Linear(2, 2), task=TASK, private=True, device=torch.device("cpu"), max_physical_batch=1
    ).hardened
    assert np.abs(quick - trained(case, trainer=_trainer(case))).max() > 0.01
    assert math.isfinite(float(quick.sum()))


def test_a_hardened_trainer_keeps_all_digits_of_float32_on_cuda():
    """Switches of torch, which are there without such a device too."""
    matmul, cudnn = torch.backends.cuda.matmul, torch.backends.cudnn
    before = matmul.allow_tf32, cudnn.allow_tf32
    try:
        matmul.allow_tf32 = cudnn.allow_tf32 = True
        _trainer(_case(), hardened=False)
        assert (matmul.allow_tf32, cudnn.allow_tf32) == (True, True)
        _trainer(_case())
        assert (matmul.allow_tf32, cudnn.allow_tf32) == (False, False)
    finally:
        matmul.allow_tf32, cudnn.allow_tf32 = before
