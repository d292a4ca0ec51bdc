"""The policy: each rule refuses what it should and nothing else, and the limit is never passed."""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Iterable
from pathlib import Path
from tempfile import TemporaryDirectory

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tacit.check import parse
from tacit.errors import BadInput
from tacit.job import Job
from tacit.privacy.accounting import epsilon
from tacit.privacy.events import Event
from tacit.secagg.keys import Secret
from tacit_client import policy as policy_module
from tacit_client.budget import Budget
from tacit_client.config import PolicySection
from tacit_client.decision import Denial, Request
from tacit_client.ledger import DataSet, Release
from tacit_client.policy import check_budget, check_day, check_delta, cost, decide, fitting

KEY, DATA = Secret(bytes(32)), DataSet("0" * 64)
EVENT = Event(kind="dp-sgd", sampling_rate=0.02, noise_multiplier=1.0, steps=20)
OPEN = Event(kind="none", sampling_rate=0.02, noise_multiplier=0.0, steps=20)


@pytest.fixture(scope="module")
def job(make_job) -> Callable[..., Job]:
    def make(*overrides: str, without: tuple[str, ...] = ()) -> Job:
        return make_job("privacy.delta=1e-5", "aggregation.secure=true", *overrides, without=without)

    return make


def _policy(**keys: object) -> PolicySection:
    return parse(PolicySection, keys, where="site.toml")


def check(asked: Job, rules: PolicySection) -> None:
    """What is decided of a job before the data is looked at."""
    found = decide(Request(asked), rules, spent=(), today=0, peers=9)
    if isinstance(found, Denial):
        raise BadInput(found.message, hint=found.hint)


def test_the_usual_job_passes(job) -> None:
    check(job(), PolicySection())


@pytest.mark.parametrize(
    ("overrides", "allows", "said"),
    [
        (["task.kind=own-task"], {"allowed_tasks": ["own-task"]}, "expected a task among"),
        (["aggregation.secure=false"], {"require_secure_aggregation": False}, "aggregation.secure = true"),
        (["aggregation.min_cohort=3"], {"min_cohort": 3}, "aggregation.min_cohort of at least 4"),
        (["evaluation.partner_holdout=0.31"], {"max_holdout": 0.31}, "partner_holdout of at most 0.3"),
        (["privacy.delta=1e-4"], {"delta": 1e-4}, "privacy.delta of at most 1e-05"),
        (["task.options.vocabulary=/etc/shadow"], {"vocabularies": ["/etc/shadow"]}, "a vocabulary among bert-uncased"),
    ],
)
def test_each_rule_refuses_and_its_key_allows(job, overrides, allows, said) -> None:
    strict = {"min_cohort": 4} if "min_cohort" in allows else {}
    with pytest.raises(BadInput, match="by this partner's policy, found") as caught:
        check(job(*overrides), _policy(**strict))
    assert said in caught.value.message
    check(job(*overrides), _policy(**allows))


@pytest.mark.parametrize("path", ["", "/", "/etc/passwd", "../x", "bert-uncased/../x", "BERT-uncased", "~/x"])
def test_no_file_of_the_server_s_choice_is_opened(job, path) -> None:
    asked = job(f"task.options.vocabulary={json.dumps(path)}")
    with pytest.raises(BadInput, match="a vocabulary among") as caught:
        check(asked, _policy(vocabularies=["/srv/words.txt"]))
    assert "/" not in f"{caught.value.message}{caught.value.hint}"  # what this partner has is not told either
    check(job('task.options.vocabulary="bert-uncased"'), PolicySection())
    check(job('task.options.vocabulary="/srv/words.txt"'), _policy(vocabularies=["/srv/words.txt"]))


def test_unprotected_jobs_need_permission(job) -> None:
    left_out = tuple(f"privacy.{key}" for key in ("noise_multiplier", "max_grad_norm", "delta"))
    asked = job('privacy.mechanism="none"', without=left_out)
    with pytest.raises(BadInput, match=r"a privacy\.mechanism that protects"):
        check(asked, PolicySection())
    check(asked, _policy(allow_unprotected=True))


SHARED = (
    "privacy.mechanism=distributed-dp-sgd",
    "training.population=1300",
    "aggregation.min_cohort=6",
    "aggregation.cohort=6",
    "aggregation.threshold=5",
)


def test_noise_in_shares_is_enough_without_as_many_as_this_partner_says(job) -> None:
    """Guarantee: a partner relies on the noise of no more others than its policy lets it."""
    check(job(*SHARED), PolicySection())
    with pytest.raises(BadInput, match=r"aggregation\.max_colluders of at least 3 by .* policy, found 2$") as caught:
        check(job(*SHARED, "aggregation.max_colluders=2"), _policy(colluders=3))
    assert caught.value.hint == "raise aggregation.max_colluders"
    check(job(*SHARED, "aggregation.max_colluders=3"), _policy(colluders=3))
    check(job("aggregation.max_colluders=0"), _policy(colluders=3))  # dp-sgd: this partner's noise is enough


def test_a_day_has_so_many_rounds() -> None:
    check_day(_policy(max_rounds_per_day=5), today=4)
    with pytest.raises(BadInput, match="at most 5 rounds"):
        check_day(_policy(max_rounds_per_day=5), today=5)


