"""A real partner behind the ClientApp: its data, its budget, its keys and its place in the round, kept warm.

One office works in a folder at a time, and answers one message at a time.
"""

from __future__ import annotations

import logging
import threading
import time
from contextlib import ExitStack
from dataclasses import dataclass
from importlib.metadata import version
from typing import Any, Self

import numpy as np
import torch
from flwr.app import Context, Message
from flwr.clientapp import ClientApp
from flwr.clientapp.typing import ClientAppCallable

from tacit import commission
from tacit.errors import BadInput
from tacit.job import Job
from tacit.link.records import to_parcel, to_records
from tacit.lock import take
from tacit.models.check import check_independent
from tacit.privacy.mechanism import plan
from tacit.privacy.metrics import Price
from tacit.privacy.randomness import Randomness
from tacit.secagg.keys import Secret, derive
from tacit.secagg.round import Party, Rules
from tacit.wire import Refusal
from tacit_client import peers, policy, statement
from tacit_client.agenda import evaluations_left, price_of, rounds_left
from tacit_client.app import Bench, Desk, Errand, make_client_app
from tacit_client.audit import Audit
from tacit_client.data import Data, Fitted
from tacit_client.holding import open_budget
from tacit_client.keys import Keys
from tacit_client.ledger import DataSet, Tampered
from tacit_client.mark import Marks
from tacit_client.masking import Standing
from tacit_client.minutes import Minutes, declining
from tacit_client.partner import Site
from tacit_client.policy import Denial, Figures, Request
from tacit_client.site import Folder
from tacit_client.train import Trainer, pick_device

__all__ = ["Office", "describe_device"]

_log = logging.getLogger(__name__)

