"""A run of three real partners ends with four signed statements that anybody can check, and no edited one passes."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from tacit_client.audit import Audit
from tacit_client.cli import main as client
from tacit_client.site import Folder
from tacit_server.cli import main as server
from tacit_sim import known
from tacit_sim.rehearsal import Rehearsal

pytestmark = [pytest.mark.e2e, pytest.mark.timeout(600)]

NAMES = ("hospital-a", "hospital-b", "hospital-c")
N = 400  # examples of each
JOB = """\
name = "stated"
[task]
kind = "image-classification"
model = "cnn"
labels = ["0", "1", "2", "3", "4", "5", "6", "7", "8", "9"]
options = { classes = 10, shape = [8, 8] }
[training]
rounds = 2
local_steps = 1
batch_size = 128
learning_rate = 1.0
[privacy]
mechanism = "dp-sgd"
epsilon = 2.0
delta = 1e-5
max_grad_norm = 0.1
[aggregation]
secure = true
[evaluation]
every = 100
partner_holdout = 0.0
"""

Value = dict[str, Any]


@pytest.fixture(scope="module")
def federation(tmp_path_factory) -> Iterator[Rehearsal]:
    """After one run."""
    place = tmp_path_factory.mktemp("federation")
    train, _ = known.load("digits", data=None)
    with Rehearsal(place) as made:
        made.init()
        made.up()
        for i, name in enumerate(NAMES):
            rows = np.arange(i * N, (i + 1) * N)
            np.savez(place / f"{name}.npz", x=train.inputs[rows], y=train.labels[rows])
            made.join(name, data=place / f"{name}.npz")
            made.attend(name, wait=False)
        (place / "job.toml").write_text(JOB, encoding="utf-8")
        made.run("tacit-server", "run", str(made.server), str(place / "job.toml"), "--wait")
        for name in NAMES:  # who came first has not heard of who came last
            made.run("tacit-client", "peers", str(place / name), "--refresh")
        yield made


@pytest.fixture(scope="module")
def whole(federation) -> Path:
    """The server's statement."""
    return federation.server / "runs" / "stated" / "statement.json"


def _own(federation: Rehearsal, name: str) -> Path:
    (path,) = (federation.folder / name / "statements").glob("*.json")
    return path


def test_the_run_leaves_a_statement_of_everybody(federation, whole):
    value = json.loads(whole.read_bytes())
    assert [(party["name"], party["state"]) for party in value["parties"]] == [(name, "stated") for name in NAMES]
    assert 1.9 < value["privacy"]["epsilon"] <= 2.0
    assert "What was done" in whole.with_suffix(".html").read_text(encoding="utf-8")
    for party in value["parties"]:
        path = _own(federation, party["name"])
        assert json.loads(path.read_bytes()) == party["statement"]
        assert [release["state"] for release in party["statement"]["releases"]] == ["released"] * 2
        assert "Over all runs" in path.with_suffix(".html").read_text(encoding="utf-8")
        entries = Audit.of(Folder.open(federation.folder / party["name"])).entries()
        assert [entry.event for entry in entries].count("statement-made") == 1


def test_both_commands_verify_every_statement(federation, whole):
    for path, lines in ((whole, 13), *((_own(federation, name), 6) for name in NAMES[:1])):
        for words in (["tacit-server", str(federation.server)], ["tacit-client", str(federation.folder / NAMES[1])]):
            said = federation.run(words[0], "verify-statement", str(path), "--dir", words[1])
            assert [line.split()[0] for line in said.splitlines()] == ["holds"] * lines
        assert "not compared" in federation.run("tacit-client", "verify-statement", str(path))


def _lower(value: Value) -> None:
    value["privacy"]["epsilon"] = 0.5


def _swap(value: Value) -> None:
    first, second, *_ = value["parties"]
    first["statement"], second["statement"] = second["statement"], first["statement"]


def _shorter(value: Value) -> None:
    del value["parties"][2]["statement"]["releases"][0]


def _signature(value: Value) -> None:
    value["signature"] = value["parties"][0]["statement"]["signature"]


@pytest.mark.parametrize(
    ("edit", "named"),
    [
        (_lower, ["signature", "epsilon"]),
        (_swap, ["signature", "hospital-a", "hospital-b"]),
        (_shorter, ["signature", "hospital-c"]),
        (_signature, ["signature"]),
    ],
)
def test_an_edited_copy_fails_on_both_sides(whole, tmp_path, capsys, edit, named):
    value = json.loads(whole.read_bytes())
    edit(value)
    copy = tmp_path / "statement.json"
    copy.write_text(json.dumps(value), encoding="utf-8")
    sides: list[tuple[Callable[[list[str]], int], Path]] = [
        (server, whole.parents[2]),
        (client, whole.parents[3] / NAMES[0]),
    ]
    for main, folder in sides:
        assert main(["verify-statement", str(copy), "--dir", str(folder)]) == 1
        failed = [line for line in capsys.readouterr().out.splitlines() if line.startswith("FAILS")]
        assert [line.split()[1].rstrip(":") for line in failed] == named


def test_a_model_that_was_exchanged_is_noticed(whole, tmp_path, capsys):
    copy = tmp_path / "statement.json"
    copy.write_bytes(whole.read_bytes())
    (tmp_path / "model.safetensors").write_bytes((whole.parent / "model.safetensors").read_bytes() + b"\0")
    assert server(["verify-statement", str(copy)]) == 1
    assert "FAILS  model" in capsys.readouterr().out


def test_a_partner_states_again_when_the_server_is_gone(federation, capsys):
    """The last test of this module: it ends the processes."""
    federation.end()
    folder = federation.folder / NAMES[2]
    path = _own(federation, NAMES[2])
    before = json.loads(path.read_bytes())
    path.unlink()
    run = path.stem
    assert client(["statement", str(folder)]) == 0
    assert run in capsys.readouterr().out
    assert client(["statement", str(folder), run]) == 0
    after = json.loads(path.read_bytes())
    changed = {key for key in before if before[key] != after[key]}
    assert changed <= {"made", "signature", "code"}  # the last where somebody edits the code meanwhile
    assert client(["verify-statement", str(path), "--dir", str(folder)]) == 0
