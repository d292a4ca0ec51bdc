"""The partner's app over Flower messages: refusals that name their stage, and no state left after an error."""

from __future__ import annotations

import copy
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np
import pytest
import torch
from circle import NAMES, RUN, make_party
from flwr.app import Context, Message
from torch import nn
from twin import TASK

from tacit import vector
from tacit.errors import BadInput
from tacit.job import Job
from tacit.link.records import to_parcel, to_records
from tacit.metrics import Counters
from tacit.parcel import Parcel
from tacit.privacy.randomness import Randomness
from tacit.secagg import server
from tacit.secagg.graph import default_threshold
from tacit.secagg.keys import Secret
from tacit.secagg.round import Member, Party, Round
from tacit.secagg.states import Done, Masked
from tacit.tasks.task import Encoded
from tacit.wire import (
    ADVERTISE,
    AGREE,
    EVALUATE,
    HELLO,
    SHARE,
    STATEMENT,
    TRAIN,
    TRAINING_COUNTERS,
    UNMASK,
    Ask,
    Hello,
    Invite,
    Letter,
    Refusal,
    Statement,
    Update,
)
from tacit_client.app import Bench, Desk, _without_paths, make_client_app
from tacit_client.ledger import DataSet, Ledger
from tacit_client.masking import Standing
from tacit_client.partner import Site
from tacit_client.train import Shard, Trainer
from tacit_sim.grid import InlineGrid

KEY, DATA = Secret(bytes(32)), DataSet("0" * 64)

torch.set_num_threads(1)

N, CLASSES = 40, 3


def _network() -> nn.Module:
    torch.manual_seed(9)
    return nn.Sequential(nn.Linear(4, 6), nn.Tanh(), nn.Linear(6, CLASSES))


D = len(vector.flatten(_network()))


@dataclass
class Federation:
    """Three partners with the real trainer behind the inline grid, and a server driven by hand."""

    job: Job
    ledger: Any
    broken: BaseException | None = None
    standings: dict[str, Standing] = field(default_factory=lambda: dict.fromkeys(NAMES, Standing()))

    def __post_init__(self) -> None:
        desk = Desk(
            name=_name,
            admit=lambda context, errand: Bench(self.site(_name(context)), self._trainer(errand.job), CLASSES),
            party=lambda context: make_party(_name(context)),
            recall=lambda context: self.standings[_name(context)],
            keep=lambda context, standing: self.standings.__setitem__(_name(context), standing),
        )
        self.grid = InlineGrid(make_client_app(desk), partners=len(NAMES))

    def site(self, name: str) -> Site:
        generator = torch.Generator().manual_seed(NAMES.index(name))
        data = Encoded((torch.randn(N + 10, 4, generator=generator),), torch.arange(N + 10) % CLASSES)
        shards = Shard(data, torch.arange(N)), Shard(data, torch.arange(N, N + 10))
        return Site(name, *shards, Ledger(self.ledger, partner=name, key=KEY, dataset=DATA), Randomness(3))

    def _trainer(self, job: Job) -> Trainer:
        if self.broken is not None:
            raise self.broken
        return Trainer(
            copy.deepcopy(_network()), task=TASK, private=True, device=torch.device("cpu"), max_physical_batch=512
        )

    def ask(self, new: Round) -> Ask:
        return Ask(self.job, RUN, new.number, new.attempt, len(NAMES), vector.flatten(_network()))

    def open(self, *, purpose: str = "train", number: int = 1) -> Round:
        members = tuple(Member(name, make_party(name).identity) for name in NAMES)
        sizes = (D, TRAINING_COUNTERS) if purpose == "train" else (0, Counters.length(CLASSES))
        return Round(RUN, self.job.hash(), number, 1, purpose, members, default_threshold(3), *sizes)

    def send(self, kind: str, parcel: Parcel, *, to: str) -> Any:
        """The answer's parcel, or Flower's error."""
        message = Message(to_records(parcel), NAMES.index(to) + 1, kind, group_id="1.1.train")
        (answer,) = self.grid.send_and_receive([message])
        return answer.error if answer.has_error() else to_parcel(answer.content)

    def letters(self, kind: str, parcel: Parcel) -> dict[int, bytes]:
        return {i: Letter.unpack(self.send(kind, parcel, to=name)).body for i, name in enumerate(NAMES)}

    def until(self, stage: str, new: Round) -> tuple[Parcel, ...]:
        """Everybody goes through the stages before `stage`; what the server sends each for it."""
        invite = Invite(self.job, new.encode()).pack()
        if stage == ADVERTISE:
            return (invite,) * 3
        admitted, roster = server.admit(new, self.letters(ADVERTISE, invite))
        if stage == SHARE:
            return (Letter("server", roster).pack(),) * 3
        ask = self.ask(new)
        sent = self.letters(SHARE, Letter("server", roster).pack())
        self.gathering, inboxes = server.route(admitted, sent, request=ask.request())
        asks = tuple(replace(ask, inbox=inbox).pack() for inbox in inboxes.values())
        kind = TRAIN if new.purpose == "train" else EVALUATE
        if stage == kind:
            return asks
        for i, name in enumerate(NAMES):
            update = Update.unpack(self.send(kind, asks[i], to=name))
            server.gather(self.gathering, i, update.vector, update.presence)
        listed, survivors = server.listing(self.gathering)
        letter = Letter("server", survivors).pack()
        if stage == AGREE:
            return (letter,) * 3
        self.confirmed, quorum = server.confirm(listed, self.letters(AGREE, letter))
        return (Letter("server", quorum).pack(),) * 3

    def whole(self, new: Round) -> server.Sum:
        (letter, _, _) = self.until(UNMASK, new)
        return server.finish(self.confirmed, self.letters(UNMASK, letter))


