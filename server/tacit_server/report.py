"""The report of a run: one HTML file that needs nothing else.

What a test between two neighbouring data sets can reach under (epsilon, delta) is from Kairouz, Oh and
Viswanath, "The Composition Theorem for Differential Privacy", arXiv:1311.0776v4.
"""

from __future__ import annotations

import math
import os
import tomllib
from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from decimal import ROUND_CEILING, Decimal
from importlib.resources import files
from pathlib import Path
from typing import Any

from jinja2 import Environment, StrictUndefined
from markupsafe import Markup

from tacit.errors import BadInput
from tacit_server import charts

__all__ = ["power", "write"]

_Json = Mapping[str, Any]

_NEEDED = {
    "name": (),
    "engine": (),
    "rounds_completed": (),
    "model": ("kind", "parameters"),
    "metrics": (),
    "privacy": ("mechanism", "unit", "adjacency", "delta", "epsilon", "epsilon_by_partner", "secure_noise"),
    "aggregation": ("secure",),
    "data": (),
    "timing": ("wall_s",),
}

_FALSE_ALARMS = (0.001, 0.01, 0.1)


@dataclass(frozen=True)
class _Row:
    """A partner's line in the table, None where unknown; `events` are (sampling rate, noise multiplier, steps)."""

    name: str
    examples: int | None
    holdout: int | None
    epsilon: float | None
    events: Sequence[tuple[float | None, float | None, int]]


@dataclass
class _Absence:
    """The rounds in which a partner vanished, and its reasons for refusing with the rounds they came in."""

    dropouts: list[int] = field(default_factory=list)
    refusals: dict[str, list[int]] = field(default_factory=dict)


def write(path: Path, *, result: _Json, history: Sequence[_Json], job_toml: str) -> None:
    """Write the report of a run to `path`, whole or not at all.

    Args:
        path: the HTML file; replaced where it exists.
        result: what `result.json` holds.
        history: the lines of `history.jsonl`, in order of rounds.
        job_toml: the resolved job.

    Raises:
        BadInput: a schema other than 1, a part of the result that is missing, an epsilon without a
            mechanism, or a job that is not TOML.
        OSError: the file can not be written.

    Guarantee: epsilon and what follows from it are rounded up, never down; a run without a mechanism, or whose
    mechanism has no finite epsilon, is said to have no guarantee and shows none; a run whose noise came from a
    seed says at the top that it protects nobody.
    """
    _check(result)
    page = _render(result, history, job_toml)
    part = path.with_name(f"{path.name}.part")
    part.write_text(page, encoding="utf-8", errors="replace")  # a lone surrogate in a name must not cost the report
    os.replace(part, path)


def power(*, epsilon: float, delta: float, false_alarms: float) -> float:
    """The greatest true positive rate of any test for one unit's presence, 0 to 1.

    Args:
        epsilon: of the guarantee, >= 0.
        delta: of the guarantee, 0 to 1.
        false_alarms: the test's false positive rate, 0 to 1.

    Guarantee: under (epsilon, delta) no test with this false positive rate, whatever else it knows, has a
    greater true positive rate: TPR <= e^epsilon FPR + delta, and FNR >= e^-epsilon (1 - delta - FPR).
    """
    shrink = math.exp(-epsilon)
    direct = 1.0 if shrink <= false_alarms else false_alarms / shrink + delta
    return min(1.0, direct, 1.0 - shrink * (1.0 - delta - false_alarms))


def _check(result: _Json) -> None:
    if result.get("schema") != 1:
        raise _bad(f"expected schema 1 in the result, found {result.get('schema')!r}")
    for part, keys in _NEEDED.items():
        missing = [part] if part not in result else [f"{part}.{key}" for key in keys if key not in result[part]]
        if missing:
            raise _bad(f"expected {missing[0]} in the result, found none")
    privacy = result["privacy"]
    if privacy["mechanism"] == "none" and privacy["epsilon"] is not None:
        raise _bad(f"expected no epsilon with mechanism none, found {privacy['epsilon']}")


def _bad(message: str) -> BadInput:
    return BadInput(message, hint="pass the result.json of a run made by this version")


def _render(result: _Json, history: Sequence[_Json], job_toml: str) -> str:
    environment = Environment(autoescape=True, undefined=StrictUndefined, trim_blocks=True, lstrip_blocks=True)
    environment.filters.update(_FILTERS)
    source = files("tacit_server").joinpath("report.html.j2").read_text(encoding="utf-8")
    metrics = {where: scores for where, scores in result["metrics"].items() if scores}
    scores = metrics.get("test") or metrics.get("federated") or {}
    rows = _rows(result)
    return environment.from_string(source).render(
        result=result,
        privacy=result["privacy"],
        metrics=metrics,
        scores=scores,
        commonest=_commonest(scores),
        noisy=any("accuracy_std" in found for found in metrics.values()),
        metrics_epsilons=(priced := result["privacy"].get("metrics_epsilon_by_partner") or {}),
        worst_metrics=None if None in priced.values() else max(priced.values(), default=None),
        rows=rows,
        partners=len(rows) or max((line["asked"] for line in history), default=0),
        examples=sum(row.examples or 0 for row in rows),
        has_epsilon=any(row.epsilon is not None for row in rows),
        target=(target := _target(job_toml)),
        powers=_powers(result["privacy"]),
        absences=_absences(history),
        abandoned=[line["round"] for line in history if line["status"] == "abandoned"],
        phases=_phases(history),
        job_toml=job_toml,
        charts=_charts(result, history, scores=scores, target=target),
    )


