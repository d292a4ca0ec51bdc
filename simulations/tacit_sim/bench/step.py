"""One local step: ours beside Opacus alone and beside the step without privacy, in one process.

Ours is `Trainer.train`: Poisson sampling, the keyed noise of a simulation (`bench noise` has that of a partner), the
copy of the global model in and of the update out. Opacus alone is its GradSampleModule and DPOptimizer on the mean loss
with fixed batches and torch's noise. Plain is torch with fixed batches. Repetitions take turns, so that a busy machine
is busy for all.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from statistics import median
from typing import Any

import numpy as np
import torch
from opacus import GradSampleModule
from opacus.optimizers import DPOptimizer
from torch import nn

from tacit import vector as vectors
from tacit.data.examples import Examples
from tacit.job import TrainingSection
from tacit.privacy.mechanism import Mechanism, sampling_rate
from tacit.privacy.randomness import Randomness, Stream
from tacit.tasks.image import IMAGE_CLASSIFICATION
from tacit.tasks.table import parse_options
from tacit.tasks.task import Encoded, Task
from tacit.tasks.text import TEXT_CLASSIFICATION
from tacit_client.train import Shard, Trainer
from tacit_sim.bench.table import Table

__all__ = ["CASES", "Case", "encoded", "measure_steps", "network_of", "tacit_steps"]

_SIZE = 20  # a partner's examples, in batches
_STEPS = 4  # in a row in one measurement: as a round has them
_CLIP, _NOISE, _RATE = 0.1, 1.0, 0.5
_PHYSICAL_BATCH = 512  # the job's default


@dataclass(frozen=True)
class Case:
    """A network and a batch size, on examples drawn at random: what they say does not matter to the clock."""

    name: str
    task: Task
    model: str
    options: Mapping[str, Any]
    batch: int


_GREY = {"classes": 10, "shape": [28, 28]}
CASES = (
    Case("cnn 28x28, batch 128", IMAGE_CLASSIFICATION, "cnn", _GREY, 128),
    Case("cnn 28x28, batch 512", IMAGE_CLASSIFICATION, "cnn", _GREY, 512),
    Case("cnn 32x32x3, batch 64", IMAGE_CLASSIFICATION, "cnn", {"classes": 10, "shape": [32, 32, 3]}, 64),
    Case(
        "transformer, batch 32",
        TEXT_CLASSIFICATION,
        "transformer",
        {"classes": 2, "width": 64, "depth": 2, "length": 128},
        32,
    ),
)

Steps = Callable[[int], None]  # runs so many steps


def measure_steps(cases: Sequence[Case] = CASES, *, repeats: int = 15) -> Table:
    """Seconds a step of every case, on one torch thread.

    Args:
        cases: what to measure.
        repeats: measurements of each column, taken in turn; one more before them is thrown away.
    """
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        rows = tuple(_row(case, repeats=repeats) for case in cases)
    finally:
        torch.set_num_threads(threads)
    return Table(
        name="step",
        columns={
            "case": "",
            "parameters": ",",
            "plain_ms": ".2f",
            "opacus_ms": ".2f",
            "tacit_ms": ".2f",
            "tacit/opacus": ".2f",
            "tacit/plain": ".2f",
        },
        rows=rows,
        settings={"repeats": repeats, "steps": _STEPS, "threads": 1, "device": "cpu"},
        notes=(
            f"milliseconds a step, medians of {repeats} measurements of {_STEPS} steps in turns, one torch thread;",
            "a ratio is the median of the ratios within a turn; tacit's includes sampling and both copies of the model",
        ),
    )


def _row(case: Case, *, repeats: int) -> dict[str, Any]:
    data = encoded(case)
    batches = [data.take(torch.arange(i * case.batch, (i + 1) * case.batch)) for i in range(_STEPS)]
    contenders = {
        "plain": _plain(case, batches),
        "opacus": _opacus(case, batches),
        "tacit": tacit_steps(case, data),
    }
    turns = [{name: _seconds(steps) for name, steps in contenders.items()} for _ in range(repeats + 1)][1:]
    return {
        "case": case.name,
        "parameters": vectors.size(network_of(case)),
        **{f"{name}_ms": 1000 * median(turn[name] for turn in turns) for name in contenders},
        "tacit/opacus": median(turn["tacit"] / turn["opacus"] for turn in turns),
        "tacit/plain": median(turn["tacit"] / turn["plain"] for turn in turns),
    }


def _seconds(steps: Steps) -> float:
    started = time.perf_counter()
    steps(_STEPS)
    return (time.perf_counter() - started) / _STEPS


def _plain(case: Case, batches: list[Encoded]) -> Steps:
    network = network_of(case)
    optimizer = torch.optim.SGD(network.parameters(), lr=_RATE)
    return lambda count: _loop(case, network, optimizer, batches[:count])


def _opacus(case: Case, batches: list[Encoded]) -> Steps:
    network = GradSampleModule(network_of(case), loss_reduction="mean")
    optimizer = DPOptimizer(
        torch.optim.SGD(network.parameters(), lr=_RATE),
        noise_multiplier=_NOISE,
        max_grad_norm=_CLIP,
        expected_batch_size=case.batch,
        loss_reduction="mean",
    )
    return lambda count: _loop(case, network, optimizer, batches[:count])


def _loop(case: Case, network: nn.Module, optimizer: torch.optim.Optimizer, batches: list[Encoded]) -> None:
    network.train()
    for batch in batches:
        optimizer.zero_grad(set_to_none=True)
        case.task.loss(network(*batch.inputs), batch.targets).mean().backward()  # type: ignore[no-untyped-call]  # torch's
        optimizer.step()


def tacit_steps(case: Case, data: Encoded, *, noise: Stream | None = None, hardened: bool = False) -> Steps:
    """Runs a partner's steps, with the noise of a simulation unless `hardened`, from `noise` or else a fresh stream."""
    network = network_of(case)
    start = vectors.flatten(network)
    trainer = Trainer(
        network,
        task=case.task,
        private=True,
        device=torch.device("cpu"),
        max_physical_batch=_PHYSICAL_BATCH,
        hardened=hardened,
    )
    shard = Shard(data, torch.arange(len(data)))
    randomness = Randomness()

    def run(count: int) -> None:
        trainer.train(
            start,
            shard,
            mechanism=_mechanism(case, examples=len(data), steps=count),
            training=TrainingSection(rounds=1, local_steps=count, batch_size=case.batch, learning_rate=_RATE),
            learning_rate=_RATE,
            sampling=randomness.stream(),
            noise=noise or randomness.stream(),
        )

    return run


