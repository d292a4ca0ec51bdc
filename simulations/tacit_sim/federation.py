"""Virtual partners: the researcher's data, split, with a partner's real code around each part."""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any

import torch
from flwr.app import Context
from flwr.clientapp import ClientApp
from torch import nn

from tacit import commission
from tacit import vector as vectors
from tacit.data.examples import Examples
from tacit.data.splits import holdout
from tacit.errors import BadInput
from tacit.job import Job
from tacit.models.check import check_independent
from tacit.privacy.mechanism import plan
from tacit.privacy.metrics import Price, price
from tacit.privacy.randomness import Randomness
from tacit.privacy.shares import check_step
from tacit.quantize import Ring
from tacit.secagg.constants import KEY
from tacit.secagg.keys import Secret, identity_of
from tacit.tasks.table import find, parse_options
from tacit.tasks.task import Encoded, Options, Task
from tacit_client.app import Bench, Desk, Errand, make_client_app
from tacit_client.ledger import DataSet, Ledger
from tacit_client.partner import Site
from tacit_client.train import Shard, Trainer, pick_device
from tacit_sim import known, partition
from tacit_sim.faults import vanishing
from tacit_sim.identity import party, server_key
from tacit_sim.standing import keep, recall

__all__ = ["Spec", "World", "build_network", "client_app", "prepare", "world"]

_FEW = 4  # examples on which the network is asked whether it mixes them
_DELTA = 1e-5  # at which evaluations are counted where the job names none; the default of a site.toml


@dataclass(frozen=True)
class Spec:
    """All that a worker process needs to build its virtual partners.

    Attributes:
        job: the job as JSON.
        data: the data folder, or None for the environment's.
        ledger: file that all virtual partners share, one set of rows each.
    """

    job: str
    data: Path | None
    ledger: Path


@dataclass(frozen=True, repr=False)
class World:
    """The simulated world, in memory once a process.

    Attributes:
        job: resolved: the options that follow from the data are filled in.
        train: all partners' examples.
        test: the server's.
        parts: for each partner the rows to train on and the rows held out.
        description: sizes and classes, for the report.
    """

    job: Job
    task: Task
    options: Options
    train: Encoded
    test: Encoded
    parts: tuple[tuple[torch.Tensor, torch.Tensor], ...]
    description: dict[str, Any]

    @property
    def randomness(self) -> Randomness:
        """Seeded: everybody may know it, and the result says so."""
        return Randomness(self.job.simulation.seed)


@lru_cache(maxsize=1)
def world(job: str, data: Path | None) -> World:
    """Load, split and encode the data that `job` (JSON) names. Raises BadInput."""
    return _build(Job.model_validate_json(job), data)


def _build(job: Job, data: Path | None) -> World:
    torch.set_num_threads(job.simulation.threads)
    found = find(job.task.kind)
    train, test = _load(job, data)
    raw = {**found.task.infer(train), **job.task.options}
    raw = {key: value for key, value in raw.items() if key in _fields(found.task, job) or key in job.task.options}
    options = parse_options(found.task, job.task.model, raw)
    job = job.model_copy(update={"task": job.task.model_copy(update={"options": raw, "package": found.package})})
    sim = job.simulation
    parts = partition.split(
        train,
        partners=sim.partners,
        kind=sim.partition,
        alpha=sim.alpha,
        column=sim.column,
        shards=sim.shards,
        seed=sim.seed,
    )
    halves = tuple(_halves(job, i, part) for i, part in enumerate(parts))
    return World(
        job=job,
        task=found.task,
        options=options,
        train=found.task.encode(options, train),
        test=found.task.encode(options, test),
        parts=halves,
        description=_describe(job, train, parts, halves),
    )


def prepare(spec: Spec) -> World:
    """The world of `spec`, with every partner's plan and the network checked before anything begins.

    Raises:
        BadInput: the first partner or layer that can not take part.
    """
    built = world(spec.job, spec.data)
    if built.job.aggregation.min_cohort > len(built.parts):
        raise BadInput(
            f"expected simulation.partners of at least aggregation.min_cohort {built.job.aggregation.min_cohort}, "
            f"found {len(built.parts)}",
            hint="raise simulation.partners, or lower min_cohort and threshold",
        )
    _price(built.job)  # raises where the noise would hide everything
    cohort = min(built.job.aggregation.cohort or len(built.parts), len(built.parts))
    Ring(norm=built.job.aggregation.max_update_norm, partners=cohort)  # raises where their sum could wrap
    for i, (rows, held) in enumerate(built.parts):
        try:
            plan(built.job, units=len(rows) + len(held), chance=built.job.simulation.user_rate or 1.0)
        except BadInput as error:
            raise BadInput(f"{error.message} at {_name(i)}", hint=error.hint) from None
    trainer = _trainer(spec)
    check_step(built.job, cohort=cohort, length=vectors.size(trainer.network))
    few = built.train.take(torch.arange(min(_FEW, len(built.train))))
    check_independent(trainer.network, few.to(trainer.device).inputs)
    return built


