"""What the budget was spent on, for people and for scripts."""

from __future__ import annotations

import math
import time
from collections.abc import Sequence
from datetime import UTC, datetime
from typing import Any

from tacit.privacy.events import Event, merge
from tacit_client.book import Book
from tacit_client.config import PolicySection
from tacit_client.keys import Keys
from tacit_client.policy import cost
from tacit_client.site import Folder
from tacit_client.tally import Spell

__all__ = ["account", "words"]


def account(folder: Folder) -> dict[str, Any]:
    """The budget of `folder` as JSON values.

    Returns:
        `name`, `delta`, `limit`, `spent` and `remaining` epsilon (None where it has no bound), `unprotected_steps`, and
        `runs`, each with `run`, `releases`, `first`, `last` (ISO 8601, UTC), `epsilon` by itself, `unprotected_steps`.
        Epsilons of runs do not add up: together they cost less than their sum.

    Raises:
        BadInput: a ledger that can not be read.
    """
    policy = folder.config.policy
    events: tuple[Event, ...] = ()
    spells: tuple[Spell, ...] = ()
    if folder.ledger.exists():  # looking at an account opens none
        book = Book(folder.ledger, key=Keys(folder.keys).ledger, clock=time.time, writable=False)
        tally = book.tally()
        events, spells = merge(event for spell in tally.spells() for event in spell.events), tally.spells()
        book.close()
    spent = cost(policy, events)
    return {
        "name": folder.config.name,
        "delta": policy.delta,
        "limit": policy.epsilon_limit,
        "spent": _number(spent),
        "remaining": max(0.0, policy.epsilon_limit - spent),
        "unprotected_steps": _unprotected(events),
        "runs": [_run(policy, spell) for spell in spells],
    }


def words(found: dict[str, Any]) -> str:
    """What `account` gave, in lines for a terminal."""
    spent = "without bound" if found["spent"] is None else f"{found['spent']:.3f}"
    lines = [
        f"spent      epsilon {spent} of {found['limit']:g} at delta {found['delta']:g}",
        f"remaining  {found['remaining']:.3f}",
    ]
    if found["unprotected_steps"]:
        lines.append(f"unprotected  {found['unprotected_steps']} steps, which no epsilon describes")
    if not found["runs"]:
        return "\n".join([*lines, "no run has used the data"])
    width = max(3, *(len(run["run"]) for run in found["runs"]))
    lines += ["", f"{'run':{width}}  releases  epsilon alone  last"]
    for run in found["runs"]:
        epsilon = "none" if run["epsilon"] is None else f"{run['epsilon']:.3f}"
        lines.append(f"{run['run']:{width}}  {run['releases']:8}  {epsilon:>13}  {run['last']}")
    return "\n".join(lines)


def _run(policy: PolicySection, spell: Spell) -> dict[str, Any]:
    hidden = _unprotected(spell.events)
    return {
        "run": spell.run,
        "releases": spell.releases,
        "first": _time(spell.first),
        "last": _time(spell.last),
        "epsilon": None if hidden else _number(cost(policy, spell.events)),
        "unprotected_steps": hidden,
    }


def _unprotected(events: Sequence[Event]) -> int:
    return sum(event.steps for event in events if event.kind == "none")


def _number(value: float) -> float | None:
    return value if math.isfinite(value) else None


def _time(seconds: float) -> str:
    return datetime.fromtimestamp(seconds, UTC).isoformat(timespec="seconds")
