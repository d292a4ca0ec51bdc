"""Measured cost, ours beside others' in one run."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol, TypeVar

from tacit.errors import BadInput
from tacit_sim.bench.distributed import CASES as BLOCKS
from tacit_sim.bench.distributed import measure_distributed
from tacit_sim.bench.engine import ENGINES, SIZES, measure_engines
from tacit_sim.bench.link import CASES as LINKS
from tacit_sim.bench.link import measure_link
from tacit_sim.bench.noise import CASES as NOISES
from tacit_sim.bench.noise import measure_noise
from tacit_sim.bench.seal import CASES as FILES
from tacit_sim.bench.seal import measure_seal
from tacit_sim.bench.secagg import CASES as ROUNDS
from tacit_sim.bench.secagg import measure_secagg
from tacit_sim.bench.step import CASES, measure_steps
from tacit_sim.bench.table import Table

__all__ = [
    "Table",
    "bench",
    "measure_distributed",
    "measure_engines",
    "measure_link",
    "measure_noise",
    "measure_seal",
    "measure_secagg",
    "measure_steps",
]


class _Named(Protocol):
    @property
    def name(self) -> str: ...


C = TypeVar("C", bound=_Named)


def bench(name: str, *, only: str = "", engines: Sequence[str] | None = None, repeats: int | None = None) -> Table:
    """Run the benchmark `name`: `distributed`, `engine`, `link`, `noise`, `seal`, `secagg` or `step`.

    Args:
        only: leave out cases without this text in their name.
        engines: for `engine`: which; all where left out.
        repeats: measurements of each column; the benchmark's own number where left out.

    Raises:
        BadInput: another name, no such case or engine, or no repeats.
    """
    if repeats is not None and repeats < 1:
        raise BadInput(f"expected --repeats of 1 or more, found {repeats}", hint="raise --repeats")
    if engines is not None and name != "engine":
        raise BadInput(f"expected --engine with bench engine only, found it with {name}", hint="remove --engine")
    match name:
        case "distributed":
            table = measure_distributed(_chosen(BLOCKS, only), repeats=repeats)
        case "engine":
            table = measure_engines(_chosen(SIZES, only), engines=_engines(engines), repeats=repeats or 2)
        case "link":
            table = measure_link(_chosen(LINKS, only), repeats=repeats)
        case "noise":
            table = measure_noise(_chosen(NOISES, only), repeats=repeats or 9)
        case "seal":
            table = measure_seal(_chosen(FILES, only), repeats=repeats or 3)
        case "secagg":
            table = measure_secagg(_chosen(ROUNDS, only), repeats=repeats or 3)
        case "step":
            table = measure_steps(_chosen(CASES, only), repeats=repeats or 15)
        case _:
            raise BadInput(
                f"expected a benchmark distributed, engine, link, noise, seal, secagg or step, found {name}",
                hint="choose one of these",
            )
    return table


def _chosen(cases: Sequence[C], only: str) -> list[C]:
    """Those with `only` in their name. Raises BadInput for none."""
    found = [case for case in cases if only in case.name]
    if not found:
        names = "; ".join(case.name for case in cases)
        raise BadInput(f"expected --only to fit a name, found {only}", hint=f"use part of: {names}")
    return found


def _engines(given: Sequence[str] | None) -> tuple[str, ...]:
    for engine in given or ():
        if engine not in ENGINES:
            raise BadInput(f"expected --engine to be one of {', '.join(ENGINES)}, found {engine}", hint="correct it")
    return tuple(engine for engine in ENGINES if given is None or engine in given)
