"""From the operator's job file to a job that partners can be asked to run: everything that can be checked at once."""

from __future__ import annotations

import os
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import nn

from tacit import vector as vectors
from tacit.check import parse
from tacit.data.examples import Examples
from tacit.data.files import read
from tacit.errors import BadInput
from tacit.evaluate import evaluate
from tacit.job import Job, SimulationSection
from tacit.metrics import Counters
from tacit.models.check import check_independent, check_private
from tacit.privacy.shares import check_step
from tacit.quantize import Ring
from tacit.tasks.table import Found, find, parse_options
from tacit.tasks.task import Encoded, Options, Task
from tacit_server.runs import TestSet

__all__ = ["Plan", "pick_device", "plan", "resolve"]

_FEW = 4  # examples on which the network is asked whether it mixes them


@dataclass(frozen=True, repr=False)
class Plan:
    """A resolved job and what it names.

    Attributes:
        job: the resolved job.
        task: of the job.
        options: of the model.
        test: the server's test set, encoded, or None.
    """

    job: Job
    task: Task
    options: Options
    test: Encoded | None

    def network(self) -> nn.Module:
        """A network with first weights that nobody can foretell."""
        torch.manual_seed(int.from_bytes(os.urandom(8)) >> 1)
        return self.task.models[self.job.task.model].build(self.options)

    def tester(self, *, device: str) -> Callable[[NDArray[np.float32]], Counters] | None:
        """Scores a model on the test set; None without one. Raises BadInput for a device that is not there."""
        test = self.test
        if test is None:
            return None
        place = pick_device(device)
        network = self.network().to(place)

        def score(vector: NDArray[np.float32]) -> Counters:
            vectors.load(network, vector)
            return evaluate(network, test, task=self.task, classes=self.options.classes, device=place)

        return score


def pick_device(name: str) -> torch.device:
    """The device called `auto | cpu | mps | cuda | cuda:N`; auto takes the first accelerator there is.

    Raises:
        BadInput: a name that is none, or a device that this machine does not have.
    """
    if name == "auto":
        name = "cuda" if torch.cuda.is_available() else "cpu"
    try:
        device = torch.device(name)
    except RuntimeError:
        raise BadInput(f"expected a device auto, cpu, mps or cuda:N, found {name}", hint="use auto") from None
    counts = {"cuda": torch.cuda.device_count(), "mps": int(torch.backends.mps.is_available()), "cpu": 1}
    if (device.index or 0) >= counts.get(device.type, 0):
        raise BadInput(f"expected a device of this machine, found {name}, which is not there", hint="use auto")
    return device


def resolve(job: Job, test: TestSet | None) -> Plan:
    """The plan of `job`, with the options and the classes' names that it leaves out taken from the test set.

    The section `[simulation]` means nothing here and is put back to what it is when left out.

    Raises:
        BadInput: options or names that are missing, a test set that does not fit, a network that can not be trained as
            the job says, sums that could wrap.
    """
    found, examples = find(job.task.kind), _read(test, job)
    inferred = {} if examples is None else found.task.infer(examples)
    labels = job.task.labels or (() if examples is None else examples.classes)
    if not labels:
        raise BadInput(
            "expected the classes' names as task.labels, found none",
            hint='add labels = ["...", "..."] under [task], or give --test and they are taken from there',
        )
    known = _fields(found, job)
    raw = {key: value for key, value in {"classes": len(labels), **inferred}.items() if key in known}
    raw |= job.task.options
    if absent := sorted(_required(found, job) - set(raw)):
        raise BadInput(
            f"expected {', '.join(f'task.options.{key}' for key in absent)}, found nothing",
            hint="add them under [task.options], or give --test and they are taken from there",
        )
    task = job.task.model_copy(update={"options": raw, "labels": labels, "package": found.package})
    whole = job.model_copy(update={"task": task, "simulation": SimulationSection()})
    resolved = parse(Job, whole.model_dump(mode="json"), where="the job")
    made = _plan(resolved, found, examples)
    _check(made)
    return made


def plan(job: Job, test: TestSet | None) -> Plan:
    """The plan of a job that is resolved already.

    Raises:
        BadInput: the task is not the one that the run began with, or the test set can not be read any more.
    """
    found = find(job.task.kind)
    if found.package != job.task.package:
        raise BadInput(
            f"expected the task {job.task.kind} of {job.task.package}, found {found.package}",
            hint="install the version that the run began with",
        )
    return _plan(job, found, _read(test, job))


def _plan(job: Job, found: Found, examples: Examples | None) -> Plan:
    options = parse_options(found.task, job.task.model, job.task.options)
    return Plan(job, found.task, options, None if examples is None else found.task.encode(options, examples))


def _check(made: Plan) -> None:
    job, network = made.job, made.network()
    if job.privacy.mechanism != "none":
        check_private(network)
    if made.test is not None and len(made.test) > 1:
        check_independent(network, made.test.take(torch.arange(min(_FEW, len(made.test)))).inputs)
    if job.evaluation.monitor == "test" and made.test is None:
        raise BadInput(
            'expected a test set with evaluation.monitor = "test", found none',
            hint='give --test, or set evaluation.monitor = "federated"',
        )
    cohort = job.aggregation.cohort or job.aggregation.min_cohort
    Ring(norm=job.aggregation.max_update_norm, partners=cohort)
    check_step(job, cohort=cohort, length=vectors.size(network))


def _read(test: TestSet | None, job: Job) -> Examples | None:
    if test is None:
        return None
    return read(
        Path(test.path),
        format="auto",
        input=test.input,
        label=test.label,
        classes=job.task.labels or None,
        image_size=_side(job.task.options.get("shape")),
    )


def _side(shape: Any) -> int | None:
    """To what size the job asks images to be brought; where they are not square, they must fit as they are."""
    square = isinstance(shape, list | tuple) and len(shape) in (2, 3) and shape[0] == shape[1]
    return shape[0] if square and isinstance(shape[0], int) else None


def _fields(found: Found, job: Job) -> set[str]:
    model = found.task.models.get(job.task.model)
    return set(model.options.model_fields) if model else set()


def _required(found: Found, job: Job) -> set[str]:
    model = found.task.models.get(job.task.model)
    return {key for key, field in model.options.model_fields.items() if field.is_required()} if model else set()
