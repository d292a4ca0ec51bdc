"""The demonstration: a real federation of three hospitals on this machine, and nothing simulated but the hospitals."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import tomli_w

from tacit.data.examples import Examples
from tacit.errors import BadInput
from tacit.job import Job
from tacit_sim import known, partition
from tacit_sim.rehearsal import Rehearsal

__all__ = ["data_file", "demonstrate", "share_out"]

_NAMES = ("hospital-a", "hospital-b", "hospital-c")
_RUN = "demo"


def demonstrate(job: Job, *, out: Path, tell: Callable[[str], None]) -> dict[str, Any]:
    """Train `job` among three partner processes, and fill the folder `out`.

    The server's and the partners' folders stay in `out/federation`, so that they can be looked at; what the run leaves
    is copied to `out`.

    Args:
        job: its `[simulation]` section names the data and how it is split.
        tell: told every command as it would be typed, and what it says.

    Returns:
        What `result.json` holds.

    Raises:
        BadInput: `out` holds something already.
        JobFailed: a command that failed.
    """
    place = out / "federation"
    if out.exists() and any(out.iterdir()):
        raise BadInput(f"expected an empty output folder, found files in {out}", hint="choose another --out")
    place.mkdir(parents=True, exist_ok=True)
    parts = share_out(job, place)
    with Rehearsal(place, tell=tell) as federation:
        federation.init()
        federation.up()
        for name in parts:
            federation.join(name, data=data_file(place, name))
            federation.attend(name, wait=False)
        words = ["run", str(federation.server), str(place / "job.toml"), "--test", str(data_file(place, "test"))]
        federation.run("tacit-server", *words, "--name", _RUN, "--wait", show=tell)
        _copy(federation.server / "runs" / _RUN, out)
    result: dict[str, Any] = json.loads((out / "result.json").read_text(encoding="utf-8"))
    return result


def share_out(job: Job, place: Path) -> list[str]:
    """Write a data file for each partner, the server's test set and the job into `place`. Returns partners' names."""
    sim = job.simulation
    train, test = known.load(sim.dataset, data=None)
    names = _names(sim.partners)
    rows = partition.split(
        train,
        partners=sim.partners,
        kind=sim.partition,
        alpha=sim.alpha,
        column=sim.column,
        shards=sim.shards,
        seed=sim.seed,
    )
    for name, part in zip(names, rows, strict=True):
        _save(place, name, train.take(part))
    _save(place, "test", test)
    facts = job.model_dump(mode="json", exclude_none=True, exclude={"simulation"})
    (place / "job.toml").write_text(tomli_w.dumps(facts), encoding="utf-8")
    return names


def _names(partners: int) -> list[str]:
    return list(_NAMES) if partners == len(_NAMES) else [f"hospital-{i + 1}" for i in range(partners)]


def data_file(place: Path, name: str) -> Path:
    """The file that `share_out` wrote for `name`."""
    return next(path for path in (place / f"{name}.npz", place / f"{name}.jsonl") if path.exists())


def _save(place: Path, name: str, examples: Examples) -> None:
    if examples.inputs.dtype.kind in "OU":  # text
        rows = zip(examples.inputs, examples.labels, strict=True)
        lines = (json.dumps({"text": str(text), "label": examples.classes[label]}) + "\n" for text, label in rows)
        (place / f"{name}.jsonl").write_text("".join(lines), encoding="utf-8")
    else:
        np.savez(place / f"{name}.npz", x=examples.inputs, y=examples.labels)


def _copy(run: Path, out: Path) -> None:
    shutil.copytree(run, out, dirs_exist_ok=True, ignore=shutil.ignore_patterns("lock", "checkpoint*"))
