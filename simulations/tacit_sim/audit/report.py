"""What an audit came to, in words, as JSON and as a page with two pictures."""

from __future__ import annotations

import json
from collections.abc import Mapping
from html import escape
from pathlib import Path
from typing import Any

from tacit.errors import BadInput
from tacit_sim.audit import picture
from tacit_sim.audit.ideal import Ideal
from tacit_sim.audit.run import Audit
from tacit_sim.audit.trainer import FAULTS

__all__ = ["PAGE", "plain", "text", "write", "write_json"]

PAGE = "report.html"

_SCHEMA = 1


def text(audit: Audit) -> str:
    """What the terminal shows."""
    rows = _rows(audit)
    width = max(map(len, rows))
    loud = [] if audit.fault is None else [f"FAULT     {audit.fault}, made on purpose: {FAULTS[audit.fault]}"]
    return "\n".join([*loud, *(f"{name:{width}}  {words}" for name, words in rows.items()), "", _verdict(audit)])


def plain(audit: Audit) -> dict[str, Any]:
    """The same as plain JSON values."""
    best, expected = audit.guesses, audit.ideal
    return {
        "schema": _SCHEMA,
        "name": audit.job.name,
        "job_hash": audit.job.hash(),
        "seed": audit.job.simulation.seed,
        "mechanism": audit.job.privacy.mechanism,
        "fault": audit.fault,
        "passes": audit.passes,
        "claim": audit.claim,
        "bound": audit.bound,
        "confidence": audit.confidence,
        "delta": audit.delta,
        "canaries": {"count": len(audit.canaries), "in": int(audit.canaries.coins.sum())},
        "guesses": {"made": best.made, "right": best.right},
        "ideal": _plain(expected),
        "alone": _plain(audit.alone),
        "sweep": {
            "shared": audit.sweep.shared,
            "pointwise": audit.sweep.pointwise,
            "tried": [{"made": g.made, "right": g.right, "bound": g.bound} for g in audit.sweep.tried],
        },
        "steps": audit.steps,
        "accuracy": audit.accuracy,
    }


def write_json(path: Path, audit: Audit) -> None:
    """`plain` into the file at `path`. Raises BadInput where it can not be written."""
    _write(path, json.dumps(plain(audit), indent=1) + "\n", flag="--json")


def write(folder: Path, audit: Audit) -> None:
    """`report.html` into `folder`, which is made where it is missing. Raises BadInput where it can not be."""
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise BadInput(f"expected to make {folder}, found {error.strerror}", hint="choose another --out") from None
    _write(folder / PAGE, _page(audit), flag="--out")


def _write(path: Path, words: str, *, flag: str) -> None:
    try:
        path.write_text(words, encoding="utf-8")
    except OSError as error:
        raise BadInput(
            f"expected a file that can be written at {path}, found {error.strerror}", hint=f"choose another {flag}"
        ) from None


def _rows(audit: Audit) -> Mapping[str, str]:
    best, expected, alone, sweep = audit.guesses, audit.ideal, audit.alone, audit.sweep
    count = len(audit.canaries)
    counted = "the last round alone" if audit.fault == "last-round" else "the events that the run recorded"
    accuracy = {} if audit.accuracy is None else {"accuracy": f"{100 * audit.accuracy:.2f} % on the test set"}
    return {
        "canaries": f"{count:,}, {audit.canaries.coins.sum():,} of them in, seen in {audit.steps:,} steps",
        **accuracy,
        "guesses": f"{best.made} coins, the number fixed beforehand; {best.right} right",
        "bound": f"epsilon is at least {audit.bound:.2f} at delta {audit.delta:g}, "
        f"with {100 * audit.confidence:g} % confidence",
        "claim": f"epsilon {audit.claim:.3f}, from {counted}",
        "ideal": f"{expected.mean:.2f} on average, {expected.least:.2f} to {expected.most:.2f}: so many canaries and a "
        "Gaussian mechanism of the planned epsilon",
        "alone": f"{alone.mean:.2f} on average, {alone.least:.2f} to {alone.most:.2f}: so many canaries and the job's "
        "own sampling and noise, nothing else",
        "sweep": f"{sweep.shared:.2f} after all {len(sweep.tried)} numbers of guesses, at the same confidence; "
        f"{sweep.pointwise:.2f} as papers print it, for the best of them alone",
    }


def _plain(found: Ideal) -> dict[str, float]:
    return {"mean": found.mean, "least": found.least, "most": found.most, "sigma": found.sigma}


def _verdict(audit: Audit) -> str:
    if audit.passes:
        return "passes: the bound is below the claim"
    return "FAILS: the bound is above the claim: the run is less private than it says"


def _page(audit: Audit) -> str:
    title = f"Audit of {escape(audit.job.name)}"
    fault = "" if audit.fault is None else f"<p class=bad>Fault made on purpose: {escape(FAULTS[audit.fault])}.</p>"
    rows = "".join(f"<tr><th>{escape(name)}</th><td>{escape(words)}</td></tr>" for name, words in _rows(audit).items())
    return f"""<!doctype html>
<html lang="en"><head><meta charset="utf-8"><title>{title}</title><style>
body {{ font: 15px/1.5 system-ui, sans-serif; max-width: 46rem; margin: 2rem auto; padding: 0 1rem; color: #222 }}
th {{ text-align: left; padding-right: 1.5rem; vertical-align: top; font-weight: 600 }}
.good {{ color: #00664b; font-weight: 600 }} .bad {{ color: #a33c00; font-weight: 600 }}
svg {{ width: 100%; height: auto }} figure {{ margin: 1.5rem 0 }} figcaption {{ color: #555 }}
</style></head><body><h1>{title}</h1>
<p class={"good" if audit.passes else "bad"}>{escape(_verdict(audit))}.</p>{fault}
<table>{rows}</table>
<figure>{picture.bounds(audit.sweep, chosen=audit.guesses, claim=audit.claim, ideal=audit.ideal.mean)}
<figcaption>The bound by number of guesses. The number that counts was fixed before the run.</figcaption></figure>
<figure>{picture.scores(audit.scores, audit.canaries.coins, made=audit.guesses.made)}
<figcaption>What each canary's steps say together: the more the two groups part, the less private the run.</figcaption>
</figure></body></html>
"""
