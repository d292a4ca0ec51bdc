"""What must fit together in one statement: the releases with the job, and who it is of."""

from __future__ import annotations

import pytest
from stated import SERVER, key, partner, resigned, server

from tacit.consistency import check_stated
from tacit.errors import BadInput
from tacit.privacy.mechanism import plan
from tacit.secagg.keys import identity_of
from tacit.statement import privacy_of, run_of
from tacit.verification import verify


def test_what_the_server_checks_before_it_passes_a_statement_on(make_job):
    job, own = make_job(), partner(make_job(), "a", noise=1.2)
    identity = identity_of(key("a"))
    run, names = run_of(job, run=own["run"]["id"]), {"identity": identity, "server": identity_of(SERVER)}
    assert check_stated(own, name="a", run=run, **names).name == "a"
    with pytest.raises(BadInput, match="the name in its statement"):
        check_stated(own, name="b", run=run, **names)
    with pytest.raises(BadInput, match="the run in its statement"):
        check_stated(own, name="a", run=run_of(job, run="f" * 32), **names)
    with pytest.raises(BadInput, match="found a server's"):
        check_stated(server(job, own), name="a", run=run, **names)


SHARED = ("training.population=128", "aggregation.secure=true", "aggregation.max_colluders=0")


@pytest.mark.parametrize(
    ("mechanism", "change", "words"),
    [
        ("distributed-dp-sgd", {}, None),
        ("distributed-dp-sgd", {"sampling_rate": 0.01}, "expected the sampling rate of round 1 to be 0.25, found 0.01"),
        ("distributed-dp-sgd", {"colluders": None}, "expected the colluders of round 1 to be 0, found None"),
        ("distributed-dp-sgd", {"colluders": 1}, "expected the colluders of round 1 to be 0, found 1"),
        ("distributed-dp-sgd", {"unit": "partner"}, "expected the unit that distributed-dp-sgd protects in round 1"),
        ("dp-sgd", {"sampling_rate": 0.01}, None),  # over its own data: its word
        ("dp-sgd", {"colluders": 1}, "expected the colluders of round 1 to be None, found 1"),
        ("dp-sgd", {"unit": "partner"}, "expected the unit that dp-sgd protects in round 1, found partner"),
        ("client", {}, None),
        ("client", {"sampling_rate": 0.5}, "expected the sampling rate of round 1 to be 1.0, found 0.5"),
        ("client", {"unit": "example"}, "expected the unit that client protects in round 1, found example"),
    ],
)
def test_a_release_that_the_job_does_not_allow_is_named(make_job, mechanism, change, words):
    """Guarantee: what the job sets for everybody, nobody states otherwise."""
    overrides = [f"privacy.mechanism='{mechanism}'"]
    if mechanism == "client":
        overrides = ["privacy={mechanism='client', noise_multiplier=5.0, delta=1e-4, max_update_norm=1.0}"]
    job = make_job(*overrides, *(SHARED if mechanism == "distributed-dp-sgd" else ("aggregation.secure=true",)))
    event = plan(job, units=1000).event().model_copy(update=change)
    value = partner(job, "a")
    for release in value["releases"]:
        release["event"] = event.to_json()
    events = [[event] * len(value["releases"])]
    value["privacy"] = privacy_of(job, events, secure_noise=True).model_dump(mode="json")
    again = resigned(value, by=key("a"))
    failed = {found.about: found.said for found in verify(again, where="it") if found.holds is False}
    assert failed.keys() == ({"releases"} if words else set())
    assert failed.get("releases", "").startswith(words or "")
