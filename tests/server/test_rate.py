"""A bucket of tokens, and open calls."""

from __future__ import annotations

import threading
import time

from tacit_server import rate
from tacit_server.rate import Calls, Rate, within


def test_a_burst_then_the_pace(monkeypatch):
    now = [100.0]
    monkeypatch.setattr(rate.time, "monotonic", lambda: now[0])
    bucket = Rate(pace=2.0, burst=5.0)
    assert [bucket.spend() for _ in range(6)] == [True] * 5 + [False]
    now[0] += 1.0
    assert [bucket.spend() for _ in range(3)] == [True, True, False]
    now[0] += 1000.0
    assert [bucket.spend() for _ in range(6)] == [True] * 5 + [False]


def test_a_caller_opens_no_more_calls_than_it_may_and_others_are_not_counted():
    calls = Calls(most=2)
    assert [calls.begin("a") for _ in range(3)] == [True, True, False]
    assert calls.begin("b")
    calls.end("a")
    assert [calls.begin("a") for _ in range(2)] == [True, False]


def test_a_refused_call_is_not_counted_as_open(monkeypatch):
    now = [100.0]
    monkeypatch.setattr(rate.time, "monotonic", lambda: now[0])
    calls, begun = Calls(most=1000), 0
    while calls.begin("a"):
        begun += 1
    assert begun == 200
    now[0] += 1000.0
    for _ in range(begun):
        calls.end("a")
    assert calls.begin("a")
    assert calls.begin("b")


def test_what_takes_too_long_is_told_and_what_does_not_is_left_alone():
    late = threading.Event()
    with within(0.01, otherwise=late.set):
        assert late.wait(10)
    in_time = threading.Event()
    with within(0.2, otherwise=in_time.set):
        pass
    time.sleep(0.4)
    assert not in_time.is_set()
