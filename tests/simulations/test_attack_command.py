"""`tacit-sim attack`: its table, its JSON, its exit code."""

from __future__ import annotations

import json

import pytest
import torch

from tacit.errors import BadInput
from tacit.secagg import checks, client
from tacit_sim.attacks import ATTACKS, attack, report

torch.set_num_threads(1)


@pytest.fixture
def few(monkeypatch) -> tuple[str, ...]:
    """`all` means these: one that Flower refuses too, one that it does not, one that it does not know."""
    names = ("second-unmask", "small-cohort", "clear-after-secure")
    monkeypatch.setattr(report, "ATTACKS", {name: ATTACKS[name] for name in names})
    return names


def test_the_table(tacit_sim, few):
    code, out, err = tacit_sim("attack", "all")
    assert (code, err) == (0, "")
    lines = out.splitlines()
    assert max(map(len, lines)) <= 136
    assert lines[0].split("  ")[0] == "attack"
    firsts = [line for line in lines[1:-2] if line[0] != " "]
    assert [line.split()[0] for line in firsts] == list(few)
    assert [line[22:30] for line in firsts] == ["refused:", "SUCCEEDE", "no count"]
    assert [line[70:78] for line in firsts] == ["refused:"] * 3
    assert len(lines) - 3 <= 2 * len(few)
    assert lines[-1] == "Tacit refused 3 of 3; Flower 1 of 2; 1 without counterpart there"


def test_every_word_with_verbose(tacit_sim):
    code, out, _ = tacit_sim("attack", "small-cohort", "--verbose")
    assert code == 0
    assert "..." not in out
    assert "a round of 2, one of them the server's" in " ".join(line[70:].strip() for line in out.splitlines())


def test_json(tacit_sim, few, tmp_path):
    path = tmp_path / "attack.json"
    assert tacit_sim("attack", "all", "--json", path)[0] == 0
    found = json.loads(path.read_text())
    assert [row["attack"] for row in found["attacks"]] == list(few)
    assert [row["tacit"]["refused"] for row in found["attacks"]] == [True, True, True]
    assert [row["flower"] and row["flower"]["refused"] for row in found["attacks"]] == [True, False, None]
    assert found["attacks"][2]["note"].startswith("no counterpart: ")
    assert found["attacks"][1]["flower"]["what"].startswith("node 3's update, exact to ")
    assert found["machine"]["flwr"].startswith("1.41")


def test_a_file_that_can_not_be_written(tacit_sim, tmp_path):
    code, _, err = tacit_sim("attack", "small-cohort", "--json", tmp_path)
    assert code == 2
    assert err.startswith("error: expected a file that can be written")


def test_exit_code_1_where_one_succeeds(tacit_sim, few, monkeypatch):
    for place in (checks, client):
        monkeypatch.setattr(place, "check_company", lambda *args, **named: None)
    code, out, _ = tacit_sim("attack", "all")
    assert code == 1
    assert out.splitlines()[-1].startswith("Tacit refused 2 of 3; ")
    assert "SUCCEEDED: nobody refused" not in out
    assert "252 of 252 entries" in out


def test_another_name(tacit_sim):
    code, out, err = tacit_sim("attack", "telepathy")
    assert (code, out) == (2, "")
    assert err.startswith("error: expected an attack or all, found telepathy\nhint: use one of: swapped-keys, ")
    assert all(name in err for name in ATTACKS)
    with pytest.raises(BadInput):
        attack("telepathy", show=print)


def test_one_without_counterpart(tacit_sim):
    code, out, _ = tacit_sim("attack", "second-job")
    assert code == 0
    assert out.splitlines()[-1] == "Tacit refused 1 of 1; 1 without counterpart there"


def test_threads_are_as_before(tacit_sim):
    torch.set_num_threads(2)
    try:
        tacit_sim("attack", "small-cohort")
        assert torch.get_num_threads() == 2
    finally:
        torch.set_num_threads(1)
