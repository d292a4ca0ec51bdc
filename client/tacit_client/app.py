"""The partner as a Flower ClientApp: messages in, messages out."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from flwr.app import Context, Message, RecordDict
from flwr.clientapp import ClientApp
from flwr.clientapp.typing import Mod

from tacit.errors import BadInput
from tacit.job import Job
from tacit.link.records import to_parcel, to_records
from tacit.wire import Ask, Hello, Parcel, Refusal
from tacit_client import partner
from tacit_client.partner import Site
from tacit_client.train import Trainer

__all__ = ["Desk", "make_client_app"]


@dataclass(frozen=True)
class Desk:
    """How the app finds what it works with.

    Attributes:
        name: of the partner behind a Flower context.
        site: the partner's site for a job. Raises BadInput where its data does not fit.
        trainer: a trainer for a job, and the number of classes.
    """

    name: Callable[[Context], str]
    site: Callable[[Context, Job], Site]
    trainer: Callable[[Job], tuple[Trainer, int]]


def make_client_app(desk: Desk, *, mods: Sequence[Mod] = ()) -> ClientApp:
    """A ClientApp with handlers for hello, train, evaluate and statement.

    Guarantee: a message is decoded strictly as data; nothing in it is ever imported, evaluated or run.
    """
    app = ClientApp(mods=list(mods))

    @app.query("hello")
    def hello(message: Message, context: Context) -> Message:
        return _answer(message, Hello(desk.name(context)).pack())

    @app.train()
    def train(message: Message, context: Context) -> Message:
        def work(ask: Ask) -> Parcel:
            trainer, _ = desk.trainer(ask.job)
            return partner.take_part(ask, desk.site(context, ask.job), trainer).pack()

        return _answer(message, _serve(desk.name(context), message, work))

    @app.evaluate()
    def evaluate(message: Message, context: Context) -> Message:
        def work(ask: Ask) -> Parcel:
            trainer, classes = desk.trainer(ask.job)
            return partner.judge(ask, desk.site(context, ask.job), trainer, classes=classes).pack()

        return _answer(message, _serve(desk.name(context), message, work))

    @app.query("statement")
    def statement(message: Message, context: Context) -> Message:
        def work(ask: Ask) -> Parcel:
            return partner.state(ask.run, desk.site(context, ask.job)).pack()

        return _answer(message, _serve(desk.name(context), message, work))

    return app


def _serve(name: str, message: Message, work: Callable[[Ask], Parcel]) -> Parcel:
    """The work's answer, or a refusal that says why there is none."""
    try:
        return work(Ask.unpack(to_parcel(message.content)))
    except BadInput as error:
        return Refusal(name, f"{error.message}; {error.hint}").pack()
    except torch.OutOfMemoryError:
        return Refusal(
            name, "expected enough device memory for a physical batch, found too little; lower max_physical_batch"
        ).pack()


def _answer(message: Message, parcel: Parcel) -> Message:
    content: RecordDict = to_records(parcel)
    return Message(content, reply_to=message)
