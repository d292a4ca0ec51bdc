"""Rows and whole partners in one budget: their epsilons have no sum, and the partner says so."""

from __future__ import annotations

import pytest

from tacit.errors import BadInput
from tacit.job import Job
from tacit.privacy.events import PARTNER, Event
from tacit.secagg.keys import Secret
from tacit_client.config import PolicySection
from tacit_client.decision import Denial, Grant, Request
from tacit_client.ledger import DataSet, Ledger, Release
from tacit_client.policy import check_budget, decide

ROWS = Event(kind="dp-sgd", sampling_rate=0.01, noise_multiplier=2.0, steps=10)
WHOLE = Event(kind="client", sampling_rate=1.0, noise_multiplier=20.0, steps=1, unit=PARTNER)
METRICS = Event(kind="metrics", sampling_rate=1.0, noise_multiplier=90.0, steps=2)
OPEN = Event(kind="none", sampling_rate=0.5, noise_multiplier=0.0, steps=9)
WORDS = "a job that protects the unit partner: epsilons of different units have no sum"


@pytest.fixture
def job(make_job) -> Job:
    return make_job(
        "privacy={mechanism='client', noise_multiplier=20.0, delta=1e-5, max_update_norm=1.0}",
        "aggregation.secure=true",
    )


def _decided(job: Job, *spent: Event, metrics: Event | None = None, **rules: bool) -> Grant | Denial:
    return decide(Request(job, WHOLE, 3, metrics), PolicySection(**rules), spent=spent, today=0, peers=5)


def test_what_was_spent_on_rows_refuses_a_job_of_whole_partners(job):
    found = _decided(job, ROWS)
    assert isinstance(found, Denial)
    assert (found.rule, WORDS in found.message, "example so far" in found.message) == ("epsilon_limit", True, True)
    with pytest.raises(BadInput, match=WORDS):
        check_budget(PolicySection(), spent=[ROWS], planned=WHOLE, rounds=3)


def test_a_price_of_evaluations_beside_whole_partners_is_refused(job):
    found = _decided(job, metrics=METRICS)
    assert isinstance(found, Denial)
    assert "the unit example and partner" in found.message
    assert "give evaluations no price" in found.hint


def test_one_unit_is_granted_and_what_promised_nothing_has_none(job):
    assert isinstance(_decided(job), Grant)
    assert isinstance(_decided(job, WHOLE), Grant)
    assert isinstance(_decided(job, OPEN, allow_unprotected=True), Grant)
    assert isinstance(_decided(job, OPEN), Denial)


def test_a_ledger_takes_its_own_unit_and_the_whole_partner(tmp_path):
    ledger = Ledger(tmp_path / "l", partner="p", key=Secret(bytes(32)), dataset=DataSet("0" * 64, "patient"))
    person = ROWS.model_copy(update={"unit": "patient"})
    for number, event in enumerate((person, WHOLE), start=1):
        ledger.reserve(Release("r", number, 1, event))
    with pytest.raises(BadInput, match="about the unit patient of the data set, found example"):
        ledger.reserve(Release("r", 3, 1, ROWS))
    assert ledger.totals(run="r") == (person, WHOLE)
