"""Scores from sums of counts, with error bars where the counts carry noise.

The error bars are standard deviations to first order (the delta method): what noise of a known size in every count
does to a ratio of counts. They say nothing of how well the examples stand for others.
"""

from __future__ import annotations

import math
from dataclasses import asdict, dataclass, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from tacit.errors import BadInput

__all__ = ["Scores", "score"]

_CLEAR = 5.0  # standard deviations by which a sum has to stand out of its noise before anything is divided by it
_BARS = ("accuracy_std", "loss_std", "macro_f1_std", "count_std")


@dataclass(frozen=True)
class Scores:
    """What a report shows; `dataclasses.asdict` makes it ready for JSON, and `to_json` leaves out what is not there.

    Attributes:
        examples: how many examples were counted; an estimate where counts carry noise.
        accuracy: share of examples predicted right, 0 to 1.
        loss: mean loss of an example, in nats.
        macro_f1: mean over classes of F1 = 2tp / (2tp + fp + fn), 0 to 1. A class that is neither the truth
            nor the prediction of any example has no F1 and is left out of the mean. None where the counts of a class
            do not stand out of the noise.
        confusion: examples by truth (rows) and prediction (columns), never below 0.
        accuracy_std, loss_std, macro_f1_std: what the noise in the counts does to the three, as standard deviations;
            None where there is none.
        count_std: of the noise in each count of `confusion`; None where there is none.
    """

    examples: int
    accuracy: float
    loss: float
    macro_f1: float | None
    confusion: tuple[tuple[int, ...], ...]
    accuracy_std: float | None = None
    loss_std: float | None = None
    macro_f1_std: float | None = None
    count_std: float | None = None

    def to_json(self) -> dict[str, Any]:
        """Plain JSON values, without error bars where there are none."""
        found = {key: value for key, value in asdict(self).items() if value is not None or key not in _BARS}
        return {**found, "confusion": [list(row) for row in self.confusion]}


def score(
    confusion: NDArray[np.int64], *, right: int, wrong: int, loss: float, count_std: float, loss_std: float
) -> Scores:
    """The scores of all examples together.

    Args:
        confusion: int64 `[classes, classes]`, examples by truth and prediction, noise and all.
        right: examples predicted right, counted by themselves.
        wrong: the others, counted by themselves.
        loss: of all of them, in nats.
        count_std: standard deviation of the noise in each of these counts, independent of the others; 0.0 for none.
        loss_std: of the noise in `loss`, in nats.

    Raises:
        BadInput: no example was counted, or no more than the noise alone could make.
    """
    examples = right + wrong
    if examples <= 0 or examples < _CLEAR * math.sqrt(2) * count_std:
        raise BadInput(
            "expected at least one example to score, and more than their noise hides, found fewer",
            hint="evaluate on more data, or more rarely",
        )
    accuracy, mean = right / examples, loss / examples
    macro_f1, spread = _macro_f1(confusion, count_std)
    plain = Scores(
        examples=examples,
        accuracy=min(max(accuracy, 0.0), 1.0),
        loss=max(mean, 0.0),
        macro_f1=macro_f1,
        confusion=tuple(tuple(max(int(count), 0) for count in row) for row in confusion),
    )
    if not count_std:
        return plain
    return replace(
        plain,
        accuracy_std=count_std * math.hypot(1 - accuracy, accuracy) / examples,
        loss_std=math.hypot(loss_std, math.sqrt(2) * mean * count_std) / examples,
        macro_f1_std=spread,
        count_std=count_std,
    )


def _macro_f1(confusion: NDArray[np.int64], count_std: float) -> tuple[float | None, float | None]:
    """Mean F1 over the classes that occur, and its error bar; 2tp + fp + fn is the row sum plus the column sum."""
    weight, hits = confusion.sum(axis=0) + confusion.sum(axis=1), confusion.diagonal()
    if not count_std:
        seen = weight > 0
        return float(np.mean(2 * hits[seen] / weight[seen])), None
    classes = len(confusion)
    if weight.min() < _CLEAR * math.sqrt(2 * classes + 2) * count_std:  # the diagonal's noise counts twice in `weight`
        return None, None
    f1 = 2 * hits / weight
    slope = f1 / weight  # how much F1 falls with each wrong answer
    slopes = -(slope[:, None] + slope[None, :])  # a wrong answer is one of two classes
    np.fill_diagonal(slopes, 2 * (1 - f1) / weight)
    return float(np.clip(np.mean(f1), 0.0, 1.0)), float(np.sqrt((slopes**2).sum()) * count_std / classes)
