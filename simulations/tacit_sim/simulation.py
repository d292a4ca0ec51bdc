"""One simulation from job to report."""

from __future__ import annotations

import secrets
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from torch import nn

from tacit import commission
from tacit import vector as vectors
from tacit.errors import JobFailed
from tacit.evaluate import evaluate
from tacit.job import Job
from tacit.metrics import Counters
from tacit_client.train import pick_device
from tacit_server.app import make_server_app
from tacit_server.checkpoint import RunState
from tacit_server.output import LEDGER, Output
from tacit_server.result import result
from tacit_server.rounds import Setup
from tacit_sim.engine import check_engine, run_inline, run_ray
from tacit_sim.federation import Spec, World, build_network, client_app, prepare
from tacit_sim.identity import server_key

__all__ = ["simulate"]


def simulate(
    job: Job,
    *,
    engine: str,
    data: Path | None,
    out: Path,
    resume: bool = False,
    progress: Callable[[Job, RunState], None] = lambda job, state: None,
    stop: threading.Event | None = None,
) -> dict[str, Any]:
    """Run `job` with virtual partners and fill the folder `out`.

    Args:
        engine: `inline` or `ray`; the same job and seed give the same model under both.
        data: folder of the known data sets, or None for the environment's.
        out: made by this call, unless `resume`.
        resume: go on from the checkpoint in `out`.
        progress: told the state after every round.
        stop: set to leave after the message at hand.

    Returns:
        What `result.json` holds.

    Raises:
        BadInput: before anything is written.
        JobFailed: the run could not be finished; its last checkpoint is kept.
    """
    started = time.monotonic()
    check_engine(engine, job.simulation)
    spec = Spec(job=job.model_dump_json(), data=data, ledger=(out / LEDGER).absolute())
    world = prepare(spec)
    network = build_network(world)
    output = Output(out, durable=False)  # a simulation that a power cut ends can be run again
    state = _begin(world, network, output, resume=resume)

    def save(new: RunState) -> None:
        output.keep(new)
        progress(world.job, new)

    setup = Setup(
        job=world.job,
        classes=world.options.classes,
        test=_tester(world, network),
        randomness=world.randomness,
        save=save,
        patience=float(len(world.parts)) if engine == "inline" else 1.0,
        stop=stop or threading.Event(),
        commission=lambda run: commission.sign(server_key(world.job), run=run, job=world.job),
        chance=world.job.simulation.user_rate,
    )
    ended: list[RunState] = []
    run = {"inline": run_inline, "ray": run_ray}[engine]
    run(make_server_app(setup, state, ended.append), client_app(spec), world.job.simulation)
    if not ended:
        raise JobFailed("expected the run to end by itself, found it stopped", hint="see --verbose; then --resume")
    return _finish(world, network, output, ended[0], engine=engine, wall_s=time.monotonic() - started)


def _begin(world: World, network: nn.Module, output: Output, *, resume: bool) -> RunState:
    job_hash = world.job.hash()
    if resume:
        return output.last(world.job)
    output.create(world.job)
    state = RunState(run=secrets.token_hex(16), job_hash=job_hash, vector=vectors.flatten(network))
    output.keep(state)
    return state


def _tester(world: World, network: nn.Module) -> Callable[[NDArray[np.float32]], Counters]:
    device = pick_device(world.job.simulation.device)
    network = network.to(device)

    def test(vector: NDArray[np.float32]) -> Counters:
        vectors.load(network, vector)
        return evaluate(network, world.test, task=world.task, classes=world.options.classes, device=device)

    return test


def _finish(
    world: World, network: nn.Module, output: Output, state: RunState, *, engine: str, wall_s: float
) -> dict[str, Any]:
    summary = result(
        world.job,
        state,
        engine=engine,
        seed=world.job.simulation.seed,
        parameters=vectors.size(network),
        secure_noise=world.randomness.secure,
        data=world.description,
        wall_s=wall_s,
    )
    best = state.best_vector
    output.finish(
        world.job,
        state,
        result=summary,
        model=vectors.named(network, state.vector),
        best=None if best is None else vectors.named(network, best),
    )
    return summary
