"""A block of steps under a common noise, read top to bottom: keys once, then for every step model, sums, masks off,
one step of the optimiser.

The sum of all partners' clipped gradients with the sum of their shares of the noise is one step of DP-SGD on the data
of all of them, and it is all that this server sees of them.
"""

from __future__ import annotations

import time
from collections.abc import Mapping
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from tacit.errors import BadInput
from tacit.parcel import Parcel
from tacit.privacy.events import Event
from tacit.privacy.grid import Grid
from tacit.privacy.mechanism import Mechanism, common_rate, plan
from tacit.privacy.shares import step_grid
from tacit.secagg import block, server
from tacit.secagg.abort import Abort
from tacit.secagg.round import Round
from tacit.step import STEP, Step
from tacit.wire import ADVERTISE, AGREE, SHARE, UNMASK, Ask, Invite, Letter, Update
from tacit_server.replies import Answers, Replies, check_events
from tacit_server.secagg import Cohort, letters, note, place_of
from tacit_server.update import ServerOptimizer

__all__ = ["train_block"]

Vector = NDArray[np.float32]


@dataclass(frozen=True)
class _Block:
    """What stays the same over the steps of a block."""

    cohort: Cohort
    ask: Ask
    round: Round
    grid: Grid
    mechanism: Mechanism
    replies: Replies
    routed: block.Routed
    inboxes: Mapping[int, bytes]
    opened: set[int] = field(default_factory=set)  # partners that have opened their inbox
    silent: set[int] = field(default_factory=set)  # partners that let a step's time run out


def train_block(cohort: Cohort, ask: Ask, optimizer: ServerOptimizer) -> Replies:
    """One round of `distributed-dp-sgd`: `local_steps` steps from the model in `ask`.

    A step for which too few partners' sums came is left out: the model stays as it is, and the partners' ledgers keep
    what it would have cost.

    Returns:
        What was heard, and the model after the block where any step was taken.
    """
    replies = Replies(ask.job.aggregation.needed(ask.cohort))
    started = time.perf_counter()
    try:
        begun = _begin(cohort, ask, replies)
    except BadInput as error:  # fewer partners than the job was checked for
        replies.reason = error.message
        return replies
    except Abort as error:
        replies.reason = error.message
        note(replies, cohort.open(ask, purpose="train", update=len(ask.vector), counters=0), error.rejected)
        return replies
    replies.seconds_secagg += time.perf_counter() - started
    vector, missed = ask.vector, dict.fromkeys(cohort.identities, 0)
    for number in range(1, ask.job.training.local_steps + 1):
        counted: set[str] = set()
        try:
            total = _step(begun, number, vector)
        except Abort as error:
            replies.reason = f"step {number}: {error.message}"
            note(replies, begun.round, error.rejected)
        else:
            started = time.perf_counter()
            counted = {begun.round.members[i].name for i in total.survivors}
            vector = _descend(begun, number, vector, total, optimizer)
            replies.steps += 1
            replies.counted |= counted
            replies.seconds_adding += time.perf_counter() - started
        for name in missed.keys() - counted:
            missed[name] += 1
    replies.missed = {name: steps for name, steps in sorted(missed.items()) if steps}
    replies.vector = vector if replies.steps else None
    return replies


def _begin(cohort: Cohort, ask: Ask, replies: Replies) -> _Block:
    """Stages 0 and 1, for all steps at once."""
    new = cohort.open(ask, purpose="train", update=len(ask.vector), counters=0)
    mechanism = plan(ask.job, units=ask.job.training.population or 0)
    grid = step_grid(ask.job, mechanism, cohort=len(new.members), length=len(ask.vector))
    invite = Invite(ask.job, new.encode(), ask.commission).pack()
    adverts = letters(cohort, new, replies, ADVERTISE, dict.fromkeys(range(len(new.members)), invite))
    admitted, roster = block.admit(new, adverts, steps=ask.job.training.local_steps)
    note(replies, new, admitted.rejected)
    letter = Letter("server", roster).pack()
    envelopes = letters(cohort, new, replies, SHARE, dict.fromkeys(admitted.adverts, letter))
    routed, inboxes = block.route(admitted, envelopes)
    note(replies, new, routed.rejected)
    return _Block(cohort, ask, new, grid, mechanism, replies, routed, inboxes)


