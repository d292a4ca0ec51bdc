"""The partner's place in secure aggregation: what it remembers between messages, and what it looks at before it works.

The protocol itself is `tacit.secagg.client`; here the job, the model and the update meet it.
"""

from __future__ import annotations

import os
import time
from dataclasses import dataclass, field, replace

from tacit.codec import Malformed
from tacit.errors import BadInput
from tacit.secagg import client
from tacit.secagg.abort import Abort, Reason, Stage
from tacit.secagg.messages import MaskedVector
from tacit.secagg.round import Party, Purpose, Round, Seen
from tacit.secagg.states import Opened, Shared, State
from tacit.wire import Ask, Invite, Letter

__all__ = ["LIFE", "Standing", "advertise", "announced", "approve", "cover", "enter", "share", "unmask"]

LIFE = 600.0
"""Seconds from stage 0 to stage 1 after which a partner has forgotten the round: the time that a server and its
colluders have to look for a graph that suits them (`tacit.secagg.constants.GRIND_BITS`)."""

_MOST = 2**40  # of one counter: 2^16 partners' sum stays far from 2^64


@dataclass(frozen=True, repr=False)
class Standing:
    """Where a partner stands: in memory only, so that a restart in a round is a drop-out from it.

    Attributes:
        state: of the round at hand, or None.
        seen: the rounds it took part in.
        since: when the round at hand began, seconds of a clock that only goes up.
    """

    state: State | None = None
    seen: Seen = field(default_factory=Seen)
    since: float = 0.0

    def left(self) -> Standing:
        """Out of the round at hand: its secrets are let go of."""
        return replace(self, state=None)


def announced(invite: Invite) -> Round:
    """The round that `invite` opens, as it says. Raises Abort where there is none in it."""
    try:
        return Round.decode(invite.round)
    except Malformed as error:
        raise Abort(Stage.ADVERTISE, Reason.MALFORMED, str(error)) from None


def advertise(invite: Invite, standing: Standing, *, party: Party) -> tuple[Standing, Letter]:
    """Stage 0. Raises BadInput or Abort: no such round, one that is over, another job's, or against the rules.

    Guarantee: a partner takes part in a (run, attempt, round, purpose) once, and only in rising order, so that no
    update of one round can be drawn into two sums.
    """
    new = announced(invite)
    if new.job != invite.job.hash() or not invite.job.aggregation.secure:
        found = "expected a round of the secure job that comes with it, found another's"
        raise Abort(Stage.ADVERTISE, Reason.REQUEST, found)
    seen = standing.seen.after(new)
    if seen is None:
        found = "expected a round after those taken part in, found one of them or an earlier one"
        raise Abort(Stage.ADVERTISE, Reason.REPEATED, found)
    state, body = client.advertise(new, party, random=os.urandom)
    return Standing(state, seen, time.monotonic()), Letter(party.name, body)


def share(letter: Letter, standing: Standing, *, party: Party) -> tuple[Standing, Letter]:
    """Stage 1. Raises Abort."""
    if time.monotonic() - standing.since > LIFE:
        raise Abort(Stage.SHARE, Reason.ORDER, f"expected everyone's keys within {LIFE:g} s, found them later")
    shared, body = client.share(standing.state, letter.body, random=os.urandom)
    return replace(standing, state=shared), Letter(party.name, body)


def enter(ask: Ask, standing: Standing, *, purpose: Purpose, counters: int) -> Opened | None:
    """Stage 2, before any example is touched: what is asked is what stage 0 announced, and every share opens.

    Args:
        counters: entries that this partner would send.

    Returns:
        None for a job without secure aggregation.

    Raises:
        Abort: another job, run, round, attempt, purpose or size of the cohort; a model or counters of another length;
            see `tacit.secagg.client.open_shares`.

    Guarantee: a secure job is never answered in clear, nor is any job of a run that began with a secure one.
    """
    if not ask.job.aggregation.secure:
        if ask.run in standing.seen.last:
            found = "expected a secure job in a run that began with one, found aggregation.secure = false"
            raise Abort(Stage.MASK, Reason.REQUEST, found)
        return None
    state = standing.state
    if not isinstance(state, Shared):
        raise Abort(Stage.MASK, Reason.ORDER, "expected the stages of one round in their order, found another")
    new = state.session.begun.round
    asked = (ask.job.hash(), ask.run, ask.round, ask.attempt, purpose, ask.cohort)
    if asked != (new.job, new.run, new.number, new.attempt, new.purpose, len(new.members)):
        found = "expected the job, run, round, attempt and cohort that the round began with, found others"
        raise Abort(Stage.MASK, Reason.REQUEST, found)
    expected = len(ask.vector) if purpose == "train" else 0, counters
    if (new.update, new.counters) != expected:
        found = f"expected channels of {expected[0]} and {expected[1]} entries, found {new.update} and {new.counters}"
        raise Abort(Stage.MASK, Reason.REQUEST, found)
    if ask.inbox is None:
        raise Abort(Stage.MASK, Reason.REQUEST, "expected the peers' shares with a secure job, found none")
    return client.open_shares(state, ask.inbox)


def cover(opened: Opened | None, ask: Ask, vector: MaskedVector, standing: Standing) -> tuple[Standing, bytes]:
    """Stage 2: mask `vector` in place, or leave it as it is where `opened` is None; gives what goes beside it.

    Raises:
        BadInput: a counter so large that the sum could wrap.
    """
    if vector.counters.max(initial=0) >= _MOST:
        # The server reads this: it tells no count.
        raise BadInput(f"expected counters below {_MOST}, found a larger one", hint="evaluate on fewer examples")
    if opened is None:
        return standing, b""
    state, presence = client.mask(opened, vector, request=ask.request())
    return replace(standing, state=state), presence


def approve(letter: Letter, standing: Standing, *, party: Party) -> tuple[Standing, Letter]:
    """Stage 3. Raises Abort."""
    state, body = client.approve(standing.state, letter.body)
    return replace(standing, state=state), Letter(party.name, body)


def unmask(letter: Letter, standing: Standing, *, party: Party) -> tuple[Standing, Letter]:
    """Stage 4. Raises Abort."""
    state, body = client.unmask(standing.state, letter.body)
    return replace(standing, state=state), Letter(party.name, body)
