"""A real run in which partners give their evaluations a price: everything that is told of it adds up."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from folders import change

from tacit.privacy.accounting import epsilon
from tacit.privacy.events import Event
from tacit_client.audit import Audit
from tacit_client.site import Folder
from tacit_sim import known
from tacit_sim.rehearsal import Rehearsal

pytestmark = [pytest.mark.e2e, pytest.mark.slow, pytest.mark.timeout(600)]

NAMES, N, PRICE = ("hospital-a", "hospital-b", "hospital-c"), 400, 4.0
JOB = """\
name = "priced"
[task]
kind = "image-classification"
model = "cnn"
labels = ["0", "1", "2", "3", "4", "5", "6", "7", "8", "9"]
options = { classes = 10, shape = [8, 8] }
[training]
rounds = 3
local_steps = 1
batch_size = 64
learning_rate = 1.0
[privacy]
mechanism = "dp-sgd"
epsilon = 2.0
delta = 1e-5
max_grad_norm = 0.1
[evaluation]
every = 2
partner_holdout = 0.3
"""


@pytest.fixture(scope="module")
def federation(tmp_path_factory) -> Iterator[Rehearsal]:
    """After one run; the first partner protects rows and the second persons, and the third counts exactly."""
    place = tmp_path_factory.mktemp("federation")
    train, _ = known.load("digits", data=None)
    with Rehearsal(place) as made:
        made.init()
        made.up()
        for i, name in enumerate(NAMES):
            rows = np.arange(i * N, (i + 1) * N)
            owners = np.array([f"patient {row // 2}" for row in rows])
            np.savez(place / f"{name}.npz", x=train.inputs[rows], y=train.labels[rows], patient=owners)
            made.join(name, data=place / f"{name}.npz")
        for name in NAMES[:2]:
            change(place / name, "# metrics_epsilon = 1.0", f"metrics_epsilon = {PRICE}")
        change(place / NAMES[1], '# unit = "patient_id"', 'unit = "patient"')
        for name in NAMES:
            change(place / name, '# input = "image"', 'input = "x"')
            change(place / name, '# label = "diagnosis"', 'label = "y"')
            made.attend(name, wait=False)
        (place / "job.toml").write_text(JOB, encoding="utf-8")
        made.run("tacit-server", "run", str(made.server), str(place / "job.toml"), "--wait")
        yield made


def _result(federation: Rehearsal, name: str = "result.json") -> dict[str, Any]:
    found: dict[str, Any] = json.loads((federation.server / "runs" / "priced" / name).read_text())
    return found


def test_the_result_tells_the_price_and_the_scores_with_their_error_bars(federation) -> None:
    found = _result(federation)
    privacy, scores = found["privacy"], found["metrics"]["federated"]
    assert set(privacy["metrics_epsilon_by_partner"]) == set(NAMES[:2])
    for name, unit in zip(NAMES, ("example", "patient", "example"), strict=True):
        events = [Event.model_validate(event) for event in privacy["events_by_partner"][name]]
        judged = [event for event in events if event.kind == "metrics"]
        assert {event.unit for event in events} == {unit}
        assert sum(event.steps for event in judged) == (0 if name == NAMES[2] else 2)
        assert privacy["epsilon_by_partner"][name] == pytest.approx(epsilon(events, delta=1e-5))
        assert epsilon(events, delta=1e-5) > 1.9
        if judged:
            assert 0.95 * PRICE < epsilon(judged, delta=1e-5) <= PRICE
    assert scores["accuracy_std"] > 0
    assert abs(scores["examples"] - 300) < 9 * scores["count_std"]  # 120, 60 of whose 120 are judged, and 120
    report = (federation.server / "runs" / "priced" / "report.html").read_text()
    assert " ± " in report
    assert "2 partners put noise on theirs" in report


def test_partners_charged_it_before_they_told_it(federation) -> None:
    for name in NAMES[:2]:
        entries = Audit.of(Folder.open(federation.folder / name)).entries()
        (granted,) = [entry.facts for entry in entries if entry.event == "job-granted"]
        assert (granted["rounds"], granted["evaluations"]) == (3, 2)
        assert sum(entry.event == "sums-released" for entry in entries) == 2
        said = json.loads(federation.run("tacit-client", "budget", str(federation.folder / name), "--json"))
        spent = _result(federation)["privacy"]["epsilon_by_partner"][name]
        assert said["spent"] == pytest.approx(spent)
        assert [run["releases"] for run in said["runs"]] == [5]


def test_statements_hold_and_say_what_is_not_covered(federation) -> None:
    exactly = "counts over held-out examples, which the evaluation tells exactly"
    for name in NAMES:
        (path,) = (federation.folder / name / "statements").glob("*.json")
        stated = json.loads(path.read_text())
        assert (exactly in stated["privacy"]["not_covered"]) == (name == NAMES[2])
        kinds = [release["event"]["kind"] for release in stated["releases"]]
        assert sorted(kinds) == ["dp-sgd"] * 3 + ["metrics"] * (0 if name == NAMES[2] else 2)
        assert {release["state"] for release in stated["releases"]} == {"released"}
        assert "FAILS" not in _verified(federation, path)
    whole = federation.server / "runs" / "priced" / "statement.json"
    assert exactly in json.loads(whole.read_text())["privacy"]["not_covered"]
    assert "FAILS" not in _verified(federation, whole)


def _verified(federation: Rehearsal, path: Path) -> str:
    said = federation.run("tacit-server", "verify-statement", str(path))
    assert said.count("holds") >= 3
    return said
