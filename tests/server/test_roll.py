"""Who is there: partners come and go between rounds, and nobody is two."""

from __future__ import annotations

import threading
import time

import pytest
from flwr.app import Error
from flwr.common.constant import ErrorCode
from scripted import Script, hello
from test_transport import Scripted, _exchange

from tacit.errors import BadInput, JobFailed
from tacit.privacy.randomness import Randomness
from tacit.wire import Hello
from tacit_server import rounds
from tacit_server.checkpoint import RunState
from tacit_server.roll import ask_names, present
from tacit_server.rounds import Setup, federate
from tacit_sim.grid import InlineGrid


class _Coming(InlineGrid):
    """A grid of which a script says who is there; it is asked once a round and once at the end."""

    there: list[list[int]]

    def get_node_ids(self):
        return self.there.pop(0) if len(self.there) > 1 else self.there[0]


def _grid(script: Script, there: list[list[int]], *, partners: int = 5) -> _Coming:
    grid = script.grid(partners)
    grid.__class__, grid.there = _Coming, there
    return grid


@pytest.fixture
def go(make_job, monkeypatch):
    monkeypatch.setattr(rounds, "_LOOK", 0.01)

    def run(grid, *overrides: str, **changes) -> RunState:
        import numpy as np

        job = make_job("aggregation.round_timeout=0.2", *overrides)
        setup = Setup(
            job=job, classes=2, test=None, randomness=Randomness(0), save=lambda state: None, waits=True, **changes
        )
        return federate(grid, setup, RunState(run="r", job_hash=job.hash(), vector=np.zeros(4, np.float32)))

    return run


def _present(grid, roster=None, check=lambda node, partner: None):
    return present(grid, roster or {}, check=check, stop=threading.Event())


def test_partners_come_and_go_between_rounds(go):
    script = Script()
    state = go(_grid(script, [[1, 2, 3], [2, 3, 4, 5], [1, 2, 3]]), "training.rounds=3")
    asked = {number: {name for n, name in script.asked if n == number} for number in (1, 2, 3)}
    assert asked == {1: {"p0", "p1", "p2"}, 2: {"p1", "p2", "p3", "p4"}, 3: {"p0", "p1", "p2"}}
    assert [line["asked"] for line in state.history] == [3, 4, 3]


def test_names_are_asked_of_newcomers_only():
    asked = []
    script = Script(hello=lambda name: (asked.append(name), hello(name))[1])
    grid = _grid(script, [[1, 2], [1, 2, 3], [3]])
    roster = _present(grid)
    roster = _present(grid, roster)
    assert asked == ["p0", "p1", "p2"]
    assert {node: partner.name for node, partner in _present(grid, roster).items()} == {3: "p2"}
    assert len(asked) == 3


def test_who_is_missing_is_waited_for(go):
    script, told = Script(), []
    grid = _grid(script, [[1], [1, 2], [1, 2], [1, 2, 3]])
    state = go(grid, "aggregation.round_timeout=30.0", tell=told.append)
    assert [text for text in dict.fromkeys(told) if text] == [
        "waiting for partners: 1 of 3",
        "waiting for partners: 2 of 3",
    ]
    assert told[-1] == ""
    assert [line["status"] for line in state.history] == ["done", "done"]


def test_who_does_not_come_costs_a_round_and_in_the_end_the_run(go):
    started = time.monotonic()
    with pytest.raises(JobFailed, match=r"found 0 in the last of 2 .*\(expected at least 3 partners, found 2\)"):
        go(_grid(Script(), [[1, 2]]), "training.max_failed_rounds=1", "training.rounds=9")
    assert 0.4 <= time.monotonic() - started < 5.0


def test_a_wait_can_be_stopped(go):
    stop = threading.Event()
    threading.Timer(0.2, stop.set).start()
    with pytest.raises(KeyboardInterrupt):
        go(_grid(Script(), [[1]]), "aggregation.round_timeout=60.0", stop=stop)


def test_who_is_not_whom_it_says_is_left_out_by_name(caplog):
    def check(node: int, partner: Hello) -> None:
        if node == 2:
            raise BadInput(f"expected somebody else, found {partner.name}", hint="x")

    found = _present(_grid(Script(), [[1, 2, 3]]), check=check)
    assert sorted(found) == [1, 3]
    assert "left out: expected somebody else, found p1" in caplog.text


def test_of_two_nodes_of_one_partner_the_one_that_was_there_stays(caplog):
    grid = _grid(Script(hello=lambda name: hello("same")), [[2], [1, 2], [1]])
    roster = _present(grid)
    roster = _present(grid, roster)
    assert sorted(roster) == [2]
    assert "left out: expected one node of same, found two" in caplog.text
    assert sorted(_present(grid, roster)) == [1]


def test_nobody_to_ask_sends_nothing():
    assert ask_names(None, [], timeout=1.0, stop=threading.Event()) == {}


@pytest.mark.parametrize("code", [ErrorCode.NODE_UNAVAILABLE, ErrorCode.MESSAGE_UNAVAILABLE])
def test_flowers_word_for_a_node_that_is_gone_is_short_and_goes_to_that_node(code):
    class Stead(Scripted):
        """Flower answers in the node's stead, from its own number."""

        def pull_messages(self, message_ids):
            for answer in super().pull_messages(message_ids):
                answer.metadata.src_node_id = 1
                yield answer

    ((node, found),) = _exchange(Stead({4: (1, Error(code, "Error: Node Unavailable - a long text"))}), [4])
    assert (node, found) == (4, "went offline")
