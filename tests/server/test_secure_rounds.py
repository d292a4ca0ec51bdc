"""Secure rounds with the partners' real code: the same model as in clear, whoever vanishes, lies or talks nonsense."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import pytest
from real import Partners, Sent, mean
from real import name as name_of
from scripted import D

from tacit.data.splits import kept
from tacit.errors import JobFailed
from tacit.parcel import Parcel
from tacit.privacy.randomness import Randomness
from tacit.secagg.messages import Advert, decode
from tacit.secagg.round import Round
from tacit.wire import ADVERTISE, AGREE, EVALUATE, SHARE, STATEMENT, TRAIN, UNMASK, Letter, Update
from tacit_sim.faults import vanishing

SECURE = "aggregation.secure=true"
STAGES = (ADVERTISE, SHARE, TRAIN, AGREE, UNMASK)
NOT_PRIVATE = "privacy={mechanism='none'}"
UNTIMED = ("seconds", "round_seconds", "partner_seconds")


def _facts(line: dict[str, Any]) -> dict[str, Any]:
    return {key: value for key, value in line.items() if key not in UNTIMED}


def test_a_secure_run_gives_the_clear_runs_model_bit_for_bit(run, make_partners):
    (one, saved), (other, _) = (
        run(make_partners(), f"aggregation.secure={secure}", partners=4) for secure in ("true", "false")
    )
    assert one.vector.tobytes() == other.vector.tobytes()
    assert one.vector.any()
    assert len({state.vector.tobytes() for state in saved}) == 2
    assert one.events == other.events
    assert set(one.events) == {"p0", "p1", "p2", "p3"}
    for masked, clear in zip(one.history, other.history, strict=True):
        assert _facts(masked) == _facts(clear)
        assert (masked["answered"], masked["clipped"], masked["failures"]) == (4, 0, {})
        assert masked["federated"]["examples"] == 10 + 11 + 12 + 13 + 4
        assert masked["seconds"]["secagg"] > 0 == clear["seconds"]["secagg"]


def test_what_leaves_a_partner_is_masked_and_only_that(run, make_partners):
    """Guarantee: neither update nor counters leave in clear, and no stage is gone through twice."""
    partners = make_partners()
    run(partners, SECURE, partners=4)
    seen = 0
    for (group, name), parcel in partners.parcels(TRAIN).items():
        update = Update.unpack(parcel)
        assert not (update.vector.update == partners.encoded[group, name]).any()
        assert (update.vector.counters > 2**40).any()
        seen += 1
    for parcel in partners.parcels(EVALUATE).values():
        assert (Update.unpack(parcel).vector.counters > 2**40).any()
        seen += 1
    assert seen == 16
    said = [(s.group, s.kind, s.name) for s in partners.sent if s.kind in (*STAGES, EVALUATE)]
    assert len(said) == len(set(said)) == 4 * 4 * 5


@pytest.mark.parametrize(
    ("kind", "late", "counts"),
    [
        (ADVERTISE, False, 3),
        (SHARE, False, 3),
        (TRAIN, False, 3),
        (TRAIN, True, 3),
        (AGREE, False, 4),
        (UNMASK, False, 4),
    ],
)
def test_who_vanishes_at_any_stage_leaves_the_sum_exact(run, make_partners, kind, late, counts):
    group = "1.1.train"

    def lose(sent: Sent) -> Parcel:
        if late and (sent.kind, sent.name, sent.group) == (kind, "p1", group):
            raise RuntimeError("gone")
        return sent.parcel

    partners = make_partners(
        away=lambda *what: not late and what == (kind, "p1", group),
        meddle=lose,
    )
    state, saved = run(partners, SECURE, partners=4)
    first, second = state.history
    names = [f"p{i}" for i in range(4) if counts == 4 or i != 1]
    np.testing.assert_array_equal(saved[0].vector, mean(partners, group, names, cohort=4).astype(np.float32))
    assert (first["status"], first["answered"], first["needed"]) == ("done", counts, 3)
    assert first["dropouts"] == ([] if counts == 4 else ["p1"])
    assert first["failures"] == {"p1": "RuntimeError: gone"}
    assert (second["answered"], second["failures"]) == (4, {})
    charged = 2 if kind in (AGREE, UNMASK) or late else 1
    assert [sum(e.steps for e in events) for _, events in sorted(state.events.items())] == [4, 2 * charged, 4, 4]


@pytest.mark.parametrize("kind", STAGES)
def test_under_the_threshold_a_round_is_abandoned_and_the_next_goes_on_with_fresh_keys(run, make_partners, kind):
    """Guarantee: nobody's keys are used in two rounds, and the model is untouched."""
    partners = make_partners(away=lambda k, name, group: k == kind and name in ("p1", "p2") and group == "1.1.train")
    state, saved = run(partners, SECURE, "evaluation.every=2", partners=4)
    first, second = state.history
    assert (first["status"], first["answered"], first["federated"]) == ("abandoned", 2, None)
    stage = {TRAIN: "mask"}.get(kind, kind.removeprefix("query."))
    assert first["reason"] == f"secure aggregation, stage {stage}: expected at least 3 partners, found 2"
    assert first["failures"] == {"p1": "RuntimeError: gone", "p2": "RuntimeError: gone"}
    assert first["dropouts"] == ["p1", "p2"]  # the others waited in vain
    assert (saved[0].failed, saved[0].vector.any()) == (1, False)
    assert (second["status"], second["reason"], saved[1].failed) == ("done", None, 0)
    expected = mean(partners, "2.1.train", ["p0", "p1", "p2", "p3"], cohort=4)
    np.testing.assert_array_equal(state.vector, expected.astype(np.float32))
    bodies = [Letter.unpack(parcel).body for parcel in partners.parcels(ADVERTISE).values()]
    assert len(bodies) == (10 if kind == ADVERTISE else 12)
    contexts = {body[2:34] for body in bodies}
    assert len(contexts) == 3  # two rounds of training and one of scores
    adverts = [decode(Advert, body, context=body[2:34]) for body in bodies]
    keys = [key for advert in adverts for key in (advert.share_key, advert.mask_key)]
    assert len(set(keys)) == len(keys) == 2 * len(bodies)


