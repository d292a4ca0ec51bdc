"""The output folder of a run."""

from __future__ import annotations

import hashlib
import json
import tomllib
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import tomli_w
from numpy.typing import NDArray
from safetensors.numpy import save

from tacit.errors import BadInput
from tacit.job import Job
from tacit.seal import Key
from tacit_server import checkpoint, events, report, statement
from tacit_server.checkpoint import RunState

__all__ = ["CHECKPOINT", "LEDGER", "RESOLVED", "Output", "resolved_toml"]

CHECKPOINT = "checkpoint.safetensors"
RESOLVED = "job.resolved.toml"
LEDGER = "ledger.db"


class Output:
    """A folder that is made when a run begins and is complete when it ends.

    Args:
        path: the folder.
        durable: sync what is kept between rounds, so that it outlives a loss of power.
        key: seals the checkpoint; None leaves it in clear.
    """

    def __init__(self, path: Path, *, durable: bool = True, key: Key | None = None) -> None:
        self.path = path
        self._durable = durable
        self._key = key

    def create(self, job: Job) -> None:
        """Make the folder and put the resolved job there.

        Raises:
            BadInput: the folder holds something already, or can not be written.
        """
        try:
            self.path.mkdir(parents=True, exist_ok=True)
            if any(self.path.iterdir()):
                raise BadInput(
                    f"expected an empty output folder, found files in {self.path}",
                    hint="choose another --out, or add --resume to go on with that run",
                )
            (self.path / RESOLVED).write_text(resolved_toml(job), encoding="utf-8")
        except OSError as error:
            raise BadInput(
                f"expected an output folder that can be written, found {self.path}: {error.strerror}",
                hint="choose another --out",
            ) from None

    def keep(self, state: RunState) -> None:
        """Save `state` as the checkpoint, and its history."""
        checkpoint.write(self.path / CHECKPOINT, state, durable=self._durable, key=self._key)
        lines = "".join(json.dumps(line) + "\n" for line in state.history)
        checkpoint.write_atomic(self.path / "history.jsonl", lines.encode(), durable=self._durable)

    def last(self, job: Job) -> RunState:
        """The state kept last. Raises BadInput where there is none, or `job` is not the one that began here."""
        state = checkpoint.read(self.path / CHECKPOINT, job_hash=job.hash(), key=self._key)
        self._compare(job)
        return state

    def _compare(self, job: Job) -> None:
        """The hash leaves out where and on which data a simulation runs; going on with others would mix two runs."""
        began = tomllib.loads((self.path / RESOLVED).read_text(encoding="utf-8")).get("simulation", {})
        asked = job.simulation.model_dump(mode="json", exclude_none=True)
        for key in sorted(set(began) | set(asked)):
            if began.get(key) != asked.get(key):
                raise BadInput(
                    f"expected simulation.{key} = {began.get(key)} as when the run in {self.path} began, "
                    f"found {asked.get(key)}",
                    hint="resume with the job file, --set values and seed that the run began with",
                )

    def finish(
        self,
        job: Job,
        state: RunState,
        *,
        result: Mapping[str, Any],
        model: Mapping[str, NDArray[np.float32]],
        best: Mapping[str, NDArray[np.float32]] | None,
        attest: Callable[[str], bytes] | None = None,
    ) -> None:
        """Write everything a finished run leaves; `result.json` last, as the sign that all is there.

        `attest` makes the signed statement, given the SHA-256 of the model's file in hex; a simulation makes none.
        """
        # One key only: safetensors writes several in any order, and equal models would be unequal files.
        metadata = {"job_hash": job.hash()}
        content = save(_tight(model), metadata=metadata)
        checkpoint.write_atomic(self.path / "model.safetensors", content)
        if best is not None:
            checkpoint.write_atomic(self.path / "best.safetensors", save(_tight(best), metadata=metadata))
        self.keep(state)
        events.write(self.path / "tensorboard", history=state.history)
        if attest is not None:
            statement.write(self.path, attest(hashlib.sha256(content).hexdigest()))
        report.write(self.path / "report.html", result=result, history=state.history, job_toml=resolved_toml(job))
        text = json.dumps(result, indent=1) + "\n"
        checkpoint.write_atomic(self.path / "result.json", text.encode())


def resolved_toml(job: Job) -> str:
    """The resolved job as TOML; values left at none are left out, as TOML has no word for them."""
    return tomli_w.dumps(job.model_dump(mode="json", exclude_none=True))


def _tight(arrays: Mapping[str, NDArray[np.float32]]) -> dict[str, NDArray[np.float32]]:
    return {name: np.ascontiguousarray(array) for name, array in arrays.items()}
