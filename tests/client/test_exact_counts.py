"""Evaluations with exact counts, which no epsilon describes: how many there are over the life of the data."""

from __future__ import annotations

import json
from collections.abc import Callable
from contextlib import closing
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from folders import change, make_folder, write_npz

from tacit.check import parse
from tacit.errors import BadInput
from tacit.job import Job
from tacit.secagg.keys import Secret
from tacit.wire import ADVERTISE, EVALUATE
from tacit_client.budget import Budget
from tacit_client.checkup import books
from tacit_client.cli import main
from tacit_client.config import PolicySection
from tacit_client.holding import look_at_budget, open_budget
from tacit_client.ledger import DataSet, accept
from tacit_client.site import Folder

torch.set_num_threads(1)

KEY, DATA = Secret(bytes(32)), DataSet("0" * 64)
EVER = r"at most 3 evaluations with exact counts over the life of the data by this partner's policy, found one more"


@pytest.fixture
def budget(tmp_path: Path) -> Callable[..., Budget]:
    def build(*, partner: str = "a", data: DataSet = DATA, most: int = 3) -> Budget:
        policy = parse(PolicySection, {"max_exact_evaluations": most}, where="site.toml")
        return Budget(tmp_path / "ledger.db", partner=partner, key=KEY, dataset=data, policy=policy)

    return build


def _judge(found: Budget, job: Job, *, run: str = "r", number: int = 1) -> None:
    with closing(found) as budget:
        budget.judge(job, run=run, number=(number, 1))


def test_runs_restarts_and_partners_names_share_one_bound(budget, job) -> None:
    """Guarantee: it is of the data, as the budget of epsilon is."""
    _judge(budget(), job(), run="r1")
    _judge(budget(), job(), run="r2")
    _judge(budget(partner="b"), job(), run="r3")
    for partner in "ab":
        with pytest.raises(BadInput, match=EVER):
            _judge(budget(partner=partner), job(), run="r4")
        with closing(budget(partner=partner)) as found, pytest.raises(BadInput, match=EVER):
            found.check_exact(job(), run="r4")
    assert budget().judged == 3
    assert budget().events() == ()  # epsilon says nothing of them
    assert budget().today() == 0
    assert budget().spells() == ()
    _judge(budget(most=4), job(), run="r4")


def test_edited_data_goes_on_with_the_count_and_new_people_begin_another(budget, job, tmp_path) -> None:
    for _ in range(3):
        _judge(budget(), job())
    edited, others = DataSet("1" * 64), DataSet("2" * 64)
    accept(tmp_path / "ledger.db", partner="a", key=KEY, dataset=edited)
    with pytest.raises(BadInput, match=EVER):
        _judge(budget(data=edited), job())
    accept(tmp_path / "ledger.db", partner="a", key=KEY, dataset=others, new_people=True)
    _judge(budget(data=others), job(), run="s")
    assert budget(data=others).judged == 1


def test_none_at_all(budget, job) -> None:
    with pytest.raises(BadInput, match="at most 0 evaluations with exact counts over the life of the data"):
        _judge(budget(most=0), job())


def test_a_server_that_submits_the_job_again_gets_no_fresh_counts(make) -> None:
    federation = make(max_exact_evaluations=2)
    for run in ("run-1", "run-2"):
        federation.whole(federation.open(purpose="evaluate", run=run))
    words = "expected at most 2 evaluations with exact counts over the life of the data"
    third = federation.open(purpose="evaluate", run="run-3")
    assert words in federation.refusal(ADVERTISE, federation.invite(third))
    assert words in federation.refusal(EVALUATE, federation.ask(third).pack())
    federation.stop()
    federation.start()
    assert words in federation.refusal(ADVERTISE, federation.invite(third))
    federation.whole(federation.open(run="run-3"))  # training goes on


def test_it_is_counted_before_an_example_is_judged_and_only_then(make, monkeypatch) -> None:
    federation = make()
    asks = federation.asks(federation.open(purpose="evaluate"))
    budget, seen = federation.offices["p0"]._budget, []
    assert budget.judged == 0  # what is announced tells nothing

    def fail(*args: object, **rest: object) -> None:
        seen.append(budget.judged)
        raise torch.OutOfMemoryError

    monkeypatch.setattr("tacit_client.train.Trainer.evaluate", fail)
    assert "max_physical_batch" in federation.refusal(EVALUATE, asks["p0"])
    assert seen == [1] == [budget.judged]


def test_counts_with_a_price_are_none_of_them(make) -> None:
    federation = make(started=False, max_exact_evaluations=0)
    for folder in federation.folders.values():
        change(folder.path, "# metrics_epsilon = 1.0", "metrics_epsilon = 1.0")
    federation.start()
    federation.whole(federation.open(purpose="evaluate"))
    assert federation.offices["p0"]._budget.judged == 0


@pytest.fixture
def folder(tmp_path: Path) -> Folder:
    return make_folder(tmp_path / "a", name="a", data=write_npz(tmp_path / "x.npz", n=20, seed=1), delta=1e-5)


def test_the_budget_and_the_doctor_say_that_they_are_outside_of_epsilon(folder, job, capsys) -> None:
    with closing(open_budget(folder)) as budget:
        for number in range(1, 6):
            budget.judge(job(), run="r", number=(number, 1))
    assert main(["budget", str(folder.path)]) == 0
    assert "evaluations  5 of at most 10000 with exact counts, outside of epsilon" in capsys.readouterr().out
    assert main(["budget", str(folder.path), "--json"]) == 0
    said = json.loads(capsys.readouterr().out)
    assert (said["exact_evaluations"], said["max_exact_evaluations"], said["spent"]) == (5, 10_000, 0.0)
    words = "5 of at most 10000 with exact counts, which are outside of every epsilon"
    assert _doctor(folder) == ("ok", words)
    assert _doctor(folder, max_exact_evaluations=5)[0] == "warn"
    assert _doctor(folder, max_holdout=0.0) == ("ok", "none: site.toml lets no job judge its model here")
    priced = _doctor(folder, metrics_epsilon=1.0)
    assert priced == (
        "ok",
        "those of one job cost at most epsilon 1, which the budget counts; 5 before had exact counts, which are "
        "outside of it",
    )


def _doctor(folder: Folder, **policy: object) -> tuple[str, str]:
    rules = folder.config.policy.model_copy(update=policy)
    other = Folder(folder.path, folder.config.model_copy(update={"policy": rules}))
    with closing(open_budget(folder)) as found:
        data = found.dataset
    with closing(look_at_budget(other, data=data)) as budget:
        said = books.evaluations(other, budget)
    return said.verdict, said.found


def test_in_clear_every_attempt_counts(make) -> None:
    federation = make("aggregation.secure=false", require_secure_aggregation="false", max_exact_evaluations=3)
    ask = federation.ask(federation.open(purpose="evaluate"))
    kinds = [federation.send(EVALUATE, replace(ask, attempt=i).pack(), to="p0").scalars["kind"] for i in range(1, 6)]
    assert kinds == ["update", "update", "update", "refusal", "refusal"]
