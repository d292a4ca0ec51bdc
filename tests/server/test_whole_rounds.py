"""Rounds that protect whole partners, with the partners' real code: noise, drop-outs, users drawn, resuming."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import dp_accounting
import numpy as np
import pytest
import real
from dp_accounting.pld import PLDAccountant
from real import Partners
from scripted import Script
from torch import nn

from tacit.errors import BadInput, JobFailed
from tacit.job import Job
from tacit.privacy.accounting import epsilon
from tacit.privacy.events import PARTNER, Event
from tacit.privacy.mechanism import plan
from tacit.privacy.quantile import follow, joint_norm
from tacit.privacy.randomness import Randomness
from tacit.privacy.shares import update_grid
from tacit.wire import TRAIN, Ask, Update
from tacit_client.partner import Site
from tacit_server import checkpoint, rounds
from tacit_server.checkpoint import RunState
from tacit_server.rounds import Setup, federate

D, Z, NORM = 20_000, 2.0, 0.5
SHARES = (
    f"privacy={{mechanism='client', noise_multiplier={Z}, delta=1e-4, max_update_norm={NORM}}}",
    "aggregation.secure=true",
    "evaluation.partner_holdout=0.0",
    "training.rounds=1",
)
SERVER = (*SHARES, "aggregation.secure=false", "privacy.noise_by=server")


class _Same:
    """Every partner's update is all ones: its length is sqrt(D), and it is shrunk to the norm."""

    def __init__(self) -> None:
        self.network = nn.Linear(D, 1, bias=False)

    def train(self, start: np.ndarray, *args: Any, **rest: Any) -> np.ndarray:
        return np.ones_like(start)


@dataclass
class _Run:
    state: RunState
    saved: list[RunState]
    job: Job


@pytest.fixture
def go(make_job, make_partners, monkeypatch):
    monkeypatch.setattr(rounds, "_GREETING_TIMEOUT", 1.0)
    monkeypatch.setattr(real, "_Trainer", _Same)

    def run(
        *overrides: str,
        partners: int = 5,
        chance: float | None = None,
        state: RunState | None = None,
        world: Partners | Script | None = None,
        seed: int = 0,
    ) -> _Run:
        job, saved = make_job(*overrides, "aggregation.min_cohort=3"), []
        if chance is not None:
            monkeypatch.setattr(real, "Site", lambda *args: Site(*args, chance=chance))
        setup = Setup(job=job, classes=2, test=None, randomness=Randomness(seed), save=saved.append, chance=chance)
        start = state or RunState(run="r", job_hash=job.hash(), vector=np.zeros(D, np.float32))
        found = federate((world or make_partners()).grid(partners), setup, start)
        return _Run(found, saved, job)

    return run


def _deviation(found: _Run, *, divisor: float) -> tuple[float, float]:
    """Mean and deviation of the entries of the sum that was released."""
    total = found.state.vector.astype(np.float64) * divisor
    return float(total.mean()), float(total.std())


def _is(found: float, expected: float) -> bool:
    """Within four standard errors of a deviation over D entries: 2 %."""
    return abs(found / expected - 1) < 4 / np.sqrt(2 * D)


def test_the_partners_shares_add_up_to_the_noise(go):
    found = go(*SHARES)
    grid = update_grid(found.job, plan(found.job, units=0), cohort=5, length=D, norm=None)
    mean, std = _deviation(found, divisor=5)
    assert mean == pytest.approx(5 * NORM / np.sqrt(D), abs=5 * std / np.sqrt(D))
    expected = np.sqrt(5) * grid.share_std * grid.unit
    assert _is(std, expected)
    assert not _is(std, 1.1 * expected)
    assert not _is(std, 0.9 * expected)
    assert expected * np.sqrt(3 / 5) == pytest.approx(Z * NORM, rel=0.02)  # three of five are counted on
    assert found.state.events == {f"p{i}": (plan(found.job, units=0).event(),) for i in range(5)}


def test_at_the_threshold_and_without_the_colluders_share_it_is_what_was_promised(go, make_partners):
    """Guarantee: drop-outs and colluders leave at least the noise that is charged, and the last drop-out all of it."""
    gone = {"p0"}
    found = go(*SHARES, world=make_partners(away=lambda kind, name, group: kind == TRAIN and name in gone))
    assert (found.state.history[0]["answered"], found.state.history[0]["needed"]) == (4, 4)
    _, std = _deviation(found, divisor=4)
    least = std * np.sqrt(3 / 4)  # what three keep to themselves
    assert _is(least, Z * NORM)  # and no more than that
    assert not _is(least, 0.95 * Z * NORM)


