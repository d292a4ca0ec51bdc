"""The report's charts, as SVG elements to stand inside HTML.

Each function returns `<svg>...</svg>`, or an empty string where there is nothing to draw. Names of partners
and classes may be any text. Colours: Okabe and Ito, "Color Universal Design" (2008), and cividis, which
colour-blind readers can tell apart.
"""

from __future__ import annotations

import io
import re
import warnings
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np
from matplotlib import colormaps, rc_context
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator, PercentFormatter
from numpy.typing import NDArray

__all__ = ["accuracy", "confusion", "epsilon", "loss", "seconds", "split"]

_History = Sequence[Mapping[str, Any]]

_COLOURS = ("#0072b2", "#d55e00", "#009e73", "#cc79a7", "#e69f00", "#56b4e9", "#5b5b5b", "#b8a800")
_DASHES = ("-", "--", ":")
_INK = "#333333"
_GRID: dict[str, Any] = {"color": "#e3e3e3", "linewidth": 0.8}
_STYLE: dict[Any, Any] = {
    "svg.fonttype": "none",  # text stays text: it can be searched, copied and read aloud
    "svg.hashsalt": "tacit",  # equal runs give equal files
    "text.parse_math": False,  # a "$" in a name is a dollar sign
    "font.size": 9.0,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.edgecolor": "#999999",
    "axes.labelcolor": _INK,
    "xtick.color": _INK,
    "ytick.color": _INK,
    "axes.axisbelow": True,
    "legend.frameon": False,
}

_MOST_LINES = 12
_MOST_BARS = 30
_MOST_COLOURS = 12
_LEGEND_COLUMNS = 6
_MOST_CELL_NUMBERS = 12
_MOST_VECTOR_CELLS = 30


def accuracy(history: _History) -> str:
    """Accuracy by round, on the test set and on the partners' held-out parts, with the error bars that noise makes."""
    return _scores(history, "accuracy", unit="accuracy (share right)")


def loss(history: _History) -> str:
    """Mean loss by round, in nats, as `accuracy` draws it."""
    return _scores(history, "loss", unit="mean loss (nats)")


def epsilon(history: _History, *, target: float | None) -> str:
    """Epsilon spent by round: a line for each partner up to twelve, else their range and median.

    Args:
        history: lines of `history.jsonl`; partners with the same numbers share a line.
        target: drawn as a dashed line where given.
    """
    names = sorted({name for line in history for name in line.get("epsilon_by_partner") or {}}, key=_natural)
    values = np.array([[_finite((line.get("epsilon_by_partner") or {}).get(n)) for n in names] for line in history])
    if not names or np.isnan(values).all():
        return ""

    def draw(axes: Axes) -> None:
        lines = _epsilon_band if len(names) > _MOST_LINES else _epsilon_lines
        lines(axes, _rounds(history), values, names)
        if target is not None:
            axes.axhline(target, color="black", linestyle="--", linewidth=1, label=f"target {target:g}")
        _by_round(axes, "epsilon spent", rounds=_rounds(history), top=max(np.nanmax(values), target or 0.0))
        axes.legend(fontsize=8)

    return _svg(draw, label="Epsilon spent by round and partner")


