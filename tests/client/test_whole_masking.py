"""What a partner refuses of a masked round in which the noise is in shares, before it gives a key."""

from __future__ import annotations

import pytest

from tacit.job import Job
from tacit.privacy.randomness import Randomness
from tacit.secagg.abort import Abort
from tacit.secagg.graph import edge_chance
from tacit.secagg.keys import PublicKey, Secret, identity_of
from tacit.secagg.round import Member, Party, Round, Rules
from tacit.wire import Invite
from tacit_client.masking import Standing, advertise

SHARES = (
    "privacy={mechanism='client', noise_multiplier=1.0, delta=1e-4, max_update_norm=1.0}",
    "aggregation.secure=true",
    "aggregation.min_cohort=5",
)


def _key(name: str) -> Secret:
    return Secret(Randomness(1).stream("identity", name).words(4).tobytes())


def _members(n: int) -> tuple[Member, ...]:
    return tuple(Member(f"p{i:03}", PublicKey(identity_of(_key(f"p{i:03}")))) for i in range(n))


def _invite(job: Job, n: int, *, threshold: int, edges: int = 256, purpose: str = "train") -> Invite:
    return Invite(job, Round("r", job.hash(), 1, 1, purpose, _members(n), threshold, 4, 3, edges).encode())


def _join(invite: Invite, n: int, *, accepted: int | None = None) -> None:
    peers = {m.name: m.identity for m in _members(n)[: n if accepted is None else accepted]}
    advertise(invite, Standing(), party=Party("p000", _key("p000"), Rules(peers, 3)))


def test_a_threshold_below_the_one_that_the_noise_is_sized_for_is_refused(make_job):
    """Guarantee: the job's threshold, not the protocol's floor, bounds every sum that this partner is in."""
    job = make_job(*SHARES, "aggregation.threshold=5")
    _join(_invite(job, 5, threshold=5), 5)
    with pytest.raises(Abort, match=r"at least 5 of 5, as the job's noise is sized for, found 4"):
        _join(_invite(job, 5, threshold=4), 5)
    _join(_invite(job, 5, threshold=4, purpose="evaluate"), 5)  # no noise in shares there


def test_a_sparse_graph_is_refused_where_the_noise_is_in_shares(make_job):
    job, n = make_job(*SHARES), 100
    edges = edge_chance(n, threshold=67)
    assert edges < 256
    _join(_invite(job, n, threshold=67), n)
    with pytest.raises(Abort, match="found a sparse graph"):
        _join(_invite(job, n, threshold=67, edges=edges), n)
    by_server = make_job(*SHARES, "privacy.noise_by=server")
    _join(_invite(by_server, n, threshold=67, edges=edges), n)


@pytest.mark.parametrize(("strangers", "joins"), [(1, True), (2, False)])
def test_strangers_count_as_colluders(make_job, strangers, joins):
    job = make_job(*SHARES, "aggregation.threshold=5")
    if joins:
        _join(_invite(job, 6, threshold=5), 6, accepted=6 - strangers)
        return
    with pytest.raises(
        Abort, match=r"at most aggregation\.max_colluders 1 partners that are not accepted peers, found 2"
    ):
        _join(_invite(job, 6, threshold=5), 6, accepted=6 - strangers)


@pytest.mark.parametrize(("n", "threshold", "joins"), [(6, 5, True), (7, 5, False), (7, 6, True), (9, 7, True)])
def test_a_cohort_in_which_the_colluders_could_sign_two_lists_is_refused(make_job, n, threshold, joins):
    """With 3 of 7 and a threshold of 5 a server rebuilds both secrets of a partner, whose share is half of the noise.

    The job is sound for the cohort that it names, and a server that lies asks another one.
    """
    job = make_job(*SHARES, "aggregation.min_cohort=6", "aggregation.cohort=6", "aggregation.max_colluders=3")
    if joins:
        _join(_invite(job, n, threshold=threshold), n)
        return
    with pytest.raises(Abort, match="that 3 colluding partners can not sign two lists with, found 5 of 7"):
        _join(_invite(job, n, threshold=threshold), n)