def test_the_servers_noise_is_in_the_sum(go):
    found = go(*SERVER)
    mean, std = _deviation(found, divisor=5)
    assert mean == pytest.approx(5 * NORM / np.sqrt(D), abs=5 * std / np.sqrt(D))
    assert _is(std, Z * NORM)
    assert not _is(std, 1.1 * Z * NORM)
    assert not _is(std, 0.9 * Z * NORM)
    assert found.state.events["p0"][0].colluders is None


def test_the_server_adds_it_under_masks_too(go):
    found = go(*SERVER, "aggregation.secure=true")
    assert _is(_deviation(found, divisor=5)[1], Z * NORM)


def test_with_noise_by_the_server_masks_change_nothing(go):
    clear, masked = (go(*SERVER, f"aggregation.secure={secure}") for secure in ("false", "true"))
    assert clear.state.vector.tobytes() == masked.state.vector.tobytes()


def test_another_attempt_draws_other_noise(go):
    one = go(*SERVER)
    again = go(*SERVER, state=RunState(run="r", job_hash=one.job.hash(), vector=np.zeros(D, np.float32), attempt=2))
    difference = (one.state.vector - again.state.vector) * 5.0
    assert _is(float(difference.std()), np.sqrt(2) * Z * NORM)


def test_a_partner_with_another_noise_is_left_out(go, make_partners):
    """Guarantee: no share of a partner that charged another noise is taken for enough."""

    def lie(sent: real.Sent) -> Any:
        if sent.kind != TRAIN or sent.name != "p1":
            return sent.parcel
        update = Update.unpack(sent.parcel)
        events = tuple(e.model_copy(update={"noise_multiplier": 1.0}) for e in update.events)
        return Update(update.name, update.vector, events, update.presence).pack()

    found = go(*SHARES, world=make_partners(meddle=lie))
    line = found.state.history[0]
    assert line["failures"]["p1"].startswith("expected the one noise multiplier 2 of client, found 1 of client")
    assert line["answered"] == 4


def test_too_many_steps_in_the_events_are_refused(go, make_partners):
    def lie(sent: real.Sent) -> Any:
        if sent.kind != TRAIN or sent.name != "p1":
            return sent.parcel
        update = Update.unpack(sent.parcel)
        events = tuple(e.model_copy(update={"steps": 2}) for e in update.events)  # as many as local steps
        return Update(update.name, update.vector, events, update.presence).pack()

    found = go(*SERVER, world=make_partners(meddle=lie))
    assert found.state.history[0]["failures"]["p1"] == "expected at most 1 steps in the events, found 2"


CHANCE, USERS = 0.4, 12
DRAWN = (*SERVER, "training.rounds=6", f"simulation.user_rate={CHANCE}", f"simulation.partners={USERS}")


def test_users_are_drawn_one_by_one_and_every_round_costs_all_of_them(go):
    found = go(*DRAWN, partners=USERS, chance=CHANCE)
    asked = [line["asked"] for line in found.state.history]
    assert len(set(asked)) > 1
    event = Event(kind="client", sampling_rate=CHANCE, noise_multiplier=Z, steps=6, unit=PARTNER)
    assert found.state.events == {f"p{i}": (event,) for i in range(USERS)}
    accountant = PLDAccountant()
    gaussian = dp_accounting.PoissonSampledDpEvent(CHANCE, dp_accounting.GaussianDpEvent(Z))
    accountant.compose(gaussian, 6)
    assert epsilon((event,), delta=1e-4) == pytest.approx(accountant.get_epsilon(1e-4), rel=2e-3)
    fewer = PLDAccountant()
    fewer.compose(gaussian, 5)
    assert epsilon((event,), delta=1e-4) > 1.02 * fewer.get_epsilon(1e-4)


def test_their_sum_is_over_as_many_as_are_expected(go):
    found = go(*DRAWN, "training.rounds=1", partners=USERS, chance=CHANCE, seed=3)
    line = found.state.history[0]
    assert line["asked"] != CHANCE * USERS
    mean, std = _deviation(found, divisor=CHANCE * USERS)
    assert _is(std, Z * NORM)
    assert mean == pytest.approx(line["asked"] * NORM / np.sqrt(D), abs=5 * std / np.sqrt(D))


