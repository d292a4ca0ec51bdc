"""A partner whose site.toml names a column of persons, among two that protect rows, through real offices and files."""

from __future__ import annotations

import csv
import json
from pathlib import Path

import numpy as np
import torch
from folders import change
from offices import NAMES, Federation

from tacit.privacy.events import Event
from tacit.wire import STATEMENT, Statement
from tacit_client.cli import main

torch.set_num_threads(1)

PATIENTS, BIG, SMALL = 40, 500, 5


def _write(path: Path) -> None:
    """Patients with five notes each, and one with 500."""
    owners = [0] * BIG + [i for i in range(1, PATIENTS) for _ in range(SMALL)]
    np.random.default_rng(3).shuffle(owners)
    with path.open("w", newline="", encoding="utf-8") as file:
        out = csv.writer(file)
        out.writerow(("text", "label", "patient_id", "address"))
        out.writerows((f"note {i}", ("ham", "spam")[i % 2], f"person-{p}", f"street {p}") for i, p in enumerate(owners))


def _set_up(federation: Federation) -> None:
    folder = federation.folders["p0"]
    _write(folder.data)
    change(folder.path, '# unit = "patient_id"', 'unit = "patient_id"')
    change(folder.path, "# max_per_unit = 1", "max_per_unit = 3")
    change(folder.path, '# drop = ["name", "address"]', 'drop = ["address"]')
    change(folder.path, '# pseudonymise = ["patient_id"]', 'pseudonymise = ["patient_id"]')
    change(folder.path, '# input = "image"', 'input = "text"')
    federation.start()


def _events(federation: Federation, name: str) -> tuple[Event, ...]:
    said = federation.send(STATEMENT, federation.ask(federation.open()).pack(), to=name)
    return Statement.unpack(said).events


def test_the_accounting_of_a_partner_with_a_unit_is_over_persons(make, capsys) -> None:
    federation = make(started=False)
    _set_up(federation)
    federation.whole(federation.open())
    events = {name: _events(federation, name) for name in NAMES}
    assert [[event.unit for event in found] for found in events.values()] == [["patient_id"], ["example"], ["example"]]
    (event,) = events["p0"]
    assert event.sampling_rate == 16 / 30  # three quarters of 40 persons train, not of 695 rows
    assert federation.offices["p0"]._budget.events() == (event,)
    federation.stop()
    for name, unit in (("p0", "patient_id"), ("p1", "example")):
        capsys.readouterr()
        assert main(["budget", str(federation.folders[name].path), "--json"]) == 0
        assert json.loads(capsys.readouterr().out)["unit"] == unit
