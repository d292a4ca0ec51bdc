"""The bound on epsilon: against a slow twin, published figures, and mechanisms whose epsilon is known."""

from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from tacit.errors import BadInput
from tacit_sim.audit.bound import lower_bound, numbers, p_value, sweep
from tacit_sim.audit.ideal import gaussian_epsilon, gaussian_sigma, gaussian_trial, ideal, sampled

DELTA = 1e-5


def _slow_p_value(guesses: int, *, right: int, canaries: int, epsilon: float, delta: float) -> float:
    """Theorem 5.2 of arXiv:2305.08846, term by term."""
    q = math.exp(epsilon) / (1 + math.exp(epsilon))
    chance = [math.comb(guesses, k) * q**k * (1 - q) ** (guesses - k) for k in range(guesses + 1)]
    alpha = max((sum(chance[right - i : right]) / i for i in range(1, right + 1)), default=0.0)
    return min(1.0, sum(chance[right:]) + 2 * canaries * delta * alpha)


@given(st.data(), st.integers(1, 40), st.floats(0.0, 6.0), st.sampled_from([0.0, 1e-5, 1e-2]))
def test_the_p_value_is_the_theorems(data, guesses, epsilon, delta):
    right, more = data.draw(st.integers(0, guesses)), data.draw(st.integers(0, 50))
    case = {"right": right, "canaries": guesses + more, "epsilon": epsilon, "delta": delta}
    assert p_value(guesses, **case) == pytest.approx(_slow_p_value(guesses, **case), rel=1e-9, abs=1e-12)


@given(st.integers(1, 60), st.data())
def test_the_bound_rejects_what_is_below_it_and_grows_with_right_guesses(guesses, data):
    right = data.draw(st.integers(0, guesses - 1))
    fewer, more = (
        lower_bound(guesses, right=r, canaries=guesses, delta=DELTA, confidence=0.95) for r in (right, right + 1)
    )
    assert fewer <= more
    if fewer > 0:
        p = p_value(guesses, right=right, canaries=guesses, epsilon=fewer, delta=DELTA)
        assert 0.045 < p <= 0.05 + 1e-12


def test_all_right_without_delta_by_hand():
    """Of n right guesses the bound q^n = 0.05 gives q."""
    q = 0.05 ** (1 / 30)
    expected = math.log(q / (1 - q))
    found = lower_bound(30, right=30, canaries=30, delta=0.0, confidence=0.95)
    assert expected - 2e-4 <= found <= expected


@pytest.mark.statistical
@pytest.mark.parametrize(("sigma", "low", "high"), [(0.5, 4.87, 4.99), (1.0, 2.61, 2.73), (2.0, 1.33, 1.36)])
def test_the_published_figures_of_an_ideal_gaussian(sigma, low, high):
    """Mahloujifar et al., ICML 2025, table 1, the column of Steinke et al.: 100,000 canaries, the best of a sweep."""
    found = gaussian_trial(np.random.default_rng(1), sigma=sigma, canaries=100_000, delta=DELTA).pointwise
    assert 0.9 * low <= found <= 1.1 * high
    assert found < gaussian_epsilon(sigma, delta=DELTA)


@pytest.mark.statistical
@pytest.mark.parametrize(("sigma", "epsilon"), [(0.5, 9.997), (1.0, 4.377), (2.0, 1.993), (4.0, 0.926)])
def test_epsilon_of_the_gaussian_mechanism(sigma, epsilon):
    assert gaussian_epsilon(sigma, delta=DELTA) == pytest.approx(epsilon, abs=1e-3)
    assert gaussian_sigma(gaussian_epsilon(sigma, delta=DELTA), delta=DELTA) == pytest.approx(sigma, rel=1e-5)


def _flips(rng: np.random.Generator, *, epsilon: float, canaries: int) -> tuple[np.ndarray, np.ndarray]:
    """Randomised response: every coin is told, and is told right with chance 1 / (1 + exp(-epsilon))."""
    coins = rng.integers(0, 2, canaries).astype(bool)
    told = coins ^ (rng.random(canaries) > 1 / (1 + math.exp(-epsilon)))
    return np.where(told, 1.0, -1.0), coins


def _misses(confidence: float, *, trials: int = 600, canaries: int = 100, epsilon: float = 1.0) -> int:
    rng, missed = np.random.default_rng(5), 0
    for _ in range(trials):
        scores, coins = _flips(rng, epsilon=epsilon, canaries=canaries)
        right = int(((scores > 0) == coins).sum())
        bound = lower_bound(canaries, right=right, canaries=canaries, delta=0.0, confidence=confidence)
        missed += bound > epsilon
    return missed


