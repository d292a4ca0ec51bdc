"""What a look at one thing found, and how looks depend on each other."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, Generic, Literal, Self, TypeVar

from tacit.errors import TacitError
from tacit.terminal import system

__all__ = ["Checkup", "Finding", "Outcome", "Said", "Verdict"]

Verdict = Literal["ok", "warn", "FAIL", "skip"]

T = TypeVar("T")


@dataclass(frozen=True)
class Finding:
    """One line of the report.

    Attributes:
        check: what was looked at.
        verdict: `ok`; `warn`: a job could start, and something should be done; `FAIL`: none could start; `skip`: not
            looked at.
        found: in words.
        remedy: what to do; empty where nothing is to be done.
    """

    check: str
    verdict: Verdict
    found: str
    remedy: str = ""


@dataclass(frozen=True, repr=False)
class Said(Generic[T]):
    """What a look gives: the words for its line, and what later looks need of it."""

    found: str
    value: T
    verdict: Verdict = "ok"
    remedy: str = ""


@dataclass(frozen=True, repr=False)
class Outcome(Generic[T]):
    """What a later look may need; `said` is None where there is nothing to go on with."""

    check: str
    said: Said[T] | None

    @classmethod
    def of(cls, check: str, value: T) -> Self:
        """Of something that is known beforehand."""
        return cls(check, Said("", value))


class Checkup:
    """The looks so far, in their order."""

    def __init__(self) -> None:
        self.findings: list[Finding] = []

    def look(
        self, check: str, act: Callable[..., Said[T]], *needs: Outcome[Any], after: Sequence[Outcome[Any]] = ()
    ) -> Outcome[T]:
        """Look at one thing.

        Args:
            check: its name.
            act: called with the values of `needs`; a TacitError of it is a FAIL with the error's own words, an
                OSError one with the system's.
            needs: what came of earlier looks. Where one of them failed or was skipped, this one is skipped.
            after: earlier looks that count in the same way, and whose values are not asked for.
        """
        for need in (*needs, *after):
            if need.said is None:
                self.findings.append(Finding(check, "skip", f"not looked at, because of {need.check}"))
                return Outcome(check, None)
        try:
            said = act(*(need.said.value for need in needs if need.said is not None))
        except TacitError as error:
            self.findings.append(Finding(check, "FAIL", error.message, error.hint))
            return Outcome(check, None)
        except OSError as error:  # the looks that follow are worth having
            self.findings.append(Finding(check, "FAIL", *system(error)))
            return Outcome(check, None)
        self.findings.append(Finding(check, said.verdict, said.found, said.remedy))
        return Outcome(check, None if said.verdict == "FAIL" else said)
