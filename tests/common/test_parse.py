"""Validation in one wording."""

from __future__ import annotations

import datetime

import pytest
from pydantic import BaseModel, ConfigDict, model_validator

from tacit.check import contradiction, parse
from tacit.errors import BadInput


class Inner(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid", strict=True)
    size: int = 1
    pair: tuple[int, ...] = ()


class Outer(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid", strict=True)
    name: str
    inner: Inner = Inner()

    @model_validator(mode="after")
    def _check(self):
        if self.name == "bad":
            raise contradiction("expected another name, found bad", hint="rename it")
        if self.name == "worse":
            raise ValueError("no good")
        return self


def test_arrays_fill_tuples():
    assert parse(Outer, {"name": "n", "inner": {"pair": [1, 2]}}, where="f").inner.pair == (1, 2)


@pytest.mark.parametrize(
    ("raw", "message", "hint"),
    [
        ({}, "expected name in f, found nothing", "add name"),
        ({"name": 1}, "expected name to be a valid string, found 1 in f", "change name"),
        ({"name": "n", "x": 1}, "expected a known key in f, found x", "remove it or use one of: inner, name"),
        (
            {"name": "n", "inner": {"y": 1}},
            "expected a known key in f, found inner.y",
            "remove it or use one of: pair, size",
        ),
        (
            {"name": "n", "inner": {"pair": [1, "2"]}},
            'expected inner.pair.1 to be a valid integer, found "2" in f',
            "change inner.pair.1",
        ),
        ({"name": "bad"}, "expected another name, found bad in f", "rename it"),
        ({"name": "worse"}, "expected the file: no good in f", "change the file"),
    ],
)
def test_the_first_fault_is_told(raw, message, hint):
    with pytest.raises(BadInput) as caught:
        parse(Outer, raw, where="f")
    assert (caught.value.message, caught.value.hint) == (message, hint)


def test_a_long_value_is_cut():
    with pytest.raises(BadInput) as caught:
        parse(Outer, {"name": ["x" * 10_000]}, where="f")
    assert len(caught.value.message) < 200


def test_what_json_does_not_know_is_refused():
    with pytest.raises(BadInput, match=r"^expected numbers, texts, booleans and lists in f, found .*date"):
        parse(Outer, {"name": datetime.date(2026, 1, 1)}, where="f")


def test_what_is_too_deep_to_be_written_is_one_line():
    """A peer chooses how deep: a little less than what can not be read ends no process either."""
    raw: dict[str, object] = {}
    for _ in range(100_000):
        raw = {"inner": raw}
    with pytest.raises(BadInput, match="expected values a few levels deep in f, found hundreds of levels"):
        parse(Outer, raw, where="f")
