"""How the doctor's looks hang together."""

from __future__ import annotations

from pathlib import Path

from hypothesis import given
from hypothesis import strategies as st

from tacit.errors import BadInput
from tacit_client.checkup.finding import Checkup, Outcome, Said


def _look(verdict: str) -> Said[int]:
    if verdict == "raise":
        raise BadInput("expected more", hint="add it")
    return Said("words", 1, verdict)


@given(first=st.sampled_from(["ok", "warn", "FAIL", "raise"]), second=st.sampled_from(["ok", "FAIL"]))
def test_a_look_is_skipped_where_and_only_where_what_it_needs_failed(first, second):
    checkup = Checkup()
    one = checkup.look("one", lambda: _look(first))
    two = checkup.look("two", lambda value: _look(second), one)
    three = checkup.look("three", lambda a: Said(str(a), None), one, after=(two,))
    sound = first in ("ok", "warn")
    verdicts = [finding.verdict for finding in checkup.findings]
    assert verdicts == [
        "FAIL" if first == "raise" else first,
        second if sound else "skip",
        "ok" if sound and second == "ok" else "skip",
    ]
    assert (three.said is not None) == (verdicts[2] == "ok")
    if not sound:
        assert [finding.found for finding in checkup.findings[1:]] == [
            "not looked at, because of one",
        ] * 2  # fmt: skip
    if first == "raise":
        assert (checkup.findings[0].found, checkup.findings[0].remedy) == ("expected more", "add it")


def test_what_the_system_refuses_is_a_fail_and_the_next_look_goes_on():
    checkup = Checkup()
    checkup.look("one", lambda: Path("/nowhere/at all").stat())
    checkup.look("two", lambda: _look("ok"))
    assert [finding.verdict for finding in checkup.findings] == ["FAIL", "ok"]
    assert checkup.findings[0].found.endswith("found: No such file or directory at /nowhere/at all")
    assert checkup.findings[0].remedy


def test_what_is_known_beforehand_is_no_line():
    checkup = Checkup()
    checkup.look("one", lambda value: Said(value, None), Outcome.of("zero", "known"))
    assert [(finding.check, finding.found) for finding in checkup.findings] == [("one", "known")]
