"""What a partner's office writes down about every message: a line in its log, and one in the audit log.

The audit log is written before an answer leaves; where it can not be, nothing leaves.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, suppress
from datetime import datetime
from types import MappingProxyType
from typing import Any

from tacit.errors import BadInput
from tacit.terminal import plain
from tacit_client.app import KINDS, Errand
from tacit_client.audit import Audit
from tacit_client.config import SiteConfig
from tacit_client.flood import Flood
from tacit_client.ledger import Tampered
from tacit_client.mark import Behind
from tacit_client.site import Folder

__all__ = ["Minutes", "declining"]

_log = logging.getLogger(__name__)

_RELEASES = {
    "train": "update-released",
    "step": "step-released",
    "evaluate": "sums-released",
    "statement": "statement-released",
}
_DECLINED = {Behind: "ledger-behind", Tampered: "ledger-refused"}
_CONFIGURED = "configuration-changed"
_BUDGET = "epsilon_limit"
_LONGEST = 2000  # letters of a reason, which may repeat words that the server chose
_NAME = 200  # letters of a name
_RUNS = 200  # that may begin in 24 hours: of each this partner keeps lines, the job and a statement
_WHOLE = 60  # refusals of an hour that have lines of their own
_DAY = 86_400.0


class Minutes:
    """Minutes of one office.

    Args:
        audit: where they are kept.
        charged: jobs by run as the ledger has them: a log that took another's place knows less.
        clock: seconds since 1970.

    Attributes:
        offered: the hash of the job that was first asked for in each run, over all processes of this partner.
        approved: that of the job that was granted for each run.
        denied: for each run that the budget had no room for, the rounds that it was asked for.

    Raises:
        Broken: the audit log is not as it was written.

    Guarantee: whatever a server sends, in 24 hours it adds a bounded number of lines, beside those about what was
    charged or counted; what has no line of its own is in a count, and the first denial of a run by the budget has one.
    """

    def __init__(
        self,
        audit: Audit,
        *,
        charged: Mapping[str, str] = MappingProxyType({}),
        clock: Callable[[], float] = time.time,
    ) -> None:
        self._audit, self._clock = audit, clock
        self._flood = Flood(whole=_WHOLE)
        self._told: set[str] = set()
        self._begun: list[float] = []
        self._stated: dict[str, int] = {}
        self._known: dict[str, Any] = {}
        self.approved: dict[str, str] = dict(charged)
        self.offered: dict[str, str] = dict(charged)
        self.denied: dict[str, int] = {}
        for entry in audit.entries():
            if entry.event == "job-offered":
                self._begin(entry.facts["run"], entry.facts["job"], at=datetime.fromisoformat(entry.at).timestamp())
            if entry.event == "job-granted":
                self.approved[entry.facts["run"]] = entry.facts["job"]
            if entry.event == "refused":
                self._remember(entry.facts)
            if entry.event == _CONFIGURED:
                self._known = entry.facts["now"]

    def write(self, event: str, facts: Mapping[str, Any]) -> None:
        """A line of the audit log. Raises as `Audit.write`."""
        self._audit.write(event, facts)

    def started(self, config: SiteConfig, *, version: str) -> None:
        """The process begins with `config`; what was changed in it since the last time is said key by key."""
        now = dict(_flat(config.model_dump(mode="json")))
        changed = {key: [self._known.get(key), now.get(key)] for key in sorted(self._known.keys() | now.keys())}
        changed = {key: pair for key, pair in changed.items() if pair[0] != pair[1]}
        self.write("started", {"version": version})
        if changed:
            self.write(_CONFIGURED, {"changed": changed if self._known else {}, "now": now})

    def offer(self, errand: Errand) -> None:
        """A job is asked for, for the first time since this process began.

        Raises:
            BadInput: it is of a new run, and too many began in the last 24 hours; as `Audit.write`.
        """
        if errand.run not in self.offered:
            self._check_runs()
        if errand.run not in self._told:
            privacy, aggregation = errand.job.privacy, errand.job.aggregation
            facts = {
                "name": errand.job.name,
                "task": _short(errand.job.task.kind),
                "mechanism": privacy.mechanism,
                "epsilon": privacy.epsilon,
                "delta": privacy.delta,
                "rounds": errand.job.training.rounds,
                "local_steps": errand.job.training.local_steps,
                "min_cohort": aggregation.min_cohort,
                "secure": aggregation.secure,
            }
            self.write("job-offered", {**_named(errand), **facts})
            self._told.add(errand.run)
            self._begin(errand.run, errand.job.hash(), at=self._clock())

    def _begin(self, run: str, job: str, *, at: float) -> None:
        if run not in self.offered:
            self.offered[run] = job
            self._begun.append(at)

    def _check_runs(self) -> None:
        """Runs from later than now count too: a clock that was set back makes it more, not fewer."""
        self._begun = [at for at in self._begun if at > self._clock() - _DAY]
        if len(self._begun) >= _RUNS:
            raise BadInput(
                f"expected at most {_RUNS} new runs of this partner in 24 hours, found one more asked for",
                hint="wait, or resume a run that was begun before",
            )

    def granted(self, errand: Errand, facts: Mapping[str, Any]) -> None:
        """A job is granted, for the first time; `facts` are the numbers that it was granted with."""
        if errand.run not in self.approved:
            self.write("job-granted", {**_named(errand), **facts})
            self.approved[errand.run] = errand.job.hash()

    def refused(self, kind: str, errand: Errand | None, reason: str, *, figures: Mapping[str, Any] | None) -> None:
        """A message is answered by a refusal. One that can not be kept is refused all the same.

        Of very many in an hour the later ones are counted (`repeated`).

        Args:
            kind: of the message.
            errand: what it belongs to, where that is known.
            reason: as the server hears it.
            figures: the numbers of a denial by the policy.
        """
        _log.warning("refused %s: %s", _what(kind, errand), plain(reason))
        facts = {"asked": _short(kind), "reason": plain(reason)[:_LONGEST], **_named(errand), **(figures or {})}
        needed = facts.get("rule") == _BUDGET and facts["run"] not in self.denied
        self._remember(facts)
        try:
            self._tell(self._flood.turn(self._clock()))
            if self._flood.whole() or needed:
                self.write("refused", {**facts, **_place(errand)})
            else:
                self._tell(self._flood.count(kind if kind in KINDS else "another", words=facts["reason"]))
        except BadInput as error:
            _log.error("the refusal was not kept in the audit log: %s", error.message)

    def close(self) -> None:
        """Write down what was counted and not told yet. What can not be kept is told in the log."""
        try:
            self._tell(self._flood.rest())
        except BadInput as error:
            _log.error("a count of refusals was not kept in the audit log: %s", error.message)

    def _tell(self, facts: Mapping[str, Any] | None) -> None:
        if facts is not None:
            self.write("repeated", facts)

    def recalled(self, error: BadInput) -> None:
        """The mark that the server kept was found wanting, or the books were. Raises as `Audit.write`."""
        self.write(_DECLINED.get(type(error), "mark-refused"), {"reason": plain(error.message)[:_LONGEST]})

    def _remember(self, facts: Mapping[str, Any]) -> None:
        if facts.get("rule") == _BUDGET:
            self.denied[facts["run"]] = max(facts["rounds"], self.denied.get(facts["run"], 0))

    def released(self, kind: str, errand: Errand | None, *, row: int, seconds: float) -> None:
        """An answer is about to leave.

        Args:
            row: the last of the ledger.
            seconds: that the answer took.

        Raises:
            BadInput: the audit log can not be written; then the answer must not leave.
        """
        if errand is not None and (event := _RELEASES.get(kind)):
            if kind == "statement" and self._stated.get(errand.run) == row:  # nothing was charged since the last one
                self._tell(self._flood.turn(self._clock()))
                self._tell(self._flood.count(event, words="answered as before"))
            else:
                self.write(event, {**_named(errand), **_place(errand), "ledger_row": row})
                self._stated |= {errand.run: row} if kind == "statement" else {}
        _log.info("answered %s in %.1f s", _what(kind, errand), seconds)


@contextmanager
def declining(folder: Folder) -> Iterator[None]:
    """Write down why an office in `folder` does not open: what the body raises, where its log can be written."""
    try:
        yield
    except BadInput as error:
        event = _DECLINED.get(type(error), "not-started")
        with suppress(BadInput):  # a log that is broken is what is raised then
            Audit.of(folder).write(event, {"reason": plain(error.message)[:_LONGEST]})
        raise


def _flat(tree: Mapping[str, Any], *, above: str = "") -> Iterator[tuple[str, Any]]:
    for key, value in tree.items():
        if isinstance(value, dict):
            yield from _flat(value, above=f"{above}{key}.")
        else:
            yield f"{above}{key}", value


def _named(errand: Errand | None) -> dict[str, Any]:
    return {} if errand is None else {"run": _short(errand.run), "job": errand.job.hash()}


def _place(errand: Errand | None) -> dict[str, int | None]:
    """Where in its run it belongs."""
    if errand is None or errand.step is None:
        return {"round": None if errand is None else errand.round}
    return {"round": errand.round, "step": errand.step}


def _what(kind: str, errand: Errand | None) -> str:
    return plain(kind if errand is None else f"{kind}, round {errand.round} of run {_short(errand.run)}")


def _short(text: str) -> str:
    """The server chose these words; the run's id is 32 digits from an honest one."""
    return plain(text)[:_NAME]
