"""Epsilon against three others: dp-accounting's own accountant, Opacus's PRV, and integrals worked out here."""

from __future__ import annotations

import math
import resource
import time
from collections.abc import Callable
from itertools import pairwise
from pathlib import Path

import dp_accounting
import pytest
from dp_accounting.pld import PLDAccountant
from hypothesis import given, settings
from hypothesis import strategies as st
from opacus.accountants import PRVAccountant
from scipy import integrate, optimize
from scipy.stats import norm

from tacit.errors import BadInput
from tacit.privacy import accounting
from tacit.privacy.accounting import LEAST_NOISE, calibrate, epsilon
from tacit.privacy.events import Event, merge

DELTA = 1e-5


def _event(rate: float, noise: float, steps: int) -> Event:
    return Event(kind="dp-sgd", sampling_rate=rate, noise_multiplier=noise, steps=steps)


NONE = Event(kind="none", sampling_rate=0.1, noise_multiplier=0.0, steps=1)
RUNS = {
    "one round": [_event(0.02, 1.1, 50)],
    "six rounds": [_event(0.02, 1.1, 50)] * 6,
    "two runs": [_event(0.02, 1.1, 50)] * 3 + [_event(0.05, 1.5, 30)] * 2,
    "two mechanisms in turn": [_event(0.05, 1.5, 10), _event(0.1, 2.0, 7)] * 3,
}


def _plain(events: list[Event]) -> float:
    accountant = PLDAccountant()
    for event in events:
        gaussian = dp_accounting.GaussianDpEvent(event.noise_multiplier)
        sampled = dp_accounting.PoissonSampledDpEvent(event.sampling_rate, gaussian)
        accountant.compose(sampled, event.steps)
    return accountant.get_epsilon(DELTA)


def _prv(events: list[Event]) -> float:
    accountant = PRVAccountant()
    for event in merge(events):
        accountant.history.append((event.noise_multiplier, event.sampling_rate, event.steps))
    return float(accountant.get_epsilon(DELTA, eps_error=0.002))  # an upper bound, off by at most that


@pytest.mark.parametrize("name", RUNS)
def test_all_rounds_are_composed_as_by_two_other_accountants(name):
    events = RUNS[name]
    found = epsilon(events, delta=DELTA)
    assert found == pytest.approx(_plain(events), rel=2e-3)
    assert found == pytest.approx(_prv(events), rel=0.01)


@pytest.mark.parametrize("name", ["six rounds", "two runs", "two mechanisms in turn"])
def test_it_is_far_from_the_last_rounds_own(name):
    events = RUNS[name]
    assert epsilon(events, delta=DELTA) > 1.2 * epsilon(events[-1:], delta=DELTA)


def _solve(delta_of: Callable[[float], float], delta: float = DELTA) -> float:
    return float(optimize.brentq(lambda e: delta_of(e) - delta, 1e-6, 200.0, xtol=1e-10))


def _balle_wang(noise: float) -> float:
    """Epsilon of the Gaussian mechanism: Balle and Wang 2018, arXiv:1805.06530, Theorem 8, at sensitivity 1."""

    def delta_of(e: float) -> float:
        return norm.cdf(0.5 / noise - e * noise) - math.exp(e) * norm.cdf(-0.5 / noise - e * noise)

    return _solve(delta_of)


@pytest.mark.parametrize(("noise", "steps"), [(1.0, 1), (4.0, 1), (5.0, 10), (20.0, 400)])
def test_without_sampling_it_is_the_gaussian_mechanisms(noise, steps):
    """Steps that take every example are one Gaussian mechanism of the noise over the root of their number."""
    assert epsilon([_event(1.0, noise, steps)], delta=DELTA) == pytest.approx(
        _balle_wang(noise / math.sqrt(steps)), rel=0.005
    )


