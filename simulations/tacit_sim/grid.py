"""Flower's Grid inside one process: a message is answered when it is asked for.

The same ClientApp objects get the same Flower messages as under any other engine; what is left out is the way
between. Answers are made one at a time, so a round holds one update in memory whatever the number of partners.
"""

from __future__ import annotations

import itertools
import logging
import time
from collections.abc import Iterable

from flwr.app import Context, Error, Message, RecordDict, UserConfig
from flwr.clientapp import ClientApp
from flwr.serverapp import Grid
from flwr.supercore.run import Run
from flwr.supercore.task_identity import TaskIdentity

__all__ = ["InlineGrid"]

_log = logging.getLogger(__name__)

_RUN_ID = 1
_SERVER = 0  # node and task id of the server's side
_FAILED = 0  # Flower's error code for an unknown cause


class InlineGrid(Grid):
    """A Grid whose nodes 1 to `partners` are one ClientApp called with their contexts.

    Args:
        app: the ClientApp.
        partners: number of nodes; node `i + 1` has `partition-id` `i` in its context, as in Flower's simulation.
    """

    def __init__(self, app: ClientApp, *, partners: int) -> None:
        self._app = app
        # Flower stamps every new message with these; a real ServerApp process gets them from its launcher.
        TaskIdentity.run_id, TaskIdentity.node_id, TaskIdentity.task_id = _RUN_ID, _SERVER, _SERVER
        self._run = Run.create_empty(_RUN_ID)
        self._contexts = {i + 1: _context(i, partners) for i in range(partners)}
        self._numbers = itertools.count(1)
        self._waiting: dict[str, Message] = {}

    def set_run(self, run: Run) -> None:
        """Flower's way to bind a run; this grid has one already."""
        self._run = run

    @property
    def run(self) -> Run:
        """The run."""
        return self._run

    def create_message(
        self, content: RecordDict, message_type: str, dst_node_id: int, group_id: str, ttl: float | None = None
    ) -> Message:
        """Flower's older way to make a message."""
        return Message(content, dst_node_id, message_type, ttl=ttl, group_id=group_id)

    def get_node_ids(self) -> Iterable[int]:
        """Every node."""
        return list(self._contexts)

    def push_messages(self, messages: Iterable[Message]) -> Iterable[str]:
        """Take messages in; nothing is run yet."""
        ids = []
        for message in messages:
            name = str(next(self._numbers))
            message.metadata.__dict__["_message_id"] = name  # as Flower's own grids do: it has no setter
            self._waiting[name] = message
            ids.append(name)
        return ids

    def pull_messages(self, message_ids: Iterable[str]) -> Iterable[Message]:
        """Answer the oldest of these messages that still waits."""
        wanted = set(message_ids)
        for name in [name for name in self._waiting if name in wanted][:1]:
            yield self._answer(self._waiting.pop(name))

    def send_and_receive(self, messages: Iterable[Message], *, timeout: float | None = None) -> Iterable[Message]:
        """Answer all of `messages`, or as many as are begun within `timeout` seconds."""
        deadline = time.monotonic() + (float("inf") if timeout is None else timeout)
        ids = list(self.push_messages(messages))
        answers: list[Message] = []
        while len(answers) < len(ids) and time.monotonic() < deadline:
            answers.extend(self.pull_messages(ids))
        return answers

    def _answer(self, message: Message) -> Message:
        try:
            return self._app(message=message, context=self._contexts[message.metadata.dst_node_id])
        except Exception as error:  # noqa: BLE001  # the edge of a partner: whatever it raises is its drop-out
            _log.warning("node %d failed", message.metadata.dst_node_id, exc_info=True)
            return Message(Error(_FAILED, f"{type(error).__name__}: {error}"), reply_to=message)


def _context(partition: int, partners: int) -> Context:
    return Context(
        run_id=_RUN_ID,
        node_id=partition + 1,
        node_config={"partition-id": partition, "num-partitions": partners},
        state=RecordDict(),
        run_config=UserConfig(),
    )
