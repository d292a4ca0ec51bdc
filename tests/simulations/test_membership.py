"""Membership inference: its measure against slow ones, and the attack on small real models."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from sklearn.metrics import roc_auc_score

from tacit_sim.attacks import membership as attack
from tacit_sim.attacks.membership import membership, separation

torch.set_num_threads(1)

LOSSES = st.lists(st.sampled_from([0.0, 0.1, 0.5, 1.0, 2.5]), min_size=2, max_size=30)


@given(LOSSES, LOSSES)
def test_the_area_is_sklearns_ties_included(members, others):
    found = separation(np.array(members), np.array(others))
    truth = [1] * len(members) + [0] * len(others)
    assert found.area == pytest.approx(roc_auc_score(truth, [-x for x in (*members, *others)]))
    assert found.low <= found.area <= found.high


def test_the_advantage_by_hand():
    found = separation(np.array([0.0, 0.2, 1.0, 0.4]), np.array([0.1, 0.5, 0.6, 0.9]))
    assert found.advantage == pytest.approx(3 / 4 - 1 / 4)  # the threshold is 0.4


@pytest.mark.statistical
def test_the_interval_covers_and_is_no_wider_than_it_must_be():
    """Two normals a deviation apart: the area is 0.760."""
    rng, covered, wide = np.random.default_rng(1), 0, []
    for _ in range(300):
        found = separation(rng.standard_normal(150), rng.standard_normal(150) + 1.0)
        covered += found.low <= 0.7602 <= found.high
        wide.append(found.high - found.low)
    assert 0.91 <= covered / 300 <= 0.99
    assert 0.09 < np.mean(wide) < 0.13


@pytest.mark.parametrize(
    ("private", "plain", "refused"),
    [
        ((0.53, 0.49, 0.57), (0.64, 0.60, 0.68), True),
        ((0.62, 0.58, 0.66), (0.80, 0.77, 0.83), False),  # too much is left
        ((0.58, 0.54, 0.62), (0.61, 0.57, 0.65), False),  # no better than without
        ((0.47, 0.43, 0.51), (0.53, 0.49, 0.57), False),  # an attack that fails on everything shows nothing
    ],
)
def test_the_verdict(monkeypatch, private, plain, refused):
    cases = iter([attack.Separation(*private, 0.0), attack.Separation(*plain, 0.0)])
    monkeypatch.setattr(attack, "gather_class", lambda: None)
    monkeypatch.setattr(attack, "calibrate", lambda **named: 1.0)
    monkeypatch.setattr(attack, "_tried", lambda *args: next(cases))
    assert membership().refused is refused


def test_small_models_of_digits(monkeypatch):
    monkeypatch.setenv("TACIT_DATA", "")
    found = membership()
    assert found.refused, (found.what, found.without)
    assert "with DP-SGD at epsilon 8" in found.what
    assert "AUC 0.5" in found.what
