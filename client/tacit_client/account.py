"""What the budgets were spent on, for people and for scripts."""

from __future__ import annotations

import math
from collections.abc import Sequence
from datetime import UTC, datetime
from typing import Any

from tacit.privacy.events import Event
from tacit_client.config import PolicySection
from tacit_client.policy import cost
from tacit_client.tally import DataSet, Spell, Tally

__all__ = ["account", "curve", "words"]

_SHORT = 12  # digits of a hash that people are shown


def account(tally: Tally, *, name: str, policy: PolicySection) -> dict[str, Any]:
    """The budgets in `tally` as JSON values.

    Args:
        tally: of the whole ledger.
        name: the partner, whose last used data is the one in use.
        policy: the limits.

    Returns:
        `name`, `delta`, `limit`, `max_exact_evaluations`, `budgets`, and once more what the budget in use has:
        `dataset`, `unit`, `spent` and `remaining` epsilon, `unprotected_steps`, `exact_evaluations`, which are outside
        of epsilon, `unfinished`, `one_more`, `runs`. A budget is named by the fingerprint of its first data set
        (`dataset`); `datasets` are all that are charged to it. `one_more` says what another job like the last would
        come to: `run`, `epsilon` after it, `within` the limit. Each of `runs` has `run`, `job`, `releases`,
        `unfinished`, `first`, `last` (ISO 8601, UTC), `epsilon` by itself, `unprotected_steps`. Epsilon is None where
        nothing bounds it. Epsilons of runs do not add up: together they cost less than their sum.
    """
    known = tally.datasets()
    roots = list(dict.fromkeys(known.values()))
    used = tally.last_used(name)
    current = None if used is None else known[used]
    budgets = [_budget(tally, root, policy) | {"in_use": root == current} for root in roots]
    shown = next((found for found in budgets if found["in_use"]), _budget(tally, None, policy))
    return {
        "name": name,
        "delta": policy.delta,
        "limit": policy.epsilon_limit,
        "max_exact_evaluations": policy.max_exact_evaluations,
        **{key: value for key, value in shown.items() if key not in ("datasets", "in_use")},
        "budgets": budgets,
    }


def curve(events: Sequence[Event], *, policy: PolicySection, most: int) -> list[tuple[int, float]]:
    """Epsilon after the first release, the last one, and up to `most` of those between, as evenly as can be.

    Args:
        events: of one budget, oldest first.
        policy: at whose delta.
        most: compositions that it may take.
    """
    count = min(len(events), most)
    places = sorted({1 + round(i * (len(events) - 1) / max(1, count - 1)) for i in range(count)})
    return [(place, cost(policy, events[:place])) for place in places]


def words(found: dict[str, Any]) -> str:
    """What `account` gave, in lines for a terminal."""
    if not found["budgets"]:
        return "\n".join([*_head(found, found), "no run has used the data"])
    blocks = []
    for budget in found["budgets"]:
        title = f"data {budget['dataset'][:_SHORT]}, by {budget['unit']}{', in use' if budget['in_use'] else ''}"
        blocks.append("\n".join([title, *_head(found, budget), *_runs(budget["runs"])]))
    return "\n\n".join(blocks)


def _budget(tally: Tally, root: DataSet | None, policy: PolicySection) -> dict[str, Any]:
    events = () if root is None else tally.spent(root)
    spells = [spell for spell in tally.spells() if spell.budget == root]
    spent = cost(policy, events)
    return {
        "dataset": None if root is None else root.fingerprint,
        "unit": None if root is None else root.unit,
        "datasets": [data.fingerprint for data, of in tally.datasets().items() if of == root],
        "spent": _number(spent),
        "remaining": max(0.0, policy.epsilon_limit - spent),
        "unprotected_steps": _unprotected(events),
        "exact_evaluations": 0 if root is None else tally.judged(root),
        "unfinished": sum(spell.unconfirmed for spell in spells),
        "one_more": _one_more(events, spells, policy),
        "runs": [_run(policy, spell) for spell in spells],
    }


def _one_more(events: Sequence[Event], spells: Sequence[Spell], policy: PolicySection) -> dict[str, Any] | None:
    """What the last job would come to if it were run once more, as far as it came."""
    if not spells:
        return None
    last = max(spells, key=lambda spell: spell.last)
    after = cost(policy, [*events, *last.events])
    outside = policy.allow_unprotected and all(event.kind == "none" for event in last.events)
    return {"run": last.run, "epsilon": _number(after), "within": outside or after <= policy.epsilon_limit}


def _run(policy: PolicySection, spell: Spell) -> dict[str, Any]:
    hidden = _unprotected(spell.events)
    return {
        "run": spell.run,
        "job": spell.job,
        "releases": spell.releases,
        "unfinished": spell.unconfirmed,
        "first": _time(spell.first),
        "last": _time(spell.last),
        "epsilon": None if hidden else _number(cost(policy, spell.events)),
        "unprotected_steps": hidden,
    }


def _head(found: dict[str, Any], budget: dict[str, Any]) -> list[str]:
    lines = [
        f"spent      epsilon {_epsilon(budget['spent'])} of {found['limit']:g} at delta {found['delta']:g}",
        f"remaining  {budget['remaining']:.3f}",
    ]
    if (more := budget["one_more"]) is not None:
        verdict = "within the limit" if more["within"] else "beyond the limit, and refused"
        lines.append(f"one more   epsilon {_epsilon(more['epsilon'])} after another like {more['run']}: {verdict}")
    if budget["unfinished"]:
        lines.append(f"unfinished {budget['unfinished']} rounds were charged and not finished; they count")
    if budget["unprotected_steps"]:
        lines.append(f"unprotected  {budget['unprotected_steps']} steps, which no epsilon describes")
    told, most = budget["exact_evaluations"], found["max_exact_evaluations"]
    return [*lines, f"evaluations  {told} of at most {most} with exact counts, outside of epsilon"]


def _runs(runs: Sequence[dict[str, Any]]) -> list[str]:
    if not runs:
        return ["no run has used the data"]
    width = max(3, *(len(run["run"]) for run in runs))
    lines = [f"{'run':{width}}  releases  unfinished  epsilon alone  {'job':{_SHORT}}  last"]
    for run in runs:
        epsilon = "none" if run["epsilon"] is None else f"{run['epsilon']:.3f}"
        counts = f"{run['releases']:8}  {run['unfinished']:10}"
        lines.append(f"{run['run']:{width}}  {counts}  {epsilon:>13}  {run['job'][:_SHORT]:{_SHORT}}  {run['last']}")
    return lines


def _epsilon(value: float | None) -> str:
    return "without bound" if value is None else f"{value:.3f}"


def _unprotected(events: Sequence[Event]) -> int:
    return sum(event.steps for event in events if event.kind == "none")


def _number(value: float) -> float | None:
    return value if math.isfinite(value) else None


def _time(seconds: float) -> str:
    return datetime.fromtimestamp(seconds, UTC).isoformat(timespec="seconds")
