"""Each attack is refused for its reason, and succeeds as soon as the defence against it is taken away."""

from __future__ import annotations

import sys
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch

import tacit_client.partner
from tacit.errors import JobFailed
from tacit.secagg import bindings, checks, client, lists, server
from tacit.secagg import round as rounds
from tacit.secagg.messages import MaskedVector
from tacit.secagg.round import Rules, Seen
from tacit.wire import UNMASK, Letter, Refusal
from tacit_sim.attacks import ATTACKS, crowd, report
from tacit_sim.attacks.cohort import JOB, PRIVATE, VICTIM, gather_cohort, job
from tacit_sim.attacks.outcome import Outcome, join, likeness
from tacit_sim.attacks.partners import dead_model
from tacit_sim.attacks.play import Play, open_round
from tacit_sim.rivals.attack import ATTACKS as RIVALS

torch.set_num_threads(1)

NAMES = (*RIVALS, "clear-after-secure", "roster-split", "inbox-split", "graph", "strangers-at-the-end", "second-job")
# Where each attack is stopped, in words that only that check says.
STOPPED = {
    "swapped-keys": ["stage share: expected keys signed by partner-1", "partner 3 sent nothing"],
    "both-shares": ["stage agree: expected a partner in state Masked, found Agreed", "0 of 252 entries"],
    "repeated-key": ["stage share: expected keys of their own from all, found one twice", "another spelling"],
    "missing-keys": ["stage share: expected keys of at least 5 partners, found 3", "threshold of at least 5 of 7"],
    "different-survivors": ["stage unmask: expected a signature of partner-", "threshold of at least 5 of 7, found 4"],
    "short-list": ["stage agree: expected at least 5 partners, found 3", "expected every party once"],
    "second-unmask": ["stage unmask: expected a partner in state Agreed, found Done", "by all 5 honest", "5 answers"],
    "replay": ["stage advertise: expected a round after those taken part in", "2 mask keys that round 1 gave out"],
    "out-of-order": ["25 of 25 messages", "stage advertise: expected a round after those taken part in"],
    "tampered-share": ["expected a share from partner-0 that opens", "no sum (stage unmask: expected the secret"],
    "wrong-length": ["sum of 6 off by up to 0", "expected channels of 251 and 3 entries"],
    "strangers": ["stage advertise: expected at least 3 accepted partners, itself among them, found 1 of 7"],
    "small-cohort": ["stage advertise: expected at least 3 accepted partners, itself among them, found 2 of 2"],
    "changed-job": ["stage mask: expected the job, run, round, attempt and cohort", "by all 5 honest"],
    "mask-seed": ["keys of 256 bits", "two masks", "top value drawn"],
    "known-plaintext": ["1 mask left on the counters", "0 of 4 entries", "0 of 16,384 keys"],
    "model-inconsistency": ["to have masked with the partners shown here", "0 of 252 entries"],
    "clear-after-secure": ["stage mask: expected a secure job in a run that began with one"],
    "roster-split": ["expected a share from partner-1 that opens", "by all 5 honest"],
    "inbox-split": ["stage agree: expected partner-34 to have masked with the partners shown", "0 of 252 entries"],
    "graph": ["expected a chance of edges from 248 to 256 in 256, found 20", "0 of 252 entries", "honest holders left"],
    "strangers-at-the-end": ["stage agree: expected at least 4 accepted partners, itself among them, found 3 of 5"],
    "second-job": ["6 of 6 invitations and messages"],
}


def test_every_attack_on_flower_has_a_counterpart():
    assert tuple(ATTACKS) == NAMES
    assert len(NAMES) == 23
    assert STOPPED.keys() == ATTACKS.keys()
    assert report.NO_COUNTERPART.keys() == ATTACKS.keys() - RIVALS.keys()


@pytest.mark.parametrize("name", NAMES)
def test_refused_for_its_reason(name):
    found = ATTACKS[name]()
    assert (found.attack, found.refused) == (name, True), found.what
    assert [words for words in STOPPED[name] if words not in found.what] == [], found.what


