"""The clip norm that follows a quantile: one vector with one noise, at the cost of the two of the paper."""

from __future__ import annotations

import math

import dp_accounting
import numpy as np
import pytest
from dp_accounting.pld import PLDAccountant
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from tacit.errors import BadInput
from tacit.privacy.accounting import epsilon
from tacit.privacy.events import PARTNER, Event
from tacit.privacy.quantile import clip, follow, join, joint_norm, part

UPDATES = hnp.arrays(np.float32, 7, elements=st.floats(width=32, allow_nan=True, allow_infinity=True))
NORMS = st.floats(1e-6, 1e6)


@given(UPDATES, NORMS)
def test_whatever_an_update_holds_it_is_within_the_norm(update, norm):
    """Guarantee: what leaves is a vector of at most the round's norm, with its entry of at most the joint norm."""
    vector, within = clip(update, norm=norm)
    assert np.isfinite(vector).all()
    assert np.sqrt(np.square(vector).sum()) <= norm * (1 + 2.0**-40)
    joined = join(vector, norm=norm, within=within)
    assert np.sqrt(np.square(joined).sum()) <= joint_norm(norm) * (1 + 2.0**-40)
    assert len(joined) == 8


def test_a_long_update_is_shrunk_and_a_short_one_is_not():
    update = np.array([3, 4], np.float32)
    for norm, expected, within in ((5.0, [3, 4], True), (4.999, None, False), (2.5, [1.5, 2], False)):
        found = clip(update, norm=norm)
        assert found[1] is within
        if expected is not None:
            np.testing.assert_allclose(found[0], expected, rtol=1e-12)


@pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf])
def test_what_is_not_finite_counts_as_zero(bad):
    vector, within = clip(np.array([1, bad], np.float32), norm=1.0)
    assert (vector.tolist(), within) == ([0.0, 0.0], True)


@given(st.lists(st.booleans(), min_size=1, max_size=30), NORMS)
def test_the_entries_add_up_to_the_share_that_was_not_clipped(bits, norm):
    total = sum(join(np.ones(3), norm=norm, within=bit) for bit in bits)
    updates, share = part(total, norm=norm, partners=len(bits))
    np.testing.assert_allclose(updates, len(bits))
    assert share == pytest.approx(sum(bits) / len(bits), abs=1e-12)


@given(st.floats(0.2, 20.0), NORMS)
def test_one_noise_is_the_two_of_the_paper(z, norm):
    """Andrew et al. 2021, Theorem 1: noises z_delta and sigma_b cost what one of multiplier z costs."""
    deviation = z * joint_norm(norm)
    z_delta, sigma_b = deviation / norm, deviation / (0.5 * norm)
    assert (z_delta**-2 + (2 * sigma_b) ** -2) ** -0.5 == pytest.approx(z)
    assert z_delta == pytest.approx(1.031 * z, rel=1e-3)
    assert sigma_b == pytest.approx(2.06 * z, rel=1e-3)


def _composed(*multipliers: float, rate: float = 1.0, steps: int = 1) -> float:
    accountant = PLDAccountant()
    for multiplier in multipliers:
        accountant.compose(dp_accounting.PoissonSampledDpEvent(rate, dp_accounting.GaussianDpEvent(multiplier)), steps)
    return accountant.get_epsilon(1e-4)


def test_its_charge_is_that_of_two_composed_gaussians():
    z = 1.7
    event = Event(kind="client", sampling_rate=1.0, noise_multiplier=z, steps=1, unit=PARTNER)
    both = _composed(z * joint_norm(1.0), 2 * z * joint_norm(1.0) / 0.5)
    assert epsilon((event,), delta=1e-4) == pytest.approx(both, rel=2e-3)
    assert epsilon((event,), delta=1e-4) > 1.01 * _composed(z * joint_norm(1.0))  # the count is not for nothing
    assert epsilon((event,), delta=1e-4) < 0.99 * _composed(z, 2 * z * joint_norm(1.0) / 0.5)


@pytest.mark.parametrize("quantile", [0.2, 0.5, 0.8])
@pytest.mark.parametrize("start", [1e-3, 50.0])
def test_it_comes_to_the_quantile(quantile, start):
    lengths, norm = np.random.default_rng(1).lognormal(0.0, 1.0, 2001), start
    for _ in range(500):
        norm = follow(norm, share=float((lengths <= norm).mean()), quantile=quantile, rate=0.2)
    assert abs((lengths <= norm).mean() - quantile) < 0.02
    assert norm == pytest.approx(np.quantile(lengths, quantile), rel=0.05)


@given(NORMS, st.floats(-1e300, 1e300), st.floats(0.01, 0.99), st.floats(0.01, 2.0))
def test_no_noise_moves_it_far_or_out_of_its_range(norm, share, quantile, rate):
    found = follow(norm, share=share, quantile=quantile, rate=rate)
    assert 1e-6 <= found <= 1e6
    assert abs(math.log(found / norm)) <= rate * (1 + 1e-9)


def test_a_share_that_is_no_number_is_refused():
    with pytest.raises(BadInput, match="a share of updates, found nan"):
        follow(1.0, share=math.nan, quantile=0.5, rate=0.2)
