"""Identity keys of virtual partners: of their own by seed and name, and accepted by all the others."""

from __future__ import annotations

from tacit.secagg.keys import Secret, sign, verifies
from tacit.secagg.round import Member
from tacit_sim.identity import party


def test_keys_follow_from_seed_and_name_and_from_nothing_else(make_job):
    seeds = {seed: make_job(f"simulation.seed={seed}", "simulation.partners=4") for seed in (0, 1)}
    keys = {(seed, i): party(job, f"partner-{i}").identity for seed, job in seeds.items() for i in range(4)}
    assert len(set(keys.values())) == len(keys) == 8
    again = make_job("simulation.partners=9", "training.rounds=7", "aggregation.secure=true")
    assert party(again, "partner-2").identity == keys[0, 2]


def test_everybody_accepts_everybody_and_nobody_else(make_job):
    job = make_job("simulation.partners=5", "aggregation.min_cohort=4", "aggregation.threshold=4")
    parties = [party(job, f"partner-{i}") for i in range(5)]
    for one in parties:
        assert one.rules.min_cohort == 4
        assert len(one.rules.peers) == 5
        assert all(one.rules.accepts(Member(other.name, other.identity)) for other in parties)
        assert not one.rules.accepts(Member("partner-0", parties[1].identity))
        assert not one.rules.accepts(Member("partner-5", party(job, "partner-5").identity))


def test_the_key_signs_for_the_identity_and_shows_nothing(make_job):
    one, other = (party(make_job(), f"partner-{i}") for i in range(2))
    signature = sign(one.key, b"text")
    assert verifies(signature, identity=one.identity, message=b"text")
    assert not verifies(signature, identity=other.identity, message=b"text")
    assert isinstance(one.key, Secret)
    assert (len(one.key), repr(one.key)) == (32, "<secret>")
    assert bytes(one.key).hex() not in repr(one)
