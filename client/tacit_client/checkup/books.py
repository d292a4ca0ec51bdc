"""The books of this partner: ledger, audit log, and what is left to spend."""

from __future__ import annotations

import math
import os
from contextlib import ExitStack

from tacit.errors import BadInput
from tacit_client import policy
from tacit_client.audit import Audit
from tacit_client.budget import Budget
from tacit_client.calls import Greeted
from tacit_client.checkup.finding import Said
from tacit_client.data import Data
from tacit_client.holding import look_at_budget
from tacit_client.keys import Keys
from tacit_client.ledger import DataSet
from tacit_client.mark import Mark, check_ledger, check_log, kept, key_of
from tacit_client.site import Folder

__all__ = ["audit", "evaluations", "ledger", "remains", "server_mark"]

_LITTLE = 0.1  # share of a limit below which the end is near


def ledger(folder: Folder, keys: Keys, data: Data) -> Said[Budget]:
    """Every row as it was written, none missing, and the data known. The budget is to be closed. Raises BadInput."""
    known, new = kept(folder.mark, key=key_of(keys.ledger)), not folder.ledger.exists()
    place = folder.ledger.parent
    if new and not (place.is_dir() and os.access(place, os.W_OK | os.X_OK)):
        raise BadInput(
            f"expected a folder that this user can write in for the ledger {folder.ledger}, found none",
            hint="make that folder, or correct ledger in site.toml",
        )
    budget = look_at_budget(folder, data=DataSet(data.fingerprint, data.unit))
    with ExitStack() as held:
        held.callback(budget.close)
        if known is not None:
            check_ledger(known, budget)
        rows = budget.head().seq
        held.pop_all()
    return Said("none yet; the first run makes it" if new else f"{rows} rows, each as it was written", budget)


def remains(folder: Folder, budget: Budget) -> Said[None]:
    """What is left of the limit, and of the day. Raises BadInput as `policy.check_day`."""
    rules = folder.config.policy
    spent, limit = policy.cost(rules, budget.spent), rules.epsilon_limit
    shown = f"{spent:.3f}" if math.isfinite(spent) else "beyond counting"
    words = f"epsilon {shown} of {limit:g} spent at delta {rules.delta:g}"
    if not math.isfinite(spent) and any(event.kind == "none" for event in budget.spent):
        return Said(
            "unprotected jobs were run on the data, which no limit has room for", None, "FAIL",
            "set policy.allow_unprotected = true in site.toml if that is to be left out of account",
        )  # fmt: skip
    if spent >= limit:
        return Said(
            f"{words}: nothing is left", None, "FAIL",
            "raise policy.epsilon_limit in site.toml only if the people in the data may be exposed more; else leave it",
        )  # fmt: skip
    policy.check_day(rules, today=budget.today())
    if limit - spent < _LITTLE * limit:
        return Said(f"{words}: little is left", None, "warn", "see tacit-client budget DIR; soon jobs will be refused")
    return Said(words, None)


def evaluations(folder: Folder, budget: Budget) -> Said[None]:
    """What scores over held-out examples tell, and how often they were told with exact counts."""
    rules, told = folder.config.policy, budget.judged
    most = rules.max_exact_evaluations
    if rules.metrics_epsilon is not None:
        before = f"; {told} before had exact counts, which are outside of it" if told else ""
        return Said(
            f"those of one job cost at most epsilon {rules.metrics_epsilon:g}, which the budget counts{before}", None
        )
    if not rules.max_holdout or not most:
        return Said("none: site.toml lets no job judge its model here", None)
    words = f"{told} of at most {most} with exact counts, which are outside of every epsilon"
    if most - told < _LITTLE * most:
        return Said(
            words, None, "warn", "set policy.metrics_epsilon in site.toml; without it, evaluations will soon be refused"
        )
    return Said(words, None)


def audit(folder: Folder, keys: Keys) -> Said[Audit]:
    """Every line as it was written, none missing. Raises BadInput."""
    log = Audit.of(folder)
    count, known = len(log.entries()), kept(folder.mark, key=key_of(keys.ledger))
    if known is not None:
        check_log(known, log)
    return Said(f"{count} lines, unbroken", log)


def server_mark(keys: Keys, greeted: Greeted, budget: Budget, log: Audit) -> Said[None]:
    """Ledger and log hold what this partner's last answer to the server spoke for. Raises BadInput."""
    if not greeted.mark:
        return Said("the server has had no answer of this partner yet", None)
    found = Mark.read(greeted.mark, key=key_of(keys.ledger))
    check_ledger(found, budget)
    check_log(found, log)
    return Said("ledger and log are as new as the last answer that the server has", None)
