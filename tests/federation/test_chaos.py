"""A federation of real processes whose parts are killed, stopped and crowded while it works."""

from __future__ import annotations

import signal
import time
from pathlib import Path
from typing import Any

import pytest
from chaos import GATEWAY, SERVER, SERVERAPP, SUPERLINK, Chaos, schedule

from tacit.check import parse
from tacit.job import Job, override
from tacit_sim.simulation import simulate

pytestmark = [pytest.mark.e2e, pytest.mark.skipif(not Path("/proc/net/tcp").exists(), reason="needs /proc")]


def job(
    *, name: str, rounds: int, partners: int, threshold: int, steps: int = 2, timeout: float = 20.0
) -> dict[str, Any]:
    """A secure job on digits without a mechanism, whose rounds take a second or two."""
    return {
        "name": name,
        "task": {"kind": "image-classification", "model": "cnn"},
        "training": {
            "rounds": rounds, "local_steps": steps, "batch_size": 32, "learning_rate": 0.3, "max_failed_rounds": 20,
        },
        "privacy": {"mechanism": "none"},
        "aggregation": {
            "secure": True, "min_cohort": threshold, "threshold": threshold,
            "round_timeout": timeout, "stage_timeout": timeout,
        },
        "evaluation": {"every": 1000, "partner_holdout": 0.0},
        "simulation": {"partners": partners, "dataset": "digits"},
    }  # fmt: skip


def _say(text: str) -> None:
    print(text, flush=True)


def _check_ports(chaos: Chaos) -> None:
    """The gateway's port is the only one that is not on loopback, and partners listen on nothing."""
    found = chaos.listening()
    assert set(found) == {SERVER, *chaos.names}
    assert {name: found[name] for name in chaos.names} == {name: set() for name in chaos.names}
    open_to_all = {place for place in found[SERVER] if place[0] not in ("127.0.0.1", "::1")}
    assert {port for _, port in open_to_all} == {chaos.rehearsal.port}
    assert len(found[SERVER]) >= 2  # the SuperLink is among them, on loopback


@pytest.mark.timeout(900)
def test_a_run_outlives_a_kill_of_every_kind_of_process(tmp_path):
    """Without anybody's hand, but for the partner's process, which its own machine starts again."""
    with Chaos(tmp_path, job(name="short", rounds=6, partners=3, threshold=3), say=_say) as chaos:
        chaos.submit("short")
        chaos.wait_round(1, timeout=200.0)
        _check_ports(chaos)
        chaos.strike(
            [(SERVERAPP, 1, 0.3), (GATEWAY, 2, 0.8), (SUPERLINK, 3, 0.1), (chaos.names[0], 4, 0.5)], timeout=200.0
        )
        result = chaos.finish(timeout=300.0)
        chaos.check(rounds=6)
    assert [kill.what for kill in chaos.kills] == [SERVERAPP, GATEWAY, SUPERLINK, chaos.names[0]]
    assert chaos.run.standing.attempts == 3
    assert result["rounds_completed"] + result["rounds_failed"] == 6


def _undisturbed(raw: dict[str, Any], folder: Path, *, seed: int) -> float:
    """The accuracy on the test set of the same job among virtual partners."""
    found = simulate(
        parse(Job, override(raw, [f"simulation.seed={seed}", "simulation.device='cpu'"]), where="job.toml"),
        engine="inline",
        data=None,
        out=folder / f"undisturbed-{seed}",
    )
    return float(found["metrics"]["test"]["accuracy"])


@pytest.mark.slow
@pytest.mark.timeout(3600)
def test_forty_kills_at_random_in_one_run(tmp_path):
    """The model is as good as without them: no worse than 5 points below the worst of three undisturbed runs."""
    raw = job(name="long", rounds=30, partners=4, threshold=3, steps=10)
    undisturbed = [_undisturbed(raw, tmp_path, seed=seed) for seed in range(3)]
    with Chaos(tmp_path, raw, say=_say) as chaos:
        targets = [SUPERLINK, GATEWAY, SERVERAPP] * 10 + (chaos.names * 3)[:9] + [SERVER]
        chaos.submit("long")
        chaos.strike(schedule(targets, rounds=28, seed=0), timeout=300.0)
        accuracy = chaos.finish(timeout=900.0)["metrics"]["test"]["accuracy"]
        chaos.check(rounds=30)
    assert len(chaos.kills) == 40
    _say(f"accuracy {accuracy:.4f} after 40 kills, undisturbed {undisturbed}")
    assert accuracy > min(undisturbed) - 0.05


@pytest.mark.slow
@pytest.mark.timeout(1200)
def test_a_partner_whose_network_is_cut_drops_out_and_is_back_by_itself(tmp_path):
    """A stopped process is what a cut looks like from the other side: the connection stands and says nothing."""
    with Chaos(tmp_path, job(name="cut", rounds=300, partners=4, threshold=3), grace=2.0, say=_say) as chaos:
        chaos.submit("cut")
        chaos.wait_round(2, timeout=200.0)
        first, process = chaos.names[0], chaos.pid(chaos.names[0])
        chaos.rehearsal.kill(first, signal.SIGSTOP)
        time.sleep(45.0)  # the gateway asks after 10 s of silence, and waits 10 s for an answer
        cut = len(chaos.history())
        chaos.rehearsal.kill(first, signal.SIGCONT)
        chaos.wait_round(cut + 6, timeout=300.0)
        chaos.rehearsal.run("tacit-server", "stop", str(chaos.server.path), "cut")
        history = chaos.history()
        assert chaos.pid(first) == process
    without = [line for line in history if line["status"] == "done" and line["answered"] == 3]
    assert any(first in line["dropouts"] for line in without)  # in the round of the cut it is missed
    assert any(line["asked"] == 3 for line in without)  # from then on it is known to be away, and not waited for
    assert {line["answered"] for line in history[-2:]} == {4}
    _say(f"rounds {[line['round'] for line in without]} of {len(history)} without {first}; {cut} when it was back")


@pytest.mark.slow
@pytest.mark.timeout(3000)
def test_twelve_partners_hold_twenty_rounds_and_nothing_grows(tmp_path):
    raw = job(name="soak", rounds=20, partners=12, threshold=9, timeout=120.0)
    with Chaos(tmp_path, raw, together=False, say=_say) as chaos:
        chaos.submit("soak")
        chaos.wait_round(3, timeout=900.0)
        _check_ports(chaos)
        early = {what: chaos.memory(what) for what in (GATEWAY, SUPERLINK)}
        chaos.wait_round(19, timeout=1800.0)
        late = {what: chaos.memory(what) for what in (GATEWAY, SUPERLINK)}
        chaos.finish(timeout=300.0)
        chaos.check(rounds=20)
        history = chaos.history()
    for what, bytes_ in early.items():
        _say(f"{what}: {bytes_ / 2**20:.0f} MiB after round 3, {late[what] / 2**20:.0f} MiB after round 19")
        assert late[what] <= 1.2 * bytes_
    assert [(line["status"], line["answered"]) for line in history] == [("done", 12)] * 20