def test_a_round_in_which_nobody_is_drawn_is_noise_alone(go, monkeypatch):
    """Guarantee: whether anybody was drawn does not show in the model."""
    monkeypatch.setattr(rounds, "_choose", lambda *args: {})
    found = go(*DRAWN, "training.rounds=1", partners=USERS, chance=CHANCE)
    line = found.state.history[0]
    assert (line["asked"], line["answered"], line["status"]) == (0, 0, "done")
    mean, std = _deviation(found, divisor=CHANCE * USERS)
    assert abs(mean) < 5 * std / np.sqrt(D)
    assert _is(std, Z * NORM)
    assert found.state.events["p0"][0].steps == 1


def test_a_round_in_which_all_who_were_drawn_fail_is_given_up(go, make_partners):
    with pytest.raises(JobFailed, match="at least 1 replies"):
        go(
            *DRAWN,
            "training.max_failed_rounds=0",
            partners=USERS,
            chance=CHANCE,
            world=make_partners(away=lambda kind, name, group: kind == TRAIN),
        )


MOVES = (*SERVER, "privacy.clip_quantile=0.5", "training.rounds=3")


def test_the_norm_moves_by_the_noisy_share_and_shows_in_the_history(go):
    found = go(*MOVES, partners=40, seed=2)
    norms = [line["norm"] for line in found.state.history]
    assert norms[0] == NORM
    # All updates are longer than the norm: the share is near 0, up to its noise of 2.06 z / 40 or so.
    share = 0.5 - np.log(norms[1] / norms[0]) / 0.2
    assert abs(share) < 5 * 2.06 * Z / 40
    assert norms[1] == pytest.approx(follow(NORM, share=share, quantile=0.5, rate=0.2))
    assert found.state.norm == pytest.approx(norms[2], rel=0.11)
    assert found.state.events["p0"][0].noise_multiplier == Z
    total = (found.saved[0].vector * 40.0).astype(np.float64)
    assert _is(float(total.std()), Z * joint_norm(NORM))


def test_the_partners_shares_cover_the_entry_of_the_norm(go):
    found = go(*SHARES, "privacy.clip_quantile=0.5")
    grid = update_grid(found.job, plan(found.job, units=0), cohort=5, length=D + 1, norm=NORM)
    assert _is(_deviation(found, divisor=5)[1], np.sqrt(5) * grid.share_std * grid.unit)
    assert found.state.norm is not None
    assert found.state.norm != NORM


def test_a_resumed_run_goes_on_with_the_norm_it_had(go, tmp_path):
    whole = go(*MOVES)
    kept = whole.saved[0]
    checkpoint.write(tmp_path / "c", kept)
    again = checkpoint.read(tmp_path / "c", job_hash=kept.job_hash)
    assert again.norm == kept.norm == whole.state.history[1]["norm"] != NORM
    resumed = go(*MOVES, state=again)
    assert [line["norm"] for line in resumed.state.history[:2]] == [NORM, kept.norm]


def test_a_job_with_a_fixed_norm_says_none(go):
    found = go(*SERVER)
    assert (found.state.norm, found.state.history[0]["norm"]) == (None, None)


@pytest.mark.parametrize("norm", [None, 0.0, 1e7, float("nan")])
def test_a_norm_that_the_job_does_not_have_is_refused(make_job, norm):
    moving, fixed = make_job(*MOVES), make_job(*SERVER)
    vector = np.zeros(3, np.float32)
    good = Ask(moving, "r", 1, 1, 3, vector, norm=0.5)
    assert Ask.unpack(good.pack()).norm == 0.5
    assert good.entries == 4
    assert good.request() != Ask(moving, "r", 1, 1, 3, vector, norm=0.25).request()
    with pytest.raises(BadInput, match=r"^expected (a norm|fields|number)"):
        Ask.unpack(Ask(moving, "r", 1, 1, 3, vector, norm=norm).pack())
    with pytest.raises(BadInput, match=r"^expected fields"):
        Ask.unpack(Ask(fixed, "r", 1, 1, 3, vector, norm=0.5).pack())
