"""A picture of what was spent: epsilon against releases, and the limit."""

from __future__ import annotations

import io
from collections.abc import Mapping, Sequence
from typing import Any

__all__ = ["picture"]

_COLOURS = ("#0072b2", "#d55e00", "#009e73", "#cc79a7", "#e69f00", "#56b4e9")
_STYLE: dict[Any, Any] = {
    "svg.fonttype": "none",  # text stays text: it can be searched, copied and read aloud
    "svg.hashsalt": "tacit",  # equal ledgers give equal files
    "text.parse_math": False,  # a "$" in a name is a dollar sign
    "font.size": 9.0,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "legend.frameon": False,
}
_NO_DATE = dict.fromkeys(("Creator", "Date", "Format", "Type"))


def picture(curves: Mapping[str, Sequence[tuple[int, float]]], *, limit: float, delta: float) -> str:
    """An SVG file.

    Args:
        curves: by the name of the budget, (releases so far, epsilon of all of them); infinite ones are left out.
        limit: drawn as a dashed line.
        delta: at which epsilon is counted.

    Guarantee: equal arguments give equal texts.
    """
    from matplotlib import rc_context
    from matplotlib.figure import Figure
    from matplotlib.ticker import MaxNLocator

    buffer = io.StringIO()
    with rc_context(_STYLE):
        figure = Figure(figsize=(7.4, 3.4), layout="constrained")
        axes = figure.subplots()
        for index, (name, points) in enumerate(curves.items()):
            shown = [(place, epsilon) for place, epsilon in points if epsilon != float("inf")]
            colour = _COLOURS[index % len(_COLOURS)]
            axes.plot(*zip((0, 0.0), *shown, strict=True), color=colour, marker=".", label=name)
        axes.axhline(limit, color="black", linestyle="--", linewidth=1, label=f"limit {limit:g}")
        axes.set(xlabel="releases", ylabel=f"epsilon at delta {delta:g}")
        axes.set_xlim(left=0)
        axes.set_ylim(bottom=0)
        axes.xaxis.set_major_locator(MaxNLocator(integer=True))
        axes.grid(axis="y", color="#e3e3e3", linewidth=0.8)
        axes.legend(fontsize=8)
        figure.savefig(buffer, format="svg", metadata=_NO_DATE)
    return buffer.getvalue()
