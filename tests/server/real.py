"""Partners with the real client code behind the inline grid; the test decides what leaves them."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch
from flwr.app import Context, Message
from flwr.clientapp.typing import ClientAppCallable, Mod
from scripted import D

from tacit.link.records import to_parcel, to_records
from tacit.metrics import Counters
from tacit.parcel import Parcel
from tacit.privacy.randomness import Randomness
from tacit.quantize import Ring
from tacit.secagg.keys import PublicKey, Secret, identity_of
from tacit.secagg.round import Party, Rules
from tacit.tasks.task import Encoded
from tacit_client.app import Bench, Desk, make_client_app
from tacit_client.ledger import DataSet, Ledger
from tacit_client.masking import Standing
from tacit_client.partner import Site
from tacit_client.train import Shard
from tacit_sim.grid import InlineGrid

KEY, DATA = Secret(bytes(32)), DataSet("0" * 64)

__all__ = ["Partners", "Sent"]

MOST = 70_000


@dataclass(frozen=True)
class Sent:
    """An answer as it leaves a partner, or is about to."""

    kind: str
    name: str
    group: str
    parcel: Parcel


class _Trainer:
    """Draws the update from the partner's own stream; counts the held-out examples in one cell of the matrix."""

    def train(self, start: np.ndarray, shard: Shard, *, sampling: Any, **rest: Any) -> np.ndarray:
        return sampling.gaussian(len(start))

    def evaluate(self, start: np.ndarray, shard: Shard, *, classes: int) -> Counters:
        held = len(shard)
        return Counters(np.array([[held // 2, held - held // 2], [0, 1]]), 1000 * held)


@dataclass
class Partners:
    """Partners `p0`, `p1`, ... that keep ledger and standing from one grid to the next.

    Attributes:
        ledger: file.
        examples: of `p0`, `p1`, ...; 64 where the list ends.
        meddle: what the partner sends instead of its honest answer; it may raise, which loses the answer.
        away: whether a partner vanishes before it looks at a message, by type, name and group.
        sent: every answer that left.
        encoded: every encoded update in clear, by group and name.
    """

    ledger: Path
    examples: tuple[int, ...] = ()
    meddle: Callable[[Sent], Parcel] = lambda sent: sent.parcel
    away: Callable[[str, str, str], bool] = lambda kind, name, group: False
    min_cohort: int = 3
    mods: list[Mod] = field(default_factory=list)
    sent: list[Sent] = field(default_factory=list)
    encoded: dict[tuple[str, str], np.ndarray] = field(default_factory=dict)
    standings: dict[str, Standing] = field(default_factory=dict)
    now: tuple[str, str] = ("", "")

    def grid(self, partners: int) -> InlineGrid:
        peers = {f"p{i}": PublicKey(identity_of(_key(f"p{i}"))) for i in range(partners)}
        data = Encoded((torch.zeros(1, 1).expand(MOST, 1),), torch.zeros(1, dtype=torch.long).expand(MOST))

        def site(context: Context) -> Site:
            place = int(context.node_config["partition-id"])
            size = self.examples[place] if place < len(self.examples) else 64
            shards = Shard(data, torch.arange(size)), Shard(data, torch.arange(10 + place))
            return Site(
                name(context),
                *shards,
                Ledger(self.ledger, partner=name(context), key=KEY, dataset=DATA, durable=False),
                Randomness(3),
            )

        desk = Desk(
            name=name,
            admit=lambda context, errand: Bench(site(context), _Trainer(), 2),
            party=lambda context: Party(name(context), _key(name(context)), Rules(peers, self.min_cohort)),
            recall=lambda context: self.standings.get(name(context), Standing()),
            keep=lambda context, standing: self.standings.__setitem__(name(context), standing),
        )
        return InlineGrid(make_client_app(desk, mods=[*self.mods, self._mod]), partners=partners)

    def record(self, monkeypatch: Any) -> None:
        """Fill `encoded` from now on."""
        encode = Ring.encode

        def noted(ring: Ring, update: np.ndarray, **rest: Any) -> tuple[np.ndarray, bool]:
            found, clipped = encode(ring, update, **rest)
            self.encoded[self.now] = found.copy()  # it is masked in place
            return found, clipped

        monkeypatch.setattr(Ring, "encode", noted)

    def parcels(self, kind: str, *, group: str = "") -> dict[tuple[str, str], Parcel]:
        """What left, by group and name."""
        return {(s.group, s.name): s.parcel for s in self.sent if s.kind == kind and s.group.startswith(group)}

    def _mod(self, message: Message, context: Context, call_next: ClientAppCallable) -> Message:
        kind, group = message.metadata.message_type, message.metadata.group_id
        if self.away(kind, name(context), group):
            raise RuntimeError("gone")
        self.now = group, name(context)
        answer = call_next(message, context)
        honest = Sent(kind, name(context), group, to_parcel(answer.content))
        sent = Sent(kind, name(context), group, self.meddle(honest))
        self.sent.append(sent)
        return Message(to_records(sent.parcel), reply_to=message)


def name(context: Context) -> str:
    return f"p{context.node_config['partition-id']}"


def _key(name: str) -> Secret:
    return Secret(Randomness(1).stream("identity", name).words(4).tobytes())


def mean(partners: Partners, group: str, names: list[str], *, cohort: int) -> np.ndarray:
    """The mean of the encoded updates of `names`, float64 `[d]`, from what was encoded in clear."""
    total = np.zeros(D, np.uint32)
    for who in names:
        total += partners.encoded[group, who]
    return Ring(norm=100.0, partners=cohort).decode(total, weight=len(names))
