"""A real partner behind the ClientApp: its data, its budget, its keys and its place in the round, kept warm.

One office works in a folder at a time, and answers one message at a time.
"""

from __future__ import annotations

import logging
import threading
import time
from contextlib import ExitStack
from dataclasses import dataclass
from typing import Self

import numpy as np
import torch
from flwr.app import Context, Message
from flwr.clientapp import ClientApp
from flwr.clientapp.typing import ClientAppCallable

from tacit.codec import Malformed
from tacit.errors import BadInput
from tacit.job import Job
from tacit.link.records import to_parcel
from tacit.lock import take
from tacit.models.check import check_independent
from tacit.privacy.mechanism import plan
from tacit.privacy.randomness import Randomness
from tacit.secagg.keys import Secret, derive
from tacit.secagg.round import Party, Round, Rules
from tacit.wire import ADVERTISE, EVALUATE, STATEMENT, TRAIN
from tacit_client import peers, policy
from tacit_client.app import Desk, make_client_app
from tacit_client.budget import Budget
from tacit_client.data import Data, Fitted
from tacit_client.keys import Keys
from tacit_client.masking import Standing
from tacit_client.partner import Site
from tacit_client.site import Folder
from tacit_client.train import Trainer, pick_device

__all__ = ["Office", "describe_device"]

_log = logging.getLogger(__name__)

_FEW = 4  # examples on which the network is asked whether it mixes them
_HOLDOUT = b"tacit/v1/holdout"  # what the key of the split is derived for


@dataclass(frozen=True)
class _Asked:
    """What a message that carries a job asks for."""

    run: str
    round: int
    trains: bool


@dataclass(frozen=True, repr=False)
class _Ready:
    """What a job needs here, made once."""

    job: str
    fitted: Fitted
    trainer: Trainer


class Office:
    """All that a partner's process holds between messages.

    Args:
        folder: the partner's.

    Attributes:
        device: what it computes on, in words.

    Raises:
        BadInput: another process works in the folder; data, keys, ledger or device can not be used.

    Guarantee: the policy is checked before anything else in every message that carries a job, and the budget is
    checked again, by the ledger, in the moment of every release. Noise, sampling and keys come from the operating
    system. The standing in a round is in memory only.
    """

    def __init__(self, folder: Folder) -> None:
        self._folder, self._config = folder, folder.config
        with ExitStack() as held:
            held.enter_context(take(folder.lock, what=str(folder.path)))
            self._open(held)
            self._held = held.pop_all()

    def _open(self, held: ExitStack) -> None:
        config, folder = self._config, self._folder
        if config.threads is not None:
            torch.set_num_threads(config.threads)
        self._torch_device = pick_device(config.device)
        self.device = describe_device(self._torch_device)
        self._key: Secret = Keys(folder.keys).identity
        self._budget = Budget(folder.ledger, partner=config.name, policy=config.policy)
        held.callback(self._budget.close)
        self._data = Data(folder.data, config.data, key=derive(self._key, _HOLDOUT))
        policy.check_delta(config.policy, examples=len(self._data))
        self._lock = threading.Lock()
        self._standing = Standing()
        self._asked: _Asked | None = None
        self._made: _Ready | None = None
        _log.info("read %d examples; computing on %s", len(self._data), self.device)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *error: object) -> None:
        self.close()

    def close(self) -> None:
        """Let go of the folder."""
        self._held.close()

    def app(self) -> ClientApp:
        """The partner as a ClientApp that answers one message at a time and logs what it was asked and did."""
        return make_client_app(self._desk(), mods=[self._attend])

    def _desk(self) -> Desk:
        return Desk(
            name=lambda _: self._config.name,
            site=lambda _, job: self._site(job),
            trainer=self._trainer,
            party=lambda _: self._party(),
            recall=lambda _: self._standing,
            keep=lambda _, standing: self._keep(standing),
        )

    def _attend(self, message: Message, context: Context, answer: ClientAppCallable) -> Message:
        with self._lock:
            self._asked = _read(message)
            began = time.monotonic()
            reply = answer(message, context)
            _note(message, self._asked, reply, seconds=time.monotonic() - began)
            self._asked = None
            return reply

    def _keep(self, standing: Standing) -> None:
        self._standing = standing

    def _party(self) -> Party:
        """Read anew every time, so that a peer accepted or removed by hand counts at once."""
        rules = self._config.policy
        accepted = peers.read(self._folder.peers)
        return Party(
            self._config.name, self._key, Rules(accepted, rules.min_cohort, trust_new_peers=rules.trust_new_peers)
        )

    def _site(self, job: Job) -> Site:
        ready = self._prepare(job)
        fitted, asked = ready.fitted, self._asked
        if asked is None or asked.trains:
            planned = plan(job, examples=len(fitted.train)).event()
            self._budget.check(planned, rounds=1 if asked is None else _left(job, asked))
        return Site(self._config.name, fitted.train, fitted.holdout, self._budget, Randomness())

    def _trainer(self, job: Job) -> tuple[Trainer, int]:
        ready = self._prepare(job)
        return ready.trainer, ready.fitted.options.classes

    def _prepare(self, job: Job) -> _Ready:
        """The policy first, then the data, then the network; the last job's are kept."""
        policy.check(job, self._config.policy)
        if self._made is not None and self._made.job != job.hash():
            self._made = None  # two jobs' examples and networks may not fit in memory
        fitted = self._data.fit(job)
        if self._made is None:
            self._made = _Ready(job.hash(), fitted, self._build(job, fitted))
        return self._made

    def _build(self, job: Job, fitted: Fitted) -> Trainer:
        trainer = Trainer(
            fitted.task.models[job.task.model].build(fitted.options),
            task=fitted.task,
            private=job.privacy.mechanism != "none",
            device=self._torch_device,
            max_physical_batch=self._config.max_physical_batch or job.performance.max_physical_batch,
        )
        if (few := min(_FEW, len(fitted.train))) > 1:
            check_independent(trainer.network, fitted.train.take(np.arange(few)).to(trainer.device).inputs)
        return trainer


