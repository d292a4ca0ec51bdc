"""The partner as a Flower ClientApp: messages in, messages out."""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial

import torch
from flwr.app import Context, Message, RecordDict
from flwr.clientapp import ClientApp
from flwr.clientapp.typing import ClientAppCallable, Mod

from tacit.errors import BadInput
from tacit.job import Job
from tacit.link.records import to_parcel, to_records
from tacit.parcel import Parcel
from tacit.secagg.abort import Abort
from tacit.secagg.round import Party
from tacit.step import STEP, Step
from tacit.wire import (
    ADVERTISE,
    AGREE,
    EVALUATE,
    HELLO,
    SHARE,
    STATEMENT,
    TRAIN,
    UNMASK,
    Ask,
    Hello,
    Invite,
    Letter,
    Refusal,
)
from tacit_client import block, masking, partner, whole
from tacit_client.masking import Standing
from tacit_client.partner import Site
from tacit_client.train import Trainer

__all__ = ["KINDS", "Bench", "Desk", "Errand", "make_client_app"]

_TYPES = frozenset({ADVERTISE, AGREE, EVALUATE, HELLO, SHARE, STATEMENT, STEP, TRAIN, UNMASK})
KINDS = frozenset(each.removeprefix("query.") for each in _TYPES)
"""What partners answer, as an `Errand` and the audit log call it."""

_PATH = re.compile(r"(?<![\w/.:])(?:~|\.{1,2})?/[\w.@%+~-][^\s'\";,()]*")


@dataclass(frozen=True, repr=False)
class Errand:
    """What a message that carries a job asks for.

    Attributes:
        kind: Flower's message type without what routes it: advertise, train, step, evaluate or statement.
        job: as it came.
        run: id.
        round: 1-based.
        trains: whether it leads to a release about the training examples.
        commission: the server's signature under job and run.
        step: 1-based, of a block; None of any other message.
    """

    kind: str
    job: Job
    run: str
    round: int
    trains: bool
    commission: bytes
    step: int | None = None

    @property
    def judges(self) -> bool:
        """Whether it leads to a release about the examples that are held out."""
        return self.kind == "evaluate" or (self.kind == "advertise" and not self.trains)

    @classmethod
    def of(cls, kind: str, ask: Ask) -> Errand:
        """That of a request to train, to evaluate or to state."""
        return cls(kind, ask.job, ask.run, ask.round, kind == "train", ask.commission)


@dataclass(frozen=True, repr=False)
class Bench:
    """What a partner works with once it has granted an errand.

    Attributes:
        site: its data, ledger and randomness.
        trainer: of the job's network.
        classes: how many the job has.
    """

    site: Site
    trainer: Trainer
    classes: int


@dataclass(frozen=True)
class Desk:
    """How the app finds what it works with.

    Attributes:
        name: of the partner behind a Flower context.
        admit: decides on an errand before anything else is done for it. Raises BadInput, which the server hears.
        party: the partner's identity key and rules.
        recall: where the partner stands in secure aggregation.
        keep: the opposite.
    """

    name: Callable[[Context], str]
    admit: Callable[[Context, Errand], Bench]
    party: Callable[[Context], Party]
    recall: Callable[[Context], Standing]
    keep: Callable[[Context, Standing], None]


