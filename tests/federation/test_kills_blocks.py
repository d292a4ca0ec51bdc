"""Partners that are killed anywhere in a block of steps: every step that left is in the ledger."""

from __future__ import annotations

import random
from collections.abc import Iterator

import pytest
import torch
from company import BlockCompany
from folders import make_folders
from offices import JOB, N, files
from siege import BlockSiege
from victim import forget, prepare

from tacit.privacy.mechanism import plan

pytestmark = [pytest.mark.e2e, pytest.mark.timeout(1800)]

torch.set_num_threads(1)

ROUNDS, STEPS = 200, 4
DISTRIBUTED = (
    f"training.rounds={ROUNDS}",
    f"training.local_steps={STEPS}",
    f"training.population={3 * N}",
    'privacy.mechanism="distributed-dp-sgd"',
    "privacy.noise_multiplier=20.0",
    "privacy.max_grad_norm=0.1",
    "aggregation.max_colluders=1",
    "aggregation.min_cohort=3",
    "aggregation.threshold=3",
    "evaluation.partner_holdout=0.0",
)


@pytest.fixture(scope="module", autouse=True)
def _forked() -> Iterator[None]:
    prepare()
    yield
    forget()


@pytest.fixture
def company(make_job, tmp_path) -> Iterator[tuple[BlockSiege, BlockCompany]]:
    job, rules = make_job(*JOB, *DISTRIBUTED), {"epsilon_limit": 1000.0, "max_rounds_per_day": 1_000_000}
    made = BlockCompany(job, make_folders(tmp_path, files(tmp_path), **rules), run="besieged", most=ROUNDS)
    made.start()
    siege = BlockSiege(made.folders["p0"], plan(job, units=N).event(), random.Random(5), answers=STEPS)
    made.measure(siege)
    yield siege, made
    made.stop()


def test_kills_in_blocks(company):
    siege, federation = company
    federation.besiege(siege, kills=5)
    assert sum(siege.fell.values()) == 6


@pytest.mark.slow
def test_fifty_kills_in_blocks(company):
    """Guarantee: the ledger's epsilon is never under that of the steps that left, wherever in a block a kill falls."""
    siege, federation = company
    federation.besiege(siege, kills=50)
    assert siege.fell["within a block"] >= 5
    assert siege.dearer
