"""The same federation as a plain Flower app: what a researcher writes who starts from Flower's own quickstart.

Stock FedAvg, stock `run_simulation` on Ray, state dicts in ArrayRecords. It trains the same network on the same rows
for as many steps. Kinder than the quickstart in one thing: network and data are built once a process, as ours are,
and not for every message.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Callable
from dataclasses import dataclass
from functools import lru_cache
from itertools import pairwise
from statistics import median
from typing import Any

import torch
from flwr.app import ArrayRecord, ConfigRecord, Context, Message, MetricRecord, RecordDict
from flwr.clientapp import ClientApp
from flwr.serverapp import Grid, ServerApp
from flwr.serverapp.strategy import FedAvg
from torch import nn

from tacit.job import Job, SimulationSection
from tacit.tasks.task import Encoded
from tacit_sim.engine import quiet
from tacit_sim.federation import Spec, build_network, world

__all__ = ["Rounds", "run_rival"]


@dataclass(frozen=True)
class Rounds:
    """Seconds of each round: from end to end, and of the training inside, summed over partners."""

    whole: tuple[float, ...]
    training: tuple[float, ...]

    def middle(self) -> tuple[float, float]:
        """Medians of both over the rounds but the first, which warms up, and the last, which may evaluate."""
        return median(self.whole[1:-1]), median(self.training[1:-1])


def _on_ray(server: ServerApp, client: ClientApp, simulation: SimulationSection) -> None:
    from flwr.simulation import run_simulation

    quiet()
    run_simulation(
        server,
        client,
        num_supernodes=simulation.partners,
        backend_config={
            "init_args": {"include_dashboard": False, "log_to_driver": False, "logging_level": logging.ERROR},
            "client_resources": {"num_cpus": simulation.partner_cpus, "num_gpus": 0.0},
        },
    )


def run_rival(spec: Spec, *, run: Callable[[ServerApp, ClientApp, SimulationSection], None] = _on_ray) -> Rounds:
    """Run the job of `spec` as a plain Flower app. Reads its data, model, partners, rounds, steps and batch.

    Args:
        run: what carries the messages; Flower's own simulation where left out.
    """
    job = Job.model_validate_json(spec.job)
    ends: list[float] = []
    training: list[float] = []
    run(_server(spec, job, ends=ends, training=training), _client(spec, job), job.simulation)
    whole = tuple(after - before for before, after in pairwise(ends))
    return Rounds(whole=whole, training=tuple(training))


def _server(spec: Spec, job: Job, *, ends: list[float], training: list[float]) -> ServerApp:
    app = ServerApp()
    partners = job.simulation.partners

    @app.main()
    def main(grid: Grid, context: Context) -> None:
        strategy = FedAvg(fraction_evaluate=0.0, min_train_nodes=partners, min_available_nodes=partners)
        result = strategy.start(
            grid=grid,
            initial_arrays=ArrayRecord(_network(spec).state_dict()),
            num_rounds=job.training.rounds,
            train_config=ConfigRecord({"lr": job.training.learning_rate}),
            evaluate_fn=lambda number, arrays: ends.append(time.perf_counter()),
        )
        means = result.train_metrics_clientapp
        training.extend(partners * _number(means[number]["seconds"]) for number in sorted(means))

    return app


def _client(spec: Spec, job: Job) -> ClientApp:
    app = ClientApp()

    @app.train()
    def train(message: Message, context: Context) -> Message:
        network, rows = _network(spec), _rows(spec, int(context.node_config["partition-id"]))
        arrays, config = message.content["arrays"], message.content["config"]
        if not isinstance(arrays, ArrayRecord) or not isinstance(config, ConfigRecord):
            raise TypeError("expected arrays and config in a message of training")
        state = arrays.to_torch_state_dict()
        started = time.perf_counter()
        network.load_state_dict(state)
        _fit(network, rows, job, learning_rate=_number(config["lr"]))
        seconds = time.perf_counter() - started
        content = RecordDict(
            {
                "arrays": ArrayRecord(network.state_dict()),
                "metrics": MetricRecord({"seconds": seconds, "num-examples": len(rows)}),
            }
        )
        return Message(content=content, reply_to=message)

    return app


def _fit(network: nn.Module, rows: Encoded, job: Job, *, learning_rate: float) -> None:
    network.train()
    optimizer = torch.optim.SGD(network.parameters(), lr=learning_rate)
    for _ in range(job.training.local_steps):
        batch = rows.take(torch.randperm(len(rows))[: job.training.batch_size])
        optimizer.zero_grad()
        nn.functional.cross_entropy(network(*batch.inputs), batch.targets).backward()  # type: ignore[no-untyped-call]  # torch's
        optimizer.step()


@lru_cache(maxsize=1)
def _network(spec: Spec) -> nn.Module:
    return build_network(world(spec.job, spec.data))


@lru_cache(maxsize=1024)
def _rows(spec: Spec, partner: int) -> Encoded:
    built = world(spec.job, spec.data)
    return built.train.take(built.parts[partner][0])


def _number(value: Any) -> float:
    if not isinstance(value, int | float):
        raise TypeError(f"expected a number, found {type(value).__name__}")
    return float(value)
