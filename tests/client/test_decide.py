"""The whole decision: against a slow twin, never looser for a stricter rule, and with its numbers in words."""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Iterable

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from tacit.check import parse
from tacit.job import Job
from tacit.privacy.accounting import epsilon
from tacit.privacy.events import Event
from tacit_client import policy as policy_module
from tacit_client.config import PolicySection
from tacit_client.decision import Denial, Grant, Request
from tacit_client.policy import decide

EVENT = Event(kind="dp-sgd", sampling_rate=0.02, noise_multiplier=1.0, steps=20)
MANY = Event(kind="metrics", sampling_rate=1.0, noise_multiplier=20.0, steps=99)
OPEN = Event(kind="none", sampling_rate=0.02, noise_multiplier=0.0, steps=20)
SHARED = (
    "privacy.mechanism=distributed-dp-sgd",
    "privacy.delta=1e-5",
    "training.population=1300",
    "aggregation.secure=true",
    "aggregation.min_cohort=6",
    "aggregation.cohort=6",
    "aggregation.threshold=5",
)
LEFT_OUT = tuple(f"privacy.{key}" for key in ("noise_multiplier", "max_grad_norm", "delta"))


def _quick(events: Iterable[Event], *, delta: float) -> float:
    """Composition that takes no time: concentrated privacy (arXiv:1605.02065, Prop. 1.3)."""
    listed = list(events)
    if any(event.kind == "none" for event in listed):
        return math.inf
    rho = sum(event.steps * (event.sampling_rate / event.noise_multiplier) ** 2 for event in listed)
    return rho + 2 * math.sqrt(rho * math.log(1 / delta))


@pytest.fixture
def quick(monkeypatch) -> None:
    monkeypatch.setattr(policy_module, "epsilon", _quick)


@pytest.fixture(scope="module")
def jobs(make_job) -> list[Job]:
    private = [
        make_job(f"privacy.delta={delta}", f"aggregation.secure={secure}", f"aggregation.min_cohort={cohort}", *task)
        for delta in ("1e-6", "1e-5", "1e-4")
        for secure in ("true", "false")
        for cohort in (3, 5)
        for task in ([], ['task.options.vocabulary="/srv/words"'], ["task.kind=own-task"])
    ]
    open_ = make_job('privacy.mechanism="none"', "aggregation.secure=true", without=LEFT_OUT)
    shared = [make_job(*SHARED, f"aggregation.max_colluders={f}") for f in (0, 1)]
    by_server = make_job(
        "privacy={mechanism='client', noise_multiplier=1.0, delta=1e-5, max_update_norm=1.0, noise_by='server'}",
        "aggregation.secure=true",
    )
    return [*private, open_, *shared, by_server]


EVENTS = st.builds(
    Event,
    kind=st.just("dp-sgd"),
    sampling_rate=st.sampled_from([0.01, 0.05]),
    noise_multiplier=st.sampled_from([0.8, 2.0]),
    steps=st.integers(1, 400),
)
METRICS = st.builds(
    Event, kind=st.just("metrics"), sampling_rate=st.just(1.0), noise_multiplier=st.just(20.0), steps=st.integers(1, 99)
)
RULES = st.fixed_dictionaries(
    {
        "epsilon_limit": st.floats(0.1, 12),
        "delta": st.sampled_from([1e-6, 1e-5, 1e-4]),
        "min_cohort": st.integers(3, 6),
        "require_secure_aggregation": st.booleans(),
        "allow_unprotected": st.booleans(),
        "trust_server_noise": st.booleans(),
        "colluders": st.integers(0, 2),
        "trust_new_peers": st.booleans(),
        "allowed_tasks": st.sampled_from(
            [["image-classification"], ["own-task"], ["image-classification", "own-task"]]
        ),
        "vocabularies": st.sampled_from([[], ["/srv/words"]]),
        "max_holdout": st.sampled_from([0.0, 0.1, 0.5]),
        "max_rounds_per_day": st.integers(1, 20),
    }
)
FACTS = st.fixed_dictionaries(
    {
        "spent": st.lists(EVENTS | st.just(OPEN), max_size=2),
        "today": st.integers(0, 20),
        "peers": st.integers(0, 6),
        "rounds": st.integers(1, 30),
        "event": st.none() | EVENTS,
        "metrics": st.none() | METRICS,
    }
)


def _rules(keys: dict[str, object]) -> PolicySection:
    return parse(PolicySection, keys, where="site.toml")


def _decide(job: Job, keys: dict[str, object], facts: dict[str, object]) -> Grant | Denial:
    event = OPEN if job.privacy.mechanism == "none" and facts["event"] else facts["event"]
    request = Request(job, event, facts["rounds"] if event else 0, facts["metrics"] if event else None)
    return decide(request, _rules(keys), spent=facts["spent"], today=facts["today"], peers=facts["peers"])


