"""The benchmark of secure aggregation at tiny sizes: sums are right, rows are whole. No duration is asserted."""

from __future__ import annotations

import json
import shutil
import sys
import tracemalloc
from unittest.mock import patch

import numpy as np
import pytest

from tacit.errors import BadInput, JobFailed
from tacit.secagg import client, server
from tacit.secagg.constants import EDGE_UNIT
from tacit.secagg.graph import edge_chance
from tacit_sim.bench import bench, measure_secagg, memory
from tacit_sim.bench import secagg as secagg_bench
from tacit_sim.bench import server as server_bench
from tacit_sim.bench.cohort import COUNTERS, make_cohort, make_update
from tacit_sim.bench.memory import Peak, peak_of
from tacit_sim.bench.partner import PartnerRound, sent
from tacit_sim.bench.secagg import CASES, Case
from tacit_sim.bench.server import Played, Prepared, server_round
from tacit_sim.cli import main

STAGES = ["advertise", "share", "open", "quantise", "request", "mask", "pack", "approve", "unmask"]
STEPS = ["admit", "route", "gather", "listing", "confirm", "finish"]
CLIENT = Case("client tiny", 5, 1000)
MEMORY = Case("memory tiny", 3, 1000)
SERVERS = (
    Case("server tiny, none lost", 5, 1000, lost=0),
    Case("server tiny, 1 lost", 5, 1000, lost=1),
    Case("server tiny, prepared, 1 lost", 5, 1000, lost=1, prepared=True),
)


def _drive(partner: PartnerRound) -> dict[str, int]:
    return {stage.name: sent(stage.work()) for stage in partner.stages()}


def _partner(n: int, *, length: int, complete: bool = False) -> PartnerRound:
    update = make_update(length)
    return PartnerRound(make_cohort(n, length=length, complete=complete), update, model=update)


def test_a_partner_goes_through_every_stage_and_sends_five_messages():
    found = _drive(_partner(5, length=1000))
    assert list(found) == STAGES
    assert [name for name in STAGES if found[name]] == ["advertise", "share", "pack", "approve", "unmask"]
    assert 4000 + 8 * COUNTERS < found["pack"] < 4600


@pytest.mark.parametrize(("complete", "edges"), [(True, EDGE_UNIT), (False, edge_chance(80, threshold=54))])
def test_a_partner_masks_for_every_neighbour(complete, edges):
    assert (edges < EDGE_UNIT) is not complete
    partner = _partner(80, length=3, complete=complete)
    with patch.object(client, "add_mask", wraps=client.add_mask) as added:
        _drive(partner)
    assert added.call_count == 2 * (1 + partner.peers)
    assert partner.peers == 79 if complete else 40 < partner.peers < 80
    assert partner.needed == 54 if complete else partner.needed == 9 * (partner.peers + 1) // 16 + 1


def test_the_update_is_of_the_norm_that_is_said():
    assert make_update(1000).dtype == np.float32
    assert np.linalg.norm(make_update(1000)) == pytest.approx(10, rel=0.1)


@pytest.mark.parametrize("kind", [Played, Prepared])
@pytest.mark.parametrize(("n", "complete", "lost"), [(10, True, (0, 1, 3)), (65, False, (0, 6, 19))])
def test_the_servers_sum_is_right_for_all_that_are_lost_in_turn(kind, n, complete, lost):
    cast = kind(make_cohort(n, length=10, complete=complete))
    assert (cast.cohort.round.edges < EDGE_UNIT) is not complete
    with patch.object(server_bench, "_check", wraps=server_bench._check) as checked:
        found = [server_round(cast, lost=count) for count in lost]
    assert [list(seconds) for seconds in found] == [STEPS] * 3
    assert [len(call.kwargs["survivors"]) for call in checked.call_args_list] == [n - count for count in lost]


@pytest.mark.parametrize("kind", [Played, Prepared])
def test_a_wrong_sum_is_an_error(kind):
    cast = kind(make_cohort(5, length=10, complete=True))
    finish = server.finish

    def off_by_one(*args):
        total = finish(*args)
        total.update[3] += np.uint32(1)
        return total

    with patch.object(server, "finish", off_by_one), pytest.raises(JobFailed, match="expected the survivors' plain"):
        server_round(cast, lost=1)


def _lengths(cast: server_bench.Cast) -> dict[str, list[int]]:
    seen: dict[str, list[int]] = {}

    def listen(name, ask):
        def heard(*args):
            found = ask(*args)
            seen[name] = sorted(map(len, found.values()))
            return found

        return heard

    for name in ("adverts", "envelopes", "agreements", "reveals"):
        setattr(cast, name, listen(name, getattr(cast, name)))
    server_round(cast, lost=1)
    return seen


def test_prepared_messages_are_as_long_as_real_ones():
    played, prepared = (_lengths(kind(make_cohort(6, length=10, complete=True))) for kind in (Played, Prepared))
    assert played == prepared
    assert [len(lengths) for lengths in played.values()] == [6, 6, 5, 5]


