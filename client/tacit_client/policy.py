"""What a job must be like for this partner to take part: pure checks, made before any example is touched.

A refusal is BadInput and goes to the server as it stands: it names what was asked and what the partner's site.toml
says, and nothing about the examples.
"""

from __future__ import annotations

from collections.abc import Sequence

from tacit.errors import BadInput
from tacit.job import Job
from tacit.privacy.accounting import epsilon
from tacit.privacy.events import Event
from tacit.tasks.tokens import NAMES
from tacit_client.config import PolicySection

__all__ = ["check", "check_budget", "check_day", "check_delta", "cost", "fitting"]


def check(job: Job, policy: PolicySection) -> None:
    """All that needs neither the data nor the ledger.

    Raises:
        BadInput: a kind of task that is not allowed, a vocabulary that the partner did not offer, a cohort that may be
            too small, secure aggregation or protection missing where it is required, a delta above the policy's.

    Guarantee: what passes keeps every key of the policy but `epsilon_limit`, which `check_budget` keeps, and
    `max_rounds_per_day`, which `check_day` keeps; and names no file of this machine that the partner did not.
    """
    if job.task.kind not in policy.allowed_tasks:
        raise _refused(
            f"a task among {', '.join(policy.allowed_tasks)}", job.task.kind, "have the partner add it to allowed_tasks"
        )
    _check_vocabulary(job, policy)
    if policy.require_secure_aggregation and not job.aggregation.secure:
        raise _refused("aggregation.secure = true", "false", "run the job with secure aggregation")
    if job.aggregation.min_cohort < policy.min_cohort:
        raise _refused(
            f"aggregation.min_cohort of at least {policy.min_cohort}",
            str(job.aggregation.min_cohort),
            "raise aggregation.min_cohort",
        )
    if job.privacy.mechanism == "none" and not policy.allow_unprotected:
        raise _refused("a privacy.mechanism that protects the data", "none", "run the job with dp-sgd")
    if job.privacy.delta is not None and job.privacy.delta > policy.delta:
        raise _refused(
            f"privacy.delta of at most {policy.delta:g}", f"{job.privacy.delta:g}", f"lower it to {policy.delta:g}"
        )


def _check_vocabulary(job: Job, policy: PolicySection) -> None:
    """A path in a job is chosen by the server: opened here, its errors and its size would tell what lies there."""
    asked, offered = job.task.options.get("vocabulary"), (*NAMES, *policy.vocabularies)
    if asked is not None and asked not in offered:
        raise _refused(
            f"a vocabulary among {', '.join(NAMES)} or those named",
            "another",
            "have every partner put the file at the same path and name it in vocabularies",
        )


def check_day(policy: PolicySection, *, today: int) -> None:
    """One round more is within the day's.

    Args:
        today: rounds of training in the last 24 hours.

    Raises:
        BadInput: it is not.
    """
    if today >= policy.max_rounds_per_day:
        raise _refused(
            f"at most {policy.max_rounds_per_day} rounds of training in 24 hours",
            "one more",
            "wait, and resume the run",
        )


def check_delta(policy: PolicySection, *, examples: int) -> None:
    """The policy's delta promises something for so many examples. Raises BadInput, for the partner's own eyes."""
    if policy.delta >= 1 / examples:
        raise BadInput(
            f"expected policy.delta in site.toml below one over the {examples} examples, found {policy.delta:g}",
            hint=f"set it to {0.1 / examples:.0e} or less: at 1/N it would allow to publish one example outright",
        )


def check_budget(policy: PolicySection, *, spent: Sequence[Event], planned: Event, rounds: int) -> None:
    """`rounds` rounds more keep the data within `epsilon_limit`.

    Args:
        spent: everything that was ever released about the data.
        planned: one round of the job.
        rounds: of the job that are still to come, at least 1.

    Raises:
        BadInput: they do not; says what was spent, what all would come to, the limit, and how many rounds fit.

    Guarantee: what passes leaves `cost` of everything released at or below `epsilon_limit` at the policy's delta. An
    unprotected job is never within a limit; where the policy allows such jobs they are outside it.
    """
    if planned.kind == "none" and policy.allow_unprotected:
        return
    total = cost(policy, [*spent, _times(planned, rounds)])
    if total <= policy.epsilon_limit:
        return
    fit = fitting(policy, spent=spent, planned=planned, most=rounds - 1)
    raise _refused(
        f"epsilon within the limit {policy.epsilon_limit:g} over the life of the data at delta {policy.delta:g}",
        f"{cost(policy, spent):.4g} spent and {total:.4g} with {rounds} rounds more, of which {fit} would fit",
        "plan fewer rounds or a lower privacy.epsilon" if fit else "leave this partner out, or lower privacy.epsilon",
    )


def fitting(policy: PolicySection, *, spent: Sequence[Event], planned: Event, most: int) -> int:
    """How many rounds like `planned`, at most `most`, the limit has room for."""
    low, high = 0, most
    while low < high:
        middle = (low + high + 1) // 2
        within = cost(policy, [*spent, _times(planned, middle)]) <= policy.epsilon_limit
        low, high = (middle, high) if within else (low, middle - 1)
    return low


def cost(policy: PolicySection, events: Sequence[Event]) -> float:
    """Epsilon of `events` at the policy's delta, unprotected ones left out where the policy allows them.

    It takes a PLD composition for every new set of totals; equal totals are remembered, and a job that goes as planned
    asks for the same total before each of its rounds.
    """
    counted = [event for event in events if event.kind != "none" or not policy.allow_unprotected]
    return epsilon(counted, delta=policy.delta)


def _times(event: Event, rounds: int) -> Event:
    return event.model_copy(update={"steps": event.steps * rounds})


def _refused(expected: str, found: str, hint: str) -> BadInput:
    return BadInput(f"expected {expected} by this partner's policy, found {found}", hint=hint)
