"""The ledger that knows the limit: quick, true over restarts, and closed to what was not planned."""

from __future__ import annotations

import time
from pathlib import Path

import pytest

from tacit.check import parse
from tacit.errors import BadInput
from tacit.privacy.accounting import epsilon
from tacit.privacy.events import Event
from tacit.secagg.keys import Secret
from tacit_client.budget import Budget
from tacit_client.config import PolicySection
from tacit_client.ledger import DataSet, Release

KEY, DATA = Secret(bytes(32)), DataSet("0" * 64)
EVENT = Event(kind="dp-sgd", sampling_rate=0.02, noise_multiplier=1.0, steps=20)


def _policy(**keys: object) -> PolicySection:
    return parse(PolicySection, keys, where="site.toml")


def test_hundreds_of_checks_of_one_run_are_quick(tmp_path: Path) -> None:
    budget = Budget(tmp_path / "ledger.db", partner="a", key=KEY, dataset=DATA, policy=PolicySection())
    other = EVENT.model_copy(update={"noise_multiplier": 1.5})
    budget.reserve(Release(run="before", round=1, attempt=1, event=other))
    budget.check(EVENT, rounds=180)  # the run is accounted for once
    began = time.perf_counter()
    for number in range(1, 181):
        budget.check(EVENT, rounds=181 - number)
        budget.reserve(Release(run="r", round=number, attempt=1, event=EVENT))
    assert time.perf_counter() - began < 10  # hundreds of compositions would take minutes
    assert budget.today() == 181


def test_the_day_is_counted_over_restarts_and_ends(tmp_path: Path) -> None:
    now = [1e9]
    policy = _policy(max_rounds_per_day=2)

    def budget() -> Budget:
        return Budget(tmp_path / "ledger.db", partner="a", key=KEY, dataset=DATA, policy=policy, clock=lambda: now[0])

    for number in (1, 2):
        budget().reserve(Release(run="r", round=number, attempt=1, event=EVENT))
        now[0] += 100
    with pytest.raises(BadInput, match="at most 2 rounds"):
        budget().reserve(Release(run="r", round=3, attempt=1, event=EVENT))
    assert len(budget().events()) == 2
    now[0] += 86_400 - 150
    assert budget().today() == 1
    budget().reserve(Release(run="s", round=1, attempt=1, event=EVENT))
    assert [(spell.run, spell.releases) for spell in budget().spells()] == [("r", 2), ("s", 1)]


def test_another_round_that_was_not_planned_is_checked_anew(tmp_path: Path) -> None:
    policy = _policy(epsilon_limit=epsilon([EVENT] * 3, delta=1e-5))
    budget = Budget(tmp_path / "ledger.db", partner="a", key=KEY, dataset=DATA, policy=policy)
    budget.check(EVENT, rounds=3)
    for number in (1, 2, 3):
        budget.reserve(Release(run="r", round=number, attempt=1, event=EVENT))
    with pytest.raises(BadInput, match="of which 0 would fit"):
        budget.reserve(Release(run="r", round=3, attempt=2, event=EVENT))
    assert len(budget.events()) == 3
