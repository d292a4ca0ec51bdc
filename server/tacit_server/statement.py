"""The server's statement about a finished run, with every partner's own in it, whole."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import datetime
from pathlib import Path
from typing import Any

from tacit import wire
from tacit.attestation import LONGEST, load, pretty, read, sign
from tacit.code import installed
from tacit.consistency import check_stated
from tacit.errors import BadInput
from tacit.job import Job
from tacit.page import page
from tacit.privacy.events import merge
from tacit.secagg.keys import PublicKey, Secret, identity_of
from tacit.statement import (
    CodeStated,
    ModelStated,
    PartnerStatement,
    PartyStated,
    RefusalStated,
    RoundsStated,
    RunStated,
    ServerStatement,
    cost,
    privacy_of,
    run_of,
)
from tacit.terminal import plain
from tacit_server.checkpoint import RunState, write_atomic

__all__ = ["Close", "attest", "write"]

_ABSENT = "was not connected at the end of the run"
_LONGEST_REASON = 500  # letters; a partner chose them


@dataclass(frozen=True)
class Close:
    """What was said at the end of a run.

    Attributes:
        keys: identity keys by name, of whoever was asked.
        said: by name; a text says why there is no statement.
    """

    keys: dict[str, PublicKey] = field(default_factory=dict)
    said: dict[str, wire.Statement | str] = field(default_factory=dict)

    def hear(self, partner: wire.Hello, said: wire.Statement | str) -> None:
        """Note what `partner` said."""
        self.keys[partner.name], self.said[partner.name] = partner.identity, said


def attest(
    job: Job,
    state: RunState,
    *,
    result: Mapping[str, Any],
    close: Close,
    identities: Mapping[str, PublicKey],
    model: str,
    key: Secret,
    now: datetime,
) -> bytes:
    """The signed statement, as canonical bytes.

    Args:
        job: as resolved.
        state: after the last round.
        result: what `result.json` holds.
        close: what the partners said.
        identities: keys by name, for those who were not there to say anything.
        model: SHA-256 of the model's file, in hex.
        key: the server's signing key.
        now: in UTC.

    Guarantee: a partner's statement stands here only if it verifies, under the key that the roster has for the
    partner; its epsilon is computed here from the events, and the largest is the run's.
    """
    run, keys = run_of(job, run=state.run), {**identities, **close.keys}
    code = installed("tacit", "tacit_server")
    parties = tuple(
        _party(name, job, state, run=run, said=close.said.get(name, _ABSENT), key=keys.get(name), server=key)
        for name in _names(state, close)
    )
    statement = ServerStatement(
        made=f"{now:%Y-%m-%dT%H:%MZ}",
        server=identity_of(key).hex(),
        code=CodeStated(version=code.version, sha256=code.sha256),
        run=run,
        rounds=RoundsStated(
            planned=job.training.rounds,
            done=result["rounds_completed"],
            abandoned=result["rounds_failed"],
            attempts=state.attempt,
        ),
        # Of everybody who is named: one without any event may have told exact counts.
        privacy=privacy_of(job, [party.events for party in parties], secure_noise=result["privacy"]["secure_noise"]),
        secure=job.aggregation.secure,
        threshold=result["aggregation"]["threshold"],
        metrics=_metrics(result["metrics"]),
        model=ModelStated(sha256=model),
        parties=parties,
    )
    return sign(statement, key=key)


def write(folder: Path, signed: bytes) -> None:
    """Put statement.json and statement.html into a run's folder. Raises JobFailed where they can not be written."""
    value = load(signed, where="the statement")
    write_atomic(folder / "statement.html", page(value))
    write_atomic(folder / "statement.json", pretty(value))


def _names(state: RunState, close: Close) -> list[str]:
    """Everyone who was asked, answered, refused or vanished."""
    met = {name for line in state.history for key in ("dropouts", "refusals", "failures") for name in line[key]}
    return sorted({*state.events, *close.said, *met})


def _party(
    name: str,
    job: Job,
    state: RunState,
    *,
    run: RunStated,
    said: wire.Statement | str,
    key: PublicKey | None,
    server: Secret,
) -> PartyStated:
    events = merge(state.events.get(name, ()))
    own: dict[str, Any] | None = None
    reason = said if isinstance(said, str) else None
    if isinstance(said, wire.Statement):
        try:
            own = _own(said, name=name, key=key, run=run, server=identity_of(server))
        except BadInput as error:
            reason = f"what it sent was not accepted: {error.message}"
    return PartyStated(
        name=name,
        identity=None if key is None else key.hex(),
        state="silent" if own is None else "stated",
        reason=None if reason is None else plain(reason)[:_LONGEST_REASON],
        events=events,
        epsilon=cost(events, delta=job.privacy.delta),
        dropouts=tuple(line["round"] for line in state.history if name in line["dropouts"]),
        refusals=tuple(
            RefusalStated(round=line["round"], reason=plain(line["refusals"][name])[:_LONGEST_REASON])
            for line in state.history
            if name in line["refusals"]
        ),
        statement=own,
    )


def _own(
    said: wire.Statement, *, name: str, key: PublicKey | None, run: RunStated, server: PublicKey
) -> dict[str, Any]:
    """The partner's own statement, checked. Raises BadInput."""
    hint = "install the same version of tacit on both sides"
    if key is None or not said.signed:
        raise BadInput(f"expected a signed statement of {name}, found none", hint=hint)
    if len(said.signed) > LONGEST:
        raise BadInput(f"expected a statement of at most {LONGEST} bytes, found {len(said.signed)}", hint=hint)
    value = load(said.signed, where=f"the statement of {name}")
    statement = read(value, where=f"the statement of {name}")
    # First of all: what was told has passed a bound, and what has not may take for ever to account for.
    if not isinstance(statement, PartnerStatement) or {*merge(statement.events)} != {*merge(said.events)}:
        raise BadInput("expected the events that were told, found others in the statement", hint=hint)
    check_stated(value, name=name, identity=key, run=run, server=server)
    return value


def _metrics(metrics: Mapping[str, Any]) -> dict[str, Any]:
    """The last scores, without the table of classes."""
    return {
        where: {
            name: value if not isinstance(value, float) or math.isfinite(value) else None
            for name, value in scores.items()
            if name != "confusion"
        }
        for where, scores in metrics.items()
        if scores
    }