def test_delta_is_below_one_over_n() -> None:
    check_delta(_policy(delta=1e-3), examples=999)
    with pytest.raises(BadInput, match=r"policy\.delta in site\.toml below one over the 1000 examples"):
        check_delta(_policy(delta=1e-3), examples=1000)


EVENTS = st.builds(
    Event,
    kind=st.just("dp-sgd"),
    sampling_rate=st.sampled_from([0.01, 0.02, 0.05]),
    noise_multiplier=st.sampled_from([0.8, 1.0, 2.0]),
    steps=st.integers(1, 400),
)


@pytest.fixture(params=["quick", "real"])
def composed(request, monkeypatch) -> Callable[..., float]:
    """Composition that takes no time (concentrated privacy, arXiv:1605.02065, Prop. 1.3), and then the real one."""
    if request.param == "real":
        return epsilon

    def quick(events: Iterable[Event], *, delta: float) -> float:
        rho = sum(event.steps * (event.sampling_rate / event.noise_multiplier) ** 2 for event in events)
        return rho + 2 * math.sqrt(rho * math.log(1 / delta))

    monkeypatch.setattr(policy_module, "epsilon", quick)
    return quick


def _property(test: Callable[[st.DataObject, Callable[..., float]], None], composed: Callable[..., float]) -> None:
    """Many examples of the quick kind, a few of the slow."""
    examples = 4 if composed is epsilon else 150
    derandomize = composed is epsilon
    settings(max_examples=examples, derandomize=derandomize)(given(st.data())(lambda data: test(data, composed)))()


def _granted(data: st.DataObject, composed: Callable[..., float]) -> None:
    spent, planned = data.draw(st.lists(EVENTS, max_size=2)), data.draw(EVENTS)
    rounds, limit = data.draw(st.integers(1, 30)), data.draw(st.floats(0.1, 12))
    policy = _policy(epsilon_limit=limit)
    within = composed([*spent, *[planned] * rounds], delta=policy.delta) <= limit  # one event a round, as they come
    refusal = ""
    try:
        check_budget(policy, spent=spent, planned=planned, rounds=rounds)
    except BadInput as error:
        refusal = error.message
    assert bool(refusal) != within
    if refusal:
        fit = fitting(policy, spent=spent, planned=planned, most=rounds)
        assert f"of which {fit} would fit" in refusal
        assert fit == 0 or composed([*spent, *[planned] * fit], delta=policy.delta) <= limit
        assert composed([*spent, *[planned] * (fit + 1)], delta=policy.delta) > limit


def test_what_is_granted_stays_within_the_limit(composed) -> None:
    _property(_granted, composed)


def _kept(data: st.DataObject, composed: Callable[..., float]) -> None:
    limit = data.draw(st.floats(0.5, 6))
    policy, refused = _policy(epsilon_limit=limit), 0
    with TemporaryDirectory() as folder:
        budget = Budget(Path(folder) / "ledger.db", partner="a", key=KEY, dataset=DATA, policy=policy)
        asked = data.draw(st.lists(st.tuples(EVENTS, st.integers(1, 20)), min_size=1, max_size=3))
        for number, (event, rounds) in enumerate(asked, start=1):
            try:
                budget.check(event, rounds=rounds)
                budget.reserve(Release(run="r", round=number, attempt=1, event=event))
            except BadInput:
                refused += 1
                assert composed([*budget.events(), *[event] * rounds], delta=policy.delta) > limit
        assert len(budget.events()) == len(asked) - refused
        assert composed(budget.events(), delta=policy.delta) <= limit
        assert (
            Budget(Path(folder) / "ledger.db", partner="a", key=KEY, dataset=DATA, policy=policy).spent == budget.spent
        )


def test_no_ledger_ever_passes_the_limit(composed) -> None:
    _property(_kept, composed)


def test_the_refusal_says_spent_planned_limit_and_what_fits() -> None:
    policy = _policy(epsilon_limit=2.0)
    spent = [EVENT] * 5
    with pytest.raises(BadInput) as caught:
        check_budget(policy, spent=spent, planned=EVENT, rounds=100)
    fit = fitting(policy, spent=spent, planned=EVENT, most=100)
    total = epsilon([*spent, *[EVENT] * 100], delta=1e-5)
    assert 0 < fit < 100
    assert "the limit 2 over the life of the data at delta 1e-05" in caught.value.message
    assert f"found {epsilon(spent, delta=1e-5):.4g} spent and {total:.4g} with 100 rounds more" in caught.value.message
    assert f"of which {fit} would fit" in caught.value.message


def test_unprotected_releases_break_every_limit_unless_they_are_allowed() -> None:
    strict, loose = PolicySection(), _policy(allow_unprotected=True)
    for planned, spent in ((OPEN, []), (EVENT, [OPEN])):
        with pytest.raises(BadInput, match="inf"):
            check_budget(strict, spent=spent, planned=planned, rounds=1)
        check_budget(loose, spent=spent, planned=planned, rounds=1)
    assert cost(loose, [EVENT, OPEN]) == cost(strict, [EVENT])
    with pytest.raises(BadInput):
        check_budget(_policy(allow_unprotected=True, epsilon_limit=0.1), spent=[OPEN], planned=EVENT, rounds=1)
