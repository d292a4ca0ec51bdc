"""A statement as one page for people: an HTML file that needs nothing else and prints on A4."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from decimal import ROUND_CEILING, Decimal
from importlib.resources import files
from typing import Any

from jinja2 import Environment, StrictUndefined

from tacit.attestation import read
from tacit.link.enrolment import fingerprint
from tacit.privacy.events import EXAMPLE, PARTNER, Event, merge
from tacit.secagg.keys import PublicKey
from tacit.statement import MIXED, PartnerStatement

__all__ = ["Account", "page"]


@dataclass(frozen=True)
class Account:
    """What a partner's own page says besides, and nobody is sent: the budget of its data over all runs.

    Attributes:
        spent: epsilon; None where nothing bounds it.
        limit: of epsilon.
        delta: at which both are counted.
    """

    spent: float | None
    limit: float
    delta: float


def page(value: Mapping[str, Any], *, account: Account | None = None) -> bytes:
    """The signed statement `value` as HTML.

    Args:
        value: as `tacit.attestation.load` gives it.
        account: for the partner's own eyes.

    Raises:
        BadInput: no statement.

    Guarantee: epsilons are rounded up, never down; a run without a mechanism is said to promise nothing. Whatever a
    party wrote stands as text: nothing in it is markup, and nothing is fetched.
    """
    statement = read(value, where="the statement")
    environment = Environment(autoescape=True, undefined=StrictUndefined, trim_blocks=True, lstrip_blocks=True)
    environment.filters |= {"epsilon": _epsilon, "key": _key, "mechanisms": _mechanisms, "number": _number}
    template = environment.from_string(files("tacit").joinpath("statement.html.j2").read_text(encoding="utf-8"))
    text = template.render(
        s=statement,
        partner=isinstance(statement, PartnerStatement),
        unit=_unit(statement.privacy.unit),
        signature=value["signature"],
        account=account,
    )
    return text.encode(errors="replace")  # a lone surrogate in a name must not cost the page


def _unit(unit: str | None) -> str:
    known = {
        EXAMPLE: "row of data",
        PARTNER: "partner with all its data",
        MIXED: "row of data or person, as each partner has it",
    }
    return known.get(unit or EXAMPLE, f"person ({unit})")


def _epsilon(value: float | None) -> str:
    return "none" if value is None else str(Decimal(repr(value)).quantize(Decimal("0.01"), ROUND_CEILING))


def _key(text: str | None) -> str:
    return "unknown" if text is None else fingerprint(PublicKey(bytes.fromhex(text)))


def _mechanisms(events: tuple[Event, ...]) -> list[str]:
    """A line for each mechanism, equal ones added up."""
    return [_mechanism(event) for event in merge(events)]


def _mechanism(event: Event) -> str:
    match event.kind:
        case "none":
            return f"{event.steps} steps"
        case "metrics":
            return f"{event.steps} evaluations, noise {event.noise_multiplier:.4g}"
        case "client":
            drawn = f", drawn with chance {event.sampling_rate:.3g}" if event.sampling_rate < 1.0 else ""
            return f"{event.steps} rounds, noise {event.noise_multiplier:.4g}{drawn}"
        case _:
            return f"{event.steps} steps, noise {event.noise_multiplier:.4g}, sampling rate {event.sampling_rate:.3g}"


def _number(value: object) -> str:
    if value is None:
        return "–"
    return f"{value:.4g}" if isinstance(value, float) else str(value)
