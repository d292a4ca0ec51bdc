"""Three offices with real files go through secure rounds over real messages; what their rules forbid is refused."""

from __future__ import annotations

import logging
import subprocess
import sys
import threading
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch
from flwr.app import Message
from folders import change, make_folder, write_npz
from offices import NAMES, PLANTED, Federation, N

from tacit.errors import BadInput
from tacit.job import Job
from tacit.link.records import to_records
from tacit.privacy.accounting import epsilon
from tacit.privacy.events import Event
from tacit.privacy.mechanism import plan
from tacit.quantize import Ring
from tacit.wire import (
    ADVERTISE,
    EVALUATE,
    STATEMENT,
    TRAIN,
    Parcel,
    Statement,
    Update,
)
from tacit_client import peers, roster
from tacit_client.app import Errand
from tacit_client.budget import Budget
from tacit_client.keys import Keys
from tacit_client.ledger import Release
from tacit_client.office import Office, describe_device
from tacit_client.site import Folder

torch.set_num_threads(1)


def _ledger(federation: Federation, name: str) -> tuple[Any, ...]:
    return federation.offices[name]._budget.events()


def test_secure_rounds_of_three_real_folders(make, caplog) -> None:
    caplog.set_level(logging.INFO)
    federation = make()
    trained = federation.whole(federation.open())
    mean = Ring(norm=100.0, partners=3).decode(trained.update, weight=3)
    assert mean.shape == federation.model.shape
    assert 0 < np.linalg.norm(mean) < 100
    judged = federation.whole(federation.open(purpose="evaluate"))
    assert judged.counters[: 2 * 2].sum() == 3 * N // 4  # the table of classes found and true
    federation.whole(federation.open(number=2))
    for name in NAMES:
        said = Statement.unpack(federation.send(STATEMENT, federation.ask(federation.open(number=2)).pack(), to=name))
        (event,) = said.events
        assert (event.steps, event.sampling_rate, event.noise_multiplier) == (4, 16 / 60, 1.0)
    assert caplog.text.count("charged round 1 of run 'run-1': 2 steps with noise 1") == 3
    assert caplog.text.count("answered evaluate, round 1 of run run-1") == 3
    assert caplog.text.count("allowed 2 rounds of dp-sgd: epsilon") == 3  # both rounds, accounted for at once
    assert PLANTED not in caplog.text


def test_noise_and_masks_do_not_come_from_a_seed(make) -> None:
    federation = make()
    asks = federation.asks(federation.open())
    first = [Update.unpack(federation.send(TRAIN, asks[name], to=name)).vector.update for name in NAMES]
    office, ask = federation.offices["p0"], federation.ask(federation.open(number=2))
    assert office._admit(Errand.of("train", ask)).site.randomness.secure
    assert len({update.tobytes() for update in first}) == 3


def _messages(federation: Federation) -> list[tuple[str, Parcel]]:
    """Every kind of message that carries a job."""
    new, ask = federation.open(), federation.ask(federation.open()).pack()
    invite = federation.invite(new)
    return [(ADVERTISE, invite), (TRAIN, ask), (EVALUATE, ask), (STATEMENT, ask)]


@pytest.mark.parametrize(
    ("overrides", "policy", "said"),
    [
        ([], {"allowed_tasks": '["image-classification"]'}, "expected a task among image-classification"),
        ([], {"min_cohort": 4}, "aggregation.min_cohort of at least 4"),
        (["aggregation.secure=false"], {}, "aggregation.secure = true"),
        (["privacy.delta=1e-3"], {}, "privacy.delta of at most 1e-05"),
    ],
)
def test_the_policy_is_checked_in_every_message_before_the_data(make, monkeypatch, overrides, policy, said) -> None:
    federation = make(*overrides, **policy)
    monkeypatch.setattr("tacit_client.data.Data.fit", None)  # touching the data would be an error
    found = [federation.refusal(kind, parcel) for kind, parcel in _messages(federation)]
    assert len(found) == 4
    assert all(said in reason and "by this partner's policy" in reason for reason in found)
    assert _ledger(federation, "p0") == ()


