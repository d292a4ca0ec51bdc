"""Partners that answer from a script, behind the inline grid."""

from __future__ import annotations

import hashlib
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from flwr.app import Context, Message
from flwr.clientapp import ClientApp

from tacit.link.records import to_parcel, to_records
from tacit.metrics import Counters
from tacit.parcel import Parcel
from tacit.privacy.events import Event
from tacit.privacy.randomness import Randomness
from tacit.quantize import Ring
from tacit.secagg.keys import PublicKey
from tacit.secagg.messages import MaskedVector
from tacit.wire import Ask, Hello, Statement, Update
from tacit_sim.grid import InlineGrid

D = 4
NORM = 100.0  # the job's, as it stands when left out
EVENT = Event(kind="dp-sgd", sampling_rate=0.25, noise_multiplier=1.0, steps=2)


def hello(name: str) -> Hello:
    return Hello(name, PublicKey(hashlib.sha256(name.encode()).digest()))


def update(
    name: str,
    *,
    delta: float = 1.0,
    length: int = D,
    weight: int = 1,
    full: int = 1,
    clipped: int = 0,
    partners: int = 3,
) -> Update:
    """An update whose entries are all `delta`, off by less than a step of the grid."""
    ring, rounding = Ring(norm=NORM, partners=partners), Randomness(0).stream("rounding", name)
    encoded, _ = ring.encode(np.full(length, delta, np.float32), weight=weight / full, rounding=rounding)
    return Update(name, MaskedVector(encoded, np.array([weight, clipped, 100], np.uint64)), (EVENT,))


def score(name: str, accuracy: float = 0.5) -> Update:
    right = round(10 * accuracy)
    return sums(name, Counters(np.array([[right, 10 - right], [0, 0]], np.int64), 0).to_vector())


def sums(name: str, counters: Any) -> Update:
    """An answer to a question for scores."""
    return Update(name, MaskedVector(np.empty(0, np.uint32), np.asarray(counters).astype(np.uint64)))


@dataclass
class Script:
    """What partner i says to an ask; a function may raise, which is a crash of that partner."""

    train: Callable[[str, Ask], Any] = lambda name, ask: update(name)
    score: Callable[[str, Ask], Any] = lambda name, ask: score(name)
    statement: Callable[[str, Ask], Any] = lambda name, ask: Statement(name, (EVENT,))
    hello: Callable[[str], Any] = hello
    asked: list[tuple[int, str]] = field(default_factory=list)

    def grid(self, partners: int) -> InlineGrid:
        app = ClientApp()

        def answer(message: Message, said: Any) -> Message:
            return Message(to_records(said if isinstance(said, Parcel) else said.pack()), reply_to=message)

        def name(context: Context) -> str:
            return f"p{context.node_config['partition-id']}"

        @app.train()
        def train(message: Message, context: Context) -> Message:
            ask = Ask.unpack(to_parcel(message.content))
            self.asked.append((ask.round, name(context)))
            return answer(message, self.train(name(context), ask))

        @app.evaluate()
        def evaluate(message: Message, context: Context) -> Message:
            return answer(message, self.score(name(context), Ask.unpack(to_parcel(message.content))))

        @app.query("hello")
        def greet(message: Message, context: Context) -> Message:
            return answer(message, self.hello(name(context)))

        @app.query("statement")
        def statement(message: Message, context: Context) -> Message:
            return answer(message, self.statement(name(context), Ask.unpack(to_parcel(message.content))))

        return InlineGrid(app, partners=partners)
