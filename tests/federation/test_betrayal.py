"""A server that lies after it was trusted: another job than the one granted, other partners than those accepted.

The processes are the real ones; the server's alone are told to lie (`puppet/sitecustomize.py`), with the real keys in
its hand. What partners refuse is looked for in their audit logs.
"""

from __future__ import annotations

import json
import os
import signal
import sys
import time
from pathlib import Path
from typing import Any

import intruder
import pytest

from tacit.check import parse
from tacit.job import Job, override
from tacit.secagg.keys import Secret, identity_of
from tacit_client import peers, roster
from tacit_client.audit import Audit, Entry
from tacit_client.keys import Keys
from tacit_client.site import Folder as PartnerFolder
from tacit_server.folder import Folder
from tacit_server.runs import Run
from tacit_sim.rehearsal import Rehearsal

pytestmark = [pytest.mark.e2e, pytest.mark.timeout(600)]

NAMES = ("alder", "birch", "cedar")
ROUNDS = 60
MALLORY = identity_of(Secret(bytes(range(32)))).hex()
STRANGERS = {f"stranger-{i}": identity_of(Secret(bytes([i]) * 32)).hex() for i in range(1, 5)}
JOB = f"""\
name = "granted"
[task]
kind = "image-classification"
model = "cnn"
options = {{ shape = [{intruder.SIDE}, {intruder.SIDE}] }}
labels = ["0", "1", "2"]
[training]
rounds = {ROUNDS}
local_steps = 1
batch_size = 16
learning_rate = 0.1
max_failed_rounds = {ROUNDS}
[privacy]
mechanism = "dp-sgd"
noise_multiplier = 20.0
delta = 1e-5
max_grad_norm = 1.0
[aggregation]
secure = true
stage_timeout = 60.0
[evaluation]
every = 1000
partner_holdout = 0.0
"""


class Puppet:
    """A federation whose server does in each round what it is told.

    Args:
        folder: for everything.
    """

    def __init__(self, folder: Path) -> None:
        self.rehearsal, self.orders, self.number = Rehearsal(folder), folder / "orders", 0
        self.orders.mkdir()
        self.run = Run(self.rehearsal.server / "runs" / "granted")

    def begin(self) -> None:
        """Three partners, none of whom trusts whom it has not accepted, and their first round."""
        federation = self.rehearsal
        federation.init()
        settings = {
            "PYTHONPATH": os.pathsep.join([str(Path(__file__).with_name("puppet")), *filter(None, sys.path)]),
            "TACIT_TEST_ORDERS": str(self.orders),
            "TACIT_TEST_KEY": str(Folder(federation.server).signing_key),
        }
        federation.up(settings=settings)
        for seed, name in enumerate(NAMES):
            data = intruder.write_data(federation.folder / f"{name}.npz", seed=seed)
            federation.join(name, data=data, flags=())
        for name in NAMES:
            federation.attend(name, wait=False)
        for name in NAMES:
            federation.wait_for(name, "connected to")
            for other in NAMES:
                if other != name:
                    self.peers(name, "accept", other)
        (federation.folder / "job.toml").write_text(JOB)
        words = [str(federation.server), str(federation.folder / "job.toml"), "--name", "granted"]
        federation.run("tacit-server", "run", *words)
        assert self.round()["status"] == "done"

    def peers(self, name: str, action: str, other: str) -> None:
        """Accept or remove a peer by hand."""
        self.rehearsal.run("tacit-client", "peers", str(self.rehearsal.folder / name), action, other)

    def round(
        self,
        *,
        job: tuple[str, ...] = (),
        signed: bool = False,
        members: dict[str, str] | None = None,
        without: tuple[str, ...] = (),
    ) -> dict[str, Any]:
        """The history's line of the next round, in which the server lies so."""
        self.number += 1
        order = {"job": job, "signed": signed, "members": members or {}, "without": without}
        new = self.orders / "new"
        new.write_text(json.dumps(order))
        new.rename(self.orders / f"{self.number}.json")
        history = self.run.path / "history.jsonl"
        intruder.wait_until(
            lambda: history.exists() and history.read_bytes().count(b"\n") >= self.number, seconds=180, what="a round"
        )
        line: dict[str, Any] = json.loads(history.read_text().splitlines()[self.number - 1])
        assert line["round"] == self.number
        return line

    def tell_roster(self, told: dict[str, str] | None, *, later: int = 0) -> None:
        """Let every partner come anew and hear of these keys too, or of the true ones."""
        path = self.orders / "roster.json"
        path.unlink(missing_ok=True)
        if told is not None:
            path.write_text(json.dumps({"peers": told, "later": later}))
        before = {name: self._times(name) for name in NAMES}
        os.kill(intruder.gateway(self.rehearsal), signal.SIGTERM)
        for name in NAMES:
            self.rehearsal.wait_for(name, "connected to", times=before[name] + 1)
        time.sleep(0.5)  # the line of the audit log comes with the connection, not before it

    def _times(self, name: str) -> int:
        return self.rehearsal.log(name).read_text().count("connected to")

    def folder(self, name: str) -> PartnerFolder:
        """A partner's."""
        return PartnerFolder.open(self.rehearsal.folder / name)

    def log(self, name: str) -> tuple[Entry, ...]:
        """A partner's audit log, every line verified."""
        return Audit.of(self.folder(name)).entries()


