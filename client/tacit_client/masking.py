"""The partner's place in secure aggregation: what it remembers between messages, and what it looks at before it works.

The protocol itself is `tacit.secagg.client`; here the job, the model and the update meet it.
"""

from __future__ import annotations

import os
import time
from dataclasses import dataclass, field, replace

import numpy as np

from tacit.codec import Malformed
from tacit.errors import BadInput
from tacit.secagg import block, client
from tacit.secagg.abort import Abort, Reason, Stage
from tacit.secagg.constants import EDGE_UNIT
from tacit.secagg.messages import MaskedVector
from tacit.secagg.round import Party, Purpose, Round, Seen
from tacit.secagg.states import Opened, Shared, State
from tacit.step import Step
from tacit.wire import TRAIN, Ask, Invite, Letter
from tacit_client.ledger import Release

__all__ = [
    "LIFE",
    "Standing",
    "advertise",
    "announced",
    "approve",
    "at_hand",
    "begins_block",
    "cover",
    "enter",
    "enter_step",
    "share",
    "unmask",
]

LIFE = 600.0
"""Seconds from stage 0 to stage 1 after which a partner has forgotten the round: the time that a server and its
colluders have to look for a graph that suits them (`tacit.secagg.constants.GRIND_BITS`)."""

_MOST = 2**40  # of one counter: 2^16 partners' sum stays far from 2^64


@dataclass(frozen=True, repr=False)
class Standing:
    """Where a partner stands: in memory only, so that a restart in a round is a drop-out from it.

    Attributes:
        state: of the round or step at hand, or None.
        seen: the rounds it took part in.
        since: when the round at hand began, seconds of a clock that only goes up.
        invite: to the block of steps at hand, or None.
        begun: it, until the peers' shares are opened.
        block: its steps that are still to come, from then on.
        release: what the ledger was charged for it, before its first step.
    """

    state: State | None = None
    seen: Seen = field(default_factory=Seen)
    since: float = 0.0
    invite: Invite | None = None
    begun: block.BlockAdvertised | block.BlockShared | None = None
    block: block.Block | None = None
    release: Release | None = None

    def left(self) -> Standing:
        """Out of the round at hand: its secrets are let go of."""
        return Standing(seen=self.seen, since=self.since)


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
    if invite.job.shares_noise and new.purpose == TRAIN:
        _check_sum(invite, new)
        _check_strangers(invite, new, party)
    if begins_block(invite, new):
        steps = invite.job.training.local_steps
        begun, body = block.advertise(new, party, steps=steps, random=os.urandom)
        return Standing(None, seen, time.monotonic(), invite, begun), Letter(party.name, body)
    state, body = client.advertise(new, party, random=os.urandom)
    return Standing(state, seen, time.monotonic()), Letter(party.name, body)


def _check_sum(invite: Invite, new: Round) -> None:
    """The sum has as many shares of the noise in it as they were sized for, wherever the server lets it end."""
    n, needed = len(new.members), invite.job.aggregation.needed(len(new.members))
    if new.threshold < needed:
        found = f"expected a threshold of at least {needed} of {n}, as the job's noise is sized for, found"
        raise Abort(Stage.ADVERTISE, Reason.THRESHOLD, f"{found} {new.threshold}")
    most = invite.job.aggregation.max_colluders
    if 2 * new.threshold - n <= most:  # they could sign two lists, and the server see one partner's own share
        found = (
            f"expected a threshold that {most} colluding partners can not sign two lists with, found {new.threshold}"
        )
        raise Abort(Stage.ADVERTISE, Reason.THRESHOLD, f"{found} of {n}")
    if new.edges != EDGE_UNIT:
        found = "expected every pair of partners to share a mask where they share the noise, found a sparse graph"
        raise Abort(Stage.ADVERTISE, Reason.THRESHOLD, found)


def _check_strangers(invite: Invite, new: Round, party: Party) -> None:
    """Partners that are not accepted peers may all be the server's, and their shares of the noise known to it."""
    most = invite.job.aggregation.max_colluders
    strangers = sum(m.identity != party.identity and not party.rules.accepts(m) for m in new.members)
    if strangers > most:
        found = f"expected at most aggregation.max_colluders {most} partners that are not accepted peers, found "
        raise Abort(
            Stage.ADVERTISE, Reason.STRANGERS, f"{found}{strangers}: the noise would be too little without them"
        )


def at_hand(standing: Standing) -> Invite:
    """The invitation to the block at hand. Raises Abort where there is none."""
    if standing.invite is None:
        raise Abort(Stage.MASK, Reason.ORDER, "expected the stages of one round in their order, found another")
    return standing.invite


def begins_block(invite: Invite, new: Round) -> bool:
    """Whether `new` is a block of steps whose keys are set up at once."""
    return new.purpose == TRAIN and invite.job.privacy.mechanism == "distributed-dp-sgd"


def share(letter: Letter, standing: Standing, *, party: Party) -> tuple[Standing, Letter]:
    """Stage 1. Raises Abort."""
    if time.monotonic() - standing.since > LIFE:
        raise Abort(Stage.SHARE, Reason.ORDER, f"expected everyone's keys within {LIFE:g} s, found them later")
    if standing.invite is not None:
        begun, body = block.share(standing.begun, letter.body, random=os.urandom)
        return replace(standing, begun=begun), Letter(party.name, body)
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
    expected = ask.entries if purpose == "train" else 0, counters
    if (new.update, new.counters) != expected:
        found = f"expected channels of {expected[0]} and {expected[1]} entries, found {new.update} and {new.counters}"
        raise Abort(Stage.MASK, Reason.REQUEST, found)
    if ask.inbox is None:
        raise Abort(Stage.MASK, Reason.REQUEST, "expected the peers' shares with a secure job, found none")
    return client.open_shares(state, ask.inbox)


def enter_step(asked: Step, standing: Standing) -> tuple[Standing, Opened]:
    """A step of the block at hand, before any example is touched.

    Raises:
        Abort: no block at hand, or another; a step that does not come after those taken part in; a model of another
            length; shares that are missing or do not open.

    Guarantee: each step is entered once, in rising order, with keys of its own.
    """
    new = announced(at_hand(standing))
    if (asked.run, asked.round, asked.attempt) != (new.run, new.number, new.attempt):
        raise Abort(Stage.MASK, Reason.REQUEST, "expected a step of the block that was begun, found another's")
    if len(asked.vector) != new.update:
        found = f"expected a model of {new.update} entries, found {len(asked.vector)}"
        raise Abort(Stage.MASK, Reason.REQUEST, found)
    opened = standing.block
    if opened is None:
        if asked.inbox is None:
            raise Abort(Stage.MASK, Reason.REQUEST, "expected the peers' shares with a block's first step, found none")
        opened = block.open_shares(standing.begun, asked.inbox)
    rest, state = block.step(opened, asked.step)
    return replace(standing, state=state, begun=None, block=rest), state


def cover(opened: Opened | None, ask: Ask, vector: MaskedVector, standing: Standing) -> tuple[Standing, bytes]:
    """Stage 2: mask `vector` in place, or leave it as it is where `opened` is None; gives what goes beside it.

    Raises:
        BadInput: a counter so large that the sum could wrap.
    """
    signed = vector.counters.view(np.int64)  # counts with noise may be negative
    if signed.max(initial=0) >= _MOST or signed.min(initial=0) <= -_MOST:
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
