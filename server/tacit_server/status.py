"""What `status` shows: the runs, and of one of them how far it is, who takes part and what it has cost them."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from statistics import fmean
from typing import Any

from tacit.errors import BadInput
from tacit.terminal import plain
from tacit_server.folder import Folder
from tacit_server.roster import PartnerRow, Roster
from tacit_server.runs import ENDED, Run, held, list_runs

__all__ = ["line_words", "read_history", "status", "words"]

_LAST = 5  # rounds from whose time the time left is foretold
_SHOWN = 15  # runs in the table
_MINUTE, _HOUR = 60, 3600


def status(folder: Folder, *, name: str | None = None) -> dict[str, Any]:
    """Everything that `words` prints, and what `status --json` gives.

    Args:
        folder: the server's.
        name: of the run to tell more of; None: the one that goes on, else the newest.

    Returns:
        `up`: whether a supervisor serves the folder. `runs`: one entry each, the oldest first. `run`: more of one, or
        None. `partners`: by name, whether they are `online` and what the run's history says of them.

    Raises:
        BadInput: no such run, or a file of a run that can not be read.
    """
    runs = list_runs(folder.runs)
    chosen = _choose(runs, name)
    history = read_history(chosen.path) if chosen else []
    return {
        "schema": 1,
        "up": held(folder.up_lock),
        "runs": [_brief(run) for run in runs],
        "run": None if chosen is None else {**_brief(chosen), **_progress(chosen, history)},
        "partners": _partners(Roster(folder.roster_path).partners(), history),
    }


def words(found: Mapping[str, Any]) -> str:
    """A status as lines for a terminal."""
    parts = [] if found["up"] else ["nobody serves this folder: start tacit-server up"]
    runs = found["runs"][-_SHOWN:]
    if runs:
        table = [("RUN", "PHASE", "ROUND", "SUBMITTED"), *map(_run_cells, runs)]
        parts += [*_table(table), ""]
    else:
        parts.append("no run was submitted yet: tacit-server run DIR JOB.toml")
    if found["run"]:
        parts += [*_run_words(found["run"]), ""]
    if found["partners"]:
        table = [("PARTNER", "ONLINE", "DROP-OUTS", "REFUSALS", "EPSILON"), *_partner_cells(found["partners"])]
        parts += _table(table)
        told = {name: row["last_refusal"] for name, row in found["partners"].items() if row["last_refusal"]}
        parts += [f"{name} refused: {plain(reason)}" for name, reason in told.items()]
    return "\n".join(parts).rstrip()


def line_words(line: Mapping[str, Any]) -> str:
    """A round of the history as one line."""
    parts = [f"round {line['round']} {line['status']}", f"{line['answered']} of {line['asked']} answered"]
    parts += [f"{where} accuracy {line[where]['accuracy']:.4f}" for where in ("test", "federated") if line.get(where)]
    parts += [f"{name}: {reason}" for name, reason in {**line["failures"], **line["refusals"]}.items()]
    parts += [line["reason"]] if line["reason"] else []
    return plain("; ".join(parts))  # a reason may be a partner's own words


def read_history(path: Path) -> list[dict[str, Any]]:
    """The rounds of the run in the folder `path`, one JSON object each. Raises BadInput where they can not be read."""
    file = path / "history.jsonl"
    try:
        return [json.loads(line) for line in file.read_text(encoding="utf-8").splitlines()]
    except FileNotFoundError:
        return []
    except (OSError, ValueError) as error:
        raise BadInput(f"expected one JSON object a line in {file}, found {error}", hint="resume the run") from None


def _choose(runs: Sequence[Run], name: str | None) -> Run | None:
    if name is not None:
        for run in runs:
            if run.name == name:
                return run
        known = ", ".join(run.name for run in runs) or "none"
        raise BadInput(f"expected the run {name}, found {known}", hint="name one of them")
    going = [run for run in runs if run.standing.phase not in ENDED]
    return next(iter([run for run in going if run.live()] or going), runs[-1] if runs else None)


def _brief(run: Run) -> dict[str, Any]:
    order, standing = run.order, run.standing
    stopping = order.wanted == "stop" and standing.phase not in ENDED
    return {
        "name": run.name,
        "phase": "stopping" if stopping else standing.phase,
        "message": standing.message,
        "round": standing.round,
        "rounds": run.job.training.rounds,
        "attempts": standing.attempts,
        "submitted": order.submitted,
    }


def _progress(run: Run, history: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    done = [line for line in history if line["status"] == "done"]
    recent = [line["round_seconds"] for line in done[-_LAST:]]
    going = run.standing.phase in ("running", "waiting") and recent
    scores = {where: next((line[where] for line in reversed(history) if line[where]), None) for where in _WHERE}
    return {
        "path": str(run.path),
        "done": len(done),
        "abandoned": len(history) - len(done),
        "seconds_left": fmean(recent) * (run.job.training.rounds - len(history)) if going else None,
        "accuracy": {where: score["accuracy"] for where, score in scores.items() if score},
        "last": history[-1] if history else None,
    }


_WHERE = ("test", "federated")


def _partners(rows: Sequence[PartnerRow], history: Sequence[Mapping[str, Any]]) -> dict[str, dict[str, Any]]:
    names = {row.name for row in rows if row.state == "active"}
    names |= {name for line in history for name in (*line["dropouts"], *line["refusals"], *line["epsilon_by_partner"])}
    online = {row.name for row in rows if row.online}
    epsilons = {name: value for line in history for name, value in line["epsilon_by_partner"].items()}
    refusals = [(name, reason) for line in history for name, reason in line["refusals"].items()]
    return {
        name: {
            "online": name in online,
            "dropouts": sum(name in line["dropouts"] for line in history),
            "refusals": sum(name == who for who, _ in refusals),
            "last_refusal": dict(refusals).get(name),
            "epsilon": epsilons.get(name),
        }
        for name in sorted(names)
    }


def _run_cells(run: Mapping[str, Any]) -> tuple[str, ...]:
    return run["name"], run["phase"], f"{run['round']} of {run['rounds']}", run["submitted"][:16].replace("T", " ")


def _run_words(run: Mapping[str, Any]) -> list[str]:
    lines = [f"run       {run['name']}: {run['phase']}" + (f", {plain(run['message'])}" if run["message"] else "")]
    lines.append(f"rounds    {run['done']} done, {run['abandoned']} abandoned, of {run['rounds']}")
    if run["seconds_left"] is not None:
        lines.append(f"time left {_duration(run['seconds_left'])}")
    if run["accuracy"]:
        lines.append("accuracy  " + ", ".join(f"{where} {value:.4f}" for where, value in run["accuracy"].items()))
    if run["attempts"] > 1:
        lines.append(f"attempts  {run['attempts']}")
    return lines


def _partner_cells(partners: Mapping[str, Mapping[str, Any]]) -> list[tuple[str, ...]]:
    return [
        (
            name,
            "yes" if row["online"] else "no",
            str(row["dropouts"]),
            str(row["refusals"]),
            "-" if row["epsilon"] is None else f"{row['epsilon']:.3f}",
        )
        for name, row in partners.items()
    ]


def _table(lines: Sequence[tuple[str, ...]]) -> list[str]:
    widths = [max(map(len, column)) for column in zip(*lines, strict=True)]
    return ["  ".join(cell.ljust(width) for cell, width in zip(line, widths, strict=True)).rstrip() for line in lines]


def _duration(seconds: float) -> str:
    whole = round(seconds)
    if whole < _MINUTE:
        return f"{whole} s"
    if whole < _HOUR:
        return f"{whole // _MINUTE} min {whole % _MINUTE} s"
    return f"{whole // _HOUR} h {whole % _HOUR // _MINUTE} min"