def make_client_app(desk: Desk, *, mods: Sequence[Mod] = ()) -> ClientApp:
    """A ClientApp with handlers for hello, train, a step, evaluate, statement and the stages of secure aggregation.

    Guarantee: a message is decoded strictly as data; nothing in it is ever imported, evaluated or run. Every message
    goes through `mods`, and what it asks for follows from its type, which has one spelling.
    """
    app = _App(desk, mods)

    @app.query("hello")
    def hello(message: Message, context: Context) -> Message:
        def work(parcel: Parcel, standing: Standing) -> tuple[Standing, Parcel]:
            return standing, Hello(desk.name(context), desk.party(context).identity).pack()

        return _serve(desk, message, context, work)

    @app.train()
    def train(message: Message, context: Context) -> Message:
        def work(parcel: Parcel, standing: Standing) -> tuple[Standing, Parcel]:
            ask = Ask.unpack(parcel)
            bench = desk.admit(context, Errand.of("train", ask))
            part = whole if ask.job.privacy.mechanism == "client" else partner
            standing, update = part.take_part(ask, bench.site, bench.trainer, standing)
            return standing, update.pack()

        return _serve(desk, message, context, work)

    @app.evaluate()
    def evaluate(message: Message, context: Context) -> Message:
        def work(parcel: Parcel, standing: Standing) -> tuple[Standing, Parcel]:
            ask = Ask.unpack(parcel)
            bench = desk.admit(context, Errand.of("evaluate", ask))
            standing, sums = partner.judge(ask, bench.site, bench.trainer, standing, classes=bench.classes)
            return standing, sums.pack()

        return _serve(desk, message, context, work)

    @app.query("statement")
    def statement(message: Message, context: Context) -> Message:
        def work(parcel: Parcel, standing: Standing) -> tuple[Standing, Parcel]:
            ask = Ask.unpack(parcel)
            site = desk.admit(context, Errand.of("statement", ask)).site
            if site.chance < 1.0:
                whole.charge_rounds(ask, site)
            return standing, partner.state(ask, site).pack()

        return _serve(desk, message, context, work)

    @app.query("advertise")
    def advertise(message: Message, context: Context) -> Message:
        def work(parcel: Parcel, standing: Standing) -> tuple[Standing, Parcel]:
            invite = Invite.unpack(parcel)
            new = masking.announced(invite)
            trains = new.purpose == "train"
            desk.admit(context, Errand("advertise", invite.job, new.run, new.number, trains, invite.commission))
            standing, letter = masking.advertise(invite, standing, party=desk.party(context))
            return standing, letter.pack()

        return _serve(desk, message, context, work)

    @app.query("step")
    def step(message: Message, context: Context) -> Message:
        def work(parcel: Parcel, standing: Standing) -> tuple[Standing, Parcel]:
            asked, invite = Step.unpack(parcel), masking.at_hand(standing)
            errand = Errand("step", invite.job, asked.run, asked.round, False, invite.commission, step=asked.step)
            bench = desk.admit(context, errand)
            standing, update = block.take_step(asked, bench.site, bench.trainer, standing)
            return standing, update.pack()

        return _serve(desk, message, context, work)

    for name, stage in (("share", masking.share), ("agree", masking.approve), ("unmask", masking.unmask)):
        app.query(name)(_stage(desk, stage))
    return app


class _App(ClientApp):
    """Flower takes `train.default` for `train`; what is kept beside an answer goes by its type: here it is refused."""

    def __init__(self, desk: Desk, mods: Sequence[Mod]) -> None:
        super().__init__(mods=list(mods))
        self._desk = desk
        self._refused: ClientAppCallable = self._refuse
        for mod in reversed(mods):
            self._refused = partial(_passed, mod, self._refused)

    def __call__(self, message: Message, context: Context) -> Message:
        if message.metadata.message_type in _TYPES:
            return super().__call__(message, context)
        return self._refused(message, context)

    def _refuse(self, message: Message, context: Context) -> Message:
        reason = (
            "expected a message of a type that partners answer, found another; install the same version of tacit on"
        )
        return _answer(message, Refusal(self._desk.name(context), f"{reason} both sides").pack())


def _passed(mod: Mod, act: ClientAppCallable, message: Message, context: Context) -> Message:
    return mod(message, context, act)


def _stage(desk: Desk, stage: Callable[..., tuple[Standing, Letter]]) -> Callable[[Message, Context], Message]:
    """The handler of a stage in which letters are exchanged."""

    def handle(message: Message, context: Context) -> Message:
        def work(parcel: Parcel, standing: Standing) -> tuple[Standing, Parcel]:
            standing, letter = stage(Letter.unpack(parcel), standing, party=desk.party(context))
            return standing, letter.pack()

        return _serve(desk, message, context, work)

    return handle


def _serve(
    desk: Desk,
    message: Message,
    context: Context,
    work: Callable[[Parcel, Standing], tuple[Standing, Parcel]],
) -> Message:
    """The work's answer, or a refusal that says why there is none.

    Guarantee: after a failed check, or any other error, nothing of the round at hand is left here; a refusal names no
    file or folder.
    """
    name, standing = desk.name(context), desk.recall(context)
    after = standing.left()
    desk.keep(context, after)  # taken: a second message meanwhile finds no round at hand, and signs nothing
    try:
        after, parcel = work(to_parcel(message.content), standing)
    except (Abort, BadInput) as error:
        parcel = Refusal(name, _without_paths(f"{error.message}; {error.hint}")).pack()
    except torch.OutOfMemoryError:
        parcel = Refusal(
            name, "expected enough device memory for a physical batch, found too little; lower max_physical_batch"
        ).pack()
    finally:
        desk.keep(context, after)
    return _answer(message, parcel)


def _without_paths(text: str) -> str:
    """What the server hears: where things lie on this machine is for the partner's own log."""
    return _PATH.sub("a path here", text)


def _answer(message: Message, parcel: Parcel) -> Message:
    content: RecordDict = to_records(parcel)
    return Message(content, reply_to=message)
