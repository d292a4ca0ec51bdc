"""The server's signature under a job: any other job, run or key is refused."""

from __future__ import annotations

import pytest

from tacit import commission
from tacit.errors import BadInput
from tacit.secagg.keys import Secret, identity_of, sign

KEY, OTHER = Secret(bytes(range(32))), Secret(bytes(range(1, 33)))
SERVER = identity_of(KEY)


def test_what_was_signed_is_taken(make_job):
    job = make_job()
    commission.check(commission.sign(KEY, run="run", job=job), server=SERVER, run="run", job=job)


CHANGES = (
    "training.rounds=9",
    "training.local_steps=9",
    "training.learning_rate=0.9",
    "training.batch_size=9",
    "privacy.noise_multiplier=0.9",
    "privacy.delta=2e-4",
    "privacy.max_grad_norm=0.9",
    "aggregation.min_cohort=2",
    "aggregation.secure=true",
    "aggregation.max_update_norm=9.0",
    "evaluation.partner_holdout=0.3",
    "task.model='mlp'",
    "name='other'",
)


@pytest.mark.parametrize("change", CHANGES)
def test_a_job_that_differs_is_refused(make_job, change):
    """Guarantee: anything but speed."""
    signed, changed = commission.sign(KEY, run="run", job=make_job()), make_job(change)
    with pytest.raises(BadInput, match=r"^expected a job signed for this run with the server's key, found another"):
        commission.check(signed, server=SERVER, run="run", job=changed)


def test_speed_may_change(make_job):
    signed = commission.sign(KEY, run="run", job=make_job())
    commission.check(signed, server=SERVER, run="run", job=make_job("performance.max_physical_batch=7"))


def test_other_runs_keys_and_signatures_are_refused(make_job):
    job = make_job()
    right = commission.sign(KEY, run="run", job=job)
    wrong = (
        commission.sign(KEY, run="run-2", job=job),
        commission.sign(OTHER, run="run", job=job),
        sign(KEY, b"run" + bytes.fromhex(job.hash())),  # without the domain
        right[:-1],
        right + b"\0",
        b"",
        bytes(64),
    )
    for signed in wrong:
        with pytest.raises(BadInput, match="signed for this run"):
            commission.check(signed, server=SERVER, run="run", job=job)
    assert len(wrong) == 7
