"""The inline grid keeps Flower's promises: every message answered once, a crash of a partner its own."""

from __future__ import annotations

import time

import pytest
from flwr.app import Context, Message, RecordDict
from flwr.clientapp import ClientApp

from tacit_sim.grid import InlineGrid


def _app(seen: list[int], *, error: type[BaseException] | None = None) -> ClientApp:
    app = ClientApp()

    @app.train()
    def train(message: Message, context: Context) -> Message:
        seen.append(int(context.node_config["partition-id"]))
        if error is not None:
            raise error("broken")
        return Message(RecordDict(), reply_to=message)

    return app


def _messages(*nodes: int) -> list[Message]:
    return [Message(RecordDict(), node, "train", group_id="1") for node in nodes]


def test_nodes_carry_the_partitions_in_order():
    seen: list[int] = []
    grid = InlineGrid(_app(seen), partners=4)
    assert list(grid.get_node_ids()) == [1, 2, 3, 4]
    list(grid.send_and_receive(_messages(3, 1)))
    assert seen == [2, 0]


def test_nothing_is_run_before_it_is_asked_for_and_once_only():
    seen: list[int] = []
    grid = InlineGrid(_app(seen), partners=2)
    ids = list(grid.push_messages(_messages(1, 2)))
    assert (len(set(ids)), seen) == (2, [])
    first = list(grid.pull_messages(ids))
    assert (len(first), seen) == (1, [0])
    second = list(grid.pull_messages(ids))
    assert [m.metadata.reply_to_message_id for m in first + second] == ids
    assert [m.metadata.src_node_id for m in first + second] == [1, 2]
    assert list(grid.pull_messages(ids)) == []
    assert seen == [0, 1]


def test_only_the_wanted_are_answered():
    seen: list[int] = []
    grid = InlineGrid(_app(seen), partners=3)
    ids = list(grid.push_messages(_messages(1, 2, 3)))
    list(grid.pull_messages(ids[2:]))
    list(grid.pull_messages(["unknown"]))
    assert seen == [2]


def test_a_crash_is_an_error_message():
    grid = InlineGrid(_app([], error=RuntimeError), partners=1)
    (answer,) = grid.send_and_receive(_messages(1))
    assert answer.has_error()
    assert answer.error.reason == "RuntimeError: broken"
    assert answer.metadata.src_node_id == 1


def test_ctrl_c_is_nobodys_crash():
    grid = InlineGrid(_app([], error=KeyboardInterrupt), partners=1)
    with pytest.raises(KeyboardInterrupt):
        list(grid.send_and_receive(_messages(1)))


def test_no_message_is_begun_after_the_timeout():
    seen: list[int] = []
    app = ClientApp()

    @app.train()
    def train(message: Message, context: Context) -> Message:
        seen.append(1)
        time.sleep(0.15)
        return Message(RecordDict(), reply_to=message)

    grid = InlineGrid(app, partners=9)
    answers = list(grid.send_and_receive(_messages(*range(1, 10)), timeout=0.1))
    assert (len(answers), len(seen)) == (1, 1)