def _name(context: Context) -> str:
    return NAMES[int(context.node_config["partition-id"])]


@pytest.fixture
def federation(make_job, tmp_path) -> Federation:
    return Federation(make_job("aggregation.secure=true"), tmp_path / "ledger.db")


@pytest.fixture
def clear(make_job, tmp_path) -> Federation:
    return Federation(make_job(), tmp_path / "clear.db")


def test_a_partner_says_its_name_and_identity(federation):
    for name in NAMES:
        said = Hello.unpack(federation.send(HELLO, Parcel({}, {}), to=name))
        assert said == Hello(name, make_party(name).identity)


def test_a_secure_round_adds_up_to_the_same_as_one_in_clear(federation, clear):
    new = federation.open()
    found = federation.whole(new)
    plain = np.zeros(D, np.uint32)
    for name in NAMES:
        plain += Update.unpack(clear.send(TRAIN, clear.ask(new).pack(), to=name)).vector.update
    np.testing.assert_array_equal(found.update, plain)
    assert found.counters[:2].tolist() == [3, 0]
    assert plain.any()
    assert [type(standing.state) for standing in federation.standings.values()] == [Done] * 3


def test_secure_scores_add_up_to_the_same_as_those_in_clear(federation, clear):
    new = federation.open(purpose="evaluate")
    answers = [clear.send(EVALUATE, clear.ask(new).pack(), to=name) for name in NAMES]
    plain = sum(Update.unpack(answer).vector.counters for answer in answers)
    assert federation.whole(new).counters.tolist() == plain.tolist()
    assert plain[: CLASSES**2].sum() == 30


def _garbled(parcel: Parcel) -> Parcel:
    """The same message with another last byte in what the server says of the protocol."""
    name = next(key for key in ("inbox", "body", "round") if key in parcel.arrays)
    changed = parcel.arrays[name].copy()
    changed[-1] ^= 1
    return Parcel({**parcel.arrays, name: changed}, parcel.scalars)


STAGES = {ADVERTISE: "advertise", SHARE: "share", TRAIN: "mask", AGREE: "agree", UNMASK: "unmask"}


@pytest.mark.parametrize("kind", STAGES)
def test_a_refusal_names_its_stage_and_nothing_of_the_round_is_left(federation, kind):
    """Guarantee: after a failed check the round's secrets are gone; it can not be tried again, the next one can."""
    right = federation.until(kind, federation.open())[0]
    wrong = _garbled(right) if kind != ADVERTISE else Invite(federation.job, b"").pack()
    refusal = Refusal.unpack(federation.send(kind, wrong, to="p0"))
    assert refusal.name == "p0"
    assert refusal.reason.startswith(f"secure aggregation, stage {STAGES[kind]}: expected ")
    assert "; " in refusal.reason  # and what to do
    assert federation.standings["p0"].state is None
    if kind != ADVERTISE:
        again = Refusal.unpack(federation.send(kind, right, to="p0"))
        assert again.reason.startswith(f"secure aggregation, stage {STAGES[kind]}: expected ")
        invite = federation.until(ADVERTISE, federation.open())[0]
        repeated = Refusal.unpack(federation.send(ADVERTISE, invite, to="p0"))
        assert "found one of them or an earlier one" in repeated.reason
    federation.whole(federation.open(number=2))
    assert isinstance(federation.standings["p0"].state, Done)


