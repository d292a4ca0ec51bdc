"""Classification scores from integer sums.

Everything here adds up: the counters of several partners, summed entry by entry, are the counters of all
their examples together. The sums are integers so that secure aggregation can carry them without rounding.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike, NDArray

from tacit.errors import BadInput

__all__ = ["LOSS_LIMIT", "LOSS_UNIT", "Counters", "Scores"]

LOSS_UNIT = 2**-16
"""One step of the fixed-point loss sum, in nats."""

LOSS_LIMIT = 1024.0
"""The most that one example adds to the loss sum, in nats; 2**37 such examples still fit in an int64."""

_STEPS_LIMIT = int(LOSS_LIMIT / LOSS_UNIT)


@dataclass(frozen=True)
class Scores:
    """What a report shows; `dataclasses.asdict` makes it ready for JSON.

    Attributes:
        examples: how many examples were counted.
        accuracy: share of examples predicted right, 0 to 1.
        loss: mean loss of an example, in nats.
        macro_f1: mean over classes of F1 = 2tp / (2tp + fp + fn), 0 to 1. A class that is neither the truth
            nor the prediction of any example has no F1 and is left out of the mean.
        confusion: examples by truth (rows) and prediction (columns).
    """

    examples: int
    accuracy: float
    loss: float
    macro_f1: float
    confusion: tuple[tuple[int, ...], ...]


@dataclass(frozen=True, eq=False)
class Counters:
    """Sums over examples from which every score follows.

    Attributes:
        confusion: int64 `[classes, classes]`, examples by truth (rows) and prediction (columns); read-only.
        loss_sum: sum of the examples' losses in units of 2**-16 nats.

    Raises:
        BadInput: a matrix that is not square and of whole numbers, a negative count, or a loss sum that this
            number of examples can not have.

    Guarantee: none by itself. Exact counts of private examples are as private as the examples; whoever lets
    them out adds noise or sums them under secure aggregation.
    """

    confusion: NDArray[np.int64]
    loss_sum: int

    def __post_init__(self) -> None:
        confusion = _whole(self.confusion, place="confusion").copy()
        if confusion.ndim != 2 or confusion.shape[0] != confusion.shape[1]:
            raise _bad(f"expected a confusion matrix [classes, classes], found shape {list(confusion.shape)}")
        if confusion.size and confusion.min() < 0:
            raise _bad(f"expected counts >= 0 in the confusion matrix, found {confusion.min()}")
        limit = int(confusion.sum()) * _STEPS_LIMIT
        if not 0 <= self.loss_sum <= limit:
            raise _bad(f"expected loss_sum from 0 to {limit}, found {self.loss_sum}")
        confusion.setflags(write=False)
        object.__setattr__(self, "confusion", confusion)

    @property
    def classes(self) -> int:
        """Number of classes."""
        return len(self.confusion)

    @staticmethod
    def length(classes: int) -> int:
        """Entries of `to_vector`."""
        return classes**2 + 1

    @classmethod
    def zeros(cls, classes: int) -> Counters:
        """The counters of no examples."""
        return cls(np.zeros((classes, classes), np.int64), 0)

    @classmethod
    def from_predictions(cls, targets: ArrayLike, predicted: ArrayLike, losses: ArrayLike, *, classes: int) -> Counters:
        """Count examples.

        Args:
            targets: integers `[n]`, the true classes, each from 0 to `classes - 1`.
            predicted: integers `[n]`, the predicted classes, in the same range.
            losses: floats `[n]`, in nats. A loss outside 0 to `LOSS_LIMIT` counts as the nearer end, and one
                that is not a number as `LOSS_LIMIT`: a diverged model shows as a huge loss.
            classes: number of classes.

        Raises:
            BadInput: lengths that differ, or a class out of range.
        """
        truth, guess = _labels(targets, "targets", classes), _labels(predicted, "predicted", classes)
        steps = _steps(losses)
        if not len(truth) == len(guess) == len(steps):
            raise _bad(
                f"expected as many targets as predictions and losses, found {len(truth)}, {len(guess)} and {len(steps)}"
            )
        counts = np.bincount(truth * classes + guess, minlength=classes**2)
        return cls(counts.reshape(classes, classes), int(steps.sum()))

    def __add__(self, other: Counters) -> Counters:
        """The counters of both sets of examples together. Raises BadInput where the classes differ."""
        if self.classes != other.classes:
            raise _bad(f"expected counters of {self.classes} classes, found {other.classes}")
        return Counters(self.confusion + other.confusion, self.loss_sum + other.loss_sum)

    def to_vector(self) -> NDArray[np.int64]:
        """int64 `[classes**2 + 1]`: the confusion matrix row by row, then the loss sum."""
        return np.append(self.confusion.ravel(), np.int64(self.loss_sum))

    @classmethod
    def from_vector(cls, vector: ArrayLike, *, classes: int) -> Counters:
        """Read what `to_vector` wrote, or a sum of such vectors.

        Raises:
            BadInput: another length than `classes**2 + 1`, anything but whole numbers, or sums that no
                examples can have.
        """
        values = _whole(vector, place="vector")
        if values.shape != (cls.length(classes),):
            raise _bad(f"expected a vector of {classes**2 + 1} numbers, found shape {list(values.shape)}")
        return cls(values[:-1].reshape(classes, classes), int(values[-1]))

    def summary(self) -> Scores:
        """The scores. Raises BadInput where no example was counted."""
        examples = int(self.confusion.sum())
        if not examples:
            raise BadInput("expected at least one example to score, found none", hint="evaluate on more data")
        return Scores(
            examples=examples,
            accuracy=int(self.confusion.trace()) / examples,
            loss=self.loss_sum * LOSS_UNIT / examples,
            macro_f1=_macro_f1(self.confusion),
            confusion=tuple(tuple(int(count) for count in row) for row in self.confusion),
        )


def _macro_f1(confusion: NDArray[np.int64]) -> float:
    """Mean F1 over the classes that occur; 2tp + fp + fn is the row sum plus the column sum."""
    weight = confusion.sum(axis=0) + confusion.sum(axis=1)
    seen = weight > 0
    return float(np.mean(2 * confusion.diagonal()[seen] / weight[seen]))


def _labels(values: ArrayLike, name: str, classes: int) -> NDArray[np.int64]:
    labels = _whole(values, place=name)
    if labels.ndim != 1:
        raise _bad(f"expected {name} of shape [n], found shape {list(labels.shape)}")
    if len(labels) and not (labels.min() >= 0 and labels.max() < classes):
        raise _bad(f"expected {name} from 0 to {classes - 1}, found {labels.min()} to {labels.max()}")
    return labels


def _steps(losses: ArrayLike) -> NDArray[np.int64]:
    """Losses in nats as whole numbers of LOSS_UNIT."""
    values = np.asarray(losses, np.float64)
    if values.ndim != 1:
        raise _bad(f"expected losses of shape [n], found shape {list(values.shape)}")
    bounded = np.clip(np.nan_to_num(values, nan=LOSS_LIMIT, posinf=LOSS_LIMIT), 0.0, LOSS_LIMIT)
    return np.rint(bounded / LOSS_UNIT).astype(np.int64)


def _whole(values: ArrayLike, *, place: str) -> NDArray[np.int64]:
    array = np.asarray(values)
    if array.size and not np.issubdtype(array.dtype, np.integer):
        raise _bad(f"expected whole numbers in {place}, found {array.dtype}")
    if array.size and np.issubdtype(array.dtype, np.unsignedinteger) and array.max() > np.iinfo(np.int64).max:
        raise _bad(f"expected {place} within int64, found {array.max()}")
    return array.astype(np.int64)


def _bad(message: str) -> BadInput:
    return BadInput(message, hint="pass the counters of one evaluation, or sums of such counters")
