"""The two pictures of an audit, as SVG elements to stand inside HTML. Colours: Okabe and Ito 2008."""

from __future__ import annotations

import io

import numpy as np
from matplotlib import rc_context
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from numpy.typing import NDArray

from tacit_sim.audit.bound import Guesses, Sweep

__all__ = ["bounds", "scores"]

_IN, _OUT, _CLAIM = "#d55e00", "#0072b2", "#000000"
_BINS = 60


def bounds(sweep: Sweep, *, chosen: Guesses, claim: float, ideal: float) -> str:
    """The bound by number of guesses, beside the claimed epsilon and the ideal bound."""
    figure, axes = _figure()
    made = [guesses.made for guesses in sweep.tried]
    axes.plot(made, [guesses.bound for guesses in sweep.tried], color=_OUT, marker="o", markersize=4, label="bound")
    axes.plot([chosen.made], [chosen.bound], "o", color=_IN, markersize=9, label="fixed beforehand")
    if np.isfinite(claim):
        axes.axhline(claim, color=_CLAIM, linestyle="--", linewidth=1, label="claimed")
    axes.axhline(ideal, color="#777777", linestyle=":", linewidth=1.2, label="ideal, on average")
    axes.set_xscale("log", base=2)
    axes.set_xticks(made[::2], [f"{n:,}" for n in made[::2]])
    axes.minorticks_off()
    axes.set(xlabel="coins guessed", ylabel="epsilon", ylim=(0.0, None))
    axes.legend(frameon=False, fontsize=8)
    return _svg(figure, label="Lower bound on epsilon by number of guesses")


def scores(found: NDArray[np.float64], coins: NDArray[np.bool_], *, made: int) -> str:
    """How the scores of the canaries that are in, and of those that are not, lie; the guessed ends are marked."""
    figure, axes = _figure()
    low, high = np.quantile(found, [0.005, 0.995])
    edges = np.linspace(low, max(high, low + 1e-9), _BINS)
    for mask, colour, label in ((coins, _IN, "in"), (~coins, _OUT, "out")):
        axes.hist(np.clip(found[mask], low, high), edges.tolist(), color=colour, alpha=0.55, label=label)
    cut = np.sort(np.abs(found))[-made]
    for edge in (-cut, cut):
        if low <= edge <= high:
            axes.axvline(edge, color=_CLAIM, linestyle="--", linewidth=1)
    axes.set(xlabel="log-likelihood ratio over all steps; guesses are made outside of the dashed lines")
    axes.set_ylabel("canaries")
    axes.legend(frameon=False, fontsize=8)
    return _svg(figure, label="Scores of the canaries that are in and of those that are not")


def _figure() -> tuple[Figure, Axes]:
    figure = Figure(figsize=(7.4, 3.1), layout="constrained")
    axes = figure.subplots()
    axes.spines[["top", "right"]].set_visible(False)
    return figure, axes


def _svg(figure: Figure, *, label: str) -> str:
    buffer = io.StringIO()
    with rc_context({"svg.fonttype": "none", "svg.hashsalt": "tacit"}):
        figure.savefig(buffer, format="svg", metadata=dict.fromkeys(("Creator", "Date", "Format", "Type")))
    drawing = buffer.getvalue()
    return drawing[drawing.index("<svg") :].replace("<svg", f'<svg role="img" aria-label="{label}"', 1)
