"""Three offices with real files behind the inline grid, and a server driven by hand."""

from __future__ import annotations

import json
from dataclasses import dataclass, field, replace
from pathlib import Path

import numpy as np
import torch
from flwr.app import Context, Message
from folders import SIGNING, write_csv

from tacit import commission, vector
from tacit.job import Job
from tacit.link.records import to_parcel, to_records
from tacit.metrics import Counters
from tacit.parcel import Parcel
from tacit.secagg import server
from tacit.secagg.graph import default_threshold
from tacit.secagg.round import Member, Round
from tacit.tasks.table import find, parse_options
from tacit.wire import (
    ADVERTISE,
    AGREE,
    EVALUATE,
    SHARE,
    TRAIN,
    TRAINING_COUNTERS,
    UNMASK,
    Ask,
    Invite,
    Letter,
    Refusal,
    Update,
)
from tacit_client.keys import Keys
from tacit_client.office import Office
from tacit_client.site import Folder
from tacit_sim.grid import InlineGrid

__all__ = ["JOB", "NAMES", "PLANTED", "RUN", "Federation", "N", "files", "rows"]

NAMES, RUN, N = ("p0", "p1", "p2"), "run-1", 80
PLANTED = "zebra"  # stands in every example, and must stand in no log

JOB = (
    'task.kind="text-classification"',
    'task.model="transformer"',
    "task.options.classes=2",
    "task.options.width=8",
    "task.options.depth=1",
    "task.options.heads=2",
    "task.options.length=12",
    'task.labels=["ham","spam"]',
    "privacy.delta=1e-5",
    "training.batch_size=16",
    "evaluation.partner_holdout=0.25",
    "aggregation.secure=true",
)
"""What makes the usual job one of texts."""


def rows(seed: int) -> list[tuple[str, str]]:
    rng = np.random.default_rng(seed)
    kinds = rng.integers(2, size=N).tolist()
    return [(f"{PLANTED} {'buy' if kind else 'hi'} {i}", ("ham", "spam")[kind]) for i, kind in enumerate(kinds)]


def files(root: Path) -> dict[str, Path]:
    """One partner has a csv, one an npz, one JSON lines."""
    write_csv(root / "p0.csv", rows=rows(0))
    texts, labels = zip(*rows(1), strict=True)
    np.savez(root / "p1.npz", text=np.array(texts), label=np.array(labels))
    lines = [json.dumps({"text": text, "label": label}) for text, label in rows(2)]
    (root / "p2.jsonl").write_text("\n".join(lines))
    return {"p0": root / "p0.csv", "p1": root / "p1.npz", "p2": root / "p2.jsonl"}


@dataclass
class Federation:
    """Three offices behind the inline grid, and a server driven by hand."""

    job: Job
    folders: dict[str, Folder]
    offices: dict[str, Office] = field(default_factory=dict)

    def start(self) -> None:
        for name, folder in self.folders.items():
            self.offices[name] = Office(Folder.open(folder.path))
        apps = {name: office.app() for name, office in self.offices.items()}

        def answer(*, message: Message, context: Context) -> Message:
            return apps[NAMES[int(context.node_config["partition-id"])]](message, context)

        self.grid = InlineGrid(answer, partners=len(NAMES))

    def stop(self) -> None:
        for office in self.offices.values():
            office.close()

    @property
    def model(self) -> np.ndarray:
        task = find(self.job.task.kind).task
        options = parse_options(task, self.job.task.model, self.job.task.options)
        torch.manual_seed(1)
        return vector.flatten(task.models[self.job.task.model].build(options))

    def open(self, *, purpose: str = "train", number: int = 1, run: str = RUN) -> Round:
        members = tuple(Member(name, Keys(folder.keys).public) for name, folder in self.folders.items())
        sizes = (len(self.model), TRAINING_COUNTERS) if purpose == "train" else (0, Counters.length(2))
        return Round(run, self.job.hash(), number, 1, purpose, members, default_threshold(3), *sizes)

    def ask(self, new: Round) -> Ask:
        signed = commission.sign(SIGNING, run=new.run, job=self.job)
        return Ask(self.job, new.run, new.number, new.attempt, len(NAMES), self.model, commission=signed)

    def invite(self, new: Round) -> Parcel:
        return Invite(self.job, new.encode(), commission.sign(SIGNING, run=new.run, job=self.job)).pack()

    def send(self, kind: str, parcel: Parcel, *, to: str) -> Parcel:
        message = Message(to_records(parcel), NAMES.index(to) + 1, kind, group_id="1.1.x")
        (answer,) = self.grid.send_and_receive([message])
        assert not answer.has_error(), answer.error
        return to_parcel(answer.content)

    def refusal(self, kind: str, parcel: Parcel, *, to: str = "p0") -> str:
        found = Refusal.unpack(self.send(kind, parcel, to=to))
        assert found.name == to
        return found.reason

    def letters(self, kind: str, parcel: Parcel) -> dict[int, bytes]:
        return {i: Letter.unpack(self.send(kind, parcel, to=name)).body for i, name in enumerate(NAMES)}

    def asks(self, new: Round) -> dict[str, Parcel]:
        """Stages 0 and 1; what each is then asked."""
        admitted, roster = server.admit(new, self.letters(ADVERTISE, self.invite(new)))
        sent, ask = self.letters(SHARE, Letter("server", roster).pack()), self.ask(new)
        self.gathering, inboxes = server.route(admitted, sent, request=ask.request())
        return {NAMES[i]: replace(ask, inbox=inbox).pack() for i, inbox in inboxes.items()}

    def whole(self, new: Round) -> server.Sum:
        """A round from end to end."""
        asks = self.asks(new)
        for i, name in enumerate(NAMES):
            update = Update.unpack(self.send(TRAIN if new.purpose == "train" else EVALUATE, asks[name], to=name))
            server.gather(self.gathering, i, update.vector, update.presence)
        listed, survivors = server.listing(self.gathering)
        confirmed, quorum = server.confirm(listed, self.letters(AGREE, Letter("server", survivors).pack()))
        return server.finish(confirmed, self.letters(UNMASK, Letter("server", quorum).pack()))