Off = Callable[[pytest.MonkeyPatch], None]


def _everywhere(patch: pytest.MonkeyPatch, name: str, made: Callable[..., Any]) -> None:
    """`bindings.<name>` replaced by `made`, for partners, server and attacker alike."""
    real = getattr(bindings, name)
    places = [m for key, m in sys.modules.items() if key.startswith("tacit") and getattr(m, name, None) is real]
    assert len(places) >= 3
    for place in places:
        patch.setattr(place, name, made)


def _unbound(patch: pytest.MonkeyPatch, name: str, part: str, value: Any) -> None:
    """The binding `name` says the same whatever `part` is."""
    real = getattr(bindings, name)
    _everywhere(patch, name, lambda *args, **named: real(*args, **{**named, part: value}))


def _no_company(patch):
    for place in (checks, client):
        patch.setattr(place, "check_company", lambda *args, **named: None)


def _any_spelling_for_any_pair(patch):
    patch.setattr(lists, "FIELD", 2**256)
    _unbound(patch, "pair_key", "pair", (0, 0))


def _state_is_kept(patch):
    unmask = client.unmask

    def kept(state, data):
        _, answer = unmask(state, data)
        return state.masked, answer

    patch.setattr(client, "unmask", kept)


def _whatever_is_rebuilt(patch):
    class Same:
        def __eq__(self, other: object) -> bool:
            return True

        __hash__ = None

    patch.setattr(server, "commitment", lambda *args, **named: Same())


def _stage_2_unbound(patch, *names):
    for name in names or ("pair_key", "agreement_text", "presence_text"):
        _unbound(patch, name, "request", bytes(32))


def _any_job(patch):
    patch.setattr(tacit_client.partner, "enter", lambda ask, at, **named: client.open_shares(at.state, ask.inbox))


def _any_job_unbound(patch):
    _any_job(patch)
    _stage_2_unbound(patch)


def _clear_is_answered(patch):
    enter = tacit_client.partner.enter
    patch.setattr(
        tacit_client.partner,
        "enter",
        lambda ask, at, **named: enter(ask, at, **named) if ask.job.aggregation.secure else None,
    )


def _few_edges_do(patch):
    patch.setattr(rounds, "edge_chance", lambda n, *, threshold: 1)
    patch.setattr(crowd, "_few_holders", lambda: Outcome("graph", True, "not tried"))  # another way, and slow


