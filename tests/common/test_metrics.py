"""Scores from integer sums, against scikit-learn."""

import warnings
from dataclasses import asdict
from json import dumps, loads

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from sklearn.metrics import accuracy_score, confusion_matrix, f1_score

from tacit import metrics
from tacit.errors import BadInput
from tacit.metrics import LOSS_LIMIT, LOSS_UNIT, Counters


@st.composite
def _evaluations(draw, least=0):
    classes = draw(st.integers(1, 6))
    label = st.integers(0, classes - 1)
    rows = draw(st.lists(st.tuples(label, label, st.floats(0, 50)), min_size=least, max_size=40))
    columns = zip(*rows, strict=True) if rows else ((), (), ())
    targets, predicted, losses = (list(column) for column in columns)
    return targets, predicted, losses, classes


def _count(evaluation):
    targets, predicted, losses, classes = evaluation
    return Counters.from_predictions(targets, predicted, losses, classes=classes)


@given(_evaluations(least=1))
def test_scores_equal_scikit_learn(evaluation):
    targets, predicted, losses, classes = evaluation
    scores = _count(evaluation).summary()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # scikit-learn warns where a matrix has a single label
        matrix = confusion_matrix(targets, predicted, labels=range(classes))
        macro_f1 = f1_score(targets, predicted, average="macro")
    assert scores.examples == len(targets)
    assert scores.accuracy == pytest.approx(accuracy_score(targets, predicted))
    assert scores.macro_f1 == pytest.approx(macro_f1)
    assert scores.loss == pytest.approx(np.mean(losses), abs=LOSS_UNIT / 2)
    assert np.array_equal(scores.confusion, matrix)


@given(_evaluations(), st.integers(0, 40))
def test_parts_add_up_to_the_whole(evaluation, cut):
    targets, predicted, losses, classes = evaluation
    first = _count((targets[:cut], predicted[:cut], losses[:cut], classes))
    second = _count((targets[cut:], predicted[cut:], losses[cut:], classes))
    whole = _count(evaluation).to_vector()
    assert np.array_equal((first + second).to_vector(), whole)
    assert np.array_equal(first.to_vector() + second.to_vector(), whole)
    assert np.array_equal((Counters.zeros(classes) + first + second).to_vector(), whole)


@given(_evaluations())
def test_vector_round_trip(evaluation):
    counters = _count(evaluation)
    vector = counters.to_vector()
    assert vector.dtype == np.int64
    assert vector.shape == (counters.classes**2 + 4,) == (Counters.length(counters.classes),)
    assert np.array_equal(Counters.from_vector(vector, classes=counters.classes).to_vector(), vector)


def test_an_absent_class_is_left_out_of_macro_f1():
    scores = Counters.from_predictions([0, 0, 1], [0, 0, 0], [0.0] * 3, classes=3).summary()
    assert scores.macro_f1 == pytest.approx((0.8 + 0.0) / 2)


def test_a_diverged_loss_counts_as_the_limit():
    counters = Counters.from_predictions([0] * 4, [0] * 4, [np.nan, np.inf, 1e9, -1.0], classes=1)
    assert counters.summary().loss == 3 * LOSS_LIMIT / 4


def test_scores_are_ready_for_json():
    scores = Counters.from_predictions([0, 1], [0, 0], [0.5, 1.5], classes=2).summary()
    assert loads(dumps(asdict(scores)))["confusion"] == [[1, 0], [1, 0]]


def test_counters_do_not_share_memory_and_are_read_only():
    matrix = np.ones((2, 2), np.int64)
    counters = Counters(matrix, 0)
    matrix[0, 0] = 9
    assert counters.confusion[0, 0] == 1
    with pytest.raises(ValueError, match="read-only"):
        counters.confusion[0, 0] = 9


def test_no_examples_have_no_scores():
    with pytest.raises(BadInput, match="at least one example"):
        Counters.zeros(3).summary()


@pytest.mark.parametrize(
    ("vector", "message"),
    [
        ([1, 0, 0, 1, 0, 2, 0], "vector of 8 numbers"),
        ([1, 0, 0, 1, 0, 2, 0, 0, 0], "vector of 8 numbers"),
        ([[1, 0, 0, 1, 0, 2, 0, 0]], "vector of 8 numbers"),
        ([1, -1, 0, 1, 0, 2, -1, 0], "counts >= 0"),
        ([1, 0, 0, 1, -1, 2, 0, 0], "loss_sum from 0"),
        ([0, 0, 0, 0, 1, 0, 0, 0], "loss_sum from 0 to 0"),
        ([1, 0, 0, 0, int(LOSS_LIMIT / LOSS_UNIT) + 1, 1, 0, 0], "loss_sum from 0 to"),
        ([1, 0, 1, 0, 0, 2, 0, 0], "1 right and 1 wrong"),
        ([1, 0, 1, 0, 0, 1, 1, -1], "variance >= 0"),
        ([1.0, 0.0, 0.0, 1.0, 0.0, 2.0, 0.0, 0.0], "whole numbers"),
        (np.array([2**63, 0, 0, 1, 0, 1, 0, 0], np.uint64), "counts >= 0"),
    ],
)
def test_a_vector_no_examples_can_have_is_refused(vector, message):
    with pytest.raises(BadInput, match=message):
        Counters.from_vector(vector, classes=2)


@pytest.mark.parametrize(
    ("targets", "predicted", "losses", "message"),
    [
        ([0, 2], [0, 0], [0.0, 0.0], "targets from 0 to 1"),
        ([0, 0], [0, -1], [0.0, 0.0], "predicted from 0 to 1"),
        ([0], [0, 0], [0.0, 0.0], "as many targets"),
        ([0], [0], [0.0, 0.0], "as many targets"),
        ([[0]], [0], [0.0], "targets of shape"),
        ([0], [0], [[0.0]], "losses of shape"),
        ([0.5], [0], [0.0], "whole numbers in targets"),
    ],
)
def test_predictions_that_do_not_fit_are_refused(targets, predicted, losses, message):
    with pytest.raises(BadInput, match=message):
        Counters.from_predictions(targets, predicted, losses, classes=2)


def test_other_classes_and_shapes_are_refused():
    with pytest.raises(BadInput, match="counters of 2 classes, found 3"):
        Counters.zeros(2) + Counters.zeros(3)
    with pytest.raises(BadInput, match=r"found shape \[1, 2\]"):
        Counters(np.zeros((1, 2), np.int64), 0)


def test_public_names():
    assert metrics.__all__ == ["LOSS_LIMIT", "LOSS_UNIT", "NOISY_LOSS_LIMIT", "Counters"]
