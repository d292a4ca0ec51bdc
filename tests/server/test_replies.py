"""What comes back in clear: sums added as they come, who counts, and what is said of the others."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scripted import EVENT, NORM, D, score, sums, update

from tacit.errors import BadInput
from tacit.metrics import Counters
from tacit.parcel import Parcel
from tacit.privacy.events import Event
from tacit.secagg.messages import MaskedVector
from tacit.wire import TRAINING_COUNTERS, Ask, Refusal
from tacit_server.replies import Replies, check_events, collect, mean, tally
from tacit_server.transport import Failure

JUDGED = Event(kind="metrics", sampling_rate=1.0, noise_multiplier=10.0, steps=1)
NOT_PRIVATE = "privacy={mechanism='none'}"


def _ask(job: Any, *, cohort: int = 3, **changes: Any) -> Ask:
    return replace(Ask(job, "run", 1, 1, cohort, np.zeros(D, np.float32)), **changes)


def _answers(*updates: Any) -> Iterable[tuple[str, Parcel]]:
    return [(u.name, u.pack()) for u in updates]


def test_the_sum_is_over_those_who_count(make_job):
    replies = collect(_answers(*(update(f"p{i}", delta=float(i)) for i in range(3))), _ask(make_job()), single=False)
    assert replies.counted == {"p0", "p1", "p2"}
    (found,) = replies.deltas
    np.testing.assert_allclose(found, 1.0, rtol=1e-6)
    assert found.dtype == np.float64
    assert (replies.clipped, replies.seconds_training, replies.needed) == (0, 0.3, 3)
    assert replies.events == {f"p{i}": (EVENT,) for i in range(3)}


def test_single_updates_come_in_the_order_of_names_and_only_where_asked_for(make_job):
    answers = _answers(*(update(f"p{i}", delta=float(i)) for i in (2, 0, 1)))
    found = collect(answers, _ask(make_job()), single=True).deltas
    assert len(found) == 3
    for i, delta in enumerate(found):
        np.testing.assert_allclose(delta, float(i), rtol=1e-6, atol=1e-9)


@pytest.mark.parametrize("single", [True, False])
def test_too_few_give_nothing_and_keep_what_they_said(make_job, single):
    answers = [*_answers(update("p0")), ("p1", Refusal("p1", "no").pack()), ("p2", Failure("gone"))]
    replies = collect(answers, _ask(make_job()), single=single)
    assert replies.deltas is None
    assert (replies.refusals, replies.failures) == ({"p1": "no"}, {"p2": "gone"})
    assert replies.events == {"p0": (EVENT,)}
    assert (replies.reason, replies.clipped, replies.seconds_training) == (None, 0, 0.0)


def test_a_bad_refusal_is_a_failure(make_job):
    parcel = Parcel({}, {"kind": "refusal", "name": "p0", "reason": 7})
    replies = collect([("p0", parcel)], _ask(make_job()), single=False)
    assert (replies.refusals, list(replies.failures)) == ({}, ["p0"])


def test_counts_of_clipped_partners_and_milliseconds_add_up(make_job):
    answers = _answers(*(update(f"p{i}", clipped=i % 2) for i in range(5)))
    replies = collect(answers, _ask(make_job(), cohort=5), single=False)
    assert (replies.clipped, replies.seconds_training) == (2, pytest.approx(0.5))


@given(
    st.lists(st.tuples(st.integers(-10_000, 10_000), st.integers(1, 500)), min_size=1, max_size=6),
    st.integers(500, 5000),
)
def test_the_mean_is_numpys(make_job, parts, most):
    job = make_job(NOT_PRIVATE, "aggregation.weighting=examples", f"aggregation.max_weight={most}")
    ask = _ask(job, cohort=6)
    values, weights = np.array(parts).T
    unit = NORM / ((2**31 - 1) // 6)
    total = MaskedVector(
        np.full(D, (values * weights).sum() % 2**32, np.uint32),
        np.array([weights.sum(), 0, 0], np.uint64),
    )
    expected = most * unit * np.average(values, weights=weights)
    np.testing.assert_allclose(mean(total, ask), expected, rtol=1e-12, atol=1e-15)


def test_scores_add_up_and_what_is_none_counts_nothing(make_job):
    good = score("p0", 0.5), score("p1", 0.9)
    bad = (
        ("p2", Failure("gone")),
        ("p3", Refusal("p3", "no").pack()),
        ("p4", sums("p4", np.ones(4)).pack()),
        ("p5", sums("p5", -np.ones(8, np.int64)).pack()),
        ("p6", Parcel({}, {"kind": "update"})),
    )
    found = tally([*_answers(*good), *bad], _ask(make_job()), classes=2)
    assert found.counters.to_vector().tolist() == [14, 6, 0, 0, 0, 14, 6, 0]
    assert found.events == {}
    none = tally(bad, _ask(make_job()), classes=2)
    assert none.counters.to_vector().tolist() == Counters.zeros(2).to_vector().tolist()
    assert none.scores() is None


def test_noise_is_read_with_its_sign_and_told_with_its_event(make_job):
    noisy = Counters(np.array([[400, -30], [-20, 500]]), 300 * 2**16, (905, -45), variance=900)
    answers = [*_answers(replace(sums("p0", noisy.to_vector()), events=(JUDGED,)), score("p1", 0.5))]
    found = tally(answers, _ask(make_job()), classes=2)
    assert found.counters.to_vector().tolist() == [405, -25, -20, 500, 300 * 2**16, 910, -40, 900]
    assert found.events == {"p0": (JUDGED,)}
    scores = found.scores()
    assert scores.confusion == ((405, 0), (0, 500))  # clipped after the sum
    assert (scores.examples, scores.accuracy, scores.count_std) == (870, 1.0, 30.0)


def test_more_evaluations_than_were_asked_for_count_nothing(make_job):
    asked = _ask(make_job("training.rounds=9"), round=3, attempt=2)
    check_events((JUDGED.model_copy(update={"steps": 6}),), ask=asked)
    with pytest.raises(BadInput, match=r"^expected at most 6 evaluations in the events, found 7$"):
        check_events((JUDGED.model_copy(update={"steps": 7}),), ask=asked)
    liar = replace(score("p0"), events=(JUDGED.model_copy(update={"steps": 7}),))
    assert tally(_answers(liar), asked, classes=2).scores() is None


def test_events_are_of_what_was_asked_at_most(make_job):
    asked = _ask(make_job("training.rounds=9"), round=3, attempt=2)
    most = EVENT.model_copy(update={"steps": 2 * 3 * 2})
    check_events((most,), ask=asked)
    for events in ((most, EVENT), (most.model_copy(update={"steps": 13}),)):
        with pytest.raises(BadInput, match=r"^expected at most 12 steps in the events, found 1[34]$"):
            check_events(events, ask=asked)


def test_settling_takes_three_counters(make_job):
    replies = Replies(needed=1)
    assert TRAINING_COUNTERS == 3
    replies.settle(MaskedVector(np.full(D, 5, np.uint32), np.array([2, 1, 2500], np.uint64)), _ask(make_job()))
    assert (replies.clipped, replies.seconds_training) == (1, 2.5)
    np.testing.assert_allclose(replies.deltas[0], 2.5 * NORM / ((2**31 - 1) // 3), rtol=1e-12)
