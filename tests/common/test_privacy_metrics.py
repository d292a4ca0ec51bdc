"""Noise on counts: how much there is, what it costs, and what error bars say of it."""

from __future__ import annotations

import math
from collections.abc import Iterator

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tacit.errors import BadInput
from tacit.metrics import LOSS_UNIT, NOISY_LOSS_LIMIT, Counters
from tacit.privacy.accounting import epsilon
from tacit.privacy.metrics import Price, evaluations, price
from tacit.privacy.randomness import Randomness
from tacit.scores import Scores

DELTA = 1e-5
STEPS = round(NOISY_LOSS_LIMIT / LOSS_UNIT)
FAR = 4.5  # standard deviations of a test's statistic: a true one is beyond with a chance of 7e-6


def _exact(*, classes: int = 3, each: int = 100) -> Counters:
    confusion = np.full((classes, classes), each, np.int64)
    return Counters(confusion, STEPS * int(confusion.sum()) // 2)


def _released(found: Price, exact: Counters, *, seeds: int) -> Iterator[Counters]:
    """As the server reads it: modulo 2^64 and back."""
    for seed in range(seeds):
        vector = found.cover(exact, noise=Randomness(seed).stream("noise")).to_vector().astype(np.uint64)
        yield Counters.from_vector(vector, classes=exact.classes)


def _off(draws: np.ndarray, *, deviation: float) -> float:
    """How far the draws' mean square is from `deviation` squared, in standard deviations of that statistic."""
    return float((np.mean((draws / deviation) ** 2) - 1) / math.sqrt(2 / draws.size))


@pytest.mark.statistical
@pytest.mark.parametrize("found", [Price(noise_multiplier=5.0), Price(noise_multiplier=0.7, unit="patient", most=4)])
def test_the_noise_on_every_sum_is_that_of_the_price_and_of_no_other(found: Price) -> None:
    """Two-sided: 10 % more or less noise in the counts, and 30 % in the one loss, is told from the right amount."""
    exact, deviation = _exact(), math.sqrt(found.variance)
    released = list(_released(found, exact, seeds=1000))
    counts = np.concatenate(
        [np.append((c.confusion - exact.confusion).ravel(), [c.right - exact.right, c.wrong - exact.wrong])
         for c in released]
    )  # fmt: skip
    losses = np.array([c.loss_sum - exact.loss_sum for c in released], dtype=float) / STEPS
    assert (counts.size, losses.size) == (11_000, 1000)
    for draws, less in ((counts, 0.1), (losses, 0.3)):
        assert abs(draws.mean()) < FAR * deviation / math.sqrt(draws.size)
        assert abs(_off(draws, deviation=deviation)) < FAR
        assert _off(draws, deviation=deviation * (1 - less)) > FAR
        assert _off(draws, deviation=deviation * (1 + less)) < -FAR
    parts = counts.reshape(1000, 11)
    assert np.abs(np.corrcoef(parts.T) - np.eye(11)).max() < FAR / math.sqrt(1000)


@given(
    noise=st.floats(0.2, 500), most=st.integers(1, 9), rows=st.lists(st.tuples(st.integers(0, 2), st.integers(0, 2)))
)
def test_a_unit_moves_no_release_by_more_than_was_charged(noise: float, most: int, rows: list[tuple[int, int]]) -> None:
    """Guarantee: over the noise, what `most` rows with the largest loss move is at most 1 / noise_multiplier."""
    rows = rows[:most]
    truth, guess = (np.array([row[i] for row in rows], dtype=np.int64) for i in (0, 1))
    one = Counters.from_predictions(truth, guess, [np.nan] * len(rows), classes=3, most=NOISY_LOSS_LIMIT)
    moved = one.to_vector()[:-1] / np.array([1.0] * 9 + [STEPS] + [1.0] * 2)
    variance = Price(noise_multiplier=noise, most=most).variance - 4  # what rounding to integers takes
    assert np.linalg.norm(moved) <= math.sqrt(variance) / noise * (1 + 1e-12)


def test_a_unit_that_moves_it_most_moves_it_as_was_charged() -> None:
    same = Counters.from_predictions([1] * 4, [1] * 4, [99.0] * 4, classes=2, most=NOISY_LOSS_LIMIT).to_vector()
    moved = np.linalg.norm(same[:-1] / np.array([1, 1, 1, 1, STEPS, 1, 1]))
    assert moved == pytest.approx(4 * math.sqrt(3))
    found = Price(noise_multiplier=50.0, most=4)
    assert moved / math.sqrt(found.variance - 4) == pytest.approx(1 / 50, rel=1e-4)
    assert found.variance == 3 * 16 * 2500 + 4


def test_covering_is_for_exact_counts_once() -> None:
    found = Price(noise_multiplier=1.0)
    covered = found.cover(_exact(), noise=Randomness(1).stream("noise"))
    beyond = Counters(np.array([[1]]), STEPS + 1)
    for counters in (covered, beyond):
        with pytest.raises(BadInput, match="exact counts and losses up to 8 nats"):
            found.cover(counters, noise=Randomness(1).stream("noise"))


def test_covering_takes_a_partner_without_examples() -> None:
    covered = Price(noise_multiplier=9.0).cover(Counters.zeros(2), noise=Randomness(1).stream("noise"))
    assert covered.to_vector()[:-1].any()
    with pytest.raises(BadInput, match="more than their noise hides"):
        covered.summary()


def test_noise_beyond_what_counters_hold_is_refused() -> None:
    with pytest.raises(BadInput, match="standard deviation up to 32768"):
        Price(noise_multiplier=20_000.0)
    with pytest.raises(BadInput, match="standard deviation up to 32768"):
        Price(noise_multiplier=200.0, most=100)


@given(st.integers(1, 60), st.integers(1, 20), st.integers(1, 70))
def test_evaluations_are_counted_as_the_server_asks_for_them(make_job, rounds: int, every: int, first: int) -> None:
    job = make_job(f"training.rounds={rounds}", f"evaluation.every={every}")
    due = [number for number in range(first, rounds + 1) if number % every == 0 or number == rounds]
    assert evaluations(job, first=first) == len(due)


def test_where_nothing_is_held_out_nothing_has_a_price(make_job) -> None:
    job = make_job("evaluation.partner_holdout=0.0")
    assert evaluations(job) == 0
    assert price(job, epsilon=1.0, delta=DELTA) is None


@pytest.mark.parametrize(
    ("rounds", "every", "target"), [(20, 1, 1.0), (7, 3, 0.5), (100, 1, 0.2)]
)  # fmt: skip
def test_all_planned_evaluations_cost_what_was_said_and_hardly_less(make_job, rounds, every, target) -> None:
    job = make_job(f"training.rounds={rounds}", f"evaluation.every={every}")
    event = price(job, epsilon=target, delta=0.5).event()  # the job's delta counts
    planned = evaluations(job)
    assert 0.95 * target < epsilon([event] * planned, delta=job.privacy.delta) <= target
    assert epsilon([event] * (planned + 1), delta=job.privacy.delta) > target
    assert epsilon([event] * planned, delta=10 * job.privacy.delta) < 0.98 * target
    assert (event.kind, event.sampling_rate, event.steps, event.unit) == ("metrics", 1.0, 1, "example")


def test_a_job_without_a_delta_is_counted_at_the_partners(make_job) -> None:
    left_out = tuple(f"privacy.{key}" for key in ("noise_multiplier", "max_grad_norm", "delta"))
    job = make_job('privacy.mechanism="none"', without=left_out)
    event = price(job, epsilon=1.0, delta=DELTA, unit="patient", most=3).event()
    assert 0.95 < epsilon([event] * 2, delta=DELTA) <= 1.0
    assert event.unit == "patient"


def _covered(found: list[Scores], truth: Scores, name: str) -> float:
    """Share of the error bars, 1.96 standard deviations to each side, that have the truth in them."""
    hits = [abs(getattr(s, name) - getattr(truth, name)) <= 1.96 * getattr(s, f"{name}_std") for s in found]
    return sum(hits) / len(hits)


def _wide(found: list[Scores], name: str, *, times: float) -> float:
    """The standard deviation of the scores over the error bars' mean."""
    return float(
        np.std([getattr(s, name) for s in found]) / np.mean([getattr(s, f"{name}_std") for s in found]) * times
    )


@pytest.mark.statistical
@pytest.mark.parametrize(("right", "loss"), [(0.55, 5.5), (0.95, 0.2)])
def test_error_bars_cover_the_truth_as_often_as_they_say(right: float, loss: float) -> None:
    """Two-sided: 95 % over 2000 seeds, and the scores vary as much as the bars say, within 8 %."""
    classes, each = 4, 500
    confusion = np.full((classes, classes), round(each * (1 - right) / (classes - 1)), np.int64)
    np.fill_diagonal(confusion, round(each * right))
    exact = Counters(confusion, round(int(confusion.sum()) * loss / LOSS_UNIT))
    truth = exact.summary()
    found = [released.summary() for released in _released(Price(noise_multiplier=5.0), exact, seeds=2000)]
    for name in ("accuracy", "loss", "macro_f1"):
        assert 0.93 < _covered(found, truth, name) < 0.97, name
        assert 0.92 < _wide(found, name, times=1.0) < 1.08, name
        assert not 0.92 < _wide(found, name, times=1.15) < 1.08, name
    assert {s.count_std for s in found} == {math.sqrt(79)}


def test_exact_counts_have_no_error_bars() -> None:
    scores = _exact().summary()
    assert not [key for key in scores.to_json() if key.endswith("_std")]
    assert scores.to_json().keys() == {"examples", "accuracy", "loss", "macro_f1", "confusion"}


def test_noise_that_hides_a_class_leaves_out_its_f1() -> None:
    exact = Counters(np.array([[900, 0, 0], [0, 900, 0], [0, 0, 20]]), 0)
    scores = Price(noise_multiplier=10.0).cover(exact, noise=Randomness(1).stream("noise")).summary()
    assert (scores.macro_f1, scores.macro_f1_std) == (None, None)
    assert scores.accuracy_std is not None
    assert min(min(row) for row in scores.confusion) >= 0
    assert scores.to_json()["macro_f1"] is None


@settings(max_examples=30)
@given(st.integers(0, 10**6), st.integers(2, 5))
def test_the_sum_of_partners_has_the_sum_of_their_noise(seed: int, partners: int) -> None:
    exact = _exact()
    found = Price(noise_multiplier=3.0)
    noisy = [found.cover(exact, noise=Randomness(seed).stream("noise", i)) for i in range(partners)]
    total = sum(noisy, start=exact)  # one partner more, without noise
    vectors = sum(c.to_vector().astype(np.uint64) for c in (*noisy, exact))
    assert np.array_equal(Counters.from_vector(vectors, classes=3).to_vector(), total.to_vector())
    assert total.variance == partners * found.variance
    assert total.summary().count_std == pytest.approx(math.sqrt(partners * found.variance))
