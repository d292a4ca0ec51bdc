"""A round of secure aggregation over messages: five exchanges, read top to bottom.

Each has a bounded wait, and who is late has dropped out. The protocol itself is `tacit.secagg.server`.
"""

from __future__ import annotations

import time
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass, replace
from functools import partial
from typing import Protocol

from tacit.errors import BadInput
from tacit.metrics import Counters
from tacit.parcel import Parcel
from tacit.privacy.mechanism import plan
from tacit.secagg import server
from tacit.secagg.abort import Abort
from tacit.secagg.constants import EDGE_UNIT
from tacit.secagg.graph import edge_chance
from tacit.secagg.keys import PublicKey
from tacit.secagg.messages import MaskedVector
from tacit.secagg.round import Member, Purpose, Round
from tacit.wire import ADVERTISE, AGREE, EVALUATE, SHARE, TRAIN, TRAINING_COUNTERS, UNMASK, Ask, Invite, Letter, Update
from tacit_server.replies import Answers, Judged, Replies, check_events
from tacit_server.whole import check_shares

__all__ = ["Cohort", "Send", "collect_masked", "letters", "note", "place_of", "tally_masked"]


class Send(Protocol):
    """How parcels reach the partners; `step` is 0 but in the steps of a block."""

    def __call__(self, parcels: Mapping[str, Parcel], kind: str, working: bool, *, step: int = 0) -> Answers: ...


@dataclass(frozen=True)
class Cohort:
    """The partners of a round, and how to reach them.

    Attributes:
        identities: Ed25519 keys by name.
        send: sends parcels by name, with Flower's message type, whether partners compute before they answer, and the
            step of a block; gives the answers as they come.
    """

    identities: Mapping[str, PublicKey]
    send: Send

    def at(self, step: int) -> Cohort:
        """The same in one step of a block."""
        return replace(self, send=partial(self.send, step=step))

    def open(self, ask: Ask, *, purpose: Purpose, update: int, counters: int) -> Round:
        """The round that these partners are invited to."""
        members = tuple(Member(name, self.identities[name]) for name in sorted(self.identities))
        n, threshold = len(members), ask.job.aggregation.needed(len(members))
        shared = purpose == "train" and ask.job.shares_noise  # a sparse graph may lose a few, and their noise
        job, edges = ask.job.hash(), EDGE_UNIT if shared else edge_chance(n, threshold=min(threshold, n))
        return Round(ask.run, job, ask.round, ask.attempt, purpose, members, threshold, update, counters, edges)


def collect_masked(cohort: Cohort, ask: Ask) -> Replies:
    """One round of training: the mean of the survivors' updates, which is all that is seen of them."""
    replies = Replies(ask.job.aggregation.needed(ask.cohort))
    total = _sum(cohort, ask, replies, purpose="train", counters=TRAINING_COUNTERS)
    if total is None:
        return replies
    weight, most = int(total.counters[0]), len(total.survivors) * ask.job.aggregation.full_weight
    if len(total.survivors) <= weight <= most:
        replies.settle(MaskedVector(total.update, total.counters), ask)
    else:
        replies.reason = f"expected weights that add up to {len(total.survivors)} to {most}, found {weight}"
    return replies


def tally_masked(cohort: Cohort, ask: Ask, *, classes: int) -> Judged:
    """The sum over the survivors' held-out examples, or none where too few survived."""
    replies = Replies(ask.job.aggregation.needed(ask.cohort))
    total = _sum(cohort, ask, replies, purpose="evaluate", counters=Counters.length(classes))
    events = {name: told for name, told in replies.events.items() if told}
    with suppress(BadInput):  # somebody's sums were of no examples
        return Judged(None if total is None else Counters.from_vector(total.counters, classes=classes), events)
    return Judged(None, events)


def _sum(cohort: Cohort, ask: Ask, replies: Replies, *, purpose: Purpose, counters: int) -> server.Sum | None:
    """All five stages, or None and the reason in `replies`."""
    update = ask.entries if purpose == "train" else 0
    new = cohort.open(ask, purpose=purpose, update=update, counters=counters)
    try:
        return _stages(cohort, ask, new, replies)
    except Abort as error:
        replies.reason = error.message
        note(replies, new, error.rejected)
        return None


