"""One simulation of a job with canaries in it, and what somebody who sees every release can tell of them."""

from __future__ import annotations

import math
import threading
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from flwr.app import Context
from flwr.clientapp import ClientApp
from numpy.typing import NDArray

from tacit import commission
from tacit import vector as vectors
from tacit.errors import BadInput, JobFailed
from tacit.evaluate import evaluate
from tacit.job import Job
from tacit.metrics import Counters
from tacit.privacy.accounting import epsilon
from tacit.privacy.events import Event
from tacit.privacy.mechanism import plan
from tacit.secagg.constants import KEY
from tacit.secagg.keys import Secret
from tacit_client.app import Bench, Desk, Errand, make_client_app
from tacit_client.book import MEMORY
from tacit_client.ledger import DataSet, Ledger
from tacit_client.partner import Site
from tacit_client.train import Shard, pick_device
from tacit_server.app import make_server_app
from tacit_server.checkpoint import RunState
from tacit_server.rounds import Setup
from tacit_sim.audit.bound import CONFIDENCE, LEAST_CANARIES, Guesses, Sweep, sweep
from tacit_sim.audit.canaries import Canaries, CanaryShard, hatch
from tacit_sim.audit.ideal import Ideal, ideal, sampled
from tacit_sim.audit.trainer import FAULTS, AuditedTrainer
from tacit_sim.audit.watch import Watch
from tacit_sim.engine import run_inline
from tacit_sim.federation import Spec, World, build_network, prepare
from tacit_sim.identity import party, server_key
from tacit_sim.standing import keep, recall

__all__ = ["Audit", "audit"]

_TELLING = ("dp-sgd", "distributed-dp-sgd")
"""Mechanisms that can be audited."""


@dataclass(frozen=True)
class Audit:
    """What an audit came to.

    Attributes:
        job: as resolved.
        fault: the mistake made on purpose, or None.
        confidence: with which `bound` holds.
        claim: epsilon at `delta`, computed from the events that the run recorded, of the partner that spent most.
        delta: of the job.
        canaries: who they were.
        scores: float64 `[m]`, the evidence that each was in.
        sweep: guesses from these scores.
        ideal: what so many canaries can show of a Gaussian mechanism with the planned epsilon. Its number of guesses
            was fixed before the run.
        alone: the same of the mechanism of the job itself, its sampling and its noise as they are planned, with nothing
            else in the sums.
        steps: seen, of all partners.
        accuracy: of the model on the test set, 0 to 1: the run under audit learns.
    """

    job: Job
    fault: str | None
    confidence: float
    claim: float
    delta: float
    canaries: Canaries
    scores: NDArray[np.float64]
    sweep: Sweep
    ideal: Ideal
    alone: Ideal
    steps: int
    accuracy: float | None

    @property
    def guesses(self) -> Guesses:
        """Those whose number was fixed before the run."""
        return self.sweep.at(self.ideal.guesses)

    @property
    def bound(self) -> float:
        """The lower bound on epsilon.

        Guarantee: where the run is (epsilon, delta)-private, as it claims, the bound is above that epsilon with a
        chance of at most 1 - `confidence`.
        """
        return self.guesses.bound

    @property
    def passes(self) -> bool:
        """Whether what was measured agrees with what is claimed."""
        return self.bound <= self.claim


def audit(
    job: Job,
    *,
    canaries: int,
    data: Path | None,
    fault: str | None = None,
    progress: Callable[[Job, RunState], None] = lambda job, state: None,
) -> Audit:
    """Simulate `job` with canaries, and guess from every step's release which of them were in.

    Args:
        canaries: how many; each is in by a fair coin.
        data: folder of the known data sets, or None for the environment's.
        fault: one of `FAULTS`, or None.
        progress: told the state after every round.

    Raises:
        BadInput: a job that can not be audited or not be run, an unknown fault, too few or too many canaries.
        JobFailed: the run could not be finished.
    """
    _check(job, canaries, fault)
    spec = Spec(job=job.model_dump_json(), data=data, ledger=MEMORY)
    world = prepare(spec)
    stream, delta = world.randomness.stream("audit"), float(world.job.privacy.delta or 0.0)
    sizes = [p.numel() for p in build_network(world).parameters()]
    hatched = hatch(canaries, sizes=sizes, partners=len(world.parts), stream=stream)
    expected = ideal(_planned(world), delta=delta, canaries=canaries, seed=job.simulation.seed)
    watch = Watch(hatched)
    state = _simulate(world, hatched, watch, fault=fault, progress=progress)
    watch.close(state.vector, training=job.training, clip=float(job.privacy.max_grad_norm or 0.0))
    scores = watch.scores(sizes=sizes)
    return Audit(
        job=world.job,
        fault=fault,
        confidence=CONFIDENCE,
        claim=_claim(world.job, state, fault),
        delta=delta,
        canaries=hatched,
        scores=scores,
        sweep=sweep(scores, hatched.coins, delta=delta),
        ideal=expected,
        alone=_alone(world, guesses=expected.guesses, canaries=canaries),
        steps=watch.steps,
        accuracy=next((line["test"]["accuracy"] for line in reversed(state.history) if line["test"]), None),
    )