def _mechanism(case: Case, *, examples: int, steps: int) -> Mechanism:
    return Mechanism(
        kind="dp-sgd",
        max_grad_norm=_CLIP,
        noise_multiplier=_NOISE,
        sampling_rate=sampling_rate(batch_size=case.batch, units=examples),
        expected_batch=case.batch,
        steps=steps,
    )


def network_of(case: Case) -> nn.Module:
    """The network of `case`, the same every time."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        return case.task.models[case.model].build(parse_options(case.task, case.model, case.options))


def encoded(case: Case) -> Encoded:
    """Examples drawn at random, enough for the batches of `case`."""
    n, classes = _SIZE * case.batch, case.options["classes"]
    draw = np.random.default_rng(0)
    if case.task is IMAGE_CLASSIFICATION:
        inputs = draw.integers(0, 256, size=(n, *case.options["shape"]), dtype=np.uint8)
    else:
        letters = draw.integers(ord("a"), ord("z") + 1, size=(n, case.options["length"]), dtype=np.uint8)
        inputs = np.array([row.tobytes().decode() for row in letters], dtype=object)
    labels = draw.integers(0, classes, size=n)
    examples = Examples(inputs, labels, tuple(map(str, range(classes))))
    return case.task.encode(parse_options(case.task, case.model, case.options), examples)