def _integrated(rate: float, noise: float) -> float:
    """Epsilon of one sampled step by integrating both hockey sticks, of adding and of removing an example."""

    def stick(e: float, *, removing: bool) -> float:
        def gap(x: float) -> float:
            without = norm.pdf(x, 0.0, noise)
            with_it = (1 - rate) * without + rate * norm.pdf(x, 1.0, noise)
            more, less = (with_it, without) if removing else (without, with_it)
            return max(0.0, more - math.exp(e) * less)

        edges = [i * noise for i in range(-12, 16)]
        return sum(integrate.quad(gap, a, b, limit=200)[0] for a, b in pairwise(edges))

    return _solve(lambda e: max(stick(e, removing=True), stick(e, removing=False)))


@pytest.mark.parametrize(("rate", "noise"), [(0.2, 0.9), (0.05, 0.7)])
def test_a_sampled_step_is_the_integral_of_its_loss(rate, noise):
    assert epsilon([_event(rate, noise, 1)], delta=DELTA) == pytest.approx(_integrated(rate, noise), rel=0.005)


def test_nothing_costs_nothing_and_no_protection_costs_everything():
    assert epsilon([], delta=DELTA) == 0.0
    assert epsilon([NONE], delta=DELTA) == math.inf
    assert epsilon([_event(0.01, 5.0, 1), NONE], delta=DELTA) == math.inf
    assert epsilon([_event(0.01, 0.0, 1)], delta=DELTA) == math.inf


# Few mechanisms, so that each is discretised once.
SOME = st.builds(_event, st.sampled_from([0.01, 0.1]), st.sampled_from([1.0, 2.0]), st.integers(1, 20))


@settings(max_examples=10, deadline=None)
@given(st.lists(SOME, min_size=1, max_size=5), st.randoms())
def test_neither_merging_nor_order_changes_the_cost(events, random):
    shuffled = random.sample(events, len(events))
    cost = epsilon(events, delta=DELTA)
    assert epsilon(merge(events), delta=DELTA) == cost
    assert epsilon(shuffled, delta=DELTA) == pytest.approx(cost, rel=1e-6)


@settings(max_examples=6, deadline=None)
@given(st.lists(SOME, min_size=1, max_size=4), SOME)
def test_another_release_never_lowers_the_cost(events, another):
    assert epsilon([*events, another], delta=DELTA) > epsilon(events, delta=DELTA)


@pytest.mark.parametrize(("target", "rate", "steps"), [(3.0, 0.02, 800), (0.3, 0.05, 50)])
def test_calibrated_noise_meets_the_target_and_no_less_would(target, rate, steps):
    noise = calibrate(target=target, delta=DELTA, sampling_rate=rate, steps=steps)
    cost = epsilon([_event(rate, noise, steps)], delta=DELTA)
    assert 0.99 * target <= cost <= target
    assert epsilon([_event(rate, 0.98 * noise, steps)], delta=DELTA) > target


def test_a_target_out_of_reach_is_refused():
    with pytest.raises(BadInput, match="expected an epsilon that noise can reach over 1000000 steps"):
        calibrate(target=1e-6, delta=1e-12, sampling_rate=1.0, steps=10**6)


def test_noise_for_very_many_steps_is_found():
    noise = calibrate(target=2.0, delta=DELTA, sampling_rate=1.0, steps=10**4)
    assert _balle_wang(noise / 100) == pytest.approx(2.0, rel=0.01)


def test_less_noise_than_is_accounted_for_costs_infinity_and_is_never_calibrated_to():
    assert epsilon([_event(0.1, 0.199, 1)], delta=DELTA) == math.inf
    assert math.isfinite(epsilon([_event(0.1, LEAST_NOISE, 1)], delta=DELTA))
    assert calibrate(target=60.0, delta=DELTA, sampling_rate=0.01, steps=1) >= LEAST_NOISE


