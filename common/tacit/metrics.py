"""Classification scores from integer sums.

Everything here adds up: the counters of several partners, summed entry by entry, are the counters of all
their examples together. The sums are integers so that secure aggregation can carry them without rounding.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike, NDArray

from tacit.errors import BadInput
from tacit.scores import Scores, score

__all__ = ["LOSS_LIMIT", "LOSS_UNIT", "NOISY_LOSS_LIMIT", "Counters"]

LOSS_UNIT = 2**-16
"""One step of the fixed-point loss sum, in nats."""

LOSS_LIMIT = 1024.0
"""The most that one example adds to the loss sum, in nats; 2**37 such examples still fit in an int64."""

NOISY_LOSS_LIMIT = 8.0
"""The same where the sums get noise, in nats: what guessing among 2,981 classes costs. The noise on the loss is in
proportion to it, and hardly an example of a model that has learnt anything has more."""

_STEPS_LIMIT = int(LOSS_LIMIT / LOSS_UNIT)
_BESIDE = 4  # entries of a vector after the confusion matrix


@dataclass(frozen=True, eq=False)
class Counters:
    """Sums over examples from which every score follows.

    Attributes:
        confusion: int64 `[classes, classes]`, examples by truth (rows) and prediction (columns); read-only.
        loss_sum: sum of the examples' losses in units of 2**-16 nats.
        answers: examples predicted right, and wrong; what follows from `confusion` where left out. Noise in these two
            is that of two counts, and not of all counts that they are sums of.
        variance: of the noise in each count; the noise in `loss_sum` is as large on an example's most,
            `NOISY_LOSS_LIMIT`, as that in a count is on 1. 0 where the sums are exact.

    Raises:
        BadInput: a matrix that is not square and of whole numbers; of sums that say they are exact, a negative count,
            or answers or a loss sum that this number of examples can not have.

    Guarantee: none by itself. Exact counts of private examples are as private as the examples; whoever lets
    them out adds noise (`tacit.privacy.metrics`) or sums them under secure aggregation.
    """

    confusion: NDArray[np.int64]
    loss_sum: int
    answers: tuple[int, int] | None = None
    variance: int = 0

    def __post_init__(self) -> None:
        confusion = _whole(self.confusion, place="confusion").copy()
        if confusion.ndim != 2 or confusion.shape[0] != confusion.shape[1]:
            raise _bad(f"expected a confusion matrix [classes, classes], found shape {list(confusion.shape)}")
        right, examples = int(confusion.trace()), int(confusion.sum())
        answers = (right, examples - right) if self.answers is None else self.answers
        if self.variance < 0:
            raise _bad(f"expected a variance >= 0, found {self.variance}")
        if not self.variance:
            _check_exact(confusion, loss_sum=self.loss_sum, answers=answers)
        confusion.setflags(write=False)
        object.__setattr__(self, "confusion", confusion)
        object.__setattr__(self, "answers", answers)

    @property
    def classes(self) -> int:
        """Number of classes."""
        return len(self.confusion)

    @property
    def right(self) -> int:
        """Examples predicted right."""
        return self._answers[0]

    @property
    def wrong(self) -> int:
        """Examples predicted wrong."""
        return self._answers[1]

    @property
    def _answers(self) -> tuple[int, int]:
        return (0, 0) if self.answers is None else self.answers  # never None once made

    @staticmethod
    def length(classes: int) -> int:
        """Entries of `to_vector`."""
        return classes**2 + _BESIDE

    @classmethod
    def zeros(cls, classes: int) -> Counters:
        """The counters of no examples."""
        return cls(np.zeros((classes, classes), np.int64), 0)

    @classmethod
    def from_predictions(
        cls, targets: ArrayLike, predicted: ArrayLike, losses: ArrayLike, *, classes: int, most: float = LOSS_LIMIT
    ) -> Counters:
        """Count examples.

        Args:
            targets: integers `[n]`, the true classes, each from 0 to `classes - 1`.
            predicted: integers `[n]`, the predicted classes, in the same range.
            losses: floats `[n]`, in nats. A loss outside 0 to `most` counts as the nearer end, and one
                that is not a number as `most`: a diverged model shows as a huge loss.
            classes: number of classes.
            most: that one example adds to the loss sum, in nats, up to `LOSS_LIMIT`.

        Raises:
            BadInput: lengths that differ, or a class out of range.
        """
        truth, guess = _labels(targets, "targets", classes), _labels(predicted, "predicted", classes)
        steps = _steps(losses, most=most)
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
        return Counters(
            self.confusion + other.confusion,
            self.loss_sum + other.loss_sum,
            (self.right + other.right, self.wrong + other.wrong),
            self.variance + other.variance,
        )

    def to_vector(self) -> NDArray[np.int64]:
        """int64 `[classes**2 + 4]`: the confusion matrix row by row; loss sum, right, wrong, variance."""
        beside = (self.loss_sum, self.right, self.wrong, self.variance)
        return np.append(self.confusion.ravel(), np.array(beside, dtype=np.int64))

    @classmethod
    def from_vector(cls, vector: ArrayLike, *, classes: int) -> Counters:
        """Read what `to_vector` wrote, or a sum of such vectors.

        Args:
            vector: integers `[classes**2 + 4]`; unsigned ones are read modulo 2**64, as a masked channel carries
                negative numbers.
            classes: number of classes.

        Raises:
            BadInput: another length, anything but whole numbers, or sums that no examples can have.
        """
        values = _whole(vector, place="vector")
        if values.shape != (cls.length(classes),):
            raise _bad(f"expected a vector of {cls.length(classes)} numbers, found shape {list(values.shape)}")
        loss_sum, right, wrong, variance = (int(value) for value in values[-_BESIDE:])
        return cls(values[:-_BESIDE].reshape(classes, classes), loss_sum, (right, wrong), variance)

    def summary(self) -> Scores:
        """The scores. Raises BadInput where no example was counted, or fewer than the noise hides."""
        noise = math.sqrt(self.variance)
        return score(
            self.confusion,
            right=self.right,
            wrong=self.wrong,
            loss=self.loss_sum * LOSS_UNIT,
            count_std=noise,
            loss_std=noise * NOISY_LOSS_LIMIT,
        )


def _check_exact(confusion: NDArray[np.int64], *, loss_sum: int, answers: tuple[int, int]) -> None:
    if confusion.size and confusion.min() < 0:
        raise _bad(f"expected counts >= 0 in the confusion matrix, found {confusion.min()}")
    right, examples = int(confusion.trace()), int(confusion.sum())
    if answers != (right, examples - right):
        raise _bad(f"expected {right} right and {examples - right} wrong as in the confusion matrix, found {answers}")
    limit = examples * _STEPS_LIMIT
    if not 0 <= loss_sum <= limit:
        raise _bad(f"expected loss_sum from 0 to {limit}, found {loss_sum}")


def _labels(values: ArrayLike, name: str, classes: int) -> NDArray[np.int64]:
    labels = _whole(values, place=name)
    if labels.ndim != 1:
        raise _bad(f"expected {name} of shape [n], found shape {list(labels.shape)}")
    if len(labels) and not (labels.min() >= 0 and labels.max() < classes):
        raise _bad(f"expected {name} from 0 to {classes - 1}, found {labels.min()} to {labels.max()}")
    return labels


def _steps(losses: ArrayLike, *, most: float) -> NDArray[np.int64]:
    """Losses in nats as whole numbers of LOSS_UNIT."""
    values = np.asarray(losses, np.float64)
    if values.ndim != 1:
        raise _bad(f"expected losses of shape [n], found shape {list(values.shape)}")
    bounded = np.clip(np.nan_to_num(values, nan=most, posinf=most), 0.0, most)
    return np.rint(bounded / LOSS_UNIT).astype(np.int64)


def _whole(values: ArrayLike, *, place: str) -> NDArray[np.int64]:
    array = np.asarray(values)
    if array.size and not np.issubdtype(array.dtype, np.integer):
        raise _bad(f"expected whole numbers in {place}, found {array.dtype}")
    return array.astype(np.int64)  # an unsigned number above its range becomes the negative one of the same bits


def _bad(message: str) -> BadInput:
    return BadInput(message, hint="pass the counters of one evaluation, or sums of such counters")
