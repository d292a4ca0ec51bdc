"""Messages to partners and their answers, with bounded waits."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator, Mapping

from flwr.app import Array, Message
from flwr.common.constant import ErrorCode
from flwr.serverapp import Grid

from tacit.errors import BadInput, JobFailed
from tacit.link.records import to_parcel, to_records
from tacit.parcel import Parcel

__all__ = ["Failure", "News", "exchange", "wait_for_nodes"]

News = Callable[[], Mapping[str, bool] | None]
"""A cheap look at the messages to which an answer waits, each with whether all of it is there; None: nobody knows."""

# What Flower's SuperLink answers (flwr 1.41, flwr.common.constant.ErrorCode) where a node's heartbeats stopped, or the
# node was removed, or half of its answer is missing.
_OFFLINE = frozenset({ErrorCode.NODE_UNAVAILABLE, ErrorCode.MESSAGE_UNAVAILABLE})

_SHORTEST_PAUSE = 0.005  # seconds; doubles while nothing comes, so that an idle server rests
_LONGEST_PAUSE = 0.1
_LONGEST_LOOK = 0.02  # where a look is cheap: two exchanges make a step of a block
_LONGEST_SILENCE = 1.0  # after which it is asked who is there: that a node went offline is no news of its own


class Failure(str):
    """Why a partner's answer is missing although its machine said something."""

    __slots__ = ()


def wait_for_nodes(grid: Grid, *, least: int, timeout: float) -> list[int]:
    """The ids of the nodes that are there, in rising order, once there are at least `least`.

    Raises:
        JobFailed: fewer than that after `timeout` seconds.
    """
    deadline = time.monotonic() + timeout
    while True:
        nodes = sorted(grid.get_node_ids())
        if len(nodes) >= least:
            return nodes
        if time.monotonic() > deadline:
            raise JobFailed(
                f"expected at least {least} partners within {timeout:g} s, found {len(nodes)}",
                hint="start more partners, or lower aggregation.min_cohort",
            )
        time.sleep(_LONGEST_PAUSE)


def exchange(
    grid: Grid,
    parcels: Mapping[int, Parcel],
    *,
    kind: str,
    timeout: float,
    group: str,
    stop: threading.Event,
    news: News = lambda: None,
) -> Iterator[tuple[int, Parcel | Failure]]:
    """Send each node its parcel and yield the answers as they come, at most one a node.

    A node that has not answered after `timeout` seconds is left out: its answer, should it still come, is never
    looked at.

    Args:
        parcels: by node id; an array that several of them hold is encoded once.
        kind: Flower's message type.
        timeout: seconds, for all answers together.
        group: Flower's group id, here the round.
        stop: set from another thread to leave.
        news: where there is such a look, the grid is asked for answers that are whole only; else for all.

    Raises:
        KeyboardInterrupt: `stop` was set.
    """
    written: dict[int, Array] = {}
    messages = [
        Message(to_records(parcel, written=written), node, kind, ttl=timeout + 60.0, group_id=group)
        for node, parcel in parcels.items()
    ]
    deadline = time.monotonic() + timeout
    # By the message answered: where Flower answers in a node's stead, the sender is not the node.
    waiting = {number: node for number, node in zip(grid.push_messages(messages), parcels, strict=False) if number}
    pause, heard = _SHORTEST_PAUSE, time.monotonic()
    while waiting:
        if stop.is_set():
            raise KeyboardInterrupt
        answered = news()
        due = {number for number in waiting if answered is None or answered.get(number)}
        if answered is not None and time.monotonic() - heard > _LONGEST_SILENCE:
            due, heard = due | _gone(grid, waiting), time.monotonic()
        answers = list(grid.pull_messages(sorted(due))) if due else []
        for answer in answers:
            node = waiting.pop(answer.metadata.reply_to_message_id, None)
            if node is not None:
                yield node, _read(answer)
        if time.monotonic() > deadline:
            return
        if answers:
            pause = _SHORTEST_PAUSE
        elif waiting:
            time.sleep(pause)
            pause = min(2 * pause, _LONGEST_PAUSE if answered is None else _LONGEST_LOOK)


def _gone(grid: Grid, waiting: Mapping[str, int]) -> set[str]:
    """The messages to nodes that are not there any more: Flower answers in their stead."""
    there = set(grid.get_node_ids())
    return {number for number, node in waiting.items() if node not in there}


def _read(answer: Message) -> Parcel | Failure:
    if answer.has_error():
        return Failure("went offline" if answer.error.code in _OFFLINE else answer.error.reason)
    try:
        return to_parcel(answer.content)
    except BadInput as error:
        return Failure(error.message)