def _twin(job: Job, keys: dict[str, object], facts: dict[str, object]) -> str | None:
    """The first rule that denies, found by asking every one of them."""
    bare, trains = job.privacy.mechanism == "none", facts["event"] is not None
    strange = job.task.options.get("vocabulary") == "/srv/words" and "/srv/words" not in keys["vocabularies"]
    lone = not keys["trust_new_peers"] and facts["peers"] + 1 < keys["min_cohort"]
    asked = [
        ("allowed_tasks", job.task.kind not in keys["allowed_tasks"]),
        ("vocabularies", strange),
        ("require_secure_aggregation", keys["require_secure_aggregation"] and not job.aggregation.secure),
        ("min_cohort", job.aggregation.min_cohort < keys["min_cohort"]),
        ("allow_unprotected", bare and not keys["allow_unprotected"]),
        ("trust_server_noise", job.privacy.noise_by == "server" and not keys["trust_server_noise"]),
        ("colluders", job.shares_noise and job.aggregation.max_colluders < keys["colluders"]),
        ("max_holdout", job.evaluation.partner_holdout > keys["max_holdout"]),
        ("delta", job.privacy.delta is not None and job.privacy.delta > keys["delta"]),
        ("min_cohort", lone),
        ("max_rounds_per_day", trains and facts["today"] + 1 > keys["max_rounds_per_day"]),
        ("epsilon_limit", trains and (not bare or facts["metrics"]) and _passes_the_limit(keys, facts, bare=bare)),
    ]
    return next((rule for rule, denies in asked if denies), None)


def _passes_the_limit(keys: dict[str, object], facts: dict[str, object], *, bare: bool) -> bool:
    """A round at a time, after all evaluations; rounds that promise nothing are not counted."""
    counted = [event for event in facts["spent"] if event.kind != "none" or not keys["allow_unprotected"]]
    counted += [facts["metrics"]] if facts["metrics"] else []
    if bare:
        return _quick(counted, delta=keys["delta"]) > keys["epsilon_limit"]
    for _ in range(facts["rounds"]):
        counted.append(facts["event"])
        if _quick(counted, delta=keys["delta"]) > keys["epsilon_limit"]:
            return True
    return False


@pytest.mark.usefixtures("quick")
def test_the_decision_is_that_of_the_twin(jobs) -> None:
    seen: set[str | None] = set()
    shared = next(job for job in jobs if job.shares_noise and job.aggregation.max_colluders == 0)
    alone = {
        "epsilon_limit": 12.0, "delta": 1e-4, "min_cohort": 3, "require_secure_aggregation": True,
        "allow_unprotected": False, "trust_server_noise": False, "colluders": 1, "trust_new_peers": True,
        "allowed_tasks": ["image-classification"], "vocabularies": [], "max_holdout": 0.5, "max_rounds_per_day": 20,
    }  # fmt: skip

    @settings(max_examples=600)
    @given(st.sampled_from(jobs), RULES, FACTS)
    @example(shared, alone, {"spent": [], "today": 0, "peers": 6, "rounds": 1, "event": None, "metrics": None})
    def agree(job: Job, keys: dict[str, object], facts: dict[str, object]) -> None:
        found, rule = _decide(job, keys, facts), _twin(job, keys, facts)
        assert (found.rule if isinstance(found, Denial) else None) == rule
        if isinstance(found, Denial):
            assert found.message.startswith("expected ")
            assert "by this partner's policy, found" in found.message
        seen.add(rule)

    agree()
    assert len(seen) > 5
    assert "colluders" in seen