OFF: dict[str, Off] = {
    "swapped-keys": lambda p: p.setattr(checks, "verifies", lambda *args, **named: True),
    "repeated-key": _any_spelling_for_any_pair,
    "different-survivors": lambda p: p.setattr(Rules, "least_threshold", lambda self, n: n // 2 + 1),
    "second-unmask": _state_is_kept,
    "replay": lambda p: p.setattr(Seen, "after", lambda self, new: self),
    "out-of-order": lambda p: p.setattr(Seen, "after", lambda self, new: self),
    "tampered-share": _whatever_is_rebuilt,
    "wrong-length": lambda p: p.setattr(MaskedVector, "check", lambda *args, **named: None),
    "strangers": _no_company,
    "small-cohort": _no_company,
    "changed-job": _any_job_unbound,
    "mask-seed": lambda p: p.setattr(client, "add_mask", lambda *args, **named: None),
    "known-plaintext": lambda p: _unbound(p, "pair_key", "channel", "any"),
    "model-inconsistency": _stage_2_unbound,
    "clear-after-secure": _clear_is_answered,
    "inbox-split": lambda p: p.setattr(client, "check_presences", lambda *args, **named: None),
    "graph": _few_edges_do,
    "strangers-at-the-end": lambda p: p.setattr(client, "check_company", lambda *args, **named: None),
}
# What the attacker then has: all of the victim's update, where that is the aim.
OTHER_AIMS = {
    "tampered-share": "one revealed share altered: sum of 7 off by up to 4",
    "wrong-length": "sum of 7 off by up to",
    "mask-seed": "1260 of 1260 signs",
    "known-plaintext": "4 of 4 entries",
}


@pytest.mark.parametrize("name", OFF)
def test_without_its_defence_it_succeeds(name, monkeypatch):
    OFF[name](monkeypatch)
    found = ATTACKS[name]()
    assert not found.refused, found.what
    assert OTHER_AIMS.get(name, "252 of 252 entries") in found.what


SECOND_LINES: dict[str, tuple[str, Off]] = {
    "a key spelt twice, each pair with masks of its own": (
        "repeated-key",
        lambda p: p.setattr(lists, "FIELD", 2**256),
    ),
    "any job at stage 2, masks and signatures bound to it": ("changed-job", _any_job),
    "signatures over whatever was asked, masks bound to it": (
        "model-inconsistency",
        lambda p: _stage_2_unbound(p, "agreement_text", "presence_text"),
    ),
    "masks for whatever was asked, signatures bound to it": (
        "model-inconsistency",
        lambda p: _stage_2_unbound(p, "pair_key"),
    ),
}


@pytest.mark.parametrize("case", SECOND_LINES)
def test_one_defence_of_several_is_enough(case, monkeypatch):
    name, off = SECOND_LINES[case]
    off(monkeypatch)
    found = ATTACKS[name]()
    assert found.refused, found.what
    assert "252 of 252" not in found.what


def test_an_honest_round_gives_the_sum_and_no_more():
    """The attacker's own arithmetic: all masks come off the honest sum, exactly, and not off one update."""
    cohort = gather_cohort()
    play = Play(cohort, open_round(cohort)).play_out()
    assert (play.refusals, play.revealed) == ({}, 5)
    total = play.expose(cohort.honest).view(np.int32) * (100.0 / (2**31 // 7))
    truth = sum(cohort.partners.updates.values())
    np.testing.assert_allclose(total, truth, atol=1e-5)
    assert play.compare(play.expose())[0] == 0


def test_a_dead_model_teaches_nothing_and_the_live_one_does():
    cohort = gather_cohort()
    Play(cohort, open_round(cohort)).play_out(stages=3)
    assert all(np.count_nonzero(update) > 200 for update in cohort.partners.updates.values())
    play = Play(cohort, open_round(cohort, number=2)).play_out(stages=2)
    play.mask(models={VICTIM: dead_model()})
    assert not cohort.partners.updates[VICTIM].any()


def test_jobs_of_an_attack():
    assert {JOB.aggregation.secure, PRIVATE.aggregation.secure, job(secure=False).aggregation.secure} == {True, False}
    assert (JOB.privacy.mechanism, PRIVATE.privacy.noise_multiplier) == ("none", 1.0)
    assert job(max_weight=5).aggregation.full_weight == 5


def test_likeness_and_join():
    truth = np.array([1.0, 2.0, 3.0, 4.0], dtype=np.float32)
    assert likeness(truth.astype(np.float64), truth, within=0.0) == (4, pytest.approx(1.0))
    assert likeness(-truth.astype(np.float64), truth, within=0.5) == (0, pytest.approx(-1.0))
    assert likeness(np.zeros(4), truth, within=1.0) == (1, 0.0)
    parts = [Outcome("x", refused, what) for refused, what in ((True, "one"), (False, "two"))]
    assert join("x", parts) == Outcome("x", False, "one; two")
    assert join("x", parts[:1]).refused


def test_a_breakdown_is_no_refusal(monkeypatch):
    def broken(*args: object, **named: object) -> None:
        raise RuntimeError("broken")

    cohort = gather_cohort()
    assert isinstance(cohort.partners.tell(VICTIM, UNMASK, Letter("server", b"").pack()), Refusal)
    monkeypatch.setattr(client, "unmask", broken)
    with pytest.raises(JobFailed, match="expected an answer or a refusal, found RuntimeError"):
        cohort.partners.tell(VICTIM, UNMASK, Letter("server", b"").pack())
