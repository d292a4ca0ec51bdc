"""Rounds of secure aggregation in a real federation that hardly trains."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import tomli_w

from tacit_sim.rehearsal import Rehearsal

__all__ = ["PARAMETERS", "round_lines"]

PARAMETERS = 26_010
"""Of the model, the `cnn` for ten classes of images of 28x28."""

_EXAMPLES, _CLASSES, _SHAPE = 40, 10, (28, 28)
_NAME = "rounds"


def round_lines(folder: Path, *, partners: int, rounds: int) -> list[dict[str, Any]]:
    """Lines of the run's history for `rounds` rounds; one before them and the last are left out.

    Args:
        folder: an empty one.
        partners: processes, all asked in every round.
        rounds: that count.
    """
    with Rehearsal(folder) as federation:
        federation.init()
        federation.up()
        for i in range(partners):
            _attend(federation, f"partner-{i + 1}", seed=i)
        job = folder / "job.toml"
        job.write_text(tomli_w.dumps(_job(partners=partners, rounds=rounds + 2)))
        federation.run("tacit-server", "run", str(federation.server), str(job), "--name", _NAME, "--wait")
        text = (federation.server / "runs" / _NAME / "history.jsonl").read_text(encoding="utf-8")
    return [json.loads(line) for line in text.splitlines()][1:-1]


def _attend(federation: Rehearsal, name: str, *, seed: int) -> None:
    path, draw = federation.folder / f"{name}.npz", np.random.default_rng(seed)
    inputs = draw.integers(0, 256, size=(_EXAMPLES, *_SHAPE), dtype=np.uint8)
    np.savez(path, x=inputs, y=np.arange(_EXAMPLES) % _CLASSES)
    federation.join(name, data=path)
    site = federation.folder / name / "site.toml"
    site.write_text(site.read_text().replace("allow_unprotected = false", "allow_unprotected = true"))
    federation.attend(name)


def _job(*, partners: int, rounds: int) -> dict[str, Any]:
    return {
        "name": _NAME,
        "task": {
            "kind": "image-classification",
            "model": "cnn",
            "labels": [str(i) for i in range(_CLASSES)],
            "options": {"shape": list(_SHAPE)},
        },
        "training": {"rounds": rounds, "local_steps": 1, "batch_size": 8, "learning_rate": 0.1},
        "privacy": {"mechanism": "none"},
        "aggregation": {"secure": True, "min_cohort": partners},
        "evaluation": {"every": 10**6, "partner_holdout": 0.0},
    }