@pytest.mark.statistical
def test_coverage_on_the_mechanism_for_which_the_theorem_is_tight():
    """Of 600 bounds at 95 % about 5 % may be above epsilon: 30, give or take 5.3. At 50 % they are half of all."""
    assert 8 <= _misses(0.95) <= 46
    assert _misses(0.5) >= 200


@pytest.mark.statistical
def test_the_delta_term_is_needed():
    """Everything told with chance 0.2, and else nothing, is (0, 0.2)-private. Without the term it looks like more."""
    rng = np.random.default_rng(6)
    bounds: dict[float, list[float]] = {0.2: [], 0.0: []}
    for _ in range(200):
        right = 30 if rng.random() < 0.2 else int(rng.binomial(30, 0.5))
        for delta, found in bounds.items():
            found.append(lower_bound(30, right=right, canaries=30, delta=delta, confidence=0.95))
    assert np.mean(np.array(bounds[0.2]) > 0) <= 0.05
    assert np.mean(np.array(bounds[0.0]) > 0) >= 0.15


@pytest.mark.statistical
def test_bounds_grow_with_canaries_and_stay_below_epsilon():
    epsilon = gaussian_epsilon(1.0, delta=DELTA)
    found = [ideal(epsilon, delta=DELTA, canaries=m, seed=3, trials=8) for m in (50, 500, 5000)]
    assert found[0].mean < found[1].mean < found[2].mean < epsilon
    assert all(f.least <= f.mean <= f.most < epsilon for f in found)
    assert all(f.guesses in numbers(m) for f, m in zip(found, (50, 500, 5000), strict=True))
    assert 1.54 < found[2].mean < 2.6  # the anchors' best of a sweep: 2.21


@pytest.mark.statistical
def test_noise_alone_shows_nothing_and_many_looks_are_paid_for():
    rng, above = np.random.default_rng(7), {"shared": 0, "pointwise": 0}
    for _ in range(200):
        found = sweep(rng.standard_normal(300), rng.integers(0, 2, 300).astype(bool), delta=0.0)
        above["shared"] += found.shared > 0
        above["pointwise"] += found.pointwise > 0
        assert found.shared <= found.pointwise
    assert above["shared"] <= 20  # 5 % of 200, and three deviations
    assert above["pointwise"] >= 20


def test_the_surest_are_guessed_by_their_sign():
    scores = np.concatenate([[9.0, -8.0, 7.0, -7.5], 0.01 * np.ones(36)])
    coins = np.array([True, False, True, True] + [False] * 36)
    found = sweep(scores, coins, delta=0.0)
    assert [(g.made, g.right) for g in found.tried] == [(40, 3), (30, 3), (20, 3)]
    assert found.at(20).right == 3
    with pytest.raises(BadInput, match="a number of guesses that was tried"):
        found.at(21)


@pytest.mark.parametrize(
    ("scores", "coins"),
    [(np.zeros(19), np.zeros(19, bool)), (np.zeros(30), np.zeros(29, bool)), (np.full(30, np.nan), np.zeros(30, bool))],
)
def test_scores_that_can_not_be_used(scores, coins):
    with pytest.raises(BadInput, match="a score and a coin for each"):
        sweep(scores, coins, delta=DELTA)


def test_numbers_that_can_not_be():
    with pytest.raises(BadInput, match="right guesses <= guesses <= canaries"):
        p_value(10, right=11, canaries=20, epsilon=1.0, delta=0.0)
    for epsilon in (0.0, -1.0, math.inf):
        with pytest.raises(BadInput, match="an epsilon above 0 and finite"):
            gaussian_sigma(epsilon, delta=DELTA)
    assert p_value(5, right=5, canaries=5, epsilon=800.0, delta=0.0) == 1.0


@pytest.mark.statistical
def test_a_mechanism_without_sampling_is_the_gaussian():
    """Nine steps at rate 1 with noise 3 are one step with noise 1; with noise 6 they show less."""
    epsilon = gaussian_epsilon(1.0, delta=DELTA)
    common = {"canaries": 1000, "delta": DELTA, "seed": 2, "trials": 20}
    expected = ideal(epsilon, **common)
    same = sampled(rate=1.0, noise=3.0, steps=9, guesses=expected.guesses, **common)
    assert same.mean == pytest.approx(expected.mean, rel=0.15)
    noisier = sampled(rate=1.0, noise=6.0, steps=9, guesses=expected.guesses, **common)
    assert noisier.mean < 0.7 * expected.mean