@pytest.mark.parametrize("kind", [k for k in STAGES if k not in (TRAIN, ADVERTISE)])
def test_a_message_of_another_kind_is_refused_and_ends_the_round(federation, kind):
    federation.until(kind, federation.open())
    for parcel in (Parcel({}, {}), Hello("x", make_party("p1").identity).pack()):
        refusal = Refusal.unpack(federation.send(kind, parcel, to="p0"))
        assert refusal.reason.startswith("expected fields ")
    assert federation.standings["p0"].state is None


def test_out_of_memory_is_a_refusal_with_a_remedy(federation):
    asks = federation.until(TRAIN, federation.open())
    federation.broken = torch.OutOfMemoryError("31337 bytes of somebody's data")
    refusal = Refusal.unpack(federation.send(TRAIN, asks[0], to="p0"))
    assert "max_physical_batch" in refusal.reason
    assert "31337" not in refusal.reason
    assert federation.standings["p0"].state is None


def test_a_crash_in_training_is_a_drop_out_and_leaves_nothing(federation, monkeypatch):
    asks = federation.until(TRAIN, federation.open())
    monkeypatch.setattr(Trainer, "train", _raise(RuntimeError("broken")))
    assert federation.send(TRAIN, asks[0], to="p0").reason == "RuntimeError: broken"
    assert federation.standings["p0"].state is None
    assert len(federation.site("p0").ledger.events()) == 1  # charged: nobody knows how far it came
    monkeypatch.undo()
    refusal = Refusal.unpack(federation.send(TRAIN, asks[0], to="p0"))
    assert "stage mask" in refusal.reason
    assert len(federation.site("p0").ledger.events()) == 1


def _raise(error: BaseException) -> Callable[..., Any]:
    def fail(*args: Any, **kwargs: Any) -> Any:
        raise error

    return fail


def test_a_job_that_the_data_does_not_fit_is_refused_at_the_invitation(federation, monkeypatch):
    monkeypatch.setattr(Federation, "site", _raise(BadInput("expected images, found text", hint="use other data")))
    invite = federation.until(ADVERTISE, federation.open())[0]
    refusal = Refusal.unpack(federation.send(ADVERTISE, invite, to="p0"))
    assert refusal == Refusal("p0", "expected images, found text; use other data")
    assert federation.standings["p0"] == Standing()


def test_an_update_is_released_and_charged_once(federation):
    asks = federation.until(TRAIN, federation.open())
    assert isinstance(federation.send(TRAIN, asks[0], to="p0").arrays["update"], np.ndarray)
    refusal = Refusal.unpack(federation.send(TRAIN, asks[0], to="p0"))
    assert refusal.reason.startswith("secure aggregation, stage mask: expected ")
    assert len(federation.site("p0").ledger.events()) == 1


def test_asking_the_ledger_leaves_the_round_alone(federation):
    new = federation.open()
    letter = federation.until(AGREE, new)[0]
    said = Statement.unpack(federation.send(STATEMENT, federation.ask(new).pack(), to="p0"))
    assert (said.name, len(said.events)) == ("p0", 1)
    assert isinstance(federation.standings["p0"].state, Masked)
    Letter.unpack(federation.send(AGREE, letter, to="p0"))


def test_other_partners_are_not_drawn_into_an_error(federation):
    right = federation.until(SHARE, federation.open())[0]
    federation.send(SHARE, _garbled(right), to="p0")
    states = {name: standing.state is None for name, standing in federation.standings.items()}
    assert states == {"p0": True, "p1": False, "p2": False}


def test_a_party_may_refuse_a_cohort_of_strangers(federation):
    stranger: Party = make_party("somebody else")
    members = (*federation.open().members[:2], Member("q", stranger.identity))
    new = replace(federation.open(), members=members)
    invite = Invite(federation.job, new.encode()).pack()
    refusal = Refusal.unpack(federation.send(ADVERTISE, invite, to="p0"))
    assert "accepted partners, itself among them, found 2 of 3" in refusal.reason
    assert "a cohort of strangers hides nothing" in refusal.reason


@pytest.mark.parametrize(
    ("said", "heard"),
    [
        ("expected a ledger at /srv/tacit/ledger.db, found none", "expected a ledger at a path here, found none"),
        ("expected TOML in /home/a b/peers.toml", "expected TOML in a path here b/peers.toml"),
        ("expected ~/x and ../y/z; /a", "expected a path here and a path here; a path here"),
        ("found '/tmp/x.csv' (/x) here", "found 'a path here' (a path here) here"),
        ("expected 1/N, 2 / 3 and n/2, found and/or", "expected 1/N, 2 / 3 and n/2, found and/or"),
        ("epsilon 1.5/8 at 1e-5", "epsilon 1.5/8 at 1e-5"),
    ],
)
def test_the_server_hears_of_no_path(said, heard):
    assert _without_paths(said) == heard
