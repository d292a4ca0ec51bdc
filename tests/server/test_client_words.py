"""What result, statement and report say of a run that protects whole partners."""

from __future__ import annotations

import html
import re

import numpy as np
import pytest

from tacit.page import _mechanism, _unit
from tacit.privacy.events import PARTNER, Event
from tacit.statement import holds_against, privacy_of
from tacit_server.checkpoint import RunState
from tacit_server.report import write
from tacit_server.result import result

SERVER = ("privacy={mechanism='client', noise_multiplier=1.0, delta=1e-4, max_update_norm=1.0, noise_by='server'}",)
USERS = (*SERVER, "simulation.user_rate=0.25")
PARTNERS = (*SERVER, "privacy.noise_by=partners", "aggregation.secure=true")
TRUSTED = "the guarantee trusts the server"


def _event(rate: float) -> Event:
    return Event(kind="client", sampling_rate=rate, noise_multiplier=1.0, steps=2, unit=PARTNER)


def _result(job, rate):
    line = {"round": 1, "status": "done", "clipped": 0, "needed": 3, "dropouts": [], "asked": 3, "answered": 3}
    line |= {"seconds": {"train": 1.0, "secagg": 0.0, "evaluate": 0.0}, "test": None, "federated": None}
    line |= {"epsilon_by_partner": {}, "failures": {}, "refusals": {}, "reason": None, "attempt": 1, "norm": None}
    state = RunState("r", job.hash(), np.zeros(3, np.float32), round=1, history=(line,), events={"a": (_event(rate),)})
    found = result(job, state, engine="inline", seed=None, parameters=3, secure_noise=True, data={}, wall_s=1.0)
    return found, [line]


@pytest.mark.parametrize(
    ("overrides", "said", "against"),
    [
        (SERVER, (1.0, "server", "none"), ["other partners", "outsiders"]),
        (USERS, (0.25, "server", "poisson"), ["other partners", "outsiders"]),
        (PARTNERS, (1.0, "partners", "none"), ["server", "up to 1 partner working with it", "outsiders"]),
    ],
)
def test_all_of_them_say_whom_it_holds_against(make_job, tmp_path, overrides, said, against):
    (rate, by, sampling), job = said, make_job(*overrides)
    found, history = _result(job, rate)
    privacy = found["privacy"]
    assert (privacy["noise_by"], privacy["sampling"], privacy["unit"]) == (by, sampling, "partner")
    assert privacy["holds_against"] == list(holds_against(job)) == against
    stated = privacy_of(job, [(_event(rate),)], secure_noise=True)
    assert (stated.unit, list(stated.holds_against), stated.max_grad_norm) == ("partner", against, None)
    assert ("the server, which adds the noise and is trusted to" in stated.not_covered) == (by == "server")
    write(tmp_path / "report.html", result=found, history=history, job_toml="")
    page = html.unescape(re.sub(r"<[^>]+>", "", (tmp_path / "report.html").read_text(encoding="utf-8")))
    assert "one partner with all its examples" in page
    assert (TRUSTED in page) == (by == "server")
    assert ("draws the users of each round by chance" in page) == (sampling == "poisson")
    assert ("adds a share of the noise" in page) == (by == "partners")
    assert ("against: the server" in page) == (by == "partners")


def test_other_jobs_say_nothing_of_it(make_job):
    privacy = _result(make_job(), 0.5)[0]["privacy"]
    assert {"noise_by", "sampling"} & set(privacy) == set()


def test_a_statements_page_names_the_partner_as_the_unit():
    assert _unit("partner") == "partner with all its data"
    assert _mechanism(_event(1.0)) == "2 rounds, noise 1"
    assert _mechanism(_event(0.25)) == "2 rounds, noise 1, drawn with chance 0.25"
