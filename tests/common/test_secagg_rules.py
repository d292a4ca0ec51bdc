"""What a partner insists on before it answers at all: who is in the cohort, and how many must survive."""

from __future__ import annotations

from dataclasses import replace

import pytest
from cohort import aborts, make_parties, make_round, name_of, secret_key, wrong_key

from tacit.secagg import client
from tacit.secagg.abort import Reason, Stage
from tacit.secagg.graph import default_threshold, edge_chance
from tacit.secagg.round import Member, Party, Round, Rules

PLAIN = make_round(4)


def test_the_floor_of_a_threshold():
    for n in range(2, 30):
        assert Rules({}).least_threshold(n) == default_threshold(n) == (2 * n) // 3 + 1
        assert Rules({}, majority=True).least_threshold(n) == n // 2 + 1


def test_who_is_accepted():
    member = PLAIN.members[1]
    pinned = Rules({member.name: member.identity})
    assert pinned.accepts(member) is True
    assert pinned.accepts(PLAIN.members[2]) is False
    assert pinned.accepts(Member(member.name, wrong_key())) is False
    assert pinned.accepts(Member("another", member.identity)) is False
    assert Rules({}, trust_new_peers=True).accepts(member) is True
    assert (pinned.min_cohort, pinned.trust_new_peers, pinned.majority) == (3, False, False)


def _advertise(new: Round, party: Party) -> None:
    client.advertise(new, party, random=lambda size: bytes(range(size)))


def _party(new: Round, *, accepted: int, min_cohort: int, me: int = 0) -> Party:
    """The member at `me`, which accepts the first `accepted` members."""
    strangers = range(accepted, len(new.members))
    return make_parties(new, min_cohort=min_cohort, majority=False, strangers=strangers)[me]


def test_a_cohort_without_the_partner():
    party = make_parties(PLAIN)[0]
    with aborts(Stage.ADVERTISE, Reason.NOT_LISTED, match="expected outsider with its own key"):
        _advertise(PLAIN, replace(party, name="outsider"))
    with aborts(Stage.ADVERTISE, Reason.NOT_LISTED, match=f"expected {name_of(0)} with its own key"):
        _advertise(PLAIN, replace(party, key=secret_key(99)))
    with aborts(Stage.ADVERTISE, Reason.NOT_LISTED):
        _advertise(PLAIN, replace(party, name=name_of(1)))


@pytest.mark.parametrize("trust", [True, False])
def test_another_key_under_a_pinned_name(trust):
    party = make_parties(PLAIN)[0]
    rules = replace(party.rules, peers={**party.rules.peers, name_of(2): wrong_key()}, trust_new_peers=trust)
    with aborts(Stage.ADVERTISE, Reason.IDENTITY, match=f"pinned identity key of {name_of(2)}"):
        _advertise(PLAIN, replace(party, rules=rules))


def test_another_key_under_its_own_name():
    party = make_parties(PLAIN)[0]
    rules = replace(party.rules, peers={**party.rules.peers, party.name: wrong_key()})
    with aborts(Stage.ADVERTISE, Reason.IDENTITY, match=f"pinned identity key of {party.name}"):
        _advertise(PLAIN, replace(party, rules=rules))


@pytest.mark.parametrize(
    ("n", "threshold", "majority", "floor"), [(7, 4, False, 5), (7, 4, True, 0), (7, 5, False, 0), (6, 4, False, 5)]
)
def test_a_threshold_under_the_floor(n, threshold, majority, floor):
    new = make_round(n, threshold=threshold)
    party = make_parties(new, majority=majority)[0]
    if not floor:
        _advertise(new, party)
        return
    with aborts(Stage.ADVERTISE, Reason.THRESHOLD, match=f"at least {floor} of {n}, found {threshold}$"):
        _advertise(new, party)


@pytest.mark.parametrize("accepted", [3, 4, 5, 6, 7])
def test_accepted_peers_under_the_minimum(accepted):
    new, minimum = make_round(7, threshold=7), 5
    party = _party(new, accepted=accepted, min_cohort=minimum)
    if accepted >= minimum:
        _advertise(new, party)
        return
    with aborts(Stage.ADVERTISE, Reason.COHORT, match=f"at least 5 .* found {accepted} of 7$"):
        _advertise(new, party)


@pytest.mark.parametrize(("threshold", "most"), [(5, 2), (6, 4), (7, 6)])
@pytest.mark.parametrize("over", [0, 1])
def test_strangers_that_could_sign_two_lists(threshold, most, over):
    new = make_round(7, threshold=threshold)
    party = _party(new, accepted=7 - most - over, min_cohort=1)
    if not over or most == 6:  # itself is no stranger
        _advertise(new, party)
        return
    with aborts(Stage.ADVERTISE, Reason.STRANGERS, match=f"at most {most} .* found {most + 1}$"):
        _advertise(new, party)


@pytest.mark.parametrize(("n", "most"), [(70, 23), (75, 24), (76, 25)])
def test_strangers_in_a_sparse_graph(n, most):
    """Its bound is for fewer than n/3 that collude, however many survivors are asked for."""
    edges = edge_chance(n, threshold=n)
    assert edges < 256
    sparse, complete = (make_round(n, threshold=n, edges=e) for e in (edges, 256))
    _advertise(sparse, _party(sparse, accepted=n - most, min_cohort=2))
    over = _party(sparse, accepted=n - most - 1, min_cohort=2)
    _advertise(complete, over)
    with aborts(Stage.ADVERTISE, Reason.STRANGERS, match=f"at most {most} .* found {most + 1}$"):
        _advertise(sparse, over)


@pytest.mark.parametrize("min_cohort", [1, 2])
def test_a_cohort_of_strangers(min_cohort):
    new = make_round(7)
    reason = Reason.STRANGERS if min_cohort == 1 else Reason.COHORT
    with aborts(Stage.ADVERTISE, reason):
        _advertise(new, _party(new, accepted=0, min_cohort=min_cohort))
    trusting = Party(name_of(0), secret_key(0), Rules({}, min_cohort=7, trust_new_peers=True))
    _advertise(new, trusting)


def test_a_partner_counts_itself_without_a_pin():
    new = make_round(4, threshold=4)
    pins = {m.name: m.identity for m in new.members[1:]}
    _advertise(new, Party(name_of(0), secret_key(0), Rules(pins, min_cohort=4)))
