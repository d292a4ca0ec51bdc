"""What noise in integers costs: as many numbers as a large model has, and a step of training with each.

Beside it stand the float32 noise of simulations, and the sum of four float64 Gaussians, halved, of Holohan and Braghin
2021 (arXiv:2107.10138), which makes it laborious to work back from the digits. Both are drawn from the
same keystream.
"""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from statistics import median
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from tacit import vector as vectors
from tacit.privacy.gaussian import discrete_gaussian
from tacit.privacy.randomness import Stream
from tacit_sim.bench.step import CASES as STEPS
from tacit_sim.bench.step import Case as Step
from tacit_sim.bench.step import encoded, network_of, tacit_steps
from tacit_sim.bench.table import Table
from tacit_sim.divergence import epsilon_of, laws

__all__ = ["CASES", "Case", "epsilons", "measure_noise"]

_SIGMA = 2.0**36  # steps of the grid of a partner's noise, at a noise multiplier of 1
_STEPS = 4  # of training in one measurement
_MULTIPLIER, _RATE, _DELTA = 1.0, 0.01, 1e-5
_GRID = 2.0**13  # steps to the clip norm: coarser than any in use, so that all integers can be added up
_FINE = 16384  # numbers to a deviation where an integral is added up
_COLUMNS = {"case": "", "noise": "", "numbers": ",", "ms": ".2f", "M_s": ".1f", "over": ".2f"}


@dataclass(frozen=True)
class Case:
    """Numbers that are drawn, by themselves or in a step of training.

    Attributes:
        name: of the case.
        numbers: how many, by themselves.
        step: what is trained, instead.
    """

    name: str
    numbers: int = 0
    step: Step | None = None


CASES = (Case("draws", numbers=2**20), Case(f"step, {STEPS[0].name}", step=STEPS[0]))


class _Fourfold(Stream):
    """Its Gaussian is a sum of four."""

    def gaussian(self, n: int) -> NDArray[np.float32]:
        return _four(self, n).astype(np.float32)


def measure_noise(cases: Sequence[Case] = CASES, *, repeats: int = 9) -> Table:
    """Time of each case with each noise, medians of `repeats` taken in turns, on one torch thread."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        rows = [row for case in cases for row in _rows(case, repeats=repeats)]
    finally:
        torch.set_num_threads(threads)
    integers, reals = epsilons(multiplier=_MULTIPLIER, rate=_RATE, delta=_DELTA)
    notes = (
        "ms: for all the numbers, or for a step; M_s: millions of numbers in a second;",
        "over: time over that with float32 noise, the median of the ratios within a turn;",
        f"epsilon of a step at rate {_RATE:g}, noise {_MULTIPLIER:g}, delta {_DELTA:g}, added up: {integers:.6f} with "
        f"integers, {reals:.6f} with real numbers",
    )
    return Table(name="noise", columns=_COLUMNS, rows=tuple(rows), settings={"repeats": repeats}, notes=notes)


def epsilons(*, multiplier: float, rate: float, delta: float) -> tuple[float, float]:
    """Epsilon of one step with noise in integers, and with the continuous noise it is charged as."""
    std = multiplier * _GRID
    integers = laws((std**2 + 16) ** 0.5, shift=_GRID, rate=rate)
    reals = laws(std, shift=_GRID, rate=rate, step=std / _FINE)
    return epsilon_of(*integers, delta=delta), epsilon_of(*reals, delta=delta)


def _rows(case: Case, *, repeats: int) -> list[dict[str, Any]]:
    contenders = _draws(case.numbers) if case.step is None else _steps(case.step)
    numbers = case.numbers if case.step is None else vectors.size(network_of(case.step))
    turns = [{name: measure() for name, measure in contenders.items()} for _ in range(repeats + 1)][1:]
    return [
        {
            "case": case.name,
            "noise": name,
            "numbers": numbers,
            "ms": 1000 * median(turn[name] for turn in turns),
            "M_s": numbers / 1e6 / median(turn[name] for turn in turns),
            "over": median(turn[name] / turn["float32"] for turn in turns),
        }
        for name in contenders
    ]


def _draws(numbers: int) -> dict[str, Callable[[], float]]:
    """How long each takes."""
    stream = Stream(os.urandom(32))
    return {
        "float32": lambda: _seconds(lambda: stream.gaussian(numbers)),
        "integers": lambda: _seconds(lambda: discrete_gaussian(stream, numbers, sigma=_SIGMA)),
        "sum of four": lambda: _seconds(lambda: _four(stream, numbers)),
    }


def _steps(step: Step) -> dict[str, Callable[[], float]]:
    data = encoded(step)
    plain, hardened = tacit_steps(step, data), tacit_steps(step, data, hardened=True)
    four = tacit_steps(step, data, noise=_Fourfold(os.urandom(32)))
    return {
        "float32": lambda: _seconds(lambda: plain(_STEPS)) / _STEPS,
        "integers": lambda: _seconds(lambda: hardened(_STEPS)) / _STEPS,
        "sum of four": lambda: _seconds(lambda: four(_STEPS)) / _STEPS,
    }


def _seconds(work: Callable[[], object]) -> float:
    started = time.perf_counter()
    work()
    return time.perf_counter() - started


def _four(stream: Stream, n: int) -> NDArray[np.float64]:
    """Standard normal numbers, float64 `[n]`, each half the sum of four by Box and Muller."""
    total = np.zeros(n)
    for _ in range(2):
        radius = np.sqrt(-2 * np.log1p(-stream.uniform(n)))
        angle = 2 * np.pi * stream.uniform(n)
        total += radius * (np.cos(angle) + np.sin(angle))
    return total / 2
