"""Flower's SecAgg+ as we run it: honest rounds are right, and each attack gets what it says."""

from __future__ import annotations

import logging

import numpy as np
import pytest
from flwr.common.secure_aggregation.secaggplus_utils import pseudo_rand_gen
from hypothesis import given, settings
from hypothesis import strategies as st

from tacit.errors import BadInput, JobFailed
from tacit_sim.rivals import mask, victim
from tacit_sim.rivals.attack import ATTACKS
from tacit_sim.rivals.cost import client_round, server_unmask
from tacit_sim.rivals.flower import Node, Terms, held
from tacit_sim.rivals.workflow import advertise, collect, deal, gather, play, unmask

NAMES = (
    "swapped-keys",
    "both-shares",
    "repeated-key",
    "missing-keys",
    "different-survivors",
    "short-list",
    "second-unmask",
    "replay",
    "out-of-order",
    "tampered-share",
    "wrong-length",
    "strangers",
    "small-cohort",
    "changed-job",
    "mask-seed",
    "known-plaintext",
    "model-inconsistency",
)
REFUSED = {"second-unmask"}
WHOLE_UPDATE = set(NAMES) - REFUSED - {"tampered-share", "wrong-length", "mask-seed"}


@settings(max_examples=12, deadline=None)
@given(cohort=st.integers(3, 6), seed=st.integers(0, 2**32 - 1), data=st.data())
def test_an_honest_round_ends_with_the_weighted_mean(cohort, seed, data):
    threshold = data.draw(st.integers(2, cohort))
    lost = data.draw(st.sets(st.integers(1, cohort), max_size=cohort - threshold))
    rng = np.random.default_rng(seed)
    vectors = {number: rng.uniform(-3, 3, 17) for number in range(1, cohort + 1)}
    examples = {number: int(rng.integers(50, 1000)) for number in vectors}
    nodes = {n: Node(n, held(vectors[n]), examples=examples[n]) for n in vectors}
    terms = Terms(cohort=cohort, threshold=threshold)
    mean = play(nodes, terms, lost=lost).mean
    left = sorted(set(vectors) - lost)
    weights = np.array([examples[n] for n in left]) / terms.max_weight
    expected = np.average([vectors[n] for n in left], axis=0, weights=weights)
    # One step for each node, as a share of all weight; the weights themselves are rounded to 2^-22.
    bound = len(left) * terms.step / weights.sum() + 1e-5
    assert np.abs(mean - expected).max() <= bound
    everyone = np.average(list(vectors.values()), axis=0, weights=list(examples.values()))
    assert not lost or np.abs(mean - everyone).max() > bound


def test_too_few_shares_end_the_round():
    nodes = victim.cohort(victim.updates(range(1, 5)))
    terms = Terms(cohort=4, threshold=3)
    keys = advertise(nodes, terms)
    masked = collect(nodes, deal(nodes, keys))
    shares = gather([nodes[n].unmask(active=list(nodes), dead=[]) for n in (1, 2)])
    with pytest.raises(JobFailed, match="expected 3 shares of node 1, found 2"):
        unmask(masked[1].arrays, shares, active=list(nodes), keys=keys, terms=terms)


def test_a_node_lost_before_its_shares_ends_the_round():
    nodes = victim.cohort(victim.updates(range(1, 6)))
    keys = advertise(nodes, Terms(cohort=5, threshold=3))
    there = {n: node for n, node in nodes.items() if n != 5}
    collect(there, deal(there, keys))
    with pytest.raises(KeyError):
        nodes[1].unmask(active=list(there), dead=[5])


def test_a_masked_vector_looks_like_noise_and_takes_8_bytes_an_entry():
    nodes = victim.cohort(victim.updates(range(1, 4)))
    terms = Terms(cohort=3, threshold=2)
    seen = play(nodes, terms)
    (weight, vector) = seen.masked[victim.VICTIM].arrays
    assert (weight.shape, vector.dtype, vector.nbytes) == ((1,), np.int64, 8 * victim.LENGTH)
    assert vector.min() >= 0
    assert vector.max() < terms.modulus
    # Uniform: 256 entries, mean within 5 of its deviations; an unmasked one would lie under 2^22.
    assert abs(vector.mean() / terms.modulus - 0.5) < 5 / np.sqrt(12 * victim.LENGTH)


def test_the_attacks_are_these_in_this_order():
    assert tuple(ATTACKS) == NAMES
    assert len(NAMES) == 17


@pytest.mark.parametrize("name", NAMES)
def test_an_attack_does_what_it_says(name, capfd, caplog):
    with caplog.at_level(logging.WARNING):
        outcome = ATTACKS[name]()
    assert outcome.attack == name
    assert outcome.succeeded is (name not in REFUSED), outcome.what
    assert (f"node {victim.VICTIM}'s update, exact to " in outcome.what) is (name in WHOLE_UPDATE)
    assert capfd.readouterr() == ("", "")
    assert [record.message for record in caplog.records] == []


@pytest.mark.slow
def test_all_pairwise_seeds_can_be_tried():
    outcome = mask.known_plaintext(every=True)
    assert outcome.succeeded, outcome.what
    assert f"{2**28:,} tried" in outcome.what


def test_an_attack_that_finds_another_vector_has_failed():
    terms = Terms(cohort=5, threshold=4)
    truth = victim.updates([victim.VICTIM])[victim.VICTIM]
    assert victim.obtained("x", truth + 1e-6, truth, how="", terms=terms).succeeded
    assert not victim.obtained("x", truth + 1e-4, truth, how="", terms=terms).succeeded


def test_a_call_that_is_not_refused_is_an_error():
    with pytest.raises(JobFailed, match="expected Flower to refuse"):
        victim.refusal(lambda: None)


@settings(max_examples=20, deadline=None)
@given(place=st.integers(0, mask.PAIR_SEEDS - 1))
def test_the_search_finds_the_seed_of_flowers_own_generator(place):
    seed = int(mask._unpacked(np.array([place], dtype=np.uint32))[0])
    assert mask._packed(seed) == place
    (first,) = pseudo_rand_gen(seed.to_bytes(4, "little"), 1 << 32, [(1,)])
    start = max(0, place - 100)
    assert seed in mask.search(int(first[0]), start=start, count=200)
    assert seed not in mask.search(int(first[0]) ^ 1, start=start, count=200)


def test_a_clients_round_has_every_stage():
    names = []
    for stage in client_round(np.linspace(-1, 1, 100), cohort=4):
        stage.work()
        names.append(stage.name)
    assert names == ["setup", "share", "mask", "unmask"]


def test_a_limited_measurement_says_so():
    whole = server_unmask(cohort=6, length=50, dropped=2)
    assert [part.whole for part in whole] == [4, 2, 4, 10, 1]
    assert all(part.measured == part.whole and part.seconds > 0 for part in whole)
    limited = server_unmask(cohort=6, length=50, dropped=2, most=3)
    assert [part.measured for part in limited] == [3, 2, 3, 3, 1]
    assert [part.whole for part in limited] == [part.whole for part in whole]
    sparse = server_unmask(cohort=6, length=50, dropped=2, neighbours=3)
    assert {part.name: part.whole for part in sparse}["pairwise masks"] == 6


@pytest.mark.parametrize(("cohort", "dropped", "neighbours"), [(1, 0, None), (5, 4, None), (5, 0, 5), (5, -1, None)])
def test_numbers_that_make_no_round_are_refused(cohort, dropped, neighbours):
    with pytest.raises(BadInput, match="expected"):
        server_unmask(cohort=cohort, length=5, dropped=dropped, neighbours=neighbours)