def test_failures_in_a_row_name_the_reason(run, make_partners):
    partners = make_partners(away=lambda kind, name, group: kind == SHARE)
    with pytest.raises(JobFailed, match=r"^expected at least 3 replies in a round, found 0 in the last of 1 rounds"):
        run(partners, SECURE, "training.max_failed_rounds=0", partners=4)


def test_failures_in_a_row_count_who_answered(run, make_partners):
    partners = make_partners(away=lambda kind, name, group: kind == AGREE and name in ("p1", "p3"))
    words = r"^expected at least 3 replies in a round, found 2 in the last of 1 rounds in a row \(p1: "
    with pytest.raises(JobFailed, match=words):
        run(partners, SECURE, "training.max_failed_rounds=0", partners=4)


def test_a_round_is_not_asked_twice(run, make_partners):
    """Guarantee: a server that forgot that it asked gets refusals; under the next attempt it is served."""
    partners = make_partners()
    state, saved = run(partners, SECURE, "training.rounds=1", partners=4)
    before = replace(saved[0], round=0, history=(), vector=np.zeros(D, np.float32), events={})
    with pytest.raises(JobFailed, match="found one of them or an earlier one") as caught:
        run(partners, SECURE, "training.rounds=1", "training.max_failed_rounds=0", partners=4, state=before)
    line = caught.value.saved[0].history[0]
    assert set(line["refusals"]) == {"p0", "p1", "p2", "p3"}
    again, _ = run(partners, SECURE, "training.rounds=1", partners=4, state=replace(before, attempt=2))
    assert again.history[0]["answered"] == 4
    assert again.vector.tobytes() != state.vector.tobytes()  # fresh noise
    assert {sum(event.steps for event in events) for events in again.events.values()} == {4}


def test_partners_that_insist_on_more_peers_refuse(run, make_partners):
    partners = make_partners(min_cohort=5)
    with pytest.raises(JobFailed, match="at least 5 accepted partners, itself among them, found 4 of 4"):
        run(partners, SECURE, "training.max_failed_rounds=0", partners=4)
    assert partners.parcels(TRAIN) == {}


def test_a_round_needs_what_the_job_says_where_that_is_more(run, make_partners):
    overrides = SECURE, "aggregation.min_cohort=4", "aggregation.threshold=4", "training.rounds=1"
    partners = make_partners(away=lambda kind, name, group: kind == TRAIN and name == "p1")
    state, _ = run(partners, *overrides, partners=4)
    line = state.history[0]
    assert (line["status"], line["needed"]) == ("abandoned", 4)
    assert line["reason"].endswith("stage mask: expected at least 4 partners, found 3")


@pytest.mark.parametrize("kind", [ADVERTISE, EVALUATE, UNMASK])
def test_scores_are_those_of_whoever_is_left(run, make_partners, kind):
    away: dict[str, Any] = {"away": lambda k, name, group: (k, name, group) == (kind, "p1", "1.1.evaluate")}
    state, _ = run(make_partners(**away), SECURE, partners=4)
    counts = [line["federated"]["examples"] for line in state.history]
    assert counts == [50 if kind == UNMASK else 50 - 12, 50]
    assert [line["failures"] for line in state.history] == [{}, {}]  # of training there are none


def test_too_few_for_scores_leave_the_round_done(run, make_partners):
    partners = make_partners(away=lambda kind, name, group: kind == EVALUATE and name in ("p1", "p2"))
    state, _ = run(partners, SECURE, partners=4)
    assert [(line["status"], line["federated"]) for line in state.history] == [("done", None)] * 2


COUNTS = (31_337, 47_711, 52_919, 61_417)
BY_EXAMPLES = ("aggregation.weighting=examples", "aggregation.max_weight=100000", "training.rounds=1")


