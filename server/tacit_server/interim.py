"""The report of a run that has not finished, from the rounds that it has behind it."""

from __future__ import annotations

from pathlib import Path

from tacit.errors import BadInput
from tacit.seal import read_key
from tacit_server import checkpoint, report
from tacit_server.folder import Folder
from tacit_server.output import CHECKPOINT, resolved_toml
from tacit_server.result import result
from tacit_server.runs import Run

__all__ = ["write_report"]


def write_report(run: Run) -> Path:
    """The run's `report.html`: as it was written at the end, or made now.

    The run goes on undisturbed.

    Raises:
        BadInput: no round is over yet, or the checkpoint can not be read.
    """
    path = run.path / "report.html"
    if (run.path / "result.json").is_file():
        return path
    if not (run.path / CHECKPOINT).is_file():
        raise BadInput(f"expected a round that is over in {run.path}, found none", hint="wait for the first round")
    state = checkpoint.peek(run.path / CHECKPOINT, key=read_key(Folder(run.path.parent.parent).seal_key))
    if not state.history:
        raise BadInput(f"expected a round that is over in {run.path}, found none", hint="wait for the first round")
    job = run.job
    summary = result(
        job,
        state,
        engine="federation",
        seed=None,
        parameters=len(state.vector),
        secure_noise=True,
        data={"classes": list(job.task.labels)},
        wall_s=sum(line["round_seconds"] for line in state.history),
    )
    report.write(path, result=summary, history=state.history, job_toml=resolved_toml(job))
    return path
