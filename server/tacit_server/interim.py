"""The report of a run that has not finished, from the rounds that it has behind it."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from tacit import vector as vectors
from tacit.errors import BadInput
from tacit_server import report
from tacit_server.checkpoint import RunState
from tacit_server.output import resolved_toml
from tacit_server.proposal import plan
from tacit_server.result import result
from tacit_server.runs import Run
from tacit_server.status import read_history

__all__ = ["write_report"]


def write_report(run: Run) -> Path:
    """The run's `report.html`: as it was written at the end, or made now.

    The checkpoint is not looked at: the run may go on meanwhile. Epsilon is what the partners said with their last
    answers.

    Raises:
        BadInput: no round is over yet.
    """
    path = run.path / "report.html"
    if (run.path / "result.json").is_file():
        return path
    history = read_history(run.path)
    if not history:
        raise BadInput(f"expected a round that is over in {run.path}, found none", hint="wait for the first round")
    job = run.job
    made = plan(job, None)
    state = RunState(
        run=run.order.run,
        job_hash=job.hash(),
        vector=np.zeros(0, np.float32),
        round=history[-1]["round"],
        history=tuple(history),
    )
    summary = result(
        job,
        state,
        engine="federation",
        seed=None,
        parameters=vectors.size(made.network()),
        secure_noise=True,
        data={"classes": list(job.task.labels)},
        wall_s=sum(line["round_seconds"] for line in history),
    )
    spent = {name: value for line in history for name, value in line["epsilon_by_partner"].items()}
    summary["privacy"] |= {"epsilon_by_partner": spent, "epsilon": max(spent.values(), default=None)}
    report.write(path, result=summary, history=history, job_toml=resolved_toml(job))
    return path