def test_a_job_that_would_pass_the_limit_is_refused_at_its_start(make) -> None:
    federation = make("training.rounds=200", epsilon_limit=6.0)
    for kind, parcel in _messages(federation)[:2]:
        reason = federation.refusal(kind, parcel)
        assert "the limit 6 over the life of the data" in reason
        assert "found 0 spent" in reason
        assert "with 200 rounds more, of which" in reason
    assert _ledger(federation, "p0") == ()


def test_the_limit_counts_other_runs_and_leaves_room_for_the_rest_of_this_one(make) -> None:
    federation = make(started=False)
    planned = plan(federation.job, units=N).event()
    limit = epsilon([planned] * 2, delta=1e-5)
    for folder in federation.folders.values():
        change(folder.path, "epsilon_limit = 8.0", f"epsilon_limit = {limit + 1e-6}")
    federation.start()
    for number in (1, 2):
        federation.whole(federation.open(number=number))
    federation.whole(federation.open(purpose="evaluate", number=2))  # costs nothing
    Statement.unpack(federation.send(STATEMENT, federation.ask(federation.open(number=2)).pack(), to="p0"))
    invite = federation.invite(federation.open(run="run-2"))
    assert "of which 0 would fit" in federation.refusal(ADVERTISE, invite)
    assert len(_ledger(federation, "p0")) == 2


def test_the_server_can_not_get_past_the_limit_by_the_number_of_the_round(make) -> None:
    federation = make("training.rounds=3", epsilon_limit=0.5)
    last = federation.invite(federation.open(number=3))
    assert "with 1 round more, of which 0 would fit" in federation.refusal(ADVERTISE, last)
    beyond = federation.invite(federation.open(number=4))
    assert "expected a round from 1 to training.rounds 3, found 4" in federation.refusal(ADVERTISE, beyond)


def test_a_day_of_rounds(make) -> None:
    federation = make(max_rounds_per_day=1)
    federation.whole(federation.open())
    federation.whole(federation.open(purpose="evaluate"))
    invite = federation.invite(federation.open(number=2))
    assert "at most 1 rounds of training in 24 hours" in federation.refusal(ADVERTISE, invite)


def test_data_that_vanish_in_a_round_end_it_with_a_short_word(make, tmp_path, caplog) -> None:
    federation = make()
    asks = federation.asks(federation.open())
    (tmp_path / "p0.csv").rename(tmp_path / "gone.csv")
    reason = federation.refusal(TRAIN, asks["p0"])
    assert reason.startswith("expected this partner's data as it was, found it no longer there")
    assert str(tmp_path) not in reason
    assert str(tmp_path / "p0.csv") in caplog.text
    assert _ledger(federation, "p0") == ()
    (tmp_path / "gone.csv").rename(tmp_path / "p0.csv")
    assert "stage mask" in federation.refusal(TRAIN, asks["p0"])  # nothing of the round was left
    federation.whole(federation.open(number=2))


def test_a_full_disk_is_a_refusal_and_nothing_is_trained(make, monkeypatch) -> None:
    federation = make()
    asks = federation.asks(federation.open())
    budget, trained = federation.offices["p0"]._budget, []
    monkeypatch.setattr("tacit_client.train.Trainer.train", lambda *args, **rest: trained.append(1))
    db = budget._book.db
    ((pages,),) = db.execute("PRAGMA page_count").fetchall()
    db.execute(f"PRAGMA max_page_count = {pages}")  # SQLite says then what it says of a full disk
    with pytest.raises(BadInput, match="full"):  # the room on the last page goes first
        _fill(budget)
    reason = federation.refusal(TRAIN, asks["p0"])
    assert "expected a privacy ledger that can be read and written at ledger.db" in reason
    assert "full" in reason
    assert trained == []


def _fill(budget: Budget) -> None:
    event = Event(kind="dp-sgd", sampling_rate=0.1, noise_multiplier=1.0, steps=1)
    for number in range(4000):
        budget.confirm(Release("filler", number, 1, event))


