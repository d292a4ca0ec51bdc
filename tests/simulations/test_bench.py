"""Benchmarks at tiny sizes: the tables come out and add up. No duration is asserted."""

from __future__ import annotations

import json
import shutil
import sys
from dataclasses import replace
from pathlib import Path

import pytest

from tacit import vector as vectors
from tacit.errors import BadInput, JobFailed
from tacit_sim.bench import Table, bench, measure_engines, measure_seal, measure_steps, rival
from tacit_sim.bench import engine as engine_bench
from tacit_sim.bench import seal as seal_bench
from tacit_sim.bench.engine import SIZES
from tacit_sim.bench.rival import Rounds, run_rival
from tacit_sim.bench.seal import Case
from tacit_sim.bench.step import CASES
from tacit_sim.bench.table import machine
from tacit_sim.cli import main
from tacit_sim.engine import run_inline
from tacit_sim.federation import Spec, build_network, world


def test_a_step_is_measured_three_ways():
    tiny = replace(CASES[0], options={"classes": 2, "shape": [8, 8]}, batch=4)
    table = measure_steps([tiny], repeats=2)
    (row,) = table.rows
    assert set(table.columns) == set(row)
    assert row["parameters"] == 16 * 9 + 16 + 32 * 16 * 9 + 32 + 32 * 2 * 2 * 32 + 32 + 32 * 2 + 2
    assert all(row[key] > 0 for key in ("plain_ms", "opacus_ms", "tacit_ms", "tacit/opacus", "tacit/plain"))


def test_ratios_are_medians_within_turns(monkeypatch):
    clock = iter([9, 9, 9, 1, 2, 4, 10, 20, 30, 2, 4, 2])
    monkeypatch.setattr("tacit_sim.bench.step._seconds", lambda steps: next(clock))
    tiny = replace(CASES[0], options={"classes": 2, "shape": [8, 8]}, batch=4)
    (row,) = measure_steps([tiny], repeats=3).rows
    assert (row["plain_ms"], row["opacus_ms"], row["tacit_ms"]) == (2000, 4000, 4000)
    assert (row["tacit/opacus"], row["tacit/plain"]) == (1.5, 3)


def test_the_cases_are_of_the_sizes_they_say():
    found = {case.name: (case.batch, case.task.kind) for case in CASES}
    assert len(found) == 4
    assert [batch for batch, _ in found.values()] == [128, 512, 64, 32]


def test_an_engine_is_measured(tmp_path):
    table = measure_engines(SIZES[:1], engines=["inline"], partners=2, rounds=2, repeats=2)
    (row,) = table.rows
    assert row["parameters"] == 26_010
    assert (row["engine"], row["workers"]) == ("inline", 1)
    assert row["round_s"] > row["training_s"] > 0
    assert set(table.columns) <= set(row)


def test_what_is_beyond_training():
    runs = [
        engine_bench._Run(5, 2, Rounds(whole=(9.0, 3.0, 9.0), training=(9.0, 2.0, 9.0))),
        engine_bench._Run(5, 2, Rounds(whole=(9.0, 5.0, 9.0), training=(9.0, 4.0, 9.0))),
    ]
    row = engine_bench._row(SIZES[0], "ray", runs, partners=4)
    assert (row["round_s"], row["training_s"], row["beyond_training_ms_a_partner"]) == (4.0, 3.0, 625.0)


@pytest.mark.parametrize(("size", "parameters"), [(SIZES[0], 26_010), (SIZES[1], 994_058)])
def test_the_jobs_models_have_the_sizes_they_say(tmp_path, size, parameters):
    job = engine_bench._job(size, partners=2, rounds=3, folder=tmp_path)
    spec = Spec(job=job.model_dump_json(), data=None, ledger=tmp_path / "ledger.db")
    built = world(spec.job, None)
    assert sum(p.numel() for p in build_network(built).parameters()) == parameters
    assert [len(rows) for rows, _ in built.parts] == [20, 20]


