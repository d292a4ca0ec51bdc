"""The mechanism `client` in a job: what it needs, and what would be lost without it."""

from __future__ import annotations

import pytest

from tacit.errors import BadInput

CLIENT = ("privacy={mechanism='client', noise_multiplier=1.0, delta=1e-4, max_update_norm=1.0}",)
SECURE = (*CLIENT, "aggregation.secure=true")
SERVER = (*CLIENT, "privacy.noise_by=server")
USERS = (*SERVER, "simulation.user_rate=0.5")


def test_who_adds_the_noise_follows_from_the_job(make_job):
    assert make_job(*SECURE).shares_noise
    assert not make_job(*SERVER).shares_noise
    assert not make_job(*SERVER, "aggregation.secure=true").shares_noise
    assert not make_job().shares_noise
    assert [make_job(*SECURE).privacy.per_example, make_job().privacy.per_example] == [False, True]
    assert make_job(*USERS).simulation.user_rate == 0.5


def test_users_are_no_part_of_what_is_agreed(make_job):
    """Guarantee: no partner ever takes the chance of being drawn from a job: it is outside of what it granted."""
    assert make_job(*USERS).hash() == make_job(*SERVER).hash()
    assert "simulation" not in make_job(*USERS).agreed()


def test_every_key_of_it_is_agreed(make_job):
    jobs = [make_job(*SERVER), make_job(*SERVER, "privacy.max_update_norm=2.0")]
    jobs += [make_job(*SERVER, "privacy.clip_quantile=0.5", *more) for more in ((), ("privacy.clip_rate=0.3",))]
    jobs += [make_job(*SERVER, "aggregation.secure=true"), make_job(*SECURE)]
    assert len({job.hash() for job in jobs}) == 6


REFUSED = [
    (CLIENT, "aggregation.secure = true with client", "privacy.noise_by"),
    ((*SECURE, "aggregation.weighting=examples"), "weighting = uniform with client", "remove"),
    ((*SERVER, "aggregation.secure=true", "aggregation.weighting=examples"), "would tell how much each", "remove"),
    ((*SERVER, "training.server_strategy=krum"), "single updates carry no noise", "fedavg"),
    ((*SERVER, "training.server_strategy=fedmedian"), "outside of privacy.epsilon", "fedavg"),
    ((*SECURE, "aggregation.max_colluders=3"), "max_colluders below the threshold 3", "lower"),
    ((*SERVER, "privacy.delta=0.4"), "below one over the 3 partners", "lower"),
    ((*SERVER, "privacy.max_grad_norm=1.0"), "no privacy.max_grad_norm with client", "max_update_norm"),
    ((*SERVER, "privacy.clip_rate=0.2"), "privacy.clip_quantile beside privacy.clip_rate", "clip_quantile"),
    ((*SERVER, "privacy.clip_quantile=1.0"), "less than 1", "clip_quantile"),
    ((*SERVER, "privacy.max_update_norm=1e7"), "less than or equal to 1000000", "max_update_norm"),
    (("privacy.max_update_norm=1.0",), "no privacy.max_update_norm with dp-sgd", "client"),
    (("privacy.noise_by=server",), "no privacy.noise_by with dp-sgd", "client"),
    (("privacy.clip_quantile=0.5",), "no privacy.clip_quantile with dp-sgd", "client"),
    (("privacy={mechanism='none', noise_by='server'}",), "no privacy.noise_by with none", "client"),
    ((*SECURE, "simulation.user_rate=0.5"), "found it with client and noise by partners", "user_rate"),
    (("simulation.user_rate=0.5",), "found it with dp-sgd", "user_rate"),
    ((*USERS, "aggregation.secure=true"), "secure = false with simulation.user_rate", "trusted"),
    ((*USERS, "aggregation.cohort=3"), "no aggregation.cohort with simulation.user_rate", "remove"),
    ((*USERS, "simulation.partners=20000"), "below one over the 20000 users", "lower"),
    ((*USERS, "simulation.user_rate=0.0"), "greater than 0", "user_rate"),
]


@pytest.mark.parametrize(("overrides", "message", "hint"), REFUSED)
def test_a_job_without_its_guarantee_is_refused(make_job, overrides, message, hint):
    with pytest.raises(BadInput) as caught:
        make_job(*overrides)
    assert message in caught.value.message
    assert hint in caught.value.hint