def _step(begun: _Block, number: int, vector: Vector) -> server.Sum:
    """The sum over those who answer. Raises Abort: too few of them."""
    cohort, new, replies = begun.cohort.at(number), begun.round, begun.replies
    asked = Step(begun.ask.run, begun.ask.round, begun.ask.attempt, number, vector)
    gathering = block.begin(begun.routed, number, request=asked.request(begun.ask.job))
    started = time.perf_counter()
    _gather(begun, cohort, asked, gathering)
    gathered = time.perf_counter()
    replies.seconds_training += gathered - started
    confirmed, message = _confirm(cohort, begun, gathering)
    letter = Letter("server", message).pack()
    reveals = letters(cohort, new, replies, UNMASK, dict.fromkeys(confirmed.agreed, letter))
    total = server.finish(confirmed, reveals)
    note(replies, new, total.rejected)
    replies.seconds_secagg += time.perf_counter() - gathered
    return total


def _confirm(cohort: Cohort, begun: _Block, gathering: server.Gathering) -> tuple[server.Confirmed, bytes]:
    """Where everybody's vector came, nobody has to sign who is missing."""
    if (complete := block.complete(gathering)) is not None:
        return complete
    listed, survivors = server.listing(gathering)
    letter = Letter("server", survivors).pack()
    agreements = letters(cohort, begun.round, begun.replies, AGREE, dict.fromkeys(listed.survivors, letter))
    confirmed, quorum = server.confirm(listed, agreements)
    note(begun.replies, begun.round, confirmed.rejected)
    return confirmed, quorum


def _gather(begun: _Block, cohort: Cohort, asked: Step, gathering: server.Gathering) -> None:
    """Masked sums are added as they come, so that one is in memory at a time."""
    new, replies = begun.round, begun.replies

    def take(name: str, parcel: Parcel) -> None:
        answer, place = Update.unpack(parcel), place_of(new, name)
        if answer.name != name:
            raise BadInput(f"expected a sum of {name}, found one of {answer.name}", hint="rename one partner")
        begun.opened.add(place)
        check_events(answer.events, ask=begun.ask)
        _check_shared(answer.events, begun)
        started = time.perf_counter()
        try:
            server.gather(gathering, place, answer.vector, answer.presence)
        except Abort as error:
            raise BadInput(error.message, hint=error.hint) from None
        replies.events[name] = answer.events
        replies.seconds_adding += time.perf_counter() - started

    parcels, heard = _parcels(begun, asked), set[int]()

    def listening() -> Answers:
        for name, said in cohort.send({new.members[i].name: parcel for i, parcel in parcels.items()}, STEP, True):
            heard.add(place_of(new, name))
            yield name, said

    replies.read(listening(), take)
    begun.silent.update(parcels.keys() - heard)


def _parcels(begun: _Block, asked: Step) -> dict[int, Parcel]:
    """The step for everyone of U2 who was not silent before, with the inbox for those who have not opened theirs."""
    plain = asked.pack()
    present = [i for i in begun.routed.present if i not in begun.silent]
    return {
        i: plain
        if i in begun.opened
        else Step(asked.run, asked.round, asked.attempt, asked.step, asked.vector, begun.inboxes[i]).pack()
        for i in present
    }


def _check_shared(events: tuple[Event, ...], begun: _Block) -> None:
    """A sum of samples drawn at different rates, or with other shares of the noise, has not the guarantee of any."""
    planned = begun.mechanism.event()
    for event in events:
        found = event.kind, event.sampling_rate, event.noise_multiplier, event.colluders
        if found != (planned.kind, planned.sampling_rate, planned.noise_multiplier, planned.colluders):
            raise BadInput(
                f"expected the one sampling rate {common_rate(begun.ask.job):.6g} and noise multiplier "
                f"{planned.noise_multiplier:.6g} of distributed-dp-sgd, found {event.sampling_rate:.6g} and "
                f"{event.noise_multiplier:.6g}: the sum would not have the guarantee of privacy.epsilon",
                hint="install the same version of tacit on both sides",
            )


def _descend(begun: _Block, number: int, vector: Vector, total: server.Sum, optimizer: ServerOptimizer) -> Vector:
    """One step of the optimiser along the mean gradient: of the survivors' even share of the expected batch."""
    training = begun.ask.job.training
    batch = training.batch_size * len(total.survivors) / len(begun.round.members)
    gradient = begun.grid.decode(total.update) / batch
    count = (begun.ask.round - 1) * training.local_steps + number
    return optimizer.descend(count, vector, gradient, learning_rate=training.learning_rate_at(begun.ask.round))
