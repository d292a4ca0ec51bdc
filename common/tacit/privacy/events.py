"""Accounting events: frozen facts about what was released.

An event says what was done, never what it cost; the cost is computed from events whenever it is read. The meaning
of a kind never changes; an unknown kind, field or version is an error (after dp-accounting's `dp_event`).
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Annotated, Any, Literal

from pydantic import AfterValidator, BaseModel, ConfigDict, Field

from tacit.check import parse
from tacit.errors import BadInput

__all__ = ["EXAMPLE", "Event", "check_person", "merge"]

EXAMPLE = "example"
"""The unit where every row is protected by itself."""

_LONGEST = 64  # characters of a unit's name


def _visible(unit: str) -> bool:
    """It goes to other machines, into logs and reports: no line of its own, nothing that can not be seen."""
    return unit.isprintable() and bool(unit.strip()) and len(unit) <= _LONGEST


def _checked(unit: str) -> str:
    if not _visible(unit):
        raise ValueError(f"expected 1 to {_LONGEST} visible characters")
    return unit


def check_person(column: str) -> str:
    """The name of a column of persons, to be an event's unit.

    Raises:
        BadInput: a name that is empty, too long or can not be seen, or `example`, which says that rows are protected.
    """
    if column == EXAMPLE or not _visible(column):
        raise BadInput(
            f"expected a column of persons named by 1 to {_LONGEST} visible characters other than {EXAMPLE}, "
            f"found {column!r} as data.unit",
            hint="rename the column",
        )
    return column


class Event(BaseModel):
    """`steps` releases of one mechanism over one partner's data set.

    Attributes:
        version: of this record.
        kind: `dp-sgd`: `steps` Poisson-sampled Gaussian mechanisms; `none`: as many releases without protection.
        sampling_rate: of each unit in each step.
        noise_multiplier: noise standard deviation over the clip norm.
        steps: how many.
        unit: what one more or less of is hidden: `example`, or the column that names the person whose rows are one
            unit. The name of that column leaves the machine with the event.
    """

    model_config = ConfigDict(frozen=True, extra="forbid", strict=True, allow_inf_nan=False)

    version: Literal[1] = 1
    kind: Literal["none", "dp-sgd"]
    sampling_rate: Annotated[float, Field(gt=0.0, le=1.0)]
    noise_multiplier: Annotated[float, Field(ge=0.0)]
    steps: Annotated[int, Field(gt=0)]
    unit: Annotated[str, AfterValidator(_checked)] = EXAMPLE

    @classmethod
    def from_json(cls, raw: Mapping[str, Any]) -> Event:
        """The event in `raw`, strictly. Raises BadInput."""
        return parse(cls, raw, where="an accounting event")

    def to_json(self) -> dict[str, Any]:
        """Plain JSON values; `unit` where it is not `example`, so that records from before it stay as they are."""
        return self.model_dump(mode="json", exclude={"unit"} if self.unit == EXAMPLE else None)


def merge(events: Iterable[Event]) -> tuple[Event, ...]:
    """The same releases with steps of equal mechanisms and units added up, in order of first appearance."""
    steps: dict[Event, int] = {}
    for event in events:
        one = event.model_copy(update={"steps": 1})
        steps[one] = steps.get(one, 0) + event.steps
    return tuple(one.model_copy(update={"steps": n}) for one, n in steps.items())