def _stages(cohort: Cohort, ask: Ask, new: Round, replies: Replies) -> server.Sum:
    started = time.perf_counter()
    invite = Invite(ask.job, new.encode(), ask.commission).pack()
    adverts = letters(cohort, new, replies, ADVERTISE, dict.fromkeys(range(len(new.members)), invite))
    admitted, roster = server.admit(new, adverts)
    note(replies, new, admitted.rejected)

    letter = Letter("server", roster).pack()
    envelopes = letters(cohort, new, replies, SHARE, dict.fromkeys(admitted.adverts, letter))
    gathering, inboxes = server.route(admitted, envelopes, request=ask.request())
    note(replies, new, gathering.rejected)

    opened = time.perf_counter()
    _gather(cohort, ask, replies, gathering, inboxes)
    listed, survivors = server.listing(gathering)
    gathered = time.perf_counter()

    letter = Letter("server", survivors).pack()
    agreements = letters(cohort, new, replies, AGREE, dict.fromkeys(listed.survivors, letter))
    confirmed, quorum = server.confirm(listed, agreements)
    note(replies, new, confirmed.rejected)

    letter = Letter("server", quorum).pack()
    reveals = letters(cohort, new, replies, UNMASK, dict.fromkeys(confirmed.agreed, letter))
    unmasking = time.perf_counter()
    total = server.finish(confirmed, reveals)
    note(replies, new, total.rejected)
    replies.counted = {new.members[i].name for i in total.survivors}
    replies.seconds_adding += time.perf_counter() - unmasking
    replies.seconds_secagg = time.perf_counter() - gathered + opened - started
    return total


def letters(cohort: Cohort, new: Round, replies: Replies, kind: str, parcels: Mapping[int, Parcel]) -> dict[int, bytes]:
    """Send letters by position, and take the answers in, by position too; `replies` notes who gave none, and why."""
    found: dict[int, bytes] = {}

    def take(name: str, parcel: Parcel) -> None:
        letter = Letter.unpack(parcel)
        if letter.name != name:
            raise BadInput(f"expected a letter of {name}, found one of {letter.name}", hint="rename one partner")
        found[place_of(new, name)] = letter.body

    named = {new.members[i].name: parcel for i, parcel in parcels.items()}
    replies.read(cohort.send(named, kind, False), take)
    replies.stayed = {new.members[i].name for i in found}
    return found


def _gather(
    cohort: Cohort,
    ask: Ask,
    replies: Replies,
    gathering: server.Gathering,
    inboxes: Mapping[int, bytes],
) -> None:
    """Stage 2: training or evaluation; vectors are added as they come, so that one is in memory at a time."""
    new = gathering.admitted.round
    planned = plan(ask.job, units=0).event() if new.purpose == "train" and ask.job.shares_noise else None

    def take(name: str, parcel: Parcel) -> None:
        answer = Update.unpack(parcel)
        if answer.name != name:
            raise BadInput(f"expected an update of {name}, found one of {answer.name}", hint="rename one partner")
        check_events(answer.events, ask=ask)
        if planned is not None:
            check_shares(answer.events, planned=planned)
        started = time.perf_counter()
        try:
            server.gather(gathering, place_of(new, name), answer.vector, answer.presence)
        except Abort as error:
            raise BadInput(error.message, hint=error.hint) from None
        replies.events[name] = answer.events
        replies.seconds_adding += time.perf_counter() - started

    parcels = {new.members[i].name: replace(ask, inbox=inbox).pack() for i, inbox in inboxes.items()}
    replies.read(cohort.send(parcels, TRAIN if new.purpose == "train" else EVALUATE, True), take)
    replies.stayed = {new.members[i].name for i in gathering.survivors}


def note(replies: Replies, new: Round, rejected: Mapping[int, Abort]) -> None:
    """Keep why answers count for nothing, under the partners' names."""
    replies.failures.update({new.members[i].name: error.message for i, error in rejected.items()})


def place_of(new: Round, name: str) -> int:
    """The position of `name`. Raises BadInput where it has none."""
    place = new.position(name)
    if place is None:
        raise BadInput("expected an answer of the cohort, found another's", hint="check the roster")
    return place
