"""Statements in which evaluations have a price: what they cover, and what of them is looked at."""

from __future__ import annotations

from typing import Any

import stated

from tacit.page import page
from tacit.privacy.events import Event
from tacit.statement import privacy_of
from tacit.verification import verify

JUDGED = Event(kind="metrics", sampling_rate=1.0, noise_multiplier=9.0, steps=1)
EXACTLY = "counts over held-out examples, which the evaluation tells exactly"


def _priced(job: Any, **changes: Any) -> dict[str, Any]:
    """A statement of a partner that put noise on an evaluation's counts in each round."""
    value = stated.partner(job, "a")
    event = JUDGED.model_copy(update=changes)
    value["releases"] += [{**release, "event": event.to_json()} for release in value["releases"]]
    events = [Event.from_json(release["event"]) for release in value["releases"]]
    value["privacy"] = privacy_of(job, [events], secure_noise=True).model_dump(mode="json")
    return stated.resigned(value, by=stated.key("a"))


def _failing(value: dict[str, Any]) -> set[str]:
    return {finding.about for finding in verify(value, where="it") if finding.holds is False}


def test_releases_of_counts_are_among_those_of_training(make_job) -> None:
    job = make_job()
    value = _priced(job)
    assert not _failing(value)
    assert EXACTLY not in value["privacy"]["not_covered"]
    assert value["privacy"]["epsilon"] > stated.partner(job, "a")["privacy"]["epsilon"]
    assert not _failing(stated.server(job, value))
    assert "2 evaluations, noise 9" in page(stated.server(job, value)).decode()


def test_several_evaluations_in_one_entry_are_none_that_the_job_asks_for(make_job) -> None:
    assert _failing(_priced(make_job(), steps=2)) == {"releases"}


def test_exact_counts_are_said_where_one_partner_has_no_price(make_job) -> None:
    job = make_job()
    training = Event(kind="dp-sgd", sampling_rate=0.25, noise_multiplier=1.0, steps=2)
    for parties, exact in (
        ([[training, JUDGED]], False),
        ([[training, JUDGED], [training]], True),
        ([[training]], True),
        ([], True),
    ):
        assert (EXACTLY in privacy_of(job, parties, secure_noise=True).not_covered) == exact
    none_held_out = make_job("evaluation.partner_holdout=0.0")
    assert EXACTLY not in privacy_of(none_held_out, [[training]], secure_noise=True).not_covered
