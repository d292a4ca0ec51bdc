"""The honest partners of an attack: Tacit's own ClientApp, reached by nothing but Flower's messages."""

from __future__ import annotations

from collections.abc import Mapping
from functools import partial

import numpy as np
import torch
from flwr.app import Context, Message
from numpy.typing import NDArray
from torch import nn

from tacit import vector
from tacit.errors import JobFailed
from tacit.job import Job, TrainingSection
from tacit.link.records import to_parcel, to_records
from tacit.parcel import Parcel
from tacit.privacy.mechanism import Mechanism
from tacit.privacy.randomness import Randomness, Stream
from tacit.secagg.keys import Secret
from tacit.secagg.round import Party
from tacit.tasks.image import IMAGE_CLASSIFICATION
from tacit.tasks.task import Encoded
from tacit.wire import TRAIN, Refusal
from tacit_client.app import Bench, Desk, make_client_app
from tacit_client.book import MEMORY
from tacit_client.ledger import DataSet, Ledger
from tacit_client.masking import Standing
from tacit_client.partner import Site
from tacit_client.train import Shard, Trainer
from tacit_sim.engine import quiet
from tacit_sim.grid import InlineGrid

__all__ = ["Partners", "dead_model", "live_model"]

_INPUTS, _UNITS, _CLASSES, _EXAMPLES = 16, 12, 4, 40


class Partners:
    """Partners under attack. Each trains a small network on 40 examples of its own, for real.

    Their sampling and rounding are seeded, so that a partner asked twice trains twice alike: the best case for an
    attacker that compares two sums.

    Args:
        parties: names, identity keys and rules, by position in the cohort.

    Attributes:
        standings: where each stands in secure aggregation, by name. To bring a partner into a state, never read.
        updates: what each trained last, float32 `[d]` by position: the truth that an attack is measured by.
    """

    def __init__(self, parties: Mapping[int, Party]) -> None:
        quiet()
        self.standings: dict[str, Standing] = {}
        self.updates: dict[int, NDArray[np.float32]] = {}
        self._parties = parties
        self._trainers: dict[bool, _Watched] = {}
        self._sites = {party.name: _site(i, party.name) for i, party in parties.items()}
        desk = Desk(
            name=lambda context: self._party(context).name,
            admit=lambda context, errand: Bench(
                self._sites[self._party(context).name], self._trainer(errand.job), _CLASSES
            ),
            party=self._party,
            recall=lambda context: self.standings.get(self._party(context).name, Standing()),
            keep=lambda context, standing: self.standings.update({self._party(context).name: standing}),
        )
        self._grid = InlineGrid(make_client_app(desk), partners=max(parties) + 1)

    def tell(self, position: int, kind: str, parcel: Parcel) -> Parcel | Refusal:
        """One message, and what its receiver answers.

        Raises:
            JobFailed: the partner broke down instead of answering: a fault of the attack, and no refusal.
        """
        message = Message(to_records(parcel), position + 1, kind, group_id="1")
        (answer,) = self._grid.send_and_receive([message])
        if answer.has_error():
            raise JobFailed(f"expected an answer or a refusal, found {answer.error.reason}", hint="report it")
        found = to_parcel(answer.content)
        if found.scalars["kind"] == "refusal":
            return Refusal.unpack(found)
        if kind == TRAIN:
            self.updates[position] = next(t.last for t in self._trainers.values() if t.last is not None)
        return found

    def _party(self, context: Context) -> Party:
        return self._parties[int(context.node_config["partition-id"])]

    def _trainer(self, job: Job) -> _Watched:
        private = job.privacy.mechanism != "none"
        if private not in self._trainers:
            make = partial(_Watched, task=IMAGE_CLASSIFICATION, device=torch.device("cpu"), max_physical_batch=64)
            self._trainers[private] = make(_network(), private=private)
        for trainer in self._trainers.values():
            trainer.last = None
        return self._trainers[private]


class _Watched(Trainer):
    """A trainer that remembers what it trained last."""

    last: NDArray[np.float32] | None = None

    def train(
        self,
        start: NDArray[np.float32],
        shard: Shard,
        *,
        mechanism: Mechanism,
        training: TrainingSection,
        learning_rate: float,
        sampling: Stream,
        noise: Stream,
    ) -> NDArray[np.float32]:
        self.last = super().train(
            start,
            shard,
            mechanism=mechanism,
            training=training,
            learning_rate=learning_rate,
            sampling=sampling,
            noise=noise,
        )
        return self.last


def live_model() -> NDArray[np.float32]:
    """A model that learns, float32 `[252]`."""
    return vector.flatten(_network())


def dead_model() -> NDArray[np.float32]:
    """A model none of whose units ever fires: every gradient is zero, whatever the examples."""
    weights, bias, last = (np.full(n, x) for n, x in ((_INPUTS * _UNITS, 0), (_UNITS, -1), (_UNITS * _CLASSES, 0)))
    return np.concatenate([weights, bias, last]).astype(np.float32)


def _network() -> nn.Module:
    network = nn.Sequential(nn.Linear(_INPUTS, _UNITS), nn.ReLU(), nn.Linear(_UNITS, _CLASSES, bias=False))
    start = np.random.default_rng(8).normal(0.0, 0.3, sum(p.numel() for p in network.parameters()))
    vector.load(network, start.astype(np.float32))
    return network


def _site(position: int, name: str) -> Site:
    drawn = torch.Generator().manual_seed(position)
    rows = torch.arange(_EXAMPLES)
    data = Encoded((torch.randn(_EXAMPLES, _INPUTS, generator=drawn),), (rows * 7 + position) % _CLASSES)
    ledger = Ledger(MEMORY, partner=name, key=Secret(bytes(32)), dataset=DataSet("0" * 64), durable=False)
    return Site(name, Shard(data, rows), Shard(data, rows[:0]), ledger, Randomness(position))
