"""TensorBoard scalars of a run, through TensorBoard's own writer."""

from __future__ import annotations

import math
import time
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

__all__ = ["scalars", "write"]

_SUFFIX = ".tacit"


def scalars(line: Mapping[str, Any]) -> dict[str, float]:
    """The scalars of one history line by TensorBoard tag; numbers that are absent or not finite are left out.

    Accuracy and F1 are shares from 0 to 1, loss is in nats, `seconds/*` in seconds; `epsilon/max` is the
    epsilon of the partner that has spent most so far.
    """
    return {tag: float(value) for tag, value in _candidates(line) if value is not None and math.isfinite(value)}


def write(folder: Path, *, history: Sequence[Mapping[str, Any]]) -> None:
    """Write the run's scalars to `folder`, in place of what an earlier call left there.

    Args:
        folder: made where it does not exist; files of other writers in it are left alone.
        history: the lines of `history.jsonl`. The step is the round; the wall time ends now and goes back by
            the seconds that the rounds took.

    Raises:
        OSError: the folder can not be written.
    """
    from tensorboard.summary.writer.event_file_writer import EventFileWriter

    folder.mkdir(parents=True, exist_ok=True)
    earlier = sorted(folder.glob(f"events.out.tfevents.*{_SUFFIX}"))
    clock = time.time() - sum(_seconds(line) for line in history)
    writer = EventFileWriter(str(folder), filename_suffix=_SUFFIX)
    try:
        for line in history:
            clock += _seconds(line)
            writer.add_event(_event(line, wall_time=clock))
    finally:
        writer.close()
    for path in earlier:
        path.unlink()


def _event(line: Mapping[str, Any], *, wall_time: float) -> Any:
    """One round as an event (a protocol buffer without type stubs, hence Any)."""
    from tensorboard.compat.proto.event_pb2 import Event
    from tensorboard.compat.proto.summary_pb2 import Summary

    values = [Summary.Value(tag=tag, simple_value=value) for tag, value in scalars(line).items()]
    return Event(wall_time=wall_time, step=line["round"], summary=Summary(value=values))


def _candidates(line: Mapping[str, Any]) -> Iterator[tuple[str, float | None]]:
    for where in ("test", "federated"):
        for name in ("accuracy", "loss", "macro_f1"):
            yield f"{where}/{name}", (line.get(where) or {}).get(name)
    spent = [value for value in (line.get("epsilon_by_partner") or {}).values() if value is not None]
    yield "epsilon/max", max(spent, default=None)
    for phase, seconds in (line.get("seconds") or {}).items():
        yield f"seconds/{phase}", seconds
    yield "partners/answered", line.get("answered")


def _seconds(line: Mapping[str, Any]) -> float:
    return float(sum((line.get("seconds") or {}).values()))