def split(partners: Mapping[str, Mapping[str, Any]], *, classes: Sequence[str]) -> str:
    """How the examples lie with the partners: a bar for each up to thirty, else a histogram of sizes.

    Args:
        partners: by name, `examples` and, where the task has classes, `by_class` (a count for each class).
        classes: the classes' names; the smallest are drawn together where there are more than twelve.
    """
    if not partners:
        return ""
    if len(partners) > _MOST_BARS:
        sizes = [partner["examples"] for partner in partners.values()]
        return _svg(lambda axes: _histogram(axes, sizes), label="Number of partners by number of examples")
    legend_rows = -(-min(len(classes), _MOST_COLOURS) // _LEGEND_COLUMNS)
    height = 0.9 + 0.24 * len(partners) + 0.22 * legend_rows
    return _svg(lambda axes: _bars(axes, partners, classes), label="Examples by partner and class", size=(7.4, height))


def seconds(history: _History) -> str:
    """Time by round and phase, stacked, in seconds."""
    phases = list(dict.fromkeys(phase for line in history for phase in line.get("seconds") or {}))
    if not phases:
        return ""
    edges = np.append(_rounds(history), history[-1]["round"] + 1) - 0.5

    def draw(axes: Axes) -> None:
        base = np.zeros(len(history))
        for index, phase in enumerate(phases):
            top = base + [(line.get("seconds") or {}).get(phase, 0.0) for line in history]
            colour = _COLOURS[index % len(_COLOURS)]
            axes.stairs(top, edges, baseline=base, fill=True, color=colour, label=_short(phase))
            base = top
        _by_round(axes, "time (seconds)", rounds=_rounds(history), top=base.max())
        _legend_above(axes, phases)

    return _svg(draw, label="Time by round and phase")


def confusion(matrix: Sequence[Sequence[int]], *, classes: Sequence[str]) -> str:
    """The confusion matrix `[classes, classes]`, truth in rows.

    Shade is the share of the row; up to twelve classes have their counts written in. Where `classes` does not
    name every row, rows are numbered.
    """
    counts = np.asarray(matrix)
    share = counts / np.maximum(counts.sum(axis=1, keepdims=True), 1)
    side = min(6.0, 2.2 + 0.36 * len(counts))

    def draw(axes: Axes) -> None:
        many = len(counts) > _MOST_VECTOR_CELLS
        mesh = axes.pcolormesh(share, cmap="Blues", vmin=0, vmax=1, rasterized=many)
        axes.figure.colorbar(mesh, ax=axes, label="share of the true class", format=PercentFormatter(1.0), shrink=0.8)
        axes.set(xlabel="predicted class", ylabel="true class", aspect="equal")
        axes.invert_yaxis()
        if not many:
            _name_cells(axes, classes if len(classes) == len(counts) else [str(index) for index in range(len(counts))])
        if len(counts) <= _MOST_CELL_NUMBERS:
            _number_cells(axes, counts, share)

    return _svg(draw, label="Confusion matrix", size=(side + 0.8, side))


def _scores(history: _History, name: str, *, unit: str) -> str:
    series = {}
    for where, label in (("test", "test set"), ("federated", "partners' held-out parts")):
        found = [line.get(where) or {} for line in history]
        values, spread = (np.array([_finite(s.get(key)) for s in found]) for key in (name, f"{name}_std"))
        if not np.isnan(values).all():
            series[label] = values, np.nan_to_num(spread)
    if not series:
        return ""

    def draw(axes: Axes) -> None:
        rounds = _rounds(history)
        for index, (label, (values, spread)) in enumerate(series.items()):
            seen = ~np.isnan(values)
            axes.plot(rounds[seen], values[seen], color=_COLOURS[index], label=label, **_marker(seen.sum()))
            if spread.any():
                axes.errorbar(rounds[seen], values[seen], yerr=spread[seen], fmt="none", ecolor=_COLOURS[index])
        best = max(np.nanmax(values + spread) for values, spread in series.values())
        _by_round(axes, unit, rounds=rounds, top=1.0 if name == "accuracy" else best)
        if name == "accuracy":
            axes.yaxis.set_major_formatter(PercentFormatter(1.0))
        axes.legend(fontsize=8)

    return _svg(draw, label=f"{unit} by round", size=(5.2, 3.1))


def _epsilon_lines(axes: Axes, rounds: NDArray[np.int64], values: NDArray[np.float64], names: list[str]) -> None:
    groups: dict[bytes, list[int]] = {}
    for index in range(len(names)):
        groups.setdefault(values[:, index].tobytes(), []).append(index)
    for order, members in enumerate(groups.values()):
        first = _short(names[members[0]])
        label = first if len(members) == 1 else f"{first} and {len(members) - 1} more, equal"
        column = values[:, members[0]]
        seen = ~np.isnan(column)
        style = _DASHES[order // len(_COLOURS)]
        colour = _COLOURS[order % len(_COLOURS)]
        axes.plot(rounds[seen], column[seen], color=colour, linestyle=style, label=label, **_marker(seen.sum()))


def _epsilon_band(axes: Axes, rounds: NDArray[np.int64], values: NDArray[np.float64], names: list[str]) -> None:
    seen = ~np.isnan(values).all(axis=1)
    rounds, values = rounds[seen], values[seen]
    low, high = np.nanmin(values, axis=1), np.nanmax(values, axis=1)
    label = f"least to most of {len(names)} partners"
    axes.fill_between(rounds, low, high, color=_COLOURS[5], alpha=0.4, linewidth=0, label=label)
    axes.plot(rounds, high, color=_COLOURS[0], linewidth=1, label="most")
    axes.plot(rounds, np.nanmedian(values, axis=1), color=_COLOURS[1], label="median", **_marker(len(rounds)))


def _bars(axes: Axes, partners: Mapping[str, Mapping[str, Any]], classes: Sequence[str]) -> None:
    names = sorted(partners, key=_natural)
    counts, labels = _stacks([partners[name] for name in names], classes)
    colours = _COLOURS if len(labels) <= len(_COLOURS) else colormaps["cividis"](np.linspace(0, 1, len(labels)))
    left = np.zeros(len(names))
    for column, label, colour in zip(counts.T, labels, colours, strict=False):
        axes.barh(range(len(names)), column, left=left, color=colour, label=label, edgecolor="white", linewidth=0.5)
        left += column
    axes.set_yticks(range(len(names)), [_short(name) for name in names])
    axes.invert_yaxis()
    axes.set_xlabel("training examples")
    axes.grid(axis="x", **_GRID)
    if len(labels) > 1:
        _legend_above(axes, labels)


def _stacks(rows: Sequence[Mapping[str, Any]], classes: Sequence[str]) -> tuple[NDArray[np.int64], list[str]]:
    """Counts `[partners, stacks]` and the stacks' labels; one stack where a partner gives no classes."""
    if not classes or any(len(row.get("by_class") or ()) != len(classes) for row in rows):
        return np.array([[row["examples"]] for row in rows]), ["examples"]
    counts = np.array([row["by_class"] for row in rows])
    if len(classes) <= _MOST_COLOURS:
        return counts, [_short(name) for name in classes]
    largest = np.sort(np.argsort(-counts.sum(axis=0), kind="stable")[: _MOST_COLOURS - 1])
    rest = counts.sum(axis=1) - counts[:, largest].sum(axis=1)
    labels = [_short(classes[index]) for index in largest]
    return np.column_stack([counts[:, largest], rest]), [*labels, f"{len(classes) - len(largest)} others"]


def _histogram(axes: Axes, sizes: Sequence[int]) -> None:
    axes.hist(sizes, bins=min(30, max(5, int(len(sizes) ** 0.5))), color=_COLOURS[0], edgecolor="white")
    axes.set(xlabel="training examples of a partner", ylabel="partners")
    axes.yaxis.set_major_locator(MaxNLocator(integer=True))
    axes.grid(axis="y", **_GRID)


def _name_cells(axes: Axes, classes: Sequence[str]) -> None:
    centres = np.arange(len(classes)) + 0.5
    names = [_short(name, most=14) for name in classes]
    upright = max(map(len, names)) > 3
    axes.set_xticks(centres, names, rotation=45 if upright else 0, ha="right" if upright else "center")
    axes.set_yticks(centres, names)
    axes.tick_params(length=0)


def _number_cells(axes: Axes, counts: NDArray[np.int64], share: NDArray[np.float64]) -> None:
    for (row, column), count in np.ndenumerate(counts):
        if count:
            colour = "white" if share[row, column] > 0.5 else _INK
            axes.text(column + 0.5, row + 0.5, str(count), color=colour, ha="center", va="center", fontsize=7)


def _by_round(axes: Axes, unit: str, *, rounds: NDArray[np.int64], top: float) -> None:
    """Whole rounds from left to right, and from zero to a little over `top`."""
    axes.set(xlabel="round", ylabel=unit, xlim=(rounds[0] - 0.5, rounds[-1] + 0.5), ylim=(0.0, 1.04 * top or 1.0))
    axes.xaxis.set_major_locator(MaxNLocator(integer=True, min_n_ticks=1))
    axes.grid(axis="y", **_GRID)


def _legend_above(axes: Axes, labels: Sequence[str]) -> None:
    """Covers no bar; one line where the labels are short."""
    columns = len(labels) if sum(map(len, labels)) <= 60 else _LEGEND_COLUMNS
    axes.legend(loc="lower center", bbox_to_anchor=(0.5, 1.0), ncols=columns, fontsize=8)


def _marker(points: int) -> dict[str, Any]:
    """Few points are shown as such: a line through one point would be invisible."""
    return {"marker": "o", "markersize": 4, "linewidth": 1.6} if points <= 15 else {"linewidth": 1.6}


def _svg(draw: Callable[[Axes], None], *, label: str, size: tuple[float, float] = (7.4, 3.1)) -> str:
    """Draw on a figure of `size` inches and return the SVG element alone, without XML head or namespaces."""
    buffer = io.StringIO()
    with rc_context(_STYLE), warnings.catch_warnings():
        # The reader's browser draws the text with its own fonts; what ours lacks does not matter.
        warnings.filterwarnings("ignore", message="Glyph .* missing")
        figure = Figure(figsize=size, layout="constrained")
        draw(figure.subplots())
        figure.savefig(buffer, format="svg", metadata=dict.fromkeys(("Creator", "Date", "Format", "Type")))
    drawing = buffer.getvalue()
    drawing = drawing[drawing.index("<svg") :].replace("xlink:href=", "href=")
    root = rf'<svg role="img" aria-label="{label}" \2 style="max-width: \1pt">'
    return re.sub(r'^<svg [^>]*?width="([\d.]+)pt"[^>]*?(viewBox="[^"]*")[^>]*>', root, drawing, count=1)


def _rounds(history: _History) -> NDArray[np.int64]:
    return np.array([line["round"] for line in history])


def _finite(value: float | None) -> float:
    return value if value is not None and np.isfinite(value) else float("nan")


def _short(name: str, *, most: int = 24) -> str:
    """A name that the drawing library takes as it is: it fails on half characters and hides a leading "_"."""
    shown = "".join(character if character.isprintable() else "\N{REPLACEMENT CHARACTER}" for character in name)
    shown = f"\N{ZERO WIDTH SPACE}{shown}" if shown.startswith("_") else shown
    return shown if len(shown) <= most else shown[: most - 1] + "…"


def _natural(name: str) -> list[tuple[int, str]]:
    """Sorts partner-2 before partner-10."""
    return [(int(part), "") if part.isdecimal() else (-1, part) for part in re.split(r"(\d+)", name)]
