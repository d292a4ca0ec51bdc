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

__all__ = ["EXAMPLE", "PARTNER", "Event", "Kind", "check_person", "merge"]

Kind = Literal["none", "dp-sgd", "distributed-dp-sgd", "client", "metrics"]

EXAMPLE = "example"
"""The unit where every row is protected by itself."""

PARTNER = "partner"
"""The unit where all that a partner holds is protected as one."""

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
        BadInput: a name that is empty, too long or can not be seen, or `example` or `partner`, which say that rows or
            whole partners are protected.
    """
    if column in (EXAMPLE, PARTNER) or not _visible(column):
        raise BadInput(
            f"expected a column of persons named by 1 to {_LONGEST} visible characters other than {EXAMPLE} and "
            f"{PARTNER}, found {column!r} as data.unit",
            hint="rename the column",
        )
    return column


class Event(BaseModel):
    """`steps` releases of one mechanism over one partner's data set.

    Attributes:
        version: of this record.
        kind: `none`: `steps` releases without protection. All others are as many Poisson-sampled Gaussian mechanisms:
            `dp-sgd` with this partner's noise, `distributed-dp-sgd` and `client` with the noise of several partners,
            `metrics` of the counts of an evaluation.
        sampling_rate: of each unit in each step.
        noise_multiplier: noise standard deviation over the clip norm.
        steps: how many.
        unit: what one more or less of is hidden: `example`, or the column that names the person whose rows are one
            unit, or `partner` where that is all that a partner holds. The name of a column leaves the machine with the
            event.
        colluders: where the noise is the sum of partners' shares: how many of them may work together with the server
            before the multiplier is less; None where the noise is this partner's alone.
    """

    model_config = ConfigDict(frozen=True, extra="forbid", strict=True, allow_inf_nan=False)

    version: Literal[1] = 1
    kind: Kind
    sampling_rate: Annotated[float, Field(gt=0.0, le=1.0)]
    noise_multiplier: Annotated[float, Field(ge=0.0)]
    steps: Annotated[int, Field(gt=0)]
    unit: Annotated[str, AfterValidator(_checked)] = EXAMPLE
    colluders: Annotated[int, Field(ge=0)] | None = None

    @classmethod
    def from_json(cls, raw: Mapping[str, Any]) -> Event:
        """The event in `raw`, strictly. Raises BadInput."""
        return parse(cls, raw, where="an accounting event")

    def to_json(self) -> dict[str, Any]:
        """Plain JSON values; `unit` and `colluders` where they say something: older records stay as they are."""
        plain = {"unit": self.unit == EXAMPLE, "colluders": self.colluders is None}
        return self.model_dump(mode="json", exclude={key for key, left_out in plain.items() if left_out})


def merge(events: Iterable[Event]) -> tuple[Event, ...]:
    """The same releases with steps of equal mechanisms and units added up, in order of first appearance."""
    steps: dict[Event, int] = {}
    for event in events:
        one = event.model_copy(update={"steps": 1})
        steps[one] = steps.get(one, 0) + event.steps
    return tuple(one.model_copy(update={"steps": n}) for one, n in steps.items())
