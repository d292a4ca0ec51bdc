"""What a step of distributed DP-SGD costs in a real federation, and how much of that is not the gradients.

The federation is one of real processes over real TLS; the gradients alone are then computed by as many processes at
once, from the same data, on the same machine.
"""

from __future__ import annotations

import json
import math
import multiprocessing
import tempfile
import time
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from statistics import mean, median
from typing import Any

import numpy as np
import tomli_w
import torch
from numpy.typing import NDArray

from tacit import vector
from tacit.check import parse
from tacit.data.examples import Examples
from tacit.job import Job
from tacit.privacy.mechanism import plan
from tacit.privacy.randomness import Randomness
from tacit.tasks.table import find, parse_options
from tacit_client.train import Shard, Trainer
from tacit_sim.bench.processor import spent
from tacit_sim.bench.table import Table
from tacit_sim.rehearsal import Rehearsal

__all__ = ["CASES", "Case", "measure_distributed"]

_CLASSES, _SHAPE = 10, (28, 28)
_NAME = "steps"
_COLUMNS = {
    "case": "",
    "step_s": ".3f",
    "gradients_s": ".3f",
    "protocol": ".0%",
    "secagg_s": ".3f",
    "server_cpu_s": ".3f",
    "partner_cpu_s": ".3f",
}
_NOTES = (
    "step_s: of a round, evaluation apart, over its steps: everything, key set-up, ledger and audit log too; median;",
    "gradients_s: of one step's clipped sum, as many processes at once as there are partners, nothing else running;",
    "protocol: the share of step_s that is not gradients_s;",
    "secagg_s: key set-up and the masks' removal, over the steps;",
    "server_cpu_s, partner_cpu_s: processor time a step of all the server's processes, and of one partner's",
)


@dataclass(frozen=True)
class Case:
    """What is measured.

    Attributes:
        name: says it.
        partners: processes.
        examples: of each, images of 28x28.
        rounds: blocks of steps; one before them is not counted.
        steps: of a block.
        batch: of all partners together.
    """

    name: str
    partners: int
    examples: int
    rounds: int
    steps: int
    batch: int


CASES = (Case("3 partners, cnn of 26,010 parameters, batch 512", 3, 20_000, 8, 25, 512),)


@dataclass(frozen=True)
class _Run:
    """What a run leaves: the lines of its history but for the first block, and processor seconds since that."""

    lines: list[dict[str, Any]]
    server: float
    partners: float


def measure_distributed(cases: Sequence[Case] = CASES, *, repeats: int | None = None) -> Table:
    """Seconds a step, and of what.

    Args:
        cases: what is measured.
        repeats: blocks instead of each case's own number.

    Raises:
        JobFailed: a process that did not do its part.
    """
    rows = [_row(case if repeats is None else replace(case, rounds=repeats)) for case in cases]
    return Table(name="distributed", columns=_COLUMNS, rows=tuple(rows), settings={"warm": 1}, notes=_NOTES)


def _row(case: Case) -> dict[str, Any]:
    with tempfile.TemporaryDirectory(prefix="tacit-bench-") as name:
        run = _run(case, Path(name))
    lines, count = run.lines, sum(line["steps"] for line in run.lines)
    steps = [(line["round_seconds"] - line["seconds"]["evaluate"]) / line["steps"] for line in lines]
    secagg = [line["seconds"]["secagg"] / line["steps"] for line in lines]
    with multiprocessing.get_context("spawn").Pool(case.partners) as pool:
        gradients = mean(pool.map(_gradients, [(case, seed) for seed in range(case.partners)]))
    return {
        "case": case.name,
        "step_s": median(steps),
        "gradients_s": gradients,
        "protocol": 1 - gradients / median(steps),
        "secagg_s": median(secagg),
        "all": steps,
        "steps": count,
        "server_cpu_s": run.server / count,
        "partner_cpu_s": run.partners / case.partners / count,
    }


def _run(case: Case, folder: Path) -> _Run:
    with Rehearsal(folder) as federation:
        federation.init()
        federation.up()
        for i in range(case.partners):
            path = folder / f"partner-{i + 1}.npz"
            images, labels = _images(case, i)
            np.savez(path, x=images, y=labels)
            federation.join(f"partner-{i + 1}", data=path)
            federation.attend(f"partner-{i + 1}")
        job = folder / "job.toml"
        job.write_text(tomli_w.dumps(_job(case)))
        looks: list[dict[int, float]] = []

        def look(line: str) -> None:
            if line.startswith("round 1 "):
                looks.append(spent(process.pid for process in federation.processes.values()))

        words = ["tacit-server", "run", str(federation.server), str(job), "--name", _NAME, "--wait"]
        federation.run(*words, show=look)
        looks.append(spent(process.pid for process in federation.processes.values()))
        text = (federation.server / "runs" / _NAME / "history.jsonl").read_text(encoding="utf-8")
        server = federation.processes["server"].pid
    took = {pid: after - looks[0][pid] for pid, after in looks[-1].items()}
    lines = [json.loads(line) for line in text.splitlines()][1:]
    return _Run(lines, took.pop(server, math.nan), sum(took.values()) if took else math.nan)


def _images(case: Case, seed: int) -> tuple[NDArray[np.uint8], NDArray[np.int64]]:
    """The cost does not depend on what is in them."""
    images = np.random.default_rng(seed).integers(0, 256, size=(case.examples, *_SHAPE), dtype=np.uint8)
    return images, np.arange(case.examples) % _CLASSES


def _job(case: Case) -> dict[str, Any]:
    return {
        "name": _NAME,
        "task": {
            "kind": "image-classification",
            "model": "cnn",
            "labels": [str(i) for i in range(_CLASSES)],
            "options": {"shape": list(_SHAPE)},
        },
        "training": {
            "rounds": case.rounds + 1,
            "local_steps": case.steps,
            "batch_size": case.batch,
            "population": case.examples * case.partners,
            "learning_rate": 0.5,
            "momentum": 0.9,
        },
        "privacy": {"mechanism": "distributed-dp-sgd", "epsilon": 3.0, "delta": 1e-5, "max_grad_norm": 0.1},
        "aggregation": {"min_cohort": case.partners},
        "evaluation": {"every": 10**6, "partner_holdout": 0.0},
    }


def _gradients(given: tuple[Case, int]) -> float:
    """Mean seconds of one partner's clipped sum."""
    case, seed = given
    torch.set_num_threads(1)
    job = parse(Job, _job(case), where="the benchmark's job")
    found = find(job.task.kind)
    options = parse_options(found.task, job.task.model, {**job.task.options, "classes": _CLASSES})
    images, labels = _images(case, seed)
    data = found.task.encode(options, Examples(images, labels, tuple(job.task.labels)))
    trainer = Trainer(
        found.task.models[job.task.model].build(options),
        task=found.task,
        private=True,
        device=torch.device("cpu"),
        max_physical_batch=job.performance.max_physical_batch,
    )
    shard, mechanism = Shard(data, torch.arange(len(data))), plan(job, units=case.examples)
    start = vector.flatten(trainer.network)
    took: list[float] = []
    for step in range(2 * case.steps):
        sampling = Randomness().stream("sampling", step)
        began = time.perf_counter()
        trainer.clipped_sum(start, shard, mechanism=mechanism, sampling=sampling)
        took.append(time.perf_counter() - began)
    return mean(took[case.steps // 2 :])
