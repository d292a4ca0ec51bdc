"""How a job says that updates are added up: who must take part, what is hidden, what is refused and in which words."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tacit.errors import BadInput
from tacit.job import NEEDS_SINGLE_UPDATES


@pytest.mark.parametrize(
    ("key", "value", "expected"),
    [
        ("aggregation.secure", '"no"', "boolean"),
        ("aggregation.min_cohort", "0", "greater than 0"),
        ("aggregation.round_timeout", "0", "greater than 0"),
        ("aggregation.stage_timeout", "-1.0", "greater than 0"),
        ("aggregation.max_update_norm", "0", "greater than 0"),
        ("aggregation.max_update_norm", "inf", "finite"),
        ("aggregation.max_weight", "0", "greater than 0"),
        ("aggregation.weighting", '"size"', "'uniform' or 'examples'"),
    ],
)
def test_a_wrong_value_of_aggregation_is_named(make_job, key, value, expected):
    with pytest.raises(BadInput, match=rf"^expected {key}.*{expected}.*, found .*job.toml") as caught:
        make_job(f"{key}={value}")
    assert caught.value.hint == f"change {key}"


@pytest.mark.parametrize(
    ("overrides", "words"),
    [
        (("aggregation.secure=true", "aggregation.min_cohort=2"), "min_cohort of at least 3 with"),
        (
            ("aggregation.secure=true", "aggregation.threshold=1"),
            "cohort of 3 with aggregation.secure = true, found 1",
        ),
        (("aggregation.secure=true", "training.server_strategy=krum"), "found krum"),
        (("aggregation.threshold=4",), "at most min_cohort 3, found 4"),
        (("aggregation.cohort=2",), "at least min_cohort 3, found 2"),
        (("aggregation.weighting=examples",), "found examples in "),
    ],
)
def test_an_impossible_aggregation_is_named(make_job, overrides, words):
    with pytest.raises(BadInput, match=r"^expected ") as caught:
        make_job(*overrides)
    assert words in caught.value.message
    assert caught.value.hint


@pytest.mark.parametrize("strategy", sorted(NEEDS_SINGLE_UPDATES))
def test_no_strategy_that_needs_single_updates_is_secure(make_job, strategy):
    with pytest.raises(BadInput, match=f"found {strategy}, which needs every partner's own update"):
        make_job("aggregation.secure=true", f"training.server_strategy={strategy}")


def test_secure_is_what_a_job_is_when_it_does_not_say(make_job):
    assert make_job(without=("aggregation.secure",)).aggregation.secure


@pytest.mark.parametrize(("size", "at_most_half"), [(3, 1), (4, 2), (5, 2), (10, 5), (11, 5)])
@pytest.mark.parametrize("key", ["min_cohort", "cohort"])
def test_a_threshold_of_half_is_refused_under_secure_aggregation_with_both_numbers(make_job, size, at_most_half, key):
    secure = ("aggregation.secure=true", f"aggregation.{key}={size}")
    room = (f"aggregation.min_cohort={max(3, at_most_half + 1)}",) if key == "cohort" else ()
    for threshold in (1, at_most_half):
        with pytest.raises(BadInput, match=rf"^expected .* cohort of {size} .*, found {threshold} in ") as caught:
            make_job(*secure, *room, f"aggregation.threshold={threshold}")
        assert f"to {2 * size // 3 + 1} or" in caught.value.hint
    assert make_job(*secure, *room, f"aggregation.threshold={at_most_half + 1}").aggregation.secure
    assert make_job(f"aggregation.{key}={size}", *room, f"aggregation.threshold={at_most_half}").aggregation.threshold


@given(st.integers(3, 300), st.integers(1, 300))
def test_a_secure_round_needs_two_thirds_and_one_more(make_job, cohort, threshold):
    section = make_job("aggregation.secure=true").aggregation
    assert section.needed(cohort) == 2 * cohort // 3 + 1
    assert section.model_copy(update={"threshold": threshold}).needed(cohort) == max(threshold, 2 * cohort // 3 + 1)


@given(st.integers(1, 300), st.integers(1, 300), st.integers(1, 300))
def test_a_round_in_clear_needs_what_the_job_says(make_job, cohort, least, threshold):
    section = make_job().aggregation.model_copy(update={"min_cohort": least})
    assert section.needed(cohort) == min(3, least)
    assert section.model_copy(update={"threshold": threshold}).needed(cohort) == threshold


def test_counts_weigh_where_they_are_summed_unseen_or_nothing_is_private(make_job):
    by_examples = "aggregation.weighting=examples"
    assert make_job(by_examples, "aggregation.secure=true").aggregation.full_weight == 10_000
    assert make_job(by_examples, "privacy={mechanism='none'}").aggregation.full_weight == 10_000
    assert make_job(by_examples, "aggregation.secure=true", "aggregation.max_weight=7").aggregation.full_weight == 7
    assert make_job("aggregation.max_weight=7").aggregation.full_weight == 1


SHARED = (
    "privacy.mechanism=distributed-dp-sgd",
    "training.population=1000",
    "aggregation.secure=true",
    "aggregation.min_cohort=5",
    "aggregation.threshold=4",
)


def test_shares_of_noise_are_counted_on_as_many_as_are_honest(make_job):
    job = make_job(*SHARED, "aggregation.max_colluders=2")
    assert job.shares_noise
    assert job.aggregation.honest(5) == 2
    assert job.aggregation.honest(12) == 9 - 2
    assert not make_job().shares_noise


@pytest.mark.parametrize(
    ("overrides", "words"),
    [
        (
            ("aggregation.secure=false",),
            "secure = true with distributed-dp-sgd, found false: every partner adds a share",
        ),
        (("aggregation.max_colluders=4",), "max_colluders below the threshold 4, found 4"),
        (("aggregation.max_colluders=3",), "two lists of survivors signed"),
        (("aggregation.weighting=examples",), "weighting = uniform with distributed-dp-sgd, found examples"),
        (("training.population=2",), "batch_size of at most training.population 2, found"),
        (("privacy.delta=0.001",), "privacy.delta below 1/training.population = 0.001, found 0.001"),
        (("training.server_strategy=fedadam",), "no training.server_strategy with distributed-dp-sgd, found fedadam"),
    ],
)
def test_a_sum_that_would_lose_its_guarantee_is_refused(make_job, overrides, words):
    with pytest.raises(BadInput) as caught:
        make_job(*SHARED, *overrides)
    assert words in caught.value.message
    assert caught.value.hint


@pytest.mark.parametrize(("least", "most", "sound"), [(6, 3, False), (6, 2, True), (9, 4, False), (7, 2, True)])
def test_larger_cohorts_than_the_least_are_looked_at_too(make_job, least, most, sound):
    """Of 6 no 3 can sign two lists, of 7 they can: a run without aggregation.cohort asks as many as are there."""
    shared = [*SHARED[:3], f"aggregation.min_cohort={least}", f"aggregation.max_colluders={most}"]
    if sound:
        job = make_job(*shared)
        assert all(2 * job.aggregation.needed(n) - n > most for n in range(least, 40))
        return
    with pytest.raises(BadInput, match="two lists of survivors signed"):
        make_job(*shared)