def test_out_of_memory_is_a_refusal(make, monkeypatch) -> None:
    federation = make()
    asks = federation.asks(federation.open())

    def fail(*args: Any, **rest: Any) -> Any:
        raise torch.OutOfMemoryError

    monkeypatch.setattr("tacit_client.train.Trainer.train", fail)
    assert "max_physical_batch" in federation.refusal(TRAIN, asks["p0"])
    assert len(_ledger(federation, "p0")) == 1  # charged: nobody knows how far it came


def test_strangers_are_refused_until_they_are_accepted_by_hand(make) -> None:
    federation = make()
    folder = federation.folders["p0"]
    peers.remove(folder.peers, "p2")
    invite = federation.invite(federation.open())
    assert "expected at least 3 accepted partners" in federation.refusal(ADVERTISE, invite)
    peers.accept(folder.peers, "p2", named=roster.named(folder.roster, keys=Keys(folder.keys)))
    federation.whole(federation.open())  # without a restart


def test_trusting_new_peers_is_a_rule_of_the_site(make) -> None:
    federation = make(trust_new_peers="true")
    for folder in federation.folders.values():
        folder.peers.unlink()
    federation.whole(federation.open())


def test_one_message_at_a_time(make, monkeypatch) -> None:
    federation = make()
    office, inside, most = federation.offices["p0"], [0], [0]
    app, step = office.app(), threading.Event()

    def slow(job: Job) -> Any:
        inside[0] += 1
        most[0] = max(most[0], inside[0])
        step.wait(0.05)
        inside[0] -= 1
        raise BadInput("expected nothing, found a message", hint="wait")

    monkeypatch.setattr(office, "_prepare", slow)
    context = federation.grid._contexts[1]
    parcel = federation.ask(federation.open()).pack()
    messages = [Message(to_records(parcel), 1, STATEMENT, group_id="x") for _ in range(4)]
    threads = [threading.Thread(target=app, args=(message, context)) for message in messages]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert most == [1]


def test_two_offices_in_one_folder(tmp_path) -> None:
    folder = make_folder(tmp_path / "a", name="a", data=write_npz(tmp_path / "x.npz", n=20, seed=1))
    with Office(folder), pytest.raises(BadInput, match="expected no other process"):
        Office(folder)
    Office(folder).close()
    code = "import sys, pathlib\nfrom tacit_client.site import Folder\nfrom tacit_client.office import Office\n"
    code += "Office(Folder.open(pathlib.Path(sys.argv[1])))"
    with Office(folder):
        done = subprocess.run([sys.executable, "-c", code, folder.path], capture_output=True, text=True, check=False)
    assert done.returncode == 1
    assert "expected no other process" in done.stderr


def test_what_is_wrong_is_said_at_the_start_and_lets_go_of_the_folder(tmp_path) -> None:
    folder = make_folder(tmp_path / "a", name="a", data=tmp_path / "none.csv")
    with pytest.raises(BadInput, match=f"expected data at {tmp_path / 'none.csv'}"):
        Office(folder)
    write_npz(tmp_path / "x.npz", n=20, seed=1)
    change(folder.path, "none.csv", "x.npz")
    change(folder.path, "delta = 1e-05", "delta = 0.05")
    with pytest.raises(BadInput, match=r"policy\.delta in site\.toml below one over the 20 examples"):
        Office(Folder.open(folder.path))
    change(folder.path, "delta = 0.05", "delta = 0.04")
    Office(Folder.open(folder.path)).close()


def test_the_server_writes_no_lines_of_its_own_into_the_log(make, caplog) -> None:
    caplog.set_level(logging.INFO)
    federation = make()
    ask = replace(federation.ask(federation.open()), run="x\nINFO answered all is well")
    federation.send(STATEMENT, ask.pack(), to="p0")
    assert [record.message for record in caplog.records if "all is well" in record.message] != []
    assert not any("\n" in record.message for record in caplog.records)


def test_the_device_in_words() -> None:
    assert describe_device(torch.device("cpu")) == f"cpu, {torch.get_num_threads()} threads"
    if torch.cuda.is_available():
        assert "GiB" in describe_device(torch.device("cuda"))
