"""Whether this partner takes part: a pure decision from what is asked, its rules, and what it has done before.

No clock, no file, no environment: the same values give the same decision, with every number that it was made from. A
denial goes to the server as it stands: it names what was asked and what the partner's site.toml says, and nothing
about the examples.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence, Set
from dataclasses import dataclass

from tacit.errors import BadInput
from tacit.job import Job
from tacit.privacy.accounting import epsilon
from tacit.privacy.events import Event
from tacit.vocabulary import NAMES
from tacit_client.config import PolicySection
from tacit_client.decision import Cost, Denial, Figures, Grant, Request, asked

__all__ = [
    "Cost",
    "Denial",
    "Figures",
    "Grant",
    "Request",
    "check_budget",
    "check_day",
    "check_delta",
    "cost",
    "decide",
    "fitting",
]


@dataclass(frozen=True)
class _No:
    rule: str
    message: str
    hint: str


def decide(request: Request, rules: PolicySection, *, spent: Sequence[Event], today: int, peers: int) -> Grant | Denial:
    """Whether `request` is within `rules`.

    Args:
        request: what is asked.
        rules: the partner's policy.
        spent: everything that was ever released from the budget that the data is charged to.
        today: rounds of training in the last 24 hours.
        peers: partners whose keys this one has accepted, itself not among them.

    Guarantee: a stricter rule, more spent, more rounds, a busier day or fewer peers never turn a denial into a grant.
    After a granted job of `request.rounds` rounds and `request.metrics`, `cost` of all that was released is at or below
    `epsilon_limit` at the policy's delta. Unprotected releases are never within a limit; where the policy allows them
    they are outside. A granted job names no file of this machine that the partner did not, and holds no more examples
    out of training than the partner allows.
    """
    beside = () if request.metrics is None else (request.metrics,)
    found = next(_before(request, rules, today=today, peers=peers), None)
    if request.event is not None:
        found = found or next(_of_units(rules, spent, [request.event, *beside]), None)
    spending = None if request.event is None or found else _cost(rules, spent, request.event, request.rounds, beside)
    if spending is not None and spending.fit < request.rounds:
        found = _over(rules, spending, asked(request.rounds, request.evaluations))
    figures = Figures(
        limit=rules.epsilon_limit,
        delta=rules.delta,
        rounds=request.rounds,
        evaluations=request.evaluations,
        cohort=request.job.aggregation.min_cohort,
        min_cohort=rules.min_cohort,
        peers=peers,
        today=today,
        max_rounds_per_day=rules.max_rounds_per_day,
        cost=spending,
    )
    return Grant(figures) if found is None else Denial(figures, found.rule, found.message, found.hint)


def _before(request: Request, rules: PolicySection, *, today: int, peers: int) -> Iterator[_No]:
    """What stands against it, other than its cost."""
    yield from _of_job(request.job, rules)
    if 1 + peers < rules.min_cohort and not rules.trust_new_peers:
        yield _refused(
            "min_cohort",
            f"at least {rules.min_cohort} accepted partners, itself among them,",
            str(1 + peers),
            "have the partner compare keys and accept its peers: tacit-client peers DIR accept NAME",
        )
    if request.event is not None:
        yield from _of_day(rules, today=today)


def _of_job(job: Job, rules: PolicySection) -> Iterator[_No]:
    if job.task.kind not in rules.allowed_tasks:
        kinds = ", ".join(rules.allowed_tasks)
        yield _refused(
            "allowed_tasks", f"a task among {kinds}", job.task.kind, "have the partner add it to allowed_tasks"
        )
    yield from _of_vocabulary(job, rules)
    if rules.require_secure_aggregation and not job.aggregation.secure:
        hint = "run the job with secure aggregation"
        yield _refused("require_secure_aggregation", "aggregation.secure = true", "false", hint)
    if job.aggregation.min_cohort < rules.min_cohort:
        expected, hint = f"aggregation.min_cohort of at least {rules.min_cohort}", "raise aggregation.min_cohort"
        yield _refused("min_cohort", expected, str(job.aggregation.min_cohort), hint)
    if job.privacy.mechanism == "none" and not rules.allow_unprotected:
        expected, hint = "a privacy.mechanism that protects the data", "run the job with dp-sgd"
        yield _refused("allow_unprotected", expected, "none", hint)
    if job.privacy.noise_by == "server" and not rules.trust_server_noise:
        expected, hint = (
            "noise by partners, which holds against the server,",
            'run it with privacy.noise_by = "partners"',
        )
        yield _refused("trust_server_noise", expected, "privacy.noise_by = server", hint)
    if job.shares_noise and job.aggregation.max_colluders < rules.colluders:
        expected, hint = f"aggregation.max_colluders of at least {rules.colluders}", "raise aggregation.max_colluders"
        yield _refused("colluders", expected, str(job.aggregation.max_colluders), hint)
    if (share := job.evaluation.partner_holdout) > rules.max_holdout:
        expected, hint = f"evaluation.partner_holdout of at most {rules.max_holdout:g}", "lower it, or set it to 0.0"
        yield _refused("max_holdout", expected, f"{share:g}", hint)
    if job.privacy.delta is not None and job.privacy.delta > rules.delta:
        expected, hint = f"privacy.delta of at most {rules.delta:g}", f"lower it to {rules.delta:g}"
        yield _refused("delta", expected, f"{job.privacy.delta:g}", hint)


def _of_vocabulary(job: Job, rules: PolicySection) -> Iterator[_No]:
    """A path in a job is chosen by the server: opened here, its errors and its size would tell what lies there."""
    asked, offered = job.task.options.get("vocabulary"), (*NAMES, *rules.vocabularies)
    if asked is not None and asked not in offered:
        yield _refused(
            "vocabularies",
            f"a vocabulary among {', '.join(NAMES)} or those named",
            "another",
            "have every partner put the file at the same path and name it in vocabularies",
        )


def _of_day(rules: PolicySection, *, today: int) -> Iterator[_No]:
    if today >= rules.max_rounds_per_day:
        expected = f"at most {rules.max_rounds_per_day} rounds of training in 24 hours"
        yield _refused("max_rounds_per_day", expected, "one more", "wait, and resume the run")


def _of_units(rules: PolicySection, spent: Sequence[Event], asked_for: Sequence[Event]) -> Iterator[_No]:
    """Epsilons of rows, of persons and of whole partners have no sum: the limit is on one of them."""
    before, new = ({event.unit for event in _counted(rules, events)} for events in (spent, asked_for))
    if len(before | new) > 1:
        yield _refused(
            "epsilon_limit",
            f"one unit in all that the limit counts{f', {_listed(before)} so far,' if before else ''}",
            f"a job that protects the unit {_listed(new)}: epsilons of different units have no sum",
            "run a job that protects the unit which was protected before, or give evaluations no price",
        )


def _listed(units: Set[str]) -> str:
    return " and ".join(sorted(units))


def _over(rules: PolicySection, found: Cost, what: str) -> _No:
    return _refused(
        "epsilon_limit",
        f"epsilon within the limit {rules.epsilon_limit:g} over the life of the data at delta {rules.delta:g}",
        f"{found.spent:.4g} spent and {found.after:.4g} with {what} more, of which {found.fit} would fit",
        "plan fewer rounds or a lower privacy.epsilon"
        if found.fit
        else "leave this partner out, or lower privacy.epsilon",
    )


def check_day(rules: PolicySection, *, today: int) -> None:
    """One round more is within the day's. Raises BadInput where it is not.

    Args:
        rules: the partner's policy.
        today: rounds of training in the last 24 hours.
    """
    _raise_first(_of_day(rules, today=today))


def check_delta(rules: PolicySection, *, examples: int) -> None:
    """The policy's delta promises something for so many examples. Raises BadInput, for the partner's own eyes."""
    if rules.delta >= 1 / examples:
        raise BadInput(
            f"expected policy.delta in site.toml below one over the {examples} examples, found {rules.delta:g}",
            hint=f"set it to {0.1 / examples:.0e} or less: at 1/N it would allow to publish one example outright",
        )


def check_budget(
    rules: PolicySection, *, spent: Sequence[Event], planned: Event, rounds: int, beside: Sequence[Event] = ()
) -> None:
    """`rounds` rounds more keep the data within `epsilon_limit`; what `decide` finds last.

    Args:
        rules: the partner's policy.
        spent: everything that was ever released from the budget.
        planned: one round of the job, or one evaluation.
        rounds: of them that are still to come, at least 1.
        beside: what else is planned.

    Raises:
        BadInput: they do not; says what was spent, what all would come to, the limit, and how many rounds fit.
    """
    if not _within(rules, spent, planned, rounds, beside):
        _raise_first(_of_units(rules, spent, [planned, *beside]))
        judged = sum(event.steps for event in beside)
        what = asked(0, rounds) if planned.kind == "metrics" else asked(rounds, judged)
        _raise_first(iter([_over(rules, _cost(rules, spent, planned, rounds, beside), what)]))


def cost(rules: PolicySection, events: Sequence[Event]) -> float:
    """Epsilon of `events` at the policy's delta, unprotected ones left out where the policy allows them.

    It takes a PLD composition for every new set of totals; equal totals are remembered, and a job that goes as planned
    asks for the same total before each of its rounds.
    """
    return epsilon(_counted(rules, events), delta=rules.delta)


def _counted(rules: PolicySection, events: Sequence[Event]) -> list[Event]:
    return [event for event in events if event.kind != "none" or not rules.allow_unprotected]


def fitting(
    rules: PolicySection, *, spent: Sequence[Event], planned: Event, most: int, beside: Sequence[Event] = ()
) -> int:
    """How many rounds like `planned`, at most `most`, the limit has room for beside what else is planned."""
    low, high = 0, most
    while low < high:
        middle = (low + high + 1) // 2
        low, high = (middle, high) if _within(rules, spent, planned, middle, beside) else (low, middle - 1)
    return low


def _cost(
    rules: PolicySection, spent: Sequence[Event], planned: Event, rounds: int, beside: Sequence[Event] = ()
) -> Cost:
    within = _within(rules, spent, planned, rounds, beside)
    return Cost(
        spent=cost(rules, spent),
        planned=cost(rules, [_times(planned, rounds), *beside]),
        after=cost(rules, [*spent, _times(planned, rounds), *beside]),
        fit=rounds if within else fitting(rules, spent=spent, planned=planned, most=rounds - 1, beside=beside),
    )


def _within(
    rules: PolicySection, spent: Sequence[Event], planned: Event, rounds: int, beside: Sequence[Event] = ()
) -> bool:
    """A job that the policy leaves out of the limit is never beyond it, whatever else was spent."""
    if planned.kind == "none" and rules.allow_unprotected and not beside:
        return True
    return cost(rules, [*spent, _times(planned, rounds), *beside]) <= rules.epsilon_limit


def _times(event: Event, rounds: int) -> Event:
    return event.model_copy(update={"steps": event.steps * rounds})


def _refused(rule: str, expected: str, found: str, hint: str) -> _No:
    return _No(rule, f"expected {expected} by this partner's policy, found {found}", hint)


def _raise_first(found: Iterator[_No]) -> None:
    for no in found:
        raise BadInput(no.message, hint=no.hint)