def test_weights_by_example_stay_inside_the_mask(run, make_partners):
    """Guarantee: the model of the clear weighted run, and no count among what leaves; in clear the counts are there."""
    runs = {secure: make_partners(examples=COUNTS) for secure in ("true", "false")}
    found = {
        secure: run(partners, f"aggregation.secure={secure}", NOT_PRIVATE, *BY_EXAMPLES, partners=4)[0]
        for secure, partners in runs.items()
    }
    assert found["true"].vector.tobytes() == found["false"].vector.tobytes()
    uniform, _ = run(make_partners(examples=COUNTS), "aggregation.secure=true", NOT_PRIVATE, BY_EXAMPLES[2], partners=4)
    assert uniform.vector.tobytes() != found["true"].vector.tobytes()
    assert {secure: _counts_told(partners) for secure, partners in runs.items()} == {"true": 0, "false": 4}


def _counts_told(partners: Partners) -> int:
    """Answers in which the partner's own count of examples can be read."""
    told = 0
    for sent in partners.sent:
        place = int(sent.name[1])
        held = COUNTS[place] + 10 + place  # with the examples of `real.Partners` that are held out
        counts = {COUNTS[place], held, kept(held, share=0.1)}
        numbers = {int(value) for array in sent.parcel.arrays.values() for value in array}
        texts = [str(value) for value in sent.parcel.scalars.values()]
        told += bool(counts & numbers) or any(str(count) in text for text in texts for count in counts)
    assert len(partners.sent) >= 4 * 4  # hello, training, scores, statement
    return told


def test_private_weights_are_told_to_two_digits_and_sum_unseen(run, make_partners):
    partners = make_partners(examples=COUNTS)
    state, _ = run(partners, SECURE, "privacy.delta=1e-6", *BY_EXAMPLES, partners=4)
    assert (state.history[0]["status"], _counts_told(partners)) == ("done", 0)
    weights = 0.9 * np.array([31_000, 47_000, 52_000, 61_000])  # a tenth is held out of the rounded number
    updates = np.array([partners.encoded["1.1.train", f"p{i}"].view(np.int32) for i in range(4)], np.float64)
    expected = updates.sum(axis=0) * (100.0 / ((2**31 - 1) // 4)) * 100_000 / weights.sum()
    np.testing.assert_allclose(state.vector, expected, rtol=1e-6)


def test_partners_are_asked_for_the_same_round(run, make_partners):
    """The round that is announced is of the job, the model's length and the cohort that training is asked of."""
    rounds: list[Round] = []
    decode_round = Round.decode

    def noted(data: bytes) -> Round:
        rounds.append(decode_round(data))
        return rounds[-1]

    partners = make_partners()
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Round, "decode", noted)
        state, _ = run(partners, SECURE, partners=4)
    assert len(rounds) == 2 * 4 * 4  # each is read for the partner's decision, and again for its keys
    shown = {(r.number, r.attempt, r.purpose, r.update, r.counters, r.threshold) for r in rounds}
    assert shown == {(n, 1, "train", D, 3, 3) for n in (1, 2)} | {(n, 1, "evaluate", 0, 8, 3) for n in (1, 2)}
    assert {r.job for r in rounds} == {state.job_hash}
    assert {tuple(m.name for m in r.members) for r in rounds} == {("p0", "p1", "p2", "p3")}


def test_fifty_rounds_with_drop_outs_at_every_stage_are_exact_or_abandoned(run, make_partners):
    """Guarantee: a model is the one of exactly the survivors named, or the one before; ten partners, seven needed."""
    partners = make_partners()
    partners.mods.append(vanishing(chance=0.3, randomness=Randomness(7), name=name_of, secure=True))
    overrides = "training.rounds=50", "training.max_failed_rounds=50", "evaluation.partner_holdout=0.0"
    state, saved = run(partners, SECURE, NOT_PRIVATE, *overrides, partners=10)
    names, vector, ended = {f"p{i}" for i in range(10)}, np.zeros(D, np.float32), {"done": 0, "abandoned": 0}
    for line, after in zip(state.history, saved, strict=True):
        ended[line["status"]] += 1
        assert (line["needed"], line["asked"], line["refusals"]) == (7, 10, {})
        if line["status"] == "done":
            survivors = sorted(names - set(line["dropouts"]))
            assert line["answered"] == len(survivors) >= 7
            vector = (vector + mean(partners, f"{line['round']}.1.train", survivors, cohort=10)).astype(np.float32)
        else:
            assert line["answered"] == 10 - len(line["dropouts"]) < 7
            assert ": expected at least 7 partners, found " in line["reason"]
        assert after.vector.tobytes() == vector.tobytes()
    assert ended["done"] + ended["abandoned"] == 50
    assert min(ended.values()) >= 10
    assert {len(line["dropouts"]) for line in state.history if line["status"] == "done"} >= {0, 1, 2, 3}
    trained = sum(len(names - set(line["dropouts"])) for line in state.history)
    assert len(partners.encoded) > trained  # somebody vanished after its work
    charged = {name: sum(event.steps for event in events) for name, events in state.events.items()}
    assert charged == {name: 2 * sum(n == name for _, n in partners.encoded) for name in names}
    assert len(partners.parcels(STATEMENT)) == 10
