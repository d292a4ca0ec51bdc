"""Measured cost, ours beside others' in one run."""

from __future__ import annotations

from collections.abc import Sequence

from tacit.errors import BadInput
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
    "measure_engines",
    "measure_link",
    "measure_noise",
    "measure_seal",
    "measure_secagg",
    "measure_steps",
]


def bench(name: str, *, only: str = "", engines: Sequence[str] | None = None, repeats: int | None = None) -> Table:
    """Run the benchmark `name`: `engine`, `link`, `noise`, `seal`, `secagg` or `step`.

    Args:
        only: leave out cases without this text in their name.
        engines: for `engine`: which; all where left out.
        repeats: measurements of each column; the benchmark's own number where left out.

    Raises:
        BadInput: another name, no such case or engine, or no repeats.
    """
    if repeats is not None and repeats < 1:
        raise BadInput(f"expected --repeats of 1 or more, found {repeats}", hint="raise --repeats")
    match name:
        case "engine":
            sizes = [size for size in SIZES if only in size.name]
            _some(sizes, only, [size.name for size in SIZES])
            return measure_engines(sizes, engines=_engines(engines), repeats=repeats or 2)
        case "link" if engines is None:
            links = [case for case in LINKS if only in case.name]
            _some(links, only, [case.name for case in LINKS])
            return measure_link(links, repeats=repeats)
        case "step" if engines is None:
            cases = [case for case in CASES if only in case.name]
            _some(cases, only, [case.name for case in CASES])
            return measure_steps(cases, repeats=repeats or 15)
        case "secagg" if engines is None:
            rounds = [case for case in ROUNDS if only in case.name]
            _some(rounds, only, [case.name for case in ROUNDS])
            return measure_secagg(rounds, repeats=repeats or 3)
        case "noise" if engines is None:
            noises = [case for case in NOISES if only in case.name]
            _some(noises, only, [case.name for case in NOISES])
            return measure_noise(noises, repeats=repeats or 9)
        case "seal" if engines is None:
            files = [case for case in FILES if only in case.name]
            _some(files, only, [case.name for case in FILES])
            return measure_seal(files, repeats=repeats or 3)
        case "link" | "noise" | "seal" | "secagg" | "step":
            raise BadInput(f"expected --engine with bench engine only, found it with {name}", hint="remove --engine")
    raise BadInput(
        f"expected a benchmark engine, link, noise, seal, secagg or step, found {name}", hint="choose one of these"
    )


def _some(found: Sequence[object], only: str, names: Sequence[str]) -> None:
    if not found:
        raise BadInput(f"expected --only to fit a name, found {only}", hint=f"use part of: {'; '.join(names)}")


def _engines(given: Sequence[str] | None) -> tuple[str, ...]:
    for engine in given or ():
        if engine not in ENGINES:
            raise BadInput(f"expected --engine to be one of {', '.join(ENGINES)}, found {engine}", hint="correct it")
    return tuple(engine for engine in ENGINES if given is None or engine in given)
