"""A server or a partner that lies: Python runs this at the start of every process that has this folder on PYTHONPATH.

With TACIT_TEST_ORDERS the server lies as it is told: each round waits for the file ORDERS/NUMBER.json, which says how
to lie in it; ORDERS/roster.json, where there is one, is what partners are told of the membership. With TACIT_TEST_RATE
a partner's answer in a step tells of so many times the sampling rate. Nothing else is touched.
"""

from __future__ import annotations

import json
import os
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import replace
from importlib.abc import Loader, MetaPathFinder
from importlib.machinery import ModuleSpec, PathFinder
from pathlib import Path
from types import ModuleType
from typing import Any

_ORDERS = Path(os.environ.get("TACIT_TEST_ORDERS", "no orders"))


class _Patched(Loader):
    """Loads a module as it is, and changes it before anybody has it."""

    def __init__(self, inner: Loader, change: Callable[[ModuleType], None]) -> None:
        self._inner, self._change = inner, change

    def create_module(self, spec: ModuleSpec) -> ModuleType | None:
        return self._inner.create_module(spec)

    def exec_module(self, module: ModuleType) -> None:
        self._inner.exec_module(module)
        self._change(module)


class _Finder(MetaPathFinder):
    def find_spec(self, name: str, path: Sequence[str] | None, target: Any = None) -> ModuleSpec | None:
        found = PathFinder.find_spec(name, path) if name in _CHANGES else None
        if found is not None and found.loader is not None:
            found.loader = _Patched(found.loader, _CHANGES[name])
        return found


def _order(number: int) -> dict[str, Any]:
    found: dict[str, Any] = json.loads((_ORDERS / f"{number}.json").read_bytes())
    return found


def _change_rounds(rounds: Any) -> None:
    """Another job than the one submitted, with the signature of the one, or with a fresh one."""
    ask, train = rounds._ask, rounds._train

    def lying_ask(setup: Any, state: Any, number: int, *, cohort: int) -> Any:
        while not (_ORDERS / f"{number}.json").exists():
            if setup.stop.is_set():
                raise KeyboardInterrupt
            time.sleep(0.02)
        made, order = ask(setup, state, number, cohort=cohort), _order(number)
        return _changed(made, order["job"], signed=order["signed"])

    def lying_train(grid: Any, setup: Any, ask: Any, cohort: Any, optimizer: Any) -> Any:
        return train(grid, replace(setup, job=ask.job), ask, cohort, optimizer)

    rounds._ask, rounds._train = lying_ask, lying_train


def _changed(ask: Any, overrides: list[str], *, signed: bool) -> Any:
    from tacit import commission
    from tacit.check import parse
    from tacit.job import Job, override
    from tacit.secagg.keys import Secret

    if not overrides:
        return ask
    job = parse(Job, override(json.loads(ask.job.model_dump_json()), overrides), where="the other job")
    key = Secret(Path(os.environ["TACIT_TEST_KEY"]).read_bytes())
    return replace(ask, job=job, commission=commission.sign(key, run=ask.run, job=job) if signed else ask.commission)


def _change_cohorts(secagg: Any) -> None:
    """Other members than the partners who are there."""
    original = secagg.Cohort.open

    def lying_open(self: Any, ask: Any, **sizes: Any) -> Any:
        order = _order(ask.round)
        members = {name: key for name, key in self.identities.items() if name not in order["without"]}
        members |= {name: bytes.fromhex(key) for name, key in order["members"].items()}
        return original(replace(self, identities=members), ask, **sizes)

    secagg.Cohort.open = lying_open


def _change_welcomes(welcome: Any) -> None:
    """Another membership, signed with the server's own key."""
    original = welcome.Welcomes.roster

    def lying_roster(self: Any) -> Any:
        from tacit.link.roster import SignedRoster, federation_of

        path, honest = _ORDERS / "roster.json", original(self)
        if not path.exists():
            return honest
        order, true = json.loads(path.read_bytes()), SignedRoster.unpack(honest)
        peers = {**true.peers, **{name: bytes.fromhex(key) for name, key in order["peers"].items()}}
        key = Path(os.environ["TACIT_TEST_KEY"]).read_bytes()
        federation, version = federation_of(self._folder.authority.read_bytes()), true.version + order["later"]
        return SignedRoster.sign(peers, version=version, federation=federation, key=key).pack()

    welcome.Welcomes.roster = lying_roster


def _change_steps(block: Any) -> None:
    """An event of another sampling rate beside an honest sum."""
    honest, times = block.take_step, float(os.environ["TACIT_TEST_RATE"])

    def take_step(asked: Any, site: Any, trainer: Any, standing: Any) -> Any:
        standing, update = honest(asked, site, trainer, standing)
        told = [event.model_copy(update={"sampling_rate": event.sampling_rate * times}) for event in update.events]
        return standing, replace(update, events=tuple(told))

    block.take_step = take_step


_SERVER: dict[str, Callable[[Any], None]] = {
    "tacit_server.rounds": _change_rounds,
    "tacit_server.secagg": _change_cohorts,
    "tacit_server.welcome": _change_welcomes,
}
_PARTNER: dict[str, Callable[[Any], None]] = {"tacit_client.block": _change_steps}
_CHANGES = _PARTNER if "TACIT_TEST_RATE" in os.environ else _SERVER

sys.meta_path.insert(0, _Finder())