def build_network(built: World) -> nn.Module:
    """The network with its first weights, drawn from the seed."""
    seed = int(built.randomness.stream("model").words(1)[0] >> 1)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        return built.task.models[built.job.task.model].build(built.options)


def client_app(spec: Spec) -> ClientApp:
    """The partners as one ClientApp, to be called with the context of any of them."""
    job = Job.model_validate_json(spec.job)
    mods = []
    sim = job.simulation
    if sim.dropout or sim.vanishing:
        mods.append(
            vanishing(
                chance=sim.dropout,
                number=sim.vanishing,
                randomness=Randomness(sim.seed),
                name=_partner,
                secure=job.aggregation.secure,
                blocks=job.privacy.mechanism == "distributed-dp-sgd",
            )
        )
    desk = Desk(
        name=_partner,
        admit=lambda context, errand: _admit(spec, context, errand),
        party=lambda context: party(job, _partner(context)),
        recall=recall,
        keep=keep,
    )
    return make_client_app(desk, mods=mods)


def _admit(spec: Spec, context: Context, errand: Errand) -> Bench:
    built = world(spec.job, spec.data)
    server = identity_of(server_key(built.job))
    commission.check(errand.commission, server=server, run=errand.run, job=errand.job)
    if errand.job.hash() != built.job.hash():
        raise BadInput("expected the job that this simulation was started with, found another", hint="start it anew")
    return Bench(_site(spec, context), _trainer(spec), built.options.classes)


def _site(spec: Spec, context: Context) -> Site:
    built = world(spec.job, spec.data)
    rows, held = built.parts[int(context.node_config["partition-id"])]
    return Site(
        name=_partner(context),
        train=Shard(built.train, rows),
        holdout=Shard(built.train, held),
        ledger=_ledger(spec.ledger).of(_partner(context)),
        randomness=built.randomness,
        chance=built.job.simulation.user_rate or 1.0,
        price=_price(built.job),
    )


def _price(job: Job) -> Price | None:
    """Of an evaluation, as a site.toml with this `metrics_epsilon` and the job's delta has it."""
    if job.simulation.metrics_epsilon is None:
        return None
    if job.privacy.mechanism == "client":
        raise BadInput(
            "expected no simulation.metrics_epsilon with mechanism client, found it: counts protect one example, and "
            "its epsilon has no sum with that of a whole partner",
            hint="remove simulation.metrics_epsilon, or set evaluation.partner_holdout = 0.0",
        )
    return price(job, epsilon=job.simulation.metrics_epsilon, delta=_DELTA)


@lru_cache(maxsize=1)
def _trainer(spec: Spec) -> Trainer:
    built = world(spec.job, spec.data)
    return Trainer(
        build_network(built),
        task=built.task,
        private=built.job.privacy.per_example,
        device=pick_device(built.job.simulation.device),
        max_physical_batch=built.job.performance.max_physical_batch,
    )


@lru_cache(maxsize=1)
def _ledger(path: Path) -> Ledger:
    """Of all virtual partners; the key and the data set are nobody's."""
    return Ledger(path, partner="nobody", key=Secret(bytes(KEY)), dataset=DataSet("0" * 64), durable=False)


def _load(job: Job, data: Path | None) -> tuple[Examples, Examples]:
    sim = job.simulation
    if sim.dataset in known.names():
        return known.load(sim.dataset, data=data)
    path = Path(sim.dataset)
    if not path.exists():
        raise BadInput(
            f"expected simulation.dataset to be a path or one of {', '.join(known.names())}, found {sim.dataset}",
            hint="check the name or the path",
        )
    return known.load_path(
        path,
        format=sim.format,
        input=sim.input,
        label=sim.label,
        columns=(sim.column,) if sim.column else (),
        test=Path(sim.test) if sim.test else None,
        test_share=sim.test_share,
        seed=sim.seed,
        image_size=sim.image_size,
    )


def _fields(task: Task, job: Job) -> set[str]:
    model = task.models.get(job.task.model)
    return set(model.options.model_fields) if model else set()


def _halves(job: Job, index: int, part: Any) -> tuple[torch.Tensor, torch.Tensor]:
    key = Randomness(job.simulation.seed).stream("holdout", _name(index)).words(4).tobytes()
    train, held = holdout(len(part), share=job.evaluation.partner_holdout, key=key)
    rows = torch.from_numpy(part)
    return rows[torch.from_numpy(train)], rows[torch.from_numpy(held)]


def _describe(job: Job, train: Examples, parts: Any, halves: Any) -> dict[str, Any]:
    sizes = partition.sizes(train, parts)
    return {
        "dataset": job.simulation.dataset,
        "partition": job.simulation.partition,
        "classes": list(train.classes),
        "partners": {
            _name(i): {
                "examples": len(halves[i][0]),
                "holdout": len(halves[i][1]),
                "by_class": list(size["classes"].values()),
            }
            for i, size in enumerate(sizes)
        },
    }


def _partner(context: Context) -> str:
    return _name(int(context.node_config["partition-id"]))


def _name(index: int) -> str:
    return f"partner-{index}"