@pytest.fixture(scope="module")
def puppet(tmp_path_factory):
    """The server has kept its word for one round."""
    made = Puppet(tmp_path_factory.mktemp("betrayal"))
    with made.rehearsal:
        made.begin()
        yield made


class Watch:
    """What a partner's audit log gets from now on."""

    def __init__(self, puppet: Puppet) -> None:
        self._puppet = puppet
        self._seen = {name: len(puppet.log(name)) for name in NAMES}

    def new(self, name: str, event: str) -> list[dict[str, Any]]:
        """The facts of new lines of `event`."""
        return [entry.facts for entry in self._puppet.log(name)[self._seen[name] :] if entry.event == event]


def _check_refused(line: dict[str, Any], watch: Watch, *, by: tuple[str, ...], said: str, **facts: Any) -> None:
    """Nothing came of the round, and each of `by` has noted that it refused, and why."""
    assert (line["status"], line["answered"]) == ("abandoned", 0)
    assert set(line["refusals"]) == set(by)
    for name in by:
        assert said in line["refusals"][name]
        (noted,) = watch.new(name, "refused")
        assert said in noted["reason"]
        assert {key: noted[key] for key in facts} == facts
        assert noted["round"] == line["round"]
    for name in NAMES:
        assert watch.new(name, "update-released") == []


CHANGES = {
    "model": "task.options.layers='four'",
    "noise": "privacy.noise_multiplier=0.5",
    "clip": "privacy.max_grad_norm=50.0",
    "mechanism": "privacy={mechanism='none'}",
    "local steps": "training.local_steps=20",
    "rounds": f"training.rounds={ROUNDS + 1}",
    "cohort": "aggregation.cohort=3",
    "in clear": "aggregation.secure=false",
}


@pytest.mark.parametrize("signed", [False, True], ids=["unsigned", "signed"])
@pytest.mark.parametrize("what", CHANGES)
def test_another_job_than_the_granted_one_is_refused_by_everybody(puppet, what, signed):
    """Guarantee: nothing in a later message may differ from the job approved, whoever signs it."""
    overrides = [CHANGES[what]]
    watch = Watch(puppet)
    line = puppet.round(job=tuple(overrides), signed=signed)
    said = "expected the job that this partner granted for the run" if signed else "expected a job signed for this run"
    asked = "train" if what == "in clear" else "advertise"
    other = parse(Job, override(json.loads(puppet.run.job.model_dump_json()), overrides), where="job")
    assert other.hash() != puppet.run.job.hash()
    _check_refused(line, watch, by=NAMES, said=said, asked=asked, job=other.hash())


def test_the_granted_job_goes_on_after_every_lie(puppet):
    """None of them costs a partner its place."""
    watch = Watch(puppet)
    assert (puppet.round()["status"], puppet.number > 1) == ("done", True)
    for name in NAMES:
        (released,) = watch.new(name, "update-released")
        assert released["round"] == puppet.number
        assert (watch.new(name, "refused"), watch.new(name, "job-granted")) == ([], [])


