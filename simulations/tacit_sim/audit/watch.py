"""What is seen of the canaries, step by step, and what it says of each."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from tacit.sections import TrainingSection
from tacit_sim.audit.canaries import Canaries

__all__ = ["Watch", "evidence", "spread"]

_Floats = NDArray[np.float64]

_ALL = -1  # in place of a partner: the sum over all of them
_LEAST = 1e-3  # of a spread, in clip norms: a layer without any noise has one above nothing


class Watch:
    """Every release of a run, at the entries of `canaries`: partners' own, or those of all of them together."""

    def __init__(self, canaries: Canaries) -> None:
        self._canaries = canaries
        self._seen: dict[int, list[NDArray[np.float32]]] = {}
        self._models: list[NDArray[np.float32]] = []
        self._rests: list[_Floats] = []
        self._rates: dict[int, float] = {}

    @property
    def steps(self) -> int:
        """How many were seen."""
        return sum(map(len, self._seen.values()))

    def tell(self, partner: int, seen: _Floats, *, rate: float) -> None:
        """A step of `partner` released `seen`, float64 `[w]`, at its canaries' entries in their order.

        In clip norms, less the sum over the examples.
        """
        self._seen.setdefault(partner, []).append(seen.astype(np.float32))
        self._rates[partner] = rate

    def follow(self, model: NDArray[np.float32], *, rest: _Floats, rate: float) -> None:
        """A partner's examples add `rest`, float64 `[d]`, to the step that begins at `model`, float32 `[d]`.

        Every partner is told the model; from two such follows what was released.
        """
        entries = self._canaries.entries
        if not self._models or not np.array_equal(self._models[-1], model[entries]):
            self._models.append(model[entries])
            self._rests.append(np.zeros(len(entries)))
        self._rests[-1] += rest[entries]
        self._rates[_ALL] = rate

    def close(self, model: NDArray[np.float32], *, training: TrainingSection, clip: float) -> None:
        """The run ended at `model`: from the models after every step come the noised sums that led to them.

        With SGD, w' = w - l v' and v' = m v + g: g is the sum over the batch size, in floats of 32 bits as they are in
        the model.
        """
        if not self._models:
            return
        path = np.stack([*self._models, model[self._canaries.entries]]).astype(np.float64)
        rounds = 1 + np.arange(len(path) - 1) // training.local_steps
        velocity = -np.diff(path, axis=0) / np.array([[training.learning_rate_at(int(r))] for r in rounds])
        gradients = velocity.copy()
        gradients[1:] -= training.momentum * velocity[:-1]
        seen = (gradients * training.batch_size - np.stack(self._rests)) / clip
        self._seen[_ALL] = list(seen.astype(np.float32))

    def scores(self, *, sizes: Sequence[int]) -> _Floats:
        """The evidence that each canary is in, float64 `[m]`, all steps together.

        Args:
            sizes: of the model's parameters. The noise of each is taken as it is measured, by partner, and not as it is
                claimed: whoever attacks would do so. No coin is looked at for this.
        """
        canaries = self._canaries
        found = np.zeros(len(canaries))
        layers = np.searchsorted(np.cumsum(sizes), canaries.entries, side="right")
        for partner, rows in self._seen.items():
            mine = np.arange(len(canaries)) if partner == _ALL else canaries.of(partner)
            seen = np.stack(rows).astype(np.float64)
            found[mine] = evidence(seen, rate=self._rates[partner], noise=spread(seen, layers[mine]))
        return found


def spread(seen: _Floats, groups: NDArray[np.int64]) -> _Floats:
    """The noise at each entry, float64 `[w]`: the median over its group of the spread over steps.

    Args:
        seen: float64 `[steps, w]`.
        groups: int64 `[w]`.
    """
    each: _Floats = seen.std(axis=0)
    found = np.empty_like(each)
    for group in np.unique(groups):
        found[groups == group] = np.median(each[groups == group])
    np.maximum(found, _LEAST, out=found)
    return found


def evidence(seen: _Floats, *, rate: float, noise: _Floats) -> _Floats:
    """How much likelier what was seen is where a canary is in, as a logarithm summed over steps; float64 `[w]`.

    Without the canary an entry, in clip norms, is noise around 0; with it, it is so around 1 with chance `rate`:
    log(1 - q + q exp((2x - 1) / (2 z^2))). No test by what is seen is better (Neyman and Pearson).

    Args:
        seen: float64 `[steps, w]`.
        noise: its standard deviation at each entry, float64 `[w]`.
    """
    stays = np.log1p(-rate) if rate < 1.0 else -np.inf
    drawn = np.log(rate) + (2 * seen - 1) / (2 * noise**2)
    total: _Floats = np.asarray(np.logaddexp(stays, drawn).sum(axis=0), dtype=np.float64)
    return total
