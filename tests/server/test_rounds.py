"""The rounds, with partners that answer from a script: who counts, who does not, and when a run ends."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import pytest
from flwr.app import Context, Message
from flwr.clientapp import ClientApp

from tacit.errors import JobFailed
from tacit.link.records import to_parcel, to_records
from tacit.metrics import Counters
from tacit.privacy.accounting import epsilon
from tacit.privacy.events import Event
from tacit.privacy.randomness import Randomness
from tacit.wire import Ask, Hello, Parcel, Refusal, Score, Statement, Update
from tacit_server import rounds
from tacit_server.checkpoint import RunState
from tacit_server.rounds import Setup, federate
from tacit_sim.grid import InlineGrid

D = 4
EVENT = Event(kind="dp-sgd", sampling_rate=0.25, noise_multiplier=1.0, steps=2)


def _update(name: str, *, delta: float = 1.0, length: int = D, counters: tuple[int, ...] = ()) -> Update:
    return Update(name, np.full(length, delta, np.float32), np.array(counters, np.int64), (EVENT,), 0.1)


def _score(name: str, accuracy: float = 0.5) -> Score:
    right = round(10 * accuracy)
    return Score(name, Counters(np.array([[right, 10 - right], [0, 0]], np.int64), 0).to_vector())


@dataclass
class Script:
    """What partner i says to an ask; a function may raise, which is a crash of that partner."""

    train: Callable[[str, Ask], Any] = lambda name, ask: _update(name)
    score: Callable[[str, Ask], Any] = lambda name, ask: _score(name)
    statement: Callable[[str, Ask], Any] = lambda name, ask: Statement(name, (EVENT,))
    hello: Callable[[str], Any] = Hello
    asked: list[tuple[int, str]] = field(default_factory=list)

    def grid(self, partners: int) -> InlineGrid:
        app = ClientApp()

        def answer(message: Message, said: Any) -> Message:
            return Message(to_records(said if isinstance(said, Parcel) else said.pack()), reply_to=message)

        def name(context: Context) -> str:
            return f"p{context.node_config['partition-id']}"

        @app.train()
        def train(message: Message, context: Context) -> Message:
            ask = Ask.unpack(to_parcel(message.content))
            self.asked.append((ask.round, name(context)))
            return answer(message, self.train(name(context), ask))

        @app.evaluate()
        def evaluate(message: Message, context: Context) -> Message:
            return answer(message, self.score(name(context), Ask.unpack(to_parcel(message.content))))

        @app.query("hello")
        def hello(message: Message, context: Context) -> Message:
            return answer(message, self.hello(name(context)))

        @app.query("statement")
        def statement(message: Message, context: Context) -> Message:
            return answer(message, self.statement(name(context), Ask.unpack(to_parcel(message.content))))

        return InlineGrid(app, partners=partners)


@pytest.fixture
def run(make_job, monkeypatch):
    monkeypatch.setattr(rounds, "_GREETING_TIMEOUT", 1.0)

    def go(
        script: Script,
        *overrides: str,
        partners: int = 3,
        state: RunState | None = None,
        test: Any = None,
        seed: int = 0,
    ) -> tuple[RunState, list[RunState]]:
        job = make_job(*overrides)
        saved: list[RunState] = []
        setup = Setup(job=job, classes=2, test=test, randomness=Randomness(seed), save=saved.append)
        state = state or RunState(run="r", job_hash=job.hash(), vector=np.zeros(D, np.float32))
        try:
            return federate(script.grid(partners), setup, state), saved
        except JobFailed as error:
            error.saved = saved
            raise

    return go


def test_two_plain_rounds(run):
    state, saved = run(Script())
    assert state.vector.tolist() == [2.0] * D
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
        return _update(name, delta=1.0 if name == "p0" else 4.0)

    state, _ = run(Script(train=train), "aggregation.threshold=2", "training.rounds=1")
    assert state.vector.tolist() == [2.5] * D
    assert state.history[0]["dropouts"] == ["p1"]
    assert state.history[0]["failures"] == {"p1": "RuntimeError: gone"}


def test_example_counts_weigh_only_where_the_job_says_so(run):
    def train(name: str, ask: Ask) -> Any:
        return _update(name, delta=float(name[1]), counters=(10 ** int(name[1]),))

    plain = "privacy={mechanism='none'}", "training.rounds=1"
    state, _ = run(Script(train=train), *plain, "aggregation.weighting=examples")
    np.testing.assert_allclose(state.vector, (0 * 1 + 1 * 10 + 2 * 100) / 111, rtol=1e-6)
    state, _ = run(Script(train=train), *plain)
    assert state.history[0]["answered"] == 0
    assert state.history[0]["failures"]["p2"] == "expected 0 example counts above 0, found [100]"


def _with(parcel: Parcel, **scalars: Any) -> Parcel:
    return Parcel(parcel.arrays, {**parcel.scalars, **scalars})


BAD = {
    "nan": lambda n, a: _update(n, delta=float("nan")),
    "infinite": lambda n, a: _update(n, delta=float("inf")),
    "short": lambda n, a: _update(n, length=D - 1),
    "long": lambda n, a: _update(n, length=D + 1),
    "weighs more than the others": lambda n, a: _update(n, counters=(1000,)),
    "speaks for another": lambda n, a: _update("p0"),
    "other message": lambda n, a: Hello(n),
    "unknown field": lambda n, a: _with(_update(n).pack(), more=1),
    "bad events": lambda n, a: _with(_update(n).pack(), events="[{}]"),
    "crash": lambda n, a: 1 / 0,
}


@pytest.mark.parametrize("fault", BAD)
def test_one_bad_partner_is_named_and_left_out(run, fault):
    script = Script(train=lambda name, ask: BAD[fault](name, ask) if name == "p1" else _update(name))
    state, _ = run(script, "aggregation.threshold=2")
    assert state.vector.tolist() == [2.0] * D
    for line in state.history:
        assert (line["status"], line["answered"], line["dropouts"]) == ("done", 2, ["p1"])
        assert list(line["failures"]) == ["p1"]
    assert len(state.history) == 2


@pytest.mark.parametrize("counters", [(), (0,), (-5,), (1, 1)])
def test_a_weight_that_is_none_is_left_out(run, counters):
    def train(name: str, ask: Ask) -> Any:
        return _update(name, delta=9.0, counters=counters) if name == "p1" else _update(name, counters=(7,))

    overrides = "privacy={mechanism='none'}", "aggregation.weighting=examples", "aggregation.threshold=2"
    state, _ = run(Script(train=train), *overrides, "training.rounds=1")
    assert state.vector.tolist() == [1.0] * D
    assert list(state.history[0]["failures"]) == ["p1"]


@pytest.mark.parametrize(
    "said",
    [
        lambda n: Score(n, np.ones(3, np.int64)),
        lambda n: Score(n, -np.ones(5, np.int64)),
        lambda n: _with(_score(n).pack(), more=1),
        lambda n: Refusal(n, "no"),
        lambda n: 1 / 0,
    ],
    ids=range(5),
)
def test_a_score_that_can_not_be_read_is_left_out(run, said):
    script = Script(score=lambda name, ask: said(name) if name == "p1" else _score(name))
    state, _ = run(script)
    assert [line["federated"]["examples"] for line in state.history] == [20, 20]


def test_a_bad_statement_leaves_what_the_replies_said(run):
    more = (EVENT.model_copy(update={"steps": 9}),)
    said = {
        "p0": lambda n: Statement(n, more),
        "p1": lambda n: _with(Statement(n, more).pack(), events="[{}]"),
        "p2": lambda n: 1 / 0,
    }
    state, _ = run(Script(statement=lambda name, ask: said[name](name)))
    assert state.events == {"p0": more, "p1": (EVENT,), "p2": (EVENT,)}


def test_who_does_not_say_its_name_is_not_there(run):
    script = Script(hello=lambda name: Refusal(name, "x") if name == "p1" else Hello(name))
    state, _ = run(script, partners=4)
    assert {name for _, name in script.asked} == {"p0", "p2", "p3"}
    assert len(state.history) == 2


def test_too_few_who_greet_fail_the_job(run):
    script = Script(hello=lambda name: Hello(name) if name != "p1" else 1 / 0)
    with pytest.raises(JobFailed, match=r"^expected at least 3 partners to answer, found 2$"):
        run(script)


def test_two_of_one_name_fail_the_job(run):
    with pytest.raises(JobFailed, match="names of their own"):
        run(Script(hello=lambda name: Hello("same")))


def test_too_few_nodes_fail_the_job(run):
    with pytest.raises(JobFailed, match="expected at least 3 partners within"):
        run(Script(), partners=2)


@pytest.mark.parametrize(("threshold", "done"), [(2, True), (3, False)])
def test_a_round_needs_its_threshold(run, threshold, done):
    script = Script(train=lambda name, ask: 1 / 0 if name == "p1" else _update(name))
    state, saved = run(script, f"aggregation.threshold={threshold}", "training.rounds=1")
    assert state.history[0]["status"] == ("done" if done else "abandoned")
    assert state.vector.tolist() == [1.0 if done else 0.0] * D
    assert saved[0].failed == (0 if done else 1)


def test_an_abandoned_round_keeps_what_was_spent(run):
    def train(name: str, ask: Ask) -> Any:
        if name != "p0":
            raise RuntimeError("gone after its noise was drawn")
        return _update(name)

    spent = {"p0": (EVENT,), "p1": (EVENT,), "p2": ()}
    script = Script(train=train, statement=lambda name, ask: Statement(name, spent[name]))
    state, saved = run(script, "training.rounds=1")
    assert state.history[0]["status"] == "abandoned"
    assert saved[0].events == {"p0": (EVENT,)}
    assert state.events == {"p0": (EVENT,), "p1": (EVENT,)}  # the ledgers know more than the replies


def test_failures_in_a_row_end_the_run_and_a_round_between_forgives(run):
    failing = Script(train=lambda name, ask: 1 / 0 if ask.round != 3 else _update(name))
    with pytest.raises(JobFailed, match=r"found 0 in the last of 3 rounds in a row \(p0: ZeroDivisionError") as caught:
        run(failing, "training.rounds=9", "training.max_failed_rounds=2")
    assert caught.value.exit_code == 1
    assert [(s.round, s.failed) for s in caught.value.saved] == [(1, 1), (2, 2), (3, 0), (4, 1), (5, 2), (6, 3)]
    assert caught.value.saved[-1].vector.tolist() == [1.0] * D


def test_a_refusal_shows_by_name_and_is_no_dropout(run):
    script = Script(train=lambda name, ask: Refusal(name, "budget spent") if name == "p2" else _update(name))
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
    roster = {node: f"p{node}" for node in range(8)}
    drawn = [name for number in range(512) for name in rounds._choose(setup, roster, number).values()]
    counts = [drawn.count(name) for name in roster.values()]
    assert sum(counts) == 3 * 512
    assert 192 - 4.5 * 11 < min(counts) <= max(counts) < 192 + 4.5 * 11


def _accuracies(*values: float) -> Script:
    return Script(score=lambda name, ask: _score(name, values[ask.round - 1]))


def test_patience_ends_the_run_and_the_best_model_is_kept(run):
    overrides = "evaluation.patience=2", "training.rounds=9"
    state, _ = run(_accuracies(0.1, 0.5, 0.5, 0.4, 0.9), *overrides)
    assert state.round == 4
    assert (state.best.round, state.best.accuracy, state.stale) == (2, 0.5, 2)
    assert state.best_vector.tolist() == [2.0] * D
    assert state.vector.tolist() == [4.0] * D


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
        return _update(name, delta=1e6 if name == "p4" else 1.0)

    options = ["training.server_options.num_malicious_nodes=1"] if strategy == "krum" else []
    state, _ = run(Script(train=train), f"training.server_strategy={strategy}", *options, partners=5)
    assert state.vector.tolist() == [2.0] * D
