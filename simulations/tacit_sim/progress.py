"""What a run shows while it runs: a bar on a terminal, a line a round elsewhere."""

from __future__ import annotations

import sys
from typing import Any, Self

from tqdm import tqdm

from tacit.job import Job
from tacit_server.checkpoint import RunState

__all__ = ["Progress"]


class Progress:
    """Shows one run.

    Args:
        rounds: planned.
    """

    def __init__(self, rounds: int) -> None:
        self._bar = tqdm(total=rounds, unit="round") if sys.stderr.isatty() else None

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *error: object) -> None:
        if self._bar is not None:
            self._bar.close()

    def show(self, job: Job, state: RunState) -> None:
        """Called after every round."""
        line = state.history[-1]
        if self._bar is None:
            print(f"round {line['round']}/{job.training.rounds}  {_words(job, line)}", flush=True)
        else:
            self._bar.n = line["round"]
            self._bar.set_postfix_str(_words(job, line))


def _words(job: Job, line: dict[str, Any]) -> str:
    parts = [f"{line['answered']} of {line['asked']} partners"]
    if line["status"] == "abandoned":
        parts.append("abandoned")
    if line["missed"]:
        parts.append(f"{line['steps']} of {job.training.local_steps} steps")
    score = line["test"] or line["federated"]
    if score:
        parts.append(f"accuracy {100 * score['accuracy']:.2f} %")
    if line["epsilon_by_partner"]:
        parts.append(f"epsilon {max(line['epsilon_by_partner'].values()):.2f}")
    parts.append(f"{line['round_seconds']:.1f} s")
    return "  ".join(parts)
