"""A bucket of tokens."""

from __future__ import annotations

from tacit_server import rate
from tacit_server.rate import Rate


def test_a_burst_then_the_pace(monkeypatch):
    now = [100.0]
    monkeypatch.setattr(rate.time, "monotonic", lambda: now[0])
    bucket = Rate(pace=2.0, burst=5.0)
    assert [bucket.spend() for _ in range(6)] == [True] * 5 + [False]
    now[0] += 1.0
    assert [bucket.spend() for _ in range(3)] == [True, True, False]
    now[0] += 1000.0
    assert [bucket.spend() for _ in range(6)] == [True] * 5 + [False]
