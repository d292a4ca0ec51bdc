"""The mechanism: from job and data size to rate, noise and event."""

from __future__ import annotations

import dataclasses

import pytest
from hypothesis import assume, given
from hypothesis import strategies as st

from tacit.data.splits import kept
from tacit.errors import BadInput
from tacit.privacy.accounting import epsilon
from tacit.privacy.mechanism import Mechanism, common_rate, plan, sampling_rate, weight


@pytest.fixture(scope="session")
def make_job(make_job):
    """Nothing held out but where a test says so."""
    return lambda *changes, **rest: make_job("evaluation.partner_holdout=0.0", *changes, **rest)


TARGET = ("privacy.epsilon=2.0", "training.rounds=10", "training.local_steps=5")


@given(st.integers(1, 10**7), st.integers(1, 10**7))
def test_the_rate_is_never_below_the_batch_over_the_data_and_at_most_a_tenth_above(first, second):
    batch, n = min(first, second), max(first, second)
    assume(batch <= n // 10 ** max(0, len(str(n)) - 2) * 10 ** max(0, len(str(n)) - 2))
    rate = sampling_rate(batch_size=batch, units=n)
    assert batch / n <= rate <= min(1.0, 1.1 * batch / n)


@given(st.integers(100, 10**7))
def test_the_rate_tells_two_digits_of_the_count(n):
    power = 10 ** (len(str(n)) - 2)
    rounded = n // power * power
    assert sampling_rate(batch_size=7, units=n) == 7 / rounded
    assert sampling_rate(batch_size=7, units=rounded + power - 1) == 7 / rounded


@given(st.integers(1, 10**7), st.integers(0, 10**6), st.floats(0.0, 0.99))
def test_at_no_share_held_out_is_the_rate_below_the_batch_over_what_is_trained_on(n, more, held):
    assert 1 <= kept(n, share=held) <= kept(n + more, share=held)
    rate = sampling_rate(batch_size=1, units=n, held=held)
    assert 1 / kept(n, share=held) <= rate


def test_a_whole_batch_has_the_rate_one():
    assert sampling_rate(batch_size=1900, units=1999) == 1.0
    assert sampling_rate(batch_size=1, units=1) == 1.0


@pytest.mark.parametrize(("batch", "examples", "told"), [(32, 0, 0), (32, 1, 1), (32, 31, 31), (1901, 1999, 1900)])
def test_a_batch_larger_than_the_data_is_refused_with_both_numbers(batch, examples, told):
    with pytest.raises(BadInput, match=rf"examples, {told} in round numbers, found {batch}$"):
        sampling_rate(batch_size=batch, units=examples)


def test_the_event_is_of_the_same_numbers_as_the_noise(make_job):
    mechanism = plan(make_job(), units=320)
    assert mechanism == Mechanism(
        kind="dp-sgd", max_grad_norm=1.0, noise_multiplier=1.0, sampling_rate=0.1, expected_batch=32, steps=2
    )
    assert mechanism.private
    event = mechanism.event()
    assert (event.kind, event.sampling_rate, event.noise_multiplier, event.steps) == ("dp-sgd", 0.1, 1.0, 2)


def test_a_person_is_counted_where_an_example_was(make_job):
    job = make_job()
    by_row, by_person = plan(job, units=320), plan(job, units=320, unit="patient_id")
    assert (by_row.unit, by_row.event().unit) == ("example", "example")
    assert (by_person.unit, by_person.event().unit) == ("patient_id", "patient_id")
    assert dataclasses.replace(by_person, unit="example") == by_row
    open_job = make_job("privacy={mechanism='none'}")
    assert plan(open_job, units=320, unit="patient_id").event().unit == "patient_id"


def test_a_refusal_speaks_of_persons(make_job):
    with pytest.raises(BadInput, match="at most the partner's persons to train on, by patient_id, 31 in round numbers"):
        plan(make_job(), units=31, unit="patient_id")
    with pytest.raises(BadInput, match=r"1/N = 0\.00909 for the partner's persons to train on, by patient_id, 100 in"):
        plan(make_job("privacy.delta=0.01"), units=100, unit="patient_id")


def test_noise_is_the_multiplier_times_the_clip_norm(make_job):
    mechanism = plan(make_job("privacy.noise_multiplier=1.5", "privacy.max_grad_norm=0.2"), units=320)
    assert mechanism.noise_std == pytest.approx(0.3)


def test_the_divisor_is_the_jobs_and_not_the_partners(make_job):
    assert {plan(make_job(), units=n).expected_batch for n in (40, 99, 109, 5000)} == {32}


@pytest.mark.parametrize("examples", [64, 109])
def test_all_planned_rounds_together_meet_the_target(make_job, examples):
    job = make_job(*TARGET, without=("privacy.noise_multiplier",))
    mechanism = plan(job, units=examples)
    cost = epsilon([mechanism.event()] * job.training.rounds, delta=1e-4)
    assert 0.99 * 2.0 <= cost <= 2.0


def test_more_data_needs_less_noise(make_job):
    job = make_job(*TARGET, without=("privacy.noise_multiplier",))
    assert plan(job, units=109).noise_multiplier < plan(job, units=64).noise_multiplier


def test_a_delta_of_one_over_n_is_refused_with_both_numbers(make_job):
    for delta, examples, above in ((0.01, 100, 110), (0.02, 100, 110), (0.0078125, 128, 130), (0.011, 99, 100)):
        with pytest.raises(BadInput) as caught:
            plan(make_job(f"privacy.delta={delta}"), units=examples)
        assert f"{1 / above:.3g}" in caught.value.message
        assert f"found {delta:g}" in caught.value.message
    assert plan(make_job("privacy.delta=0.009"), units=100).private


@given(
    examples=st.integers(10, 10**6),
    other=st.integers(0, 10**6),
    batch_size=st.integers(1, 2000),
    delta=st.floats(1e-7, 0.2),
    held=st.floats(0.0, 0.95),
)
def test_plan_and_refusal_tell_two_digits_of_the_count_at_most(make_job, *, examples, other, batch_size, delta, held):
    unit = 10 ** max(0, len(str(examples)) - 2)
    alike = examples // unit * unit + other % unit
    private = f"privacy.delta={delta}", f"evaluation.partner_holdout={held}"
    job = make_job(f"training.batch_size={batch_size}", *private)
    assert _outcome(job, examples) == _outcome(job, alike)
    weighed = make_job("aggregation.secure=true", "aggregation.weighting=examples", *private)
    assert weight(weighed, units=examples) == weight(weighed, units=alike)


def _alike(count, told):
    """How many counts the server can not tell from `count` after it asked at a thousand shares."""
    shares = [i / 1000 for i in range(1000)]
    power = 10 ** (len(str(count)) - 2)
    around = range(count // power * power, (count // power + 1) * power)
    asked = [told(count, share) for share in shares]
    return sum(all(told(n, share) == heard for share, heard in zip(shares, asked, strict=True)) for n in around)


def test_a_server_that_asks_at_many_shares_learns_two_digits(make_job):
    """Guarantee: the share is taken off after rounding. Rounding what is left instead gives the count away."""
    before = [sampling_rate(batch_size=1, units=1234, held=i / 1000) for i in range(1000)]
    assert len(set(before)) > 100  # shares do change the rate
    assert _alike(1234, lambda n, share: sampling_rate(batch_size=1, units=n, held=share)) == 100
    assert _alike(1234, lambda n, share: sampling_rate(batch_size=1, units=kept(n, share=share))) == 1


def _outcome(job, examples):
    try:
        return plan(job, units=examples)
    except BadInput as refusal:
        return refusal.message, refusal.hint


def test_without_privacy_nothing_is_clipped_or_noised_and_the_event_says_so(make_job):
    private = ("privacy.noise_multiplier", "privacy.delta", "privacy.max_grad_norm")
    mechanism = plan(make_job("privacy.mechanism=none", without=private), units=320)
    assert not mechanism.private
    assert mechanism.noise_std == 0.0
    assert mechanism.event().kind == "none"
    assert mechanism.sampling_rate == 0.1


def test_uniform_partners_weigh_one(make_job):
    assert {weight(make_job(), units=n) for n in (1, 31, 10**6)} == {1}


@given(st.integers(1, 10**7), st.integers(0, 10**6), st.integers(1, 10**6))
def test_a_private_weight_tells_two_digits_of_the_count(make_job, examples, other, most):
    job = make_job("aggregation.secure=true", "aggregation.weighting=examples", f"aggregation.max_weight={most}")
    unit = 10 ** max(0, len(str(examples)) - 2)
    found = weight(job, units=examples)
    assert found == weight(job, units=examples // unit * unit + other % unit)
    assert found == min(examples // unit * unit, most)


@given(st.integers(1, 10**7), st.integers(1, 10**6))
def test_without_a_mechanism_the_weight_is_the_count(make_job, examples, most):
    job = make_job("privacy={mechanism='none'}", "aggregation.weighting=examples", f"aggregation.max_weight={most}")
    assert weight(job, units=examples) == min(examples, most)


def test_one_rate_for_all_partners_whatever_they_hold(make_job):
    job = make_job(
        "privacy.mechanism=distributed-dp-sgd",
        "aggregation.secure=true",
        "training.population=5000",
        "training.batch_size=250",
        "aggregation.max_colluders=0",
    )
    plans = [plan(job, units=units) for units in (10, 99, 4000)]
    assert len(set(plans)) == 1
    assert plans[0].sampling_rate == common_rate(job) == 0.05
    event = plans[0].event()
    assert (event.kind, event.colluders) == ("distributed-dp-sgd", 0)
    assert event.to_json()["colluders"] == 0
    local = plan(make_job("training.batch_size=4"), units=99)
    assert local.colluders is None
    assert "colluders" not in local.event().to_json()


def test_a_population_far_below_what_a_partner_holds_is_refused(make_job):
    job = make_job(
        "privacy.mechanism=distributed-dp-sgd",
        "aggregation.secure=true",
        "training.population=100",
        "training.batch_size=100",
        "privacy.delta=1e-6",
    )
    assert plan(job, units=31_900).sampling_rate == 1.0
    with pytest.raises(BadInput, match="at most 32768 of the partner's training examples, 33000 in round numbers"):
        plan(job, units=33_700)
