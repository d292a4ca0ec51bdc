"""Flower's strategies, handed the mean, against their formulas in numpy."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest
from flwr.supercore.task_identity import TaskIdentity

from tacit.errors import JobFailed
from tacit.job import NEEDS_SINGLE_UPDATES, SERVER_OPTIONS
from tacit_server.update import ServerOptimizer

D = 5
START = np.linspace(-1, 1, D, dtype=np.float32)
DELTAS = np.random.default_rng(0).normal(size=(6, D)).astype(np.float32)


@pytest.fixture(autouse=True, scope="module")
def identity() -> None:
    """What a launched ServerApp has, and every Flower message is stamped with."""
    TaskIdentity.run_id, TaskIdentity.node_id, TaskIdentity.task_id = 1, 0, 0


def _optimizer(make_job, strategy: str, **options: float) -> ServerOptimizer:
    shown = [f"training.server_options.{key}={value}" for key, value in options.items()]
    return ServerOptimizer(make_job(f"training.server_strategy={strategy}", *shown).training, START)


def _fedavg(deltas: np.ndarray) -> list[np.ndarray]:
    return list(START + np.cumsum(deltas, axis=0))


def _fedavgm(deltas: np.ndarray, *, rate: float, momentum: float) -> list[np.ndarray]:
    """Hsu et al. 2019 (arXiv:1909.06335), section 4.1: v = momentum v + delta; x = x + rate v."""
    x, v, found = START.astype(np.float64), np.zeros(D), []
    for delta in deltas:
        v = momentum * v + delta
        x = x + rate * v
        found.append(x)
    return found


def _adaptive(
    deltas: np.ndarray,
    *,
    second: Callable[[np.ndarray, np.ndarray], np.ndarray],
    eta: float,
    beta_1: float,
    tau: float,
    correction: Callable[[int], float] = lambda round_number: 1.0,
) -> list[np.ndarray]:
    """Reddi et al. 2021 (arXiv:2003.00295v5, Algorithm 2), with v starting at 0 as in Flower."""
    x, m, v, found = START.astype(np.float64), np.zeros(D), np.zeros(D), []
    for round_number, delta in enumerate(deltas.astype(np.float64), start=1):
        m = beta_1 * m + (1 - beta_1) * delta
        v = second(v, delta**2)
        x = x + eta * correction(round_number) * m / (np.sqrt(v) + tau)
        found.append(x)
    return found


def _fedadam(deltas: np.ndarray) -> list[np.ndarray]:
    def corrected(round_number: int) -> float:
        """Flower's: alpha_t of Kingma and Ba (arXiv:1412.6980v9, before section 2.1) one round ahead."""
        return float(np.sqrt(1 - 0.9 ** (round_number + 1)) / (1 - 0.8 ** (round_number + 1)))

    return _adaptive(deltas, second=lambda v, s: 0.9 * v + 0.1 * s, eta=0.3, beta_1=0.8, tau=0.01, correction=corrected)


def _fedyogi(deltas: np.ndarray) -> list[np.ndarray]:
    return _adaptive(deltas, second=lambda v, s: v - 0.1 * s * np.sign(v - s), eta=0.3, beta_1=0.8, tau=0.01)


def _fedadagrad(deltas: np.ndarray) -> list[np.ndarray]:
    return _adaptive(deltas, second=lambda v, s: v + s, eta=0.3, beta_1=0.0, tau=0.01)


BETAS = {"beta_1": 0.8, "beta_2": 0.9, "eta": 0.3, "tau": 0.01}
TWINS = {
    "fedavg": ({}, _fedavg),
    "fedavgm": (
        {"server_learning_rate": 0.5, "server_momentum": 0.9},
        lambda deltas: _fedavgm(deltas, rate=0.5, momentum=0.9),
    ),
    "fedadam": (BETAS, _fedadam),
    "fedyogi": (BETAS, _fedyogi),
    "fedadagrad": ({"eta": 0.3, "tau": 0.01}, _fedadagrad),
}