def test_every_row_has_every_column_and_says_what_it_holds():
    table = measure_secagg([CLIENT, *SERVERS], repeats=2)
    assert all(set(table.columns) <= set(row) for row in table.rows)
    found = [(row["measure"], row["who"]) for row in table.rows]
    pair = ["tacit", "flower"]
    assert found == [
        *[(measure, who) for measure in ("time", "mask", "sent") for who in pair],
        *[("time", who) for who in [*pair, *pair, "tacit"]],
    ]
    assert list(table.rows[0]["parts"]) == STAGES
    assert table.rows[0]["holds"] == "all, 2 x"
    assert 1 < table.rows[4]["found"] < 1.7  # five messages of a tiny round
    assert table.rows[5]["found"] > 2
    assert list(table.rows[6]["parts"]) == STEPS
    assert table.rows[7]["holds"] == "partial: seeds rebuilt 1 of 5, private masks 1 of 5, mean 1 of 1"
    assert table.rows[9]["holds"].startswith("partial: seeds rebuilt 1 of 4, mask keys rebuilt 1 of 1, ")
    assert table.text().count("\n") > len(table.rows)


def test_medians_and_ratios_are_taken_within_turns():
    runs = [[secagg_bench._Run({"share": a, "mask": b}, 0) for a, b in turns] for turns in TURNS]
    tacit, flower = secagg_bench._pair(CLIENT, "time", *runs, of=lambda run: run.total)
    assert (tacit["found"], tacit["over_tacit"], tacit["holds"]) == (4, 1, "all, 3 x")
    assert (flower["found"], flower["over_tacit"], flower["holds"]) == (18, 6.5, "all, 2 x")
    assert tacit["parts"] == {"share": 2, "mask": 2}
    assert runs[0][0].masking == 1


TURNS = ([(1, 1), (2, 2), (3, 5)], [(8, 8), (10, 10)])


def test_aims_belong_to_cases_and_are_judged():
    names = {case.name for case in CASES}
    assert len(names) == 15
    aims = {**secagg_bench._AIMS, **secagg_bench._RIVAL_AIMS}
    assert {name for name, _ in aims} <= names
    case = next(case for case in CASES if case.name == "client 10 x 10,000,000")
    judged = [secagg_bench._aim(case, "sent", "tacit", found=found, over=1.0) for found in (1.09, 1.1)]
    judged += [secagg_bench._aim(case, "mask", "flower", found=9.0, over=over) for over in (4.9, 5.0)]
    assert judged == ["under 1.1: met", "under 1.1: missed", "5 x tacit: missed", "5 x tacit: met"]
    assert secagg_bench._aim(case, "time", "tacit", found=9.0, over=1.0) == ""


def _traced(who: str, *, length: int) -> Peak:
    try:
        return memory._run(who, cohort=3, length=length, traced=True)
    finally:
        tracemalloc.stop()


def test_memory_is_of_the_whole_round():
    length = 1 << 20
    tacit, flower = (_traced(who, length=length) for who in ("tacit", "flower"))
    assert 2 < tacit.masked / (4 * length) < 3
    assert flower.whole >= flower.masked > 2 * tacit.whole


def test_a_resident_set_is_not_the_parents():
    held = np.ones(1 << 26, dtype=np.uint8)  # 64 MiB more than the child needs
    found = peak_of("tacit", cohort=3, length=1 << 20, traced=False)
    assert 1.5 < found.masked / (1 << 22) < 4
    assert held.all()


def test_memory_rows():
    peaks = {("tacit", False): Peak(8000, 9000), ("flower", False): Peak(40000, 45000), ("tacit", True): Peak(1, 2)}
    with patch.object(secagg_bench, "peak_of", lambda who, *, traced, **_: peaks[who, traced]):
        rows = measure_secagg([MEMORY]).rows
    assert [(row["measure"], row["found"], row["over_tacit"]) for row in rows] == [
        ("peak", 2.0, 1.0),
        ("peak", 10.0, 5.0),
        ("peak, packed", 2.25, 1.0),
        ("peak, packed", 11.25, 5.0),
    ]


def test_a_process_that_fails_is_an_error(monkeypatch):
    monkeypatch.setattr(sys, "executable", shutil.which("false"))
    with pytest.raises(JobFailed, match="expected a process that measures memory, found nothing"):
        peak_of("tacit", cohort=3, length=10, traced=False)


def test_the_command_selects_and_writes(tmp_path, capfd, monkeypatch):
    monkeypatch.setattr("tacit_sim.bench.ROUNDS", (CLIENT, *SERVERS))
    out = tmp_path / "found.json"
    assert main(["bench", "secagg", "--only", "prepared", "--repeats", "1", "--json", str(out)]) == 0
    shown, errors = capfd.readouterr()
    assert errors == ""
    assert shown.splitlines()[1].startswith("server tiny, prepared, 1 lost  time")
    (row,) = json.loads(out.read_text())["rows"]
    assert list(row["parts"]) == STEPS
    assert row["found"] == pytest.approx(sum(row["parts"].values()))


def test_bad_selections_are_refused():
    with pytest.raises(BadInput, match="expected --only to fit a name, found nothing"):
        bench("secagg", only="nothing")
    with pytest.raises(BadInput, match="found it with secagg"):
        bench("secagg", engines=["inline"])