STRICTER: dict[str, Callable[[dict[str, object], dict[str, object]], object]] = {
    "epsilon_limit": lambda keys, facts: keys.update(epsilon_limit=keys["epsilon_limit"] / 2),
    "delta": lambda keys, facts: keys.update(delta=keys["delta"] / 10),
    "min_cohort": lambda keys, facts: keys.update(min_cohort=keys["min_cohort"] + 1),
    "require_secure_aggregation": lambda keys, facts: keys.update(require_secure_aggregation=True),
    "allow_unprotected": lambda keys, facts: keys.update(allow_unprotected=False),
    "trust_server_noise": lambda keys, facts: keys.update(trust_server_noise=False),
    "colluders": lambda keys, facts: keys.update(colluders=keys["colluders"] + 1),
    "trust_new_peers": lambda keys, facts: keys.update(trust_new_peers=False),
    "allowed_tasks": lambda keys, facts: keys.update(allowed_tasks=keys["allowed_tasks"][:1]),
    "vocabularies": lambda keys, facts: keys.update(vocabularies=[]),
    "max_holdout": lambda keys, facts: keys.update(max_holdout=keys["max_holdout"] / 6),
    "max_rounds_per_day": lambda keys, facts: keys.update(max_rounds_per_day=1 + keys["max_rounds_per_day"] // 2),
    "max_exact_evaluations": lambda keys, facts: keys.update(max_exact_evaluations=0),
    "metrics_epsilon": lambda keys, facts: keys.update(metrics_epsilon=0.01),
    "metrics": lambda keys, facts: facts.update(metrics=facts["metrics"] or MANY),
    "spent": lambda keys, facts: facts.update(spent=[*facts["spent"], EVENT]),
    "unprotected": lambda keys, facts: facts.update(spent=[*facts["spent"], OPEN]),
    "today": lambda keys, facts: facts.update(today=facts["today"] + 1),
    "peers": lambda keys, facts: facts.update(peers=max(0, facts["peers"] - 1)),
    "rounds": lambda keys, facts: facts.update(rounds=facts["rounds"] + 1),
}


@pytest.mark.usefixtures("quick")
@pytest.mark.parametrize("way", STRICTER)
def test_nothing_stricter_turns_a_denial_into_a_grant(jobs, way: str) -> None:
    turned: set[tuple[bool, bool]] = set()

    @settings(max_examples=150)
    @given(st.sampled_from(jobs), RULES, FACTS)
    def monotone(job: Job, keys: dict[str, object], facts: dict[str, object]) -> None:
        before = isinstance(_decide(job, keys, facts), Grant)
        keys, facts = dict(keys), dict(facts)
        STRICTER[way](keys, facts)
        after = isinstance(_decide(job, keys, facts), Grant)
        assert before or not after
        turned.add((before, after))

    monotone()
    assert (False, False) in turned


def test_every_key_of_the_policy_is_among_the_stricter_ones() -> None:
    assert set(PolicySection.model_fields) <= set(STRICTER)
    assert len(STRICTER) == len(PolicySection.model_fields) + 6


@pytest.fixture(scope="module")
def job(make_job) -> Job:
    return make_job("privacy.delta=1e-5", "aggregation.secure=true")


def test_a_job_that_passes_the_limit_in_its_last_round_is_denied_at_the_start(job) -> None:
    spent = [EVENT] * 3
    rules = _rules({"epsilon_limit": epsilon([EVENT] * 12, delta=1e-5)})
    granted = decide(Request(job, EVENT, 9), rules, spent=spent, today=0, peers=2)
    denied = decide(Request(job, EVENT, 10), rules, spent=spent, today=0, peers=2)
    assert isinstance(granted, Grant)
    assert isinstance(denied, Denial)
    cost = denied.figures.cost
    assert (cost.spent, cost.fit) == (epsilon(spent, delta=1e-5), 9)
    assert cost.planned == epsilon([EVENT] * 10, delta=1e-5) < cost.after == epsilon([EVENT] * 13, delta=1e-5)
    assert f"{cost.spent:.4g} spent and {cost.after:.4g} with 10 rounds more, of which 9 would fit" in denied.message
    assert f"the limit {rules.epsilon_limit:g}" in denied.message
    assert granted.figures.cost.fit == granted.figures.rounds == 9


def test_too_few_accepted_peers_are_told_with_both_numbers_and_the_command(job) -> None:
    rules = PolicySection()
    denied = decide(Request(job), rules, spent=[], today=0, peers=1)
    assert isinstance(denied, Denial)
    assert "at least 3 accepted partners, itself among them, by this partner's policy, found 2" in denied.message
    assert "tacit-client peers DIR accept NAME" in denied.hint
    assert isinstance(decide(Request(job), rules, spent=[], today=0, peers=2), Grant)
    trusting = _rules({"trust_new_peers": True})
    assert isinstance(decide(Request(job), trusting, spent=[], today=0, peers=0), Grant)


def test_json_has_every_number(job) -> None:
    denied = decide(Request(job, EVENT, 5), PolicySection(), spent=[OPEN], today=7, peers=4)
    found = json.loads(json.dumps(denied.figures.to_json(), allow_nan=False))
    assert found["cost"] == {"spent": None, "planned": pytest.approx(_real(5)), "after": None, "fit": 0}
    assert (found["limit"], found["delta"], found["rounds"], found["peers"], found["today"]) == (8.0, 1e-5, 5, 4, 7)
    assert decide(Request(job), PolicySection(), spent=[EVENT], today=7, peers=4).figures.to_json()["cost"] is None


def _real(rounds: int) -> float:
    return epsilon([EVENT] * rounds, delta=1e-5)