def test_a_stranger_in_the_place_of_a_peer_is_refused(puppet):
    watch = Watch(puppet)
    line = puppet.round(members={"mallory": MALLORY}, without=("cedar",))
    said = "expected at least 3 accepted partners, itself among them, found 2 of 3"
    _check_refused(line, watch, by=("alder", "birch"), said=said, asked="advertise")


def test_a_crowd_of_strangers_is_refused(puppet):
    """Though every accepted peer is there too."""
    watch = Watch(puppet)
    line = puppet.round(members=STRANGERS)
    said = "expected at most 2 partners that are not accepted peers, found 4"
    _check_refused(line, watch, by=NAMES, said=said, asked="advertise")


def test_another_key_under_a_peers_name_is_refused(puppet):
    """By the peer itself too, which knows its own."""
    watch = Watch(puppet)
    line = puppet.round(members={"birch": MALLORY})
    _check_refused(line, watch, by=NAMES, said="birch", asked="advertise")


def test_a_peer_that_was_removed_by_hand_ends_the_rounds_of_who_removed_it(puppet):
    """From the next round on, without a new start; and accepted again it is a peer again."""
    assert puppet.round()["status"] == "done"
    watch = Watch(puppet)
    puppet.peers("alder", "remove", "cedar")
    line = puppet.round()
    assert line["status"] == "abandoned"
    assert set(line["refusals"]) == {"alder"}
    said = "expected at least 3 accepted partners, itself among them, by this partner's policy, found 2"
    assert said in line["refusals"]["alder"]
    assert [facts["peer"] for facts in watch.new("alder", "peer-removed")] == ["cedar"]
    assert [facts["round"] for facts in watch.new("alder", "refused")] == [line["round"]]
    assert [watch.new(name, "update-released") for name in NAMES] == [[], [], []]
    puppet.peers("alder", "accept", "cedar")
    assert puppet.round()["status"] == "done"


def test_a_roster_that_names_another_key_with_the_servers_own_signature(puppet):
    """The list is the server's word, so it is kept and told; the key in it is used by nobody."""
    accepted = {name: peers.read(puppet.folder(name).peers) for name in NAMES}
    watch = Watch(puppet)
    puppet.tell_roster({"birch": MALLORY}, later=5)
    for name in NAMES:
        said = "ALARM: the server names another key for birch than the accepted one"
        said = said.replace("the accepted one", "this partner's own") if name == "birch" else said
        assert said in puppet.rehearsal.log(name).read_text()
        assert [facts["peer"] for facts in watch.new(name, "peer-changed")] == ["birch"]
    line = puppet.round(members={"birch": MALLORY})
    _check_refused(line, watch, by=NAMES, said="birch", asked="advertise")
    assert {name: peers.read(puppet.folder(name).peers) for name in NAMES} == accepted

    watch = Watch(puppet)  # the same version once more, with somebody else in it
    puppet.tell_roster({"mallory": MALLORY}, later=5)
    for name in NAMES:
        (facts,) = watch.new(name, "roster-refused")
        assert "found another of the same version" in facts["reason"]

    watch = Watch(puppet)  # and the true one, which is older by now
    puppet.tell_roster(None)
    for name in NAMES:
        (facts,) = watch.new(name, "roster-refused")
        assert "or later, found version" in facts["reason"]
        named = roster.named(puppet.folder(name).roster, keys=Keys(puppet.folder(name).keys))
        assert named["birch"].hex() == MALLORY  # the last that was signed and not older
    assert puppet.round()["status"] == "done"


def test_the_log_shows_it_and_is_unbroken(puppet):
    for name in NAMES:
        place = str(puppet.rehearsal.folder / name)
        shown = puppet.rehearsal.run("tacit-client", "audit", "show", place, "--event", "refused")
        noted = [entry for entry in puppet.log(name) if entry.event == "refused"]
        assert len(shown.splitlines()) == len(noted) > 0
        assert "unbroken" in puppet.rehearsal.run("tacit-client", "audit", "verify", place)
