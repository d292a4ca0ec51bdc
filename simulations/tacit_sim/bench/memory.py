"""What one client's round of secure aggregation adds to a process at its peak, measured in a process of its own.

`python -m tacit_sim.bench.memory tacit|flower COHORT LENGTH [--traced]` prints the numbers as JSON.
"""

from __future__ import annotations

import json
import os
import resource
import subprocess
import sys
import tracemalloc
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from pathlib import Path

from tacit.errors import JobFailed
from tacit_sim.bench.cohort import make_cohort, make_update
from tacit_sim.bench.partner import PartnerRound
from tacit_sim.rivals.cost import Stage, client_round

__all__ = ["Peak", "main", "peak_of"]

_UNIT = 1 if sys.platform == "darwin" else 1024  # of ru_maxrss
_STATUS = Path("/proc/self/status")
_WARM = 1000  # entries of a round before, which loads what is loaded late
_UNTIL = "mask"  # what comes after sends the vector, or holds it no more


@dataclass(frozen=True)
class Peak:
    """Bytes above what stood before the update was made.

    Attributes:
        masked: until the vector is masked.
        whole: in all stages.
    """

    masked: int
    whole: int


def peak_of(who: str, *, cohort: int, length: int, traced: bool) -> Peak:
    """The peak of `who`, tacit or flower, in a fresh process.

    Args:
        traced: what Python and numpy ask for, by tracemalloc; else the largest resident set that the system saw.

    Raises:
        JobFailed: the process ended with an error.
    """
    command = [sys.executable, "-m", __name__, who, str(cohort), str(length), *(["--traced"] if traced else [])]
    path = os.pathsep.join(filter(None, sys.path))  # so that the child finds the same packages
    ended = subprocess.run(command, capture_output=True, text=True, check=False, env={**os.environ, "PYTHONPATH": path})
    if ended.returncode != 0:
        last = (ended.stderr.strip().splitlines() or ["nothing"])[-1]
        raise JobFailed(f"expected a process that measures memory, found {last}", hint="run it with --only memory")
    return Peak(**json.loads(ended.stdout.splitlines()[-1]))


def main(argv: list[str]) -> None:
    """What the child process does; prints a `Peak`."""
    who, cohort, length = argv[0], int(argv[1]), int(argv[2])
    traced = "--traced" in argv[3:]
    _run(who, cohort=cohort, length=_WARM, traced=False)
    print(json.dumps(asdict(_run(who, cohort=cohort, length=length, traced=traced))))


def _run(who: str, *, cohort: int, length: int, traced: bool) -> Peak:
    if traced:
        tracemalloc.start()
    before, masked = _peak(traced), 0
    for stage in _stages(who, cohort=cohort, length=length):
        stage.work()
        if stage.name == _UNTIL:
            masked = _peak(traced) - before
    return Peak(masked, _peak(traced) - before)


def _stages(who: str, *, cohort: int, length: int) -> Iterator[Stage]:
    if who == "flower":
        return client_round(make_update(length), cohort=cohort)
    # The global model stands in the process before, as the message that asked for training.
    model = make_update(1)
    return PartnerRound(make_cohort(cohort, length=length, complete=False), make_update(length), model=model).stages()


def _peak(traced: bool) -> int:
    if traced:
        return tracemalloc.get_traced_memory()[1]
    if _STATUS.exists():  # Linux hands a parent's ru_maxrss down to its children, but not this one
        (line,) = (line for line in _STATUS.read_text().splitlines() if line.startswith("VmHWM:"))
        return int(line.split()[1]) * 1024
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * _UNIT


if __name__ == "__main__":
    main(sys.argv[1:])