def describe_device(device: torch.device) -> str:
    """The device in words, with its memory: for the partner's log and the operator's list."""
    if device.type != "cuda":
        return f"{device.type}, {torch.get_num_threads()} threads" if device.type == "cpu" else device.type
    found = torch.cuda.get_device_properties(device)
    return f"{device}: {found.name}, {found.total_memory / 2**30:.0f} GiB"


def _left(job: Job, asked: _Asked) -> int:
    """Rounds of the plan that are to come, the one that is asked for among them."""
    if not 1 <= asked.round <= job.training.rounds:
        raise BadInput(
            f"expected a round from 1 to training.rounds {job.training.rounds}, found {asked.round}",
            hint="run the job with more rounds",
        )
    return job.training.rounds - asked.round + 1


def _read(message: Message) -> _Asked | None:
    """What `message` is about; None where it carries no job, or is none that the handlers will take."""
    kind = message.metadata.message_type
    try:
        parcel = to_parcel(message.content)
        if kind == ADVERTISE:
            new = Round.decode(parcel.bytes("round"))
            return _Asked(new.run, new.number, new.purpose == "train")
        if kind in (TRAIN, EVALUATE, STATEMENT):
            return _Asked(parcel.text("run"), parcel.integer("round"), kind == TRAIN)
    except (BadInput, Malformed):
        pass  # the handler says what is wrong with it
    return None


def _note(message: Message, asked: _Asked | None, reply: Message, *, seconds: float) -> None:
    """A line in the partner's log."""
    kind = message.metadata.message_type.removeprefix("query.")
    what = _plain(kind if asked is None else f"{kind}, round {asked.round} of run {asked.run}")
    refused = "an error inside" if reply.has_error() else _refusal(reply)
    if refused:
        _log.warning("refused %s: %s", what, _plain(refused))
    else:
        _log.info("answered %s in %.1f s", what, seconds)


def _refusal(reply: Message) -> str:
    scalars = to_parcel(reply.content).scalars
    return str(scalars.get("reason", "")) if scalars.get("kind") == "refusal" else ""


def _plain(text: str) -> str:
    """On one line: the server chose some of the words, and must not write lines of its own into the log."""
    return "".join(letter if letter.isprintable() else "?" for letter in text)