def _charts(result: _Json, history: Sequence[_Json], *, scores: _Json, target: float | None) -> dict[str, Markup]:
    """The charts by name; SVG from `charts` has every name escaped already."""
    classes = result["data"].get("classes") or ()
    drawn = {
        "accuracy": charts.accuracy(history),
        "loss": charts.loss(history),
        "epsilon": "" if result["privacy"]["epsilon"] is None else charts.epsilon(history, target=target),
        "split": charts.split(result["data"].get("partners") or {}, classes=classes),
        "seconds": charts.seconds(history),
        "confusion": charts.confusion(scores["confusion"], classes=classes) if scores.get("confusion") else "",
    }
    return {name: Markup(svg) for name, svg in drawn.items()}


def _rows(result: _Json) -> list[_Row]:
    holdings = result["data"].get("partners") or {}  # a server in the field does not know them
    epsilons = result["privacy"]["epsilon_by_partner"] or {}
    events = result["privacy"].get("events_by_partner") or {}
    rows = []
    for name in [*holdings, *(name for name in epsilons if name not in holdings)]:
        examples, holdout = (holdings.get(name, {}).get(key) for key in ("examples", "holdout"))
        rows.append(_Row(name, examples, holdout, epsilons.get(name), _sum_events(events.get(name, ()))))
    return rows


def _sum_events(events: Iterable[_Json]) -> list[tuple[float | None, float | None, int]]:
    """Steps of training with the same sampling rate and noise are one line."""
    steps: Counter[tuple[float | None, float | None]] = Counter()
    for event in (event for event in events if event.get("kind") != "metrics"):
        steps[event.get("sampling_rate"), event.get("noise_multiplier")] += event.get("steps", 1)
    return [(rate, noise, count) for (rate, noise), count in steps.items()]


def _absences(history: Sequence[_Json]) -> dict[str, _Absence]:
    absences: dict[str, _Absence] = {}
    for line in history:
        for name in line.get("dropouts") or ():
            absences.setdefault(name, _Absence()).dropouts.append(line["round"])
        for name, reason in (line.get("refusals") or {}).items():
            absences.setdefault(name, _Absence()).refusals.setdefault(reason, []).append(line["round"])
    return absences


def _phases(history: Sequence[_Json]) -> dict[str, float]:
    """Seconds by phase over all rounds."""
    totals: dict[str, float] = {}
    for line in history:
        for phase, taken in (line.get("seconds") or {}).items():
            totals[phase] = totals.get(phase, 0.0) + taken
    return totals


def _commonest(scores: _Json) -> float | None:
    """The accuracy of always naming the commonest class."""
    rows = [sum(row) for row in scores.get("confusion") or ()]
    return max(rows) / sum(rows) if sum(rows) else None


def _target(job_toml: str) -> float | None:
    try:
        target = tomllib.loads(job_toml).get("privacy", {}).get("epsilon")
    except tomllib.TOMLDecodeError as error:
        raise BadInput(f"expected the resolved job as TOML, found {error}", hint="pass job.resolved.toml") from error
    return None if target is None else float(target)


def _powers(privacy: _Json) -> list[tuple[float, float]]:
    """Pairs of false and true positive rate."""
    if privacy["epsilon"] is None:
        return []
    epsilon, delta = privacy["epsilon"], privacy["delta"]
    return [(rate, power(epsilon=epsilon, delta=delta, false_alarms=rate)) for rate in _FALSE_ALARMS]


def _percent(share: float | None) -> str:
    return "–" if share is None else f"{100 * share:.1f}%"


def _bar(spread: float | None) -> str:
    """An error bar behind a number, nothing where there is none."""
    return "" if spread is None else f" ± {_up(spread, '0.0001')}"


def _bar_percent(spread: float | None) -> str:
    return "" if spread is None else f" ± {_percent_up(spread)}"


def _percent_up(share: float) -> str:
    """Rounded up, for what is an upper bound."""
    return f"{_up(100 * share, '0.1')}%"


def _epsilon(value: float | None) -> str:
    if value is None:
        return "–"
    return "∞" if math.isinf(value) else str(_up(value, "0.01"))


def _factor(epsilon: float) -> str:
    """e^epsilon, rounded up."""
    return "more than a million" if epsilon > math.log(1e6) else f"{_up(math.exp(epsilon), '0.1'):,}"


def _up(value: float, step: str) -> Decimal:
    return Decimal(repr(float(value))).quantize(Decimal(step), ROUND_CEILING)


def _number(value: float | None) -> str:
    """Counts in full, other numbers with four digits."""
    if value is None:
        return "–"
    return f"{value:,}" if isinstance(value, int) else f"{value:.4g}"


def _duration(seconds: float) -> str:
    if seconds < 60:
        return f"{seconds:.1f} s"
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours} h {minutes} min" if hours else f"{minutes} min {rest} s"


def _rounds(numbers: Sequence[int]) -> str:
    """Rounds as text, the first twelve by number."""
    shown = ", ".join(map(str, numbers[:12]))
    return f"{shown} and {len(numbers) - 12} more" if len(numbers) > 12 else shown


_FILTERS: dict[str, Callable[..., str]] = {
    "percent": _percent,
    "percent_up": _percent_up,
    "bar": _bar,
    "bar_percent": _bar_percent,
    "epsilon": _epsilon,
    "factor": _factor,
    "number": _number,
    "duration": _duration,
    "rounds": _rounds,
}