def _rival_job(folder):
    job = engine_bench._job(SIZES[0], partners=2, rounds=3, folder=folder)
    return Spec(job=job.model_dump_json(), data=None, ledger=folder / "ledger.db")


def test_the_rival_trains_every_round(tmp_path):
    spec = _rival_job(tmp_path)
    before = vectors.flatten(rival._network(spec))
    rounds = run_rival(spec, run=run_inline)
    assert len(rounds.whole) == len(rounds.training) == 3
    assert all(whole > training > 0 for whole, training in zip(rounds.whole, rounds.training, strict=True))
    assert abs(vectors.flatten(rival._network(spec)) - before).max() > 0


@pytest.mark.slow
@pytest.mark.e2e
def test_the_rival_runs_silently_on_ray(tmp_path, capfd):
    pytest.importorskip("ray")
    rounds = run_rival(_rival_job(tmp_path))
    assert len(rounds.whole) == len(rounds.training) == 3
    assert capfd.readouterr() == ("", "")


def test_a_table_is_readable_and_writes_itself(tmp_path):
    table = Table("x", {"who": "", "ms": ".1f"}, ({"who": "a", "ms": 1.25}, {"who": "long", "ms": 10.0}), {}, ("note",))
    lines = table.text().splitlines()
    assert lines[:5] == ["who     ms", "a      1.2", "long  10.0", "", "note"]
    assert lines[5].startswith("machine: system ")
    table.write(tmp_path / "x.json")
    found = json.loads((tmp_path / "x.json").read_text())
    assert found["rows"] == [{"who": "a", "ms": 1.25}, {"who": "long", "ms": 10.0}]
    assert {"cores", "threads", "torch", "load"} <= set(found["machine"])
    with pytest.raises(BadInput, match="expected a file that can be written"):
        table.write(tmp_path / "none" / "x.json")


def test_machine_names_what_bears_on_speed():
    assert machine()["cores"] >= 1
    assert machine()["threads"] >= 1


def test_the_command_prints_and_writes(tmp_path, capfd):
    out = tmp_path / "found.json"
    argv = ["bench", "engine", "--only", "26", "--engine", "inline", "--repeats", "1", "--json", str(out)]
    assert main(argv) == 0
    shown, errors = capfd.readouterr()
    assert errors == ""
    assert shown.splitlines()[1].startswith("26 thousand      26,010  inline")
    assert json.loads(out.read_text())["settings"]["partners"] == 20


@pytest.mark.parametrize(
    "argv",
    [
        ["bench", "nothing"],
        ["bench", "step", "--only", "nothing"],
        ["bench", "step", "--engine", "inline"],
        ["bench", "engine", "--engine", "nothing"],
        ["bench", "engine", "--repeats", "0"],
    ],
)
def test_bad_flags_are_refused(argv, capsys):
    assert main(argv) == 2
    assert capsys.readouterr().err.startswith("error: expected ")


def test_an_unknown_benchmark_is_refused():
    with pytest.raises(BadInput, match="found nothing"):
        bench("nothing")


def test_sealing_is_measured_beside_others():
    table = measure_seal([Case("3 MB", 3 * 10**6)], repeats=1)
    assert len(table.rows) == (6 if shutil.which("openssl") else 4)
    for row in table.rows:
        assert set(table.columns) == set(row)
        assert row["one_core_MB_s"] > 0 < row["peak_MiB"]
    assert [row["over"] for row in table.rows if row["who"] == "tacit"] == [1, 1]


def test_a_seal_that_fails_is_no_measurement(tmp_path):
    with pytest.raises(JobFailed, match="expected tacit-client to succeed, found error: expected a file or folder"):
        seal_bench._run([str(Path(sys.executable).parent / "tacit-client"), "seal", str(tmp_path / "x"), "--key", "k"])
    (tmp_path / "a").write_bytes(b"one")
    (tmp_path / "b").write_bytes(b"two")
    with pytest.raises(JobFailed, match="other bytes"):
        seal_bench._compare(tmp_path / "a", tmp_path / "b")