_HOLDOUT = b"tacit/v1/holdout"  # what the key of the split is derived for
_FEW = 4  # examples by which a network shows whether it mixes them
_BEGINNINGS = {"hello", "advertise", "train", "evaluate", "statement"}  # messages that say themselves what they are for


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
            with declining(folder):
                held.enter_context(take(folder.lock, what=str(folder.path)))
                self._open(held)
            self._held = held.pop_all()

    def _open(self, held: ExitStack) -> None:
        config, folder = self._config, self._folder
        if config.threads is not None:
            torch.set_num_threads(config.threads)
        self._torch_device = pick_device(config.device)
        self.device = describe_device(self._torch_device)
        self._keys = Keys(folder.keys)
        self._key: Secret = self._keys.identity
        self._data = Data(folder.data, config.data, key=derive(self._key, _HOLDOUT), lock=folder.data_lock)
        self._budget = open_budget(folder, data=DataSet(self._data.fingerprint, self._data.unit))
        held.callback(self._budget.close)
        policy.check_delta(config.policy, examples=self._data.units)
        self._lock = threading.Lock()
        self._standing = Standing()
        self._errand: Errand | None = None
        self._figures: dict[str, Any] | None = None  # of the denial at hand
        self._granted: set[str] = set()  # runs, since this process began
        self._made: _Ready | None = None
        audit = Audit.of(folder)
        audit.mend()
        charged = {spell.run: spell.job for spell in self._budget.spells() if spell.job}
        self._minutes = Minutes(audit, charged=charged)
        held.callback(self._minutes.close)
        self._marks = Marks(folder.mark, secret=self._keys.ledger, ledger=self._budget, audit=audit)
        self._marks.check_own()
        statement.code()  # as it is now: what is installed later does not run in this process
        self._minutes.started(config, version=version("tacit"))
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

    def mark(self) -> bytes:
        """How far ledger and audit log have come, to be handed in with an answer. Raises BadInput."""
        try:
            return self._marks.now()
        except Tampered as error:
            self._minutes.recalled(error)
            raise

    def recall(self, mark: bytes) -> None:
        """Compare with the mark that the server kept for this partner.

        Raises:
            BadInput: an older ledger or audit log was put in place of a newer one, one was edited, or the mark is none
                of this partner's, as where another key was put in place of its own; nothing may be trained any more.
        """
        try:
            self._marks.check(mark)
        except BadInput as error:
            self._minutes.recalled(error)
            raise

    def _desk(self) -> Desk:
        return Desk(
            name=lambda _: self._config.name,
            admit=lambda _, errand: self._admit(errand),
            party=lambda _: self._party(),
            recall=lambda _: self._standing,
            keep=lambda _, standing: self._keep(standing),
        )

    def _attend(self, message: Message, context: Context, answer: ClientAppCallable) -> Message:
        kind, began = message.metadata.message_type.removeprefix("query."), time.monotonic()
        with self._lock:
            if kind in _BEGINNINGS:
                self._errand = None  # the other stages belong to what began last
            self._figures = None
            refused = "an error inside"
            try:
                reply = answer(message, context)
                refused = refused if reply.has_error() else _refusal(reply)
            finally:  # what is not answered at all is a refusal too
                if refused:
                    self._minutes.refused(kind, self._errand, refused, figures=self._figures)
            if refused:
                return reply
            try:
                seconds = time.monotonic() - began
                self._minutes.released(kind, self._errand, row=self._budget.head().seq, seconds=seconds)
            except BadInput as error:  # what can not be kept does not leave
                self._keep(self._standing.left())
                _log.error("%s; %s", error.message, error.hint)
                reason = "expected this partner's audit log to be written, found that it can not be"
                return Message(to_records(Refusal(self._config.name, reason).pack()), reply_to=message)
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

    def _admit(self, errand: Errand) -> Bench:
        """The signature first, then the rules, then the data and the network, and then what it would cost."""
        self._errand = errand
        statement.check_run(errand.run)
        commission.check(errand.commission, server=self._keys.server, run=errand.run, job=errand.job)
        self._check_approved(errand)
        self._minutes.offer(errand)
        self._decide(Request(errand.job))
        ready = self._prepare(errand.job)
        fitted = ready.fitted
        price = price_of(errand.job, self._config.policy, holdout=fitted.holdout)
        if errand.trains or (errand.judges and price):
            self._afford(errand, fitted, price)
        elif errand.judges:
            self._budget.check_exact(errand.job, run=errand.run)
        site = Site(
            self._config.name,
            fitted.train,
            fitted.holdout,
            self._budget,
            Randomness(),
            self._state,
            price,
            judged=lambda ask: self._budget.judge(ask.job, run=ask.run, number=(ask.round, ask.attempt)),
        )
        return Bench(site, ready.trainer, fitted.options.classes)

    def _afford(self, errand: Errand, fitted: Fitted, price: Price | None) -> None:
        """What was granted for the whole run is looked up, not computed again. Raises BadInput."""
        training = plan(errand.job, units=self._data.units, unit=fitted.train.unit).event()
        left = rounds_left(errand.job, number=errand.round)
        if errand.judges and price and errand.run in self._minutes.approved:
            self._budget.check(price.event(), rounds=1)
        elif errand.run in self._granted:
            self._budget.check(training, rounds=left, beside=evaluations_left(errand.job, price, first=errand.round))
        else:
            # One refusal holds for the run: its last rounds are not joined because they would fit by themselves.
            denied = self._minutes.denied.get(errand.run, 0)
            judged = evaluations_left(errand.job, price, first=1 if denied else errand.round)
            figures = self._decide(Request(errand.job, training, max(left, denied), judged))
            self._minutes.granted(errand, figures.to_json())
            self._granted.add(errand.run)
        statement.keep_job(self._folder, errand.job)

    def _state(self, run: str, job: Job) -> bytes:
        """Nothing where nothing was granted: a server can not fill this disk with statements about nothing."""
        return statement.state(self._folder, run=run, job=job) if run in self._minutes.approved else b""

    def _decide(self, request: Request) -> Figures:
        """Raises BadInput where the policy denies it; the numbers go into the minutes."""
        accepted = peers.read(self._folder.peers).keys() - {self._config.name}
        spent, today = self._budget.spent, self._budget.today()
        decision = policy.decide(request, self._config.policy, spent=spent, today=today, peers=len(accepted))
        if isinstance(decision, Denial):
            self._figures = {"rule": decision.rule, **decision.figures.to_json()}
            raise BadInput(decision.message, hint=decision.hint)
        return decision.figures

    def _check_approved(self, errand: Errand) -> None:
        """A run has one job, whatever else the server signs."""
        asked, minutes = errand.job.hash(), self._minutes
        known = minutes.approved.get(errand.run) or minutes.offered.get(errand.run, asked)
        if known != asked:
            what = "granted for" if errand.run in minutes.approved else "was first asked for in"
            raise BadInput(
                f"expected the job that this partner {what} the run, {known[:16]}, found another, {asked[:16]}",
                hint="submit another job as a run of its own",
            )

    def _prepare(self, job: Job) -> _Ready:
        """The data, then the network; the last job's are kept."""
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
            private=job.privacy.per_example,
            device=self._torch_device,
            max_physical_batch=self._config.max_physical_batch or job.performance.max_physical_batch,
            hardened=True,
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


def _refusal(reply: Message) -> str:
    scalars = to_parcel(reply.content).scalars
    return str(scalars.get("reason", "")) if scalars.get("kind") == "refusal" else ""