def test_different_units_have_no_epsilon_in_common():
    by_row, by_person = _event(0.02, 1.1, 50), _event(0.02, 1.1, 50).model_copy(update={"unit": "patient_id"})
    assert epsilon([by_person] * 2, delta=DELTA) == epsilon([by_row] * 2, delta=DELTA) < math.inf
    assert epsilon([by_row, by_person], delta=DELTA) == math.inf
    assert len(merge([by_row, by_person, by_row])) == 2


@pytest.mark.parametrize(("rate", "noise", "steps"), [(0.5, 0.3, 10**6), (1.0, 0.2, 10**12), (0.02, 0.5, 10**300)])
def test_what_would_take_gigabytes_to_add_up_is_infinite(rate, noise, steps):
    """The server chooses rounds and noise: a partner must not die of the sum."""
    before = resource.getrlimit(resource.RLIMIT_AS)
    used = int(Path("/proc/self/statm").read_text().split()[0]) * resource.getpagesize()
    resource.setrlimit(resource.RLIMIT_AS, (used + (3 << 30), before[1]))
    try:
        assert epsilon([_event(rate, noise, steps)], delta=DELTA) == math.inf
    finally:
        resource.setrlimit(resource.RLIMIT_AS, before)


def test_a_large_epsilon_that_can_be_added_up_is_a_number():
    assert 100 < epsilon([_event(0.05, 0.5, 3000)], delta=DELTA) < 200


@pytest.mark.parametrize("steps", [1, 1000])
@pytest.mark.parametrize("noise", [1.0, 1e9, 1.1e9, 1e154, 1e155, 1.79e308])
@pytest.mark.parametrize("rate", [5e-324, 1e-300, 1e-30, 1e-9, 1.0])
def test_there_is_an_answer_for_whatever_a_stranger_tells(rate, noise, steps):
    """Guarantee: noise and rates that no numbers hold end nothing, and cost no less than those that are held."""
    found = epsilon((_event(rate, noise, steps),), delta=DELTA)
    assert 0.0 <= found < math.inf or (rate, noise, steps) == (1.0, 1.0, 1000)
    if noise >= 1e9 or rate <= 1e-9:
        assert found < 1e-3


@pytest.mark.parametrize(("noise", "steps", "delta"), [(1000.0, 10**6, 1e-5), (3000.0, 10**7, 1e-9)])
def test_very_many_steps_are_an_upper_bound_that_is_near(noise, steps, delta):
    """The Gaussian mechanism's own epsilon: Dong, Roth, Su 2019, arXiv:1905.02383v3, Cor. 2.13, mu = sqrt(n) / z."""
    mu = math.sqrt(steps) / noise

    def beyond(eps: float) -> float:
        return norm.cdf(-eps / mu + mu / 2) - math.exp(eps) * norm.cdf(-eps / mu - mu / 2) - delta

    exact = optimize.brentq(beyond, 0.0, 60.0)
    assert exact <= epsilon([_event(1.0, noise, steps)], delta=delta) < 1.5 * exact


@pytest.mark.parametrize(("rate", "noise"), [(1e-3, 1000.0), (1e-4, 3.0), (1e-9, 1.0), (0.02, 1.1)])
def test_steps_composed_in_parts_cost_what_they_cost_in_one_go(monkeypatch, rate, noise):
    one = accounting._one(rate, noise)
    direct = one.self_compose(4321).get_epsilon_for_delta(DELTA)
    monkeypatch.setattr(accounting, "_AT_ONCE", 12)
    assert accounting._power(one, 4321).get_epsilon_for_delta(DELTA) == pytest.approx(direct, rel=1e-4)


@pytest.mark.parametrize(("rate", "noise"), [(1e-3, 1000.0), (1e-6, 3.0), (1e-9, 1e4)])
def test_a_job_of_a_million_million_steps_is_accounted_for_at_once(rate, noise):
    """Or one signed job would stop every partner for good."""
    began = time.perf_counter()
    assert epsilon([_event(rate, noise, 10**12)], delta=DELTA) > epsilon([_event(rate, noise, 10**9)], delta=DELTA)
    assert time.perf_counter() - began < 30
