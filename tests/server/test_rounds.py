"""The rounds, with partners that answer from a script: who counts, and when a run ends."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from scripted import EVENT, D, Script, hello, score, update

from tacit.errors import BadInput, JobFailed
from tacit.metrics import Counters
from tacit.privacy.accounting import epsilon
from tacit.privacy.randomness import Randomness
from tacit.secagg.keys import PublicKey
from tacit.wire import Ask, Hello, Refusal, Statement
from tacit_server import rounds
from tacit_server.rounds import Setup

NOT_PRIVATE = "privacy={mechanism='none'}"


def _all(vector: np.ndarray, value: float) -> None:
    """Every entry is `value`, but for the grid of updates: off by less than its step, 1.4e-7, a round."""
    np.testing.assert_allclose(vector, np.full(D, value, np.float32), rtol=1e-6, atol=1e-9)


def test_two_plain_rounds(run):
    state, saved = run(Script())
    _all(state.vector, 2.0)
    assert [s.round for s in saved] == [1, 2]
    line = state.history[1]
    assert (line["round"], line["status"], line["asked"], line["answered"]) == (2, "done", 3, 3)
    assert line["dropouts"] == []
    assert line["federated"]["accuracy"] == 0.5
    assert line["federated"]["examples"] == 30
    assert state.events == {f"p{i}": (EVENT,) for i in range(3)}
    assert line["epsilon_by_partner"] == {f"p{i}": epsilon((EVENT,), delta=1e-4) for i in range(3)}


def test_the_mean_is_over_those_who_answered(run):
    def train(name: str, ask: Ask) -> Any:
        if name == "p1":
            raise RuntimeError("gone")
        return update(name, delta=1.0 if name == "p0" else 4.0)

    state, _ = run(Script(train=train), "aggregation.threshold=2", "training.rounds=1")
    _all(state.vector, 2.5)
    assert state.history[0]["dropouts"] == ["p1"]
    assert state.history[0]["failures"] == {"p1": "RuntimeError: gone"}


def test_example_counts_weigh_only_where_the_job_says_so(run):
    def train(name: str, ask: Ask) -> Any:
        return update(name, delta=float(name[1]), weight=10 ** int(name[1]), full=ask.job.aggregation.full_weight)

    rounds_of_one = NOT_PRIVATE, "training.rounds=1"
    state, _ = run(Script(train=train), *rounds_of_one, "aggregation.weighting=examples")
    np.testing.assert_allclose(state.vector, (0 * 1 + 1 * 10 + 2 * 100) / 111, rtol=2e-5)
    assert state.history[0]["answered"] == 3
    weights = {"p0": 1, "p1": 1, "p2": 2}
    state, _ = run(Script(train=lambda n, a: update(n, weight=weights[n], full=weights[n])), *rounds_of_one)
    assert state.history[0]["answered"] == 2
    assert state.history[0]["failures"]["p2"] == "expected a weight from 1 to 1, found 2"


def test_the_history_counts_partners_whose_update_was_clipped(run):
    clipped = {"p0": 1, "p1": 0, "p2": 1}
    state, _ = run(Script(train=lambda name, ask: update(name, clipped=clipped[name])))
    assert [line["clipped"] for line in state.history] == [2, 2]
    assert state.history[0]["partner_seconds"] == pytest.approx(0.3)


@pytest.mark.parametrize("said", [Refusal("p1", "x"), hello("p1\nround 2"), hello("")], ids=["no", "line", "empty"])
def test_who_does_not_say_its_name_is_not_there(run, said):
    script = Script(hello=lambda name: said if name == "p1" else hello(name))
    state, _ = run(script, partners=4)
    assert {name for _, name in script.asked} == {"p0", "p2", "p3"}
    assert len(state.history) == 2


def test_too_few_who_greet_fail_the_job(run):
    script = Script(hello=lambda name: hello(name) if name != "p1" else 1 / 0)
    with pytest.raises(JobFailed, match=r"^expected at least 3 partners to answer, found 2$"):
        run(script)


@pytest.mark.parametrize(
    "said", [lambda n: Hello("same", hello(n).identity), lambda n: Hello(n, PublicKey(bytes(32)))], ids=["name", "key"]
)
def test_two_of_one_name_or_key_fail_the_job(run, said):
    with pytest.raises(JobFailed, match=r"^expected partners with names and keys of their own, found one twice$"):
        run(Script(hello=said))


def test_a_norm_whose_sum_could_wrap_is_refused_before_anybody_is_asked(run):
    script = Script()
    with pytest.raises(BadInput, match="max_update_norm of at most 174763 for 3 partners, found 200000"):
        run(script, "aggregation.max_update_norm=2e5")
    assert script.asked == []


def test_too_few_nodes_fail_the_job(run):
    with pytest.raises(JobFailed, match="expected at least 3 partners within"):
        run(Script(), partners=2)


@pytest.mark.parametrize(("threshold", "done"), [(2, True), (3, False)])
def test_a_round_needs_its_threshold(run, threshold, done):
    script = Script(train=lambda name, ask: 1 / 0 if name == "p1" else update(name))
    state, saved = run(script, f"aggregation.threshold={threshold}", "training.rounds=1")
    assert state.history[0]["status"] == ("done" if done else "abandoned")
    _all(state.vector, 1.0 if done else 0.0)
    assert saved[0].failed == (0 if done else 1)


def test_an_abandoned_round_keeps_what_was_spent(run):
    def train(name: str, ask: Ask) -> Any:
        if name != "p0":
            raise RuntimeError("gone after its noise was drawn")
        return update(name)

    spent = {"p0": (EVENT,), "p1": (EVENT,), "p2": ()}
    script = Script(train=train, statement=lambda name, ask: Statement(name, spent[name]))
    state, saved = run(script, "training.rounds=1")
    assert state.history[0]["status"] == "abandoned"
    assert saved[0].events == {"p0": (EVENT,)}
    assert state.events == {"p0": (EVENT,), "p1": (EVENT,)}  # the ledgers know more than the replies


def test_failures_in_a_row_end_the_run_and_a_round_between_forgives(run):
    failing = Script(train=lambda name, ask: 1 / 0 if ask.round != 3 else update(name))
    with pytest.raises(JobFailed, match=r"found 0 in the last of 3 rounds in a row \(p0: ZeroDivisionError") as caught:
        run(failing, "training.rounds=9", "training.max_failed_rounds=2")
    assert caught.value.exit_code == 1
    assert [(s.round, s.failed) for s in caught.value.saved] == [(1, 1), (2, 2), (3, 0), (4, 1), (5, 2), (6, 3)]
    _all(caught.value.saved[-1].vector, 1.0)


def test_a_refusal_shows_by_name_and_is_no_dropout(run):
    script = Script(train=lambda name, ask: Refusal(name, "budget spent") if name == "p2" else update(name))
    state, _ = run(script, "aggregation.threshold=2", "training.rounds=1")
    line = state.history[0]
    assert line["refusals"] == {"p2": "budget spent"}
    assert (line["dropouts"], line["failures"], line["answered"]) == ([], {}, 2)
    with pytest.raises(JobFailed, match=r"\(p2: budget spent\)$"):
        run(script, "training.max_failed_rounds=0")


def test_a_cohort_is_drawn_by_seed_from_all(run):
    def cohorts(seed: int) -> list[set[str]]:
        script = Script()
        state, _ = run(script, "aggregation.cohort=3", "training.rounds=16", partners=8, seed=seed)
        assert [line["asked"] for line in state.history] == [3] * 16
        return [{name for number, name in script.asked if number == r} for r in range(1, 17)]

    first = cohorts(0)
    assert first == cohorts(0) != cohorts(1)
    assert all(len(names) == 3 for names in first)
    assert set.union(*first) == {f"p{i}" for i in range(8)}


def test_a_cohort_is_uniform(make_job):
    """512 cohorts of 3 of 8: each name expected 192 times, standard deviation 11."""
    setup = Setup(job=make_job("aggregation.cohort=3"), classes=2, test=None, randomness=Randomness(5), save=print)
    roster = {node: hello(f"p{node}") for node in range(8)}
    drawn = [who.name for number in range(512) for who in rounds._choose(setup, roster, number).values()]
    counts = [drawn.count(who.name) for who in roster.values()]
    assert sum(counts) == 3 * 512
    assert 192 - 4.5 * 11 < min(counts) <= max(counts) < 192 + 4.5 * 11


def _accuracies(*values: float) -> Script:
    return Script(score=lambda name, ask: score(name, values[ask.round - 1]))


def test_patience_ends_the_run_and_the_best_model_is_kept(run):
    overrides = "evaluation.patience=2", "training.rounds=9"
    state, _ = run(_accuracies(0.1, 0.5, 0.5, 0.4, 0.9), *overrides)
    assert state.round == 4
    assert (state.best.round, state.best.accuracy, state.stale) == (2, 0.5, 2)
    _all(state.best_vector, 2.0)
    _all(state.vector, 4.0)


def test_without_patience_the_run_goes_on(run):
    state, _ = run(_accuracies(0.5, 0.4, 0.3, 0.2, 0.9), "training.rounds=5")
    assert (state.round, state.best.round) == (5, 5)


def test_patience_follows_the_test_score_where_asked(run):
    scores = iter([0.2, 0.8, 0.1, 0.1])

    def test(vector: np.ndarray) -> Counters:
        return Counters(np.array([[round(10 * next(scores)), 0], [1, 0]], np.int64), 0)

    overrides = "evaluation.patience=1", "evaluation.monitor=test", "training.rounds=4"
    state, _ = run(_accuracies(0.9, 0.1, 0.1, 0.1), *overrides, test=test)
    assert (state.round, state.best.round) == (3, 2)


def test_evaluation_comes_every_so_many_rounds_and_at_the_end(run):
    state, _ = run(Script(), "evaluation.every=3", "training.rounds=5")
    assert [line["federated"] is not None for line in state.history] == [False, False, True, False, True]


def test_no_holdout_asks_nobody_for_scores(run):
    state, _ = run(Script(score=lambda name, ask: 1 / 0), "evaluation.partner_holdout=0.0")
    assert [line["federated"] for line in state.history] == [None, None]


def test_a_state_goes_on_where_it_stood(run):
    _, saved = run(Script(), "training.rounds=3", "training.server_strategy=fedadam")
    whole, _ = run(Script(), "training.rounds=3", "training.server_strategy=fedadam")
    script = Script()
    state, _ = run(script, "training.rounds=3", "training.server_strategy=fedadam", state=saved[0])
    assert {number for number, _ in script.asked} == {2, 3}
    assert state.vector.tobytes() == whole.vector.tobytes()


def test_a_finished_state_only_asks_the_ledgers(run):
    state, _ = run(Script())
    script = Script()
    again, saved = run(script, state=state)
    assert (script.asked, saved) == ([], [])
    assert again.vector.tobytes() == state.vector.tobytes()


@pytest.mark.parametrize("strategy", ["krum", "fedmedian"])
def test_a_strategy_for_single_updates_gets_them(run, strategy):
    def train(name: str, ask: Ask) -> Any:
        return update(name, delta=49.0 if name == "p4" else 1.0, partners=5)  # 98 long: just not clipped

    options = ["training.server_options.num_malicious_nodes=1"] if strategy == "krum" else []
    state, _ = run(Script(train=train), f"training.server_strategy={strategy}", *options, partners=5)
    _all(state.vector, 2.0)
