"""The benchmark of noise at tiny sizes, and what it adds up. No duration is asserted."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from scipy import stats

from tacit.privacy.accounting import epsilon
from tacit.privacy.events import Event
from tacit_sim.bench import bench, noise
from tacit_sim.bench.noise import CASES, Case, epsilons, measure_noise
from tacit_sim.bench.step import CASES as STEPS
from tacit_sim.divergence import epsilon_of, hockey_stick, laws


def test_every_noise_is_measured_by_itself_and_in_a_step():
    tiny = replace(STEPS[0], options={"classes": 2, "shape": [8, 8]}, batch=4)
    table = measure_noise([Case("draws", numbers=500), Case("step", step=tiny)], repeats=2)
    assert [(row["case"], row["noise"]) for row in table.rows] == [
        (case, kind) for case in ("draws", "step") for kind in ("float32", "integers", "sum of four")
    ]
    assert {row["numbers"] for row in table.rows[:3]} == {500}
    assert {row["numbers"] for row in table.rows[3:]} == {16 * 9 + 16 + 32 * 16 * 9 + 32 + 32 * 2 * 2 * 32 + 32 + 66}
    assert all(row["over"] == 1 for row in (table.rows[0], table.rows[3]))
    assert all(row["ms"] > 0 and row["M_s"] > 0 for row in table.rows)


def test_the_command_finds_it():
    assert len(CASES) == 2
    assert [row["case"] for row in bench("noise", only="draws", repeats=1).rows] == ["draws"] * 3


@pytest.mark.statistical
def test_the_sum_of_four_is_standard_normal():
    draws = noise._four(noise._Fourfold(bytes(32)), 100_000)
    assert stats.kstest(draws, "norm").pvalue > 1e-3
    assert stats.kstest(draws * 1.25, "norm").pvalue < 1e-6
    assert noise._Fourfold(bytes(32)).gaussian(7).dtype == np.float32


def test_epsilons_are_those_of_the_accountant():
    """Which errs upwards by its discretisation, and composes by another way."""
    integers, reals = epsilons(multiplier=1.0, rate=0.01, delta=1e-5)
    event = Event(kind="dp-sgd", sampling_rate=0.01, noise_multiplier=1.0, steps=1)
    assert integers == pytest.approx(reals, rel=1e-4)
    assert reals <= epsilon((event,), delta=1e-5) < reals + 2e-3


def test_a_divergence_known_in_closed_form():
    one, other = np.array([0.5, 0.5, 0.0]), np.array([0.25, 0.5, 0.25])
    assert hockey_stick(one, other, epsilon=0.0) == 0.25
    assert hockey_stick(one, other, epsilon=np.log(2)) == pytest.approx(0.0)
    assert hockey_stick(other, one, epsilon=5.0) == 0.25
    without, with_one = laws(20.0, shift=20, step=0.01)
    known = stats.norm.cdf(0.5 - 1.0) - np.e * stats.norm.cdf(-0.5 - 1.0)
    assert hockey_stick(without, with_one, epsilon=1.0) == pytest.approx(known, rel=1e-5)
    assert epsilon_of(without, with_one, delta=float(known)) == pytest.approx(1.0, rel=1e-5)