def test_every_strategy_is_tried():
    assert set(TWINS) | NEEDS_SINGLE_UPDATES == set(SERVER_OPTIONS)


@pytest.mark.parametrize("strategy", TWINS)
def test_a_strategy_follows_its_formula(make_job, strategy):
    options, twin = TWINS[strategy]
    optimizer, vector = _optimizer(make_job, strategy, **options), START
    expected = twin(DELTAS)
    for number, delta in enumerate(DELTAS, start=1):
        vector = optimizer.step(number, vector, [delta.astype(np.float64)])
        assert vector.dtype == np.float32
        np.testing.assert_allclose(vector, expected[number - 1], rtol=1e-5, atol=1e-6)
    assert len(expected) == 6


@pytest.mark.parametrize("strategy", TWINS)
@pytest.mark.parametrize("stop", [0, 1, 3])
def test_a_restart_changes_nothing(make_job, strategy, stop):
    options, _ = TWINS[strategy]
    through, vector = _optimizer(make_job, strategy, **options), START
    whole = [vector := through.step(n, vector, [d]) for n, d in enumerate(DELTAS, start=1)]

    before, vector = _optimizer(make_job, strategy, **options), START
    for number, delta in enumerate(DELTAS[:stop], start=1):
        vector = before.step(number, vector, [delta])
    kept = {name: array.copy() for name, array in before.state().items()}
    after = ServerOptimizer(make_job(f"training.server_strategy={strategy}", *_shown(options)).training, vector)
    after.restore(kept)
    for number, delta in enumerate(DELTAS[stop:], start=stop + 1):
        vector = after.step(number, vector, [delta])
        np.testing.assert_array_equal(vector, whole[number - 1])


def _shown(options: dict[str, float]) -> list[str]:
    return [f"training.server_options.{key}={value}" for key, value in options.items()]


@pytest.mark.parametrize("strategy", ["fedavgm", "fedadam", "fedyogi", "fedadagrad"])
def test_the_state_matters(make_job, strategy):
    """The twin of the test above: without the state the trajectory is another."""
    options, _ = TWINS[strategy]
    kept, fresh = _optimizer(make_job, strategy, **options), _optimizer(make_job, strategy, **options)
    first = kept.step(1, START, [DELTAS[0]])
    assert kept.state()
    assert not np.allclose(kept.step(2, first, [DELTAS[1]]), fresh.step(2, first, [DELTAS[1]]))


ROBUST = {
    "bulyan": {"num_malicious_nodes": 1},
    "fedmedian": {},
    "fedtrimmedavg": {"beta": 0.2},
    "krum": {"num_malicious_nodes": 1},
    "multikrum": {"num_malicious_nodes": 1, "num_nodes_to_select": 3},
}


@pytest.mark.parametrize("strategy", sorted(NEEDS_SINGLE_UPDATES))
@pytest.mark.parametrize("absurd", [1e6, -1e6])
@pytest.mark.parametrize("place", [0, 3, 7])
def test_one_absurd_update_is_ignored(make_job, strategy, absurd, place):
    optimizer = _optimizer(make_job, strategy, **ROBUST[strategy])
    assert optimizer.single
    honest = 1 + np.random.default_rng(1).uniform(-0.1, 0.1, size=(7, D)).astype(np.float32)
    deltas = np.insert(honest, place, absurd, axis=0)
    moved = optimizer.step(1, START, list(deltas)) - START
    assert (moved >= honest.min(axis=0) - 1e-5).all()
    assert (moved <= honest.max(axis=0) + 1e-5).all()
    assert np.abs(_optimizer(make_job, "fedavg").step(1, START, [deltas.mean(axis=0)]) - START).min() > 1e5


@pytest.mark.parametrize("strategy", TWINS)
def test_a_model_that_is_not_finite_fails_the_job(make_job, strategy):
    options, _ = TWINS[strategy]
    with pytest.raises(JobFailed, match=r"^expected a finite global model, found NaN or infinity$"):
        _optimizer(make_job, strategy, **options).step(1, START, [np.full(D, np.nan)])