def _check(job: Job, canaries: int, fault: str | None) -> None:
    if fault is not None and fault not in FAULTS:
        raise BadInput(f"expected a fault, found {fault}", hint=f"use one of: {', '.join(FAULTS)}")
    if job.privacy.mechanism not in _TELLING:
        raise BadInput(
            f"expected a job whose privacy.mechanism is {' or '.join(_TELLING)}, found {job.privacy.mechanism}",
            hint="audit a job that claims an epsilon for single examples",
        )
    if job.privacy.mechanism != "dp-sgd" and fault not in (None, "last-round"):
        raise BadInput(
            f"expected dp-sgd for the fault {fault}, found {job.privacy.mechanism}",
            hint="use the fault last-round, or dp-sgd, whose noise the trainer adds",
        )
    if job.privacy.mechanism != "dp-sgd" and job.training.optimizer != "sgd":
        raise BadInput(
            f"expected training.optimizer sgd in an audit of {job.privacy.mechanism}, found {job.training.optimizer}: "
            "a step's sum is read from the models before and after it",
            hint="--set training.optimizer=sgd",
        )
    if job.simulation.dropout:
        raise BadInput(
            f"expected simulation.dropout = 0 in an audit, found {job.simulation.dropout}",
            hint="--set simulation.dropout=0.0",
        )
    if canaries < LEAST_CANARIES:
        raise BadInput(f"expected at least {LEAST_CANARIES} canaries, found {canaries}", hint="raise --canaries")


def _planned(world: World) -> float:
    """Epsilon of the whole run, of the partner that will spend most."""
    job = world.job
    mechanisms = {plan(job, units=len(rows) + len(held)) for rows, held in world.parts}
    steps = job.training.rounds * job.training.local_steps
    events = [mechanism.event().model_copy(update={"steps": steps}) for mechanism in mechanisms]
    return max(epsilon((event,), delta=job.privacy.delta or 0.0) for event in events)


def _alone(world: World, *, guesses: int, canaries: int) -> Ideal:
    job = world.job
    mechanism = plan(job, units=sum(map(len, world.parts[0])))
    # Of a noise in shares that of the honest partners is counted, and that of all is there.
    n = min(job.aggregation.cohort or len(world.parts), len(world.parts))
    more = math.sqrt(n / job.aggregation.honest(n)) if job.shares_noise else 1.0
    return sampled(
        rate=mechanism.sampling_rate,
        noise=mechanism.noise_multiplier * more,
        steps=job.training.rounds * job.training.local_steps,
        guesses=guesses,
        canaries=canaries,
        delta=float(job.privacy.delta or 0.0),
        seed=job.simulation.seed,
    )


def _claim(job: Job, state: RunState, fault: str | None) -> float:
    """Epsilon from the events recorded; under the fault `last-round`, from those of one round."""

    def counted(event: Event) -> Event:
        return event.model_copy(update={"steps": job.training.local_steps}) if fault == "last-round" else event

    delta = job.privacy.delta or 0.0
    return max(epsilon(map(counted, events), delta=delta) for events in state.events.values())


def _simulate(
    world: World,
    canaries: Canaries,
    watch: Watch,
    *,
    fault: str | None,
    progress: Callable[[Job, RunState], None],
) -> RunState:
    """The rounds of the job, as `tacit-sim run` has them, with audited trainers and shards."""
    job, network = world.job, build_network(world)
    device = pick_device(job.simulation.device)
    trainer = AuditedTrainer(
        network,
        task=world.task,
        device=device,
        max_physical_batch=job.performance.max_physical_batch,
        watch=watch,
        fault=fault,
    )

    def test(vector: NDArray[np.float32]) -> Counters:
        vectors.load(trainer.network, vector)
        return evaluate(trainer.network, world.test, task=world.task, classes=world.options.classes, device=device)

    setup = Setup(
        job=job,
        classes=world.options.classes,
        test=test,
        randomness=world.randomness,
        save=lambda state: progress(job, state),
        patience=float(len(world.parts)),
        stop=threading.Event(),
        commission=lambda run: commission.sign(server_key(job), run=run, job=job),
    )
    first = RunState(run="0" * 32, job_hash=job.hash(), vector=vectors.flatten(network))
    ended: list[RunState] = []
    run_inline(make_server_app(setup, first, ended.append), _partners(world, canaries, trainer), job.simulation)
    if not ended:
        raise JobFailed("expected the run to end by itself, found it stopped", hint="see --verbose")
    return ended[0]


def _partners(world: World, canaries: Canaries, trainer: AuditedTrainer) -> ClientApp:
    sites = [_site(world, canaries, partner) for partner in range(len(world.parts))]

    def site(context: Context) -> Site:
        return sites[int(context.node_config["partition-id"])]

    def admit(context: Context, errand: Errand) -> Bench:
        if errand.job.hash() != world.job.hash():
            raise BadInput("expected the job that this audit was started with, found another", hint="start it anew")
        return Bench(site(context), trainer, world.options.classes)

    desk = Desk(
        name=lambda context: site(context).name,
        admit=admit,
        party=lambda context: party(world.job, site(context).name),
        recall=recall,
        keep=keep,
    )
    return make_client_app(desk)


def _site(world: World, canaries: Canaries, partner: int) -> Site:
    rows, held = world.parts[partner]
    mine, name = canaries.of(partner), f"partner-{partner}"
    entries = canaries.entries[mine]
    shard = CanaryShard(world.train, rows, partner=partner, watched=entries, planted=entries[canaries.coins[mine]])
    ledger = Ledger(MEMORY, partner=name, key=Secret(bytes(KEY)), dataset=DataSet("0" * 64), durable=False)
    return Site(name=name, train=shard, holdout=Shard(world.train, held), ledger=ledger, randomness=world.randomness)
