"""The learning rate over the rounds of a job."""

from __future__ import annotations

import math
from itertools import pairwise

from hypothesis import given
from hypothesis import strategies as st


@given(st.integers(1, 200), st.floats(1e-6, 10.0))
def test_learning_rates_fall_from_the_start_to_near_zero(make_job, rounds, rate):
    training = make_job().training.model_copy(update={"rounds": rounds, "learning_rate": rate})
    for schedule in ("constant", "linear", "cosine"):
        rates = [training.model_copy(update={"schedule": schedule}).learning_rate_at(r) for r in range(1, rounds + 1)]
        assert rates[0] == rate
        assert all(later <= earlier for earlier, later in pairwise(rates))
        assert rates[-1] > 0
    halfway = {"constant": 1.0, "linear": 0.5, "cosine": 0.5}
    for schedule, share in halfway.items():
        even = training.model_copy(update={"schedule": schedule, "rounds": 2 * rounds})
        assert math.isclose(even.learning_rate_at(rounds + 1), share * rate)
    quarter = training.model_copy(update={"schedule": "cosine", "rounds": 4 * rounds})
    assert math.isclose(quarter.learning_rate_at(rounds + 1), rate * (1 + math.sqrt(0.5)) / 2)
