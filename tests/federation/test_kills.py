"""Partners that are killed anywhere between reservation, training and confirmation: nothing that left is uncounted."""

from __future__ import annotations

import random
import time
from collections.abc import Callable, Iterator

import intruder
import pytest
import torch
from company import Company
from folders import SIGNING, make_folders
from offices import JOB as SECURE_JOB
from offices import N, files
from siege import Siege
from victim import Victim, forget, prepare

from tacit import commission, vector
from tacit.job import Job
from tacit.privacy.mechanism import plan
from tacit.tasks.table import find, parse_options
from tacit.wire import TRAIN, Ask, Parcel, Refusal, Update
from tacit_client.office import Office
from tacit_client.site import Folder

pytestmark = [pytest.mark.e2e, pytest.mark.timeout(1800)]

torch.set_num_threads(1)

RUN, ROUNDS = "besieged", 200
LIMITS = {"epsilon_limit": 1000.0, "max_rounds_per_day": 1_000_000}
CLEAR_JOB = (
    "task.options.classes=3",
    "task.options.shape=[8,8]",
    "task.labels=['0','1','2']",
    f"training.rounds={ROUNDS}",
    "training.local_steps=8",
    "training.batch_size=32",
    "privacy.noise_multiplier=20.0",
    "privacy.delta=1e-5",
    "evaluation.partner_holdout=0.0",
)


@pytest.fixture(scope="module", autouse=True)
def _forked() -> Iterator[None]:
    prepare()
    yield
    forget()


# in clear: one partner alone


def _vector(job: Job):
    task = find(job.task.kind).task
    options = parse_options(task, job.task.model, job.task.options)
    return vector.flatten(task.models[job.task.model].build(options))


def _asks(job: Job, attempt: int) -> Iterator[Parcel]:
    signed, model = commission.sign(SIGNING, run=RUN, job=job), _vector(job)
    for number in range(1, ROUNDS + 1):
        yield Ask(job, RUN, number, attempt, 1, model, commission=signed).pack()


def _train(victim: Victim, asks: Iterator[Parcel], after: Callable[[], None]) -> list[float]:
    """Rounds one after another until the victim's end. Returns the seconds of each that was answered."""
    seconds: list[float] = []
    for parcel in asks:
        began = time.monotonic()
        reply = victim.ask(TRAIN, parcel)
        if reply is None:
            return seconds
        assert reply.scalars["kind"] == "update", Refusal.unpack(reply).reason
        Update.unpack(reply)
        seconds.append(time.monotonic() - began)
        if len(seconds) == 1:
            after()
    raise AssertionError("the rounds came to an end before the victim did")


@pytest.fixture
def besieged(make_job, tmp_path) -> tuple[Siege, Job]:
    data = {"p0": intruder.write_data(tmp_path / "p0.npz", seed=1)}
    rules = {"require_secure_aggregation": "false", "min_cohort": 1, **LIMITS}
    folder, job = make_folders(tmp_path, data, **rules)["p0"], make_job(*CLEAR_JOB)
    siege = Siege(folder, plan(job, units=60).event(), random.Random(3))
    began = time.monotonic()
    with Victim(folder.path) as victim:
        assert victim.wait()
        siege.opening = time.monotonic() - began
        timed = _train(victim, _asks(job, 1), lambda: victim.kill_in(0.5))
    siege.first, siege.later = timed[0], min(timed[1:])
    siege.count(victim)
    return siege, job


def _besiege(siege: Siege, job: Job, *, kills: int) -> None:
    for kill in range(kills):
        with Victim(siege.folder.path) as victim:
            after = siege.aim(victim, kill)
            if victim.opened is not None or victim.wait():
                _train(victim, _asks(job, 2 + kill), after)
        siege.count(victim)
    siege.report(kills + 1)
    with Office(Folder.open(siege.folder.path)) as office:  # whatever was torn is mended
        assert office.mark()


def test_kills_in_clear(besieged):
    siege, job = besieged
    _besiege(siege, job, kills=10)
    assert siege.fell["reserved, not confirmed"] > 0
    assert siege.dearer


@pytest.mark.slow
def test_a_hundred_and_fifty_kills_in_clear(besieged):
    """Guarantee: the ledger's epsilon is never under that of what left, and a kill in the middle costs something."""
    siege, job = besieged
    _besiege(siege, job, kills=150)
    assert siege.fell["reserved, not confirmed"] >= 15
    assert siege.dearer


# through whole secure rounds: one of three


@pytest.fixture
def company(make_job, tmp_path) -> Iterator[tuple[Siege, Company]]:
    job = make_job(*SECURE_JOB, f"training.rounds={ROUNDS}", "privacy.noise_multiplier=20.0")
    made = Company(job, make_folders(tmp_path, files(tmp_path), **LIMITS), run=RUN, most=ROUNDS)
    made.start()
    siege = Siege(made.folders["p0"], plan(job, units=N).event(), random.Random(4))
    made.measure(siege)
    yield siege, made
    made.stop()


def test_kills_in_secure_rounds(company):
    siege, federation = company
    federation.besiege(siege, kills=5)
    assert sum(siege.fell.values()) == 6


@pytest.mark.slow
def test_fifty_kills_in_secure_rounds(company):
    siege, federation = company
    federation.besiege(siege, kills=50)
    assert siege.fell["reserved, not confirmed"] >= 5
    assert siege.dearer
