"""What a round costs beyond its training: our engines beside the same federation as a plain Flower app.

The training is next to nothing on purpose (one step, a small batch, no privacy), so that the rest can be seen:
messages, copies, the ledger, aggregation, the checkpoint of every round.
"""

from __future__ import annotations

import os
import tempfile
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path
from statistics import median
from typing import Any

import numpy as np

from tacit import vector as vectors
from tacit.check import parse
from tacit.job import Job
from tacit_server.checkpoint import RunState
from tacit_server.output import LEDGER
from tacit_sim.bench.rival import Rounds, run_rival
from tacit_sim.bench.table import Table
from tacit_sim.federation import Spec, build_network, world
from tacit_sim.simulation import simulate

__all__ = ["ENGINES", "SIZES", "Size", "measure_engines"]

ENGINES = ("inline", "ray", "flower")
"""Ours in one process, ours on Ray, and the plain Flower app, which runs on Ray too."""

_PARTNERS, _ROUNDS, _BATCH = 20, 8, 8
_EACH = 20  # training examples a partner
_CLASSES = 10


@dataclass(frozen=True)
class Size:
    """A model by its job section `[task]`, and the shape of the random images or the length of the random texts."""

    name: str
    task: Mapping[str, Any]
    shape: tuple[int, ...]


SIZES = (
    Size("26 thousand", {"kind": "image-classification", "model": "cnn"}, (28, 28)),
    Size(
        "1 million",
        {
            "kind": "text-classification",
            "model": "transformer",
            "options": {"width": 256, "depth": 1, "feed_forward": 5, "length": 16},
        },
        (16,),
    ),
)


def measure_engines(
    sizes: Sequence[Size] = SIZES,
    *,
    engines: Sequence[str] = ENGINES,
    partners: int = _PARTNERS,
    rounds: int = _ROUNDS,
    repeats: int = 2,
) -> Table:
    """Seconds a round of every engine at every size.

    Args:
        sizes: what to train.
        engines: of `ENGINES`.
        partners: asked in every round.
        rounds: measured in each run; one before and one after them are thrown away.
        repeats: runs of each engine, taken in turn.
    """
    with tempfile.TemporaryDirectory(prefix="tacit-bench-") as folder:
        rows = [
            row
            for size in sizes
            for row in _rows(size, engines, partners=partners, rounds=rounds, repeats=repeats, folder=Path(folder))
        ]
    return Table(
        name="engine",
        columns={
            "model": "",
            "parameters": ",",
            "engine": "",
            "round_s": ".3f",
            "training_s": ".3f",
            "beyond_training_ms_a_partner": ".2f",
        },
        rows=tuple(rows),
        settings={"partners": partners, "rounds": rounds, "repeats": repeats, "batch": _BATCH, "local_steps": 1},
        notes=(
            f"{partners} partners, one step of {_BATCH} examples each; medians of {rounds} rounds, then of {repeats} "
            "runs in turns;",
            "round: from end to end, with ours including the ledger and the checkpoint; training: summed over "
            "partners, as each clocked it;",
            "beyond training: (round - training / workers) / partners, in milliseconds; inline has one worker, Ray one "
            "a core",
        ),
    )


def _rows(
    size: Size, engines: Sequence[str], *, partners: int, rounds: int, repeats: int, folder: Path
) -> list[dict[str, Any]]:
    job = _job(size, partners=partners, rounds=rounds + 2, folder=folder)
    turns = [
        {engine: _run(job, engine, folder=Path(tempfile.mkdtemp(dir=folder))) for engine in engines}
        for _ in range(repeats)
    ]
    return [_row(size, engine, [turn[engine] for turn in turns], partners=partners) for engine in engines]


@dataclass(frozen=True)
class _Run:
    parameters: int
    workers: int
    rounds: Rounds


def _row(size: Size, engine: str, runs: list[_Run], *, partners: int) -> dict[str, Any]:
    found = [run.rounds.middle() for run in runs]
    beyond = [(whole - training / run.workers) / partners for run, (whole, training) in zip(runs, found, strict=True)]
    return {
        "model": size.name,
        "parameters": runs[0].parameters,
        "engine": engine,
        "workers": runs[0].workers,
        "round_s": median(whole for whole, _ in found),
        "training_s": median(training for _, training in found),
        "beyond_training_ms_a_partner": 1000 * median(beyond),
    }


def _run(job: Job, engine: str, *, folder: Path) -> _Run:
    if engine == "flower":
        spec = Spec(job=job.model_dump_json(), data=None, ledger=folder / LEDGER)
        return _Run(_parameters(spec), _workers(job), run_rival(spec))
    ends = [time.perf_counter()]
    training: list[float] = []

    def progress(job: Job, state: RunState) -> None:
        ends.append(time.perf_counter())
        training.append(state.history[-1]["partner_seconds"])

    result = simulate(job, engine=engine, data=None, out=folder / "out", progress=progress)
    whole = tuple(after - before for before, after in pairwise(ends))
    workers = 1 if engine == "inline" else _workers(job)
    return _Run(result["model"]["parameters"], workers, Rounds(whole=whole, training=tuple(training)))


def _workers(job: Job) -> int:
    """Ray's processes that train at the same time."""
    return max(1, min(job.simulation.partners, int((os.cpu_count() or 1) / job.simulation.partner_cpus)))


def _parameters(spec: Spec) -> int:
    return vectors.size(build_network(world(spec.job, spec.data)))


def _job(size: Size, *, partners: int, rounds: int, folder: Path) -> Job:
    raw = {
        "name": "bench",
        "task": size.task,
        "training": {"rounds": rounds, "local_steps": 1, "batch_size": _BATCH, "learning_rate": 0.01},
        "privacy": {"mechanism": "none"},
        "aggregation": {"secure": False, "min_cohort": partners, "threshold": partners},
        "evaluation": {"every": rounds, "partner_holdout": 0.0, "monitor": "test"},
        "simulation": {
            "partners": partners,
            "dataset": str(_write_data(size, partners * _EACH, folder)),
            "input": "input",
            "label": "label",
            "test_share": 0.2,
            "device": "cpu",
        },
    }
    return parse(Job, raw, where="the benchmark's job")


def _write_data(size: Size, count: int, folder: Path) -> Path:
    """`count` random examples; what they say does not matter to the clock."""
    draw = np.random.default_rng(0)
    total = count * 5 // 4  # a fifth goes to the test set
    labels = np.arange(total) % _CLASSES
    if size.task["kind"] == "image-classification":
        path = folder / "images.npz"
        np.savez(path, input=draw.integers(0, 256, size=(total, *size.shape), dtype=np.uint8), label=labels)
        return path
    path = folder / "texts.csv"
    letters = draw.integers(ord("a"), ord("z") + 1, size=(total, *size.shape), dtype=np.uint8)
    lines = [f"{row.tobytes().decode()},{label}" for row, label in zip(letters, labels, strict=True)]
    path.write_text("\n".join(["input,label", *lines]) + "\n", encoding="utf-8")
    return path
