"""result.json: the contract's keys, and an epsilon that counts every event."""

from __future__ import annotations

import json

import numpy as np
import pytest

from tacit.privacy.accounting import epsilon
from tacit.privacy.events import Event
from tacit_server.checkpoint import Best, RunState
from tacit_server.result import result

EVENT = Event(kind="dp-sgd", sampling_rate=0.25, noise_multiplier=1.0, steps=2)
MORE = Event(kind="dp-sgd", sampling_rate=0.25, noise_multiplier=1.0, steps=20)
PLAIN = Event(kind="none", sampling_rate=0.25, noise_multiplier=0.0, steps=2)


def _line(number: int, *, status: str = "done", accuracy: float | None = 0.5, dropouts: tuple[str, ...] = ()) -> dict:
    score = None if accuracy is None else {"accuracy": accuracy, "loss": 1.0}
    seconds = {"train": 2.0, "secagg": 0.25, "aggregate": 1.0, "evaluate": 0.5}
    return {
        "round": number,
        "status": status,
        "needed": 3,
        "clipped": number,
        "dropouts": list(dropouts),
        "test": score,
        "federated": None,
        "seconds": seconds,
    }


def _result(job, *, events=None, history=(), best=None, secure_noise=False) -> dict:
    vector = np.zeros(3, np.float32)
    state = RunState(
        run="r", job_hash=job.hash(), vector=vector, history=tuple(history), events=events or {}, best=best
    )
    found = result(
        job,
        state,
        engine="inline",
        seed=7,
        parameters=3,
        secure_noise=secure_noise,
        data={"dataset": "digits"},
        wall_s=9.0,
    )
    assert json.loads(json.dumps(found, allow_nan=False)) == found
    return found


def test_the_contracts_keys_are_there(make_job):
    job = make_job()
    history = [_line(1, accuracy=0.4), _line(2, status="abandoned", dropouts=("a", "b")), _line(3, accuracy=None)]
    found = _result(job, history=history, events={"a": (EVENT,)}, best=Best(round=1, accuracy=0.4))
    assert {k: found[k] for k in ("schema", "name", "engine", "seed", "job_hash")} == {
        "schema": 1,
        "name": "small",
        "engine": "inline",
        "seed": 7,
        "job_hash": job.hash(),
    }
    assert (found["rounds_completed"], found["rounds_failed"]) == (2, 1)
    assert found["model"] == {"kind": "cnn", "parameters": 3}
    assert found["metrics"]["test"] == {"accuracy": 0.5, "loss": 1.0}  # of the last round that has one
    assert found["metrics"]["federated"] is None
    assert found["metrics"]["best"] == {"round": 1, "accuracy": 0.4}
    assert found["aggregation"] == {"secure": False, "dropouts": 2, "threshold": 3, "clipped": 6}
    assert found["timing"] == {"wall_s": 9.0, "train_s": 6.0, "secagg_s": 0.75, "evaluate_s": 1.5}
    privacy = {k: found["privacy"][k] for k in ("mechanism", "unit", "adjacency", "delta", "accountant")}
    assert privacy == {
        "mechanism": "dp-sgd",
        "unit": "example",
        "adjacency": "add-remove",
        "delta": 1e-4,
        "accountant": "pld",
    }
    assert found["privacy"]["holds_against"] == ["server", "other partners", "outsiders"]


def test_epsilon_is_the_worst_partners_over_all_its_events(make_job):
    """Guarantee: composed over every event; the twin counts the same steps in one event."""
    found = _result(make_job(), events={"a": (EVENT,), "b": (EVENT, MORE, EVENT), "c": ()})["privacy"]
    alone = epsilon((EVENT.model_copy(update={"steps": 24}),), delta=1e-4)
    assert found["epsilon"] == found["epsilon_by_partner"]["b"] == pytest.approx(alone, rel=1e-9)
    assert found["epsilon_by_partner"]["a"] == epsilon((EVENT,), delta=1e-4) < alone
    assert found["epsilon_by_partner"]["c"] == 0.0
    steps = {name: [event["steps"] for event in events] for name, events in found["events_by_partner"].items()}
    assert steps == {"a": [2], "b": [2, 20, 2], "c": []}


def test_one_unprotected_release_takes_the_number_away(make_job):
    found = _result(make_job(), events={"a": (EVENT,), "b": (EVENT, PLAIN)})["privacy"]
    assert found["epsilon"] is None
    assert found["epsilon_by_partner"]["b"] is None
    assert found["epsilon_by_partner"]["a"] > 0


def test_without_a_mechanism_no_number_is_claimed(make_job):
    found = _result(make_job("privacy={mechanism='none'}"), events={"a": (PLAIN,)})["privacy"]
    assert found["mechanism"] == "none"
    assert found["unit_by_partner"] == {}
    nulls = ("unit", "adjacency", "delta", "epsilon_target", "epsilon", "accountant")
    assert [found[key] for key in nulls] == [None] * 6
    assert (found["epsilon_by_partner"], found["holds_against"]) == ({}, [])


def test_the_unit_is_that_of_the_events(make_job):
    patient, other = (EVENT.model_copy(update={"unit": unit}) for unit in ("patient_id", "pid"))
    for events, common, each in (
        ({"a": (EVENT,), "b": (MORE, EVENT)}, "example", {"a": "example", "b": "example"}),
        ({"a": (patient, patient), "b": (patient,), "c": ()}, "patient_id", {"a": "patient_id", "b": "patient_id"}),
        ({"a": (patient,), "b": (other,)}, "mixed", {"a": "patient_id", "b": "pid"}),
        ({"a": (patient, EVENT), "b": (EVENT,)}, "mixed", {"a": "mixed", "b": "example"}),
        ({}, "example", {}),
    ):
        found = _result(make_job(), events=events)["privacy"]
        assert (found["unit"], found["unit_by_partner"]) == (common, each)
        assert [e["unit"] for e in found["events_by_partner"].get("a", [])] == [e.unit for e in events.get("a", ())]
        whole = each.get("a") != "mixed"
        assert (found["epsilon_by_partner"].get("a", 0.0) is not None) == whole
        assert (found["epsilon"] is not None) == whole  # no number where no promise holds for all that was released


@pytest.mark.parametrize("secure", [True, False])
def test_the_noises_origin_is_told(make_job, secure):
    assert _result(make_job(), secure_noise=secure)["privacy"]["secure_noise"] is secure
