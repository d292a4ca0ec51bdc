"""Canaries: units whose clipped gradient is the whole clip norm in one entry of the model, all in different entries.

They are the worst that one unit can do to a sum, and none hides another (Dirac canaries; Nasr et al. 2023,
arXiv:2302.07956v1, section 4.2; in one run, Steinke et al. 2023, arXiv:2305.08846, section 6).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from tacit.errors import BadInput
from tacit.privacy.randomness import Stream
from tacit_client.persons import Batch
from tacit_client.train import Shard

__all__ = ["Canaries", "CanaryShard", "Sample", "hatch"]

_Indices = NDArray[np.int64]


@dataclass(frozen=True, repr=False)
class Canaries:
    """Who they are.

    Attributes:
        entries: int64 `[m]`, each canary's entry of the flat model; no entry comes twice.
        partners: int64 `[m]`, whose data set it is in, or is not.
        coins: bool `[m]`, whether it is in.
    """

    entries: _Indices
    partners: _Indices
    coins: NDArray[np.bool_]

    def __len__(self) -> int:
        return len(self.entries)

    def __repr__(self) -> str:
        return f"Canaries(n={len(self)})"

    def of(self, partner: int) -> _Indices:
        """int64, the numbers of the canaries that `partner` has or might have had, rising."""
        return np.flatnonzero(self.partners == partner)


def hatch(count: int, *, sizes: Sequence[int], partners: int, stream: Stream) -> Canaries:
    """`count` canaries over a model whose parameters have `sizes` entries, dealt out evenly among `partners`.

    Every parameter has at least one; the other entries are drawn uniformly.

    Raises:
        BadInput: fewer canaries than parameters, more than entries.

    Guarantee: each canary is in with chance 1/2, independently of all else.
    """
    entries = sum(sizes)
    if not len(sizes) <= count <= entries:
        raise BadInput(
            f"expected from {len(sizes)} canaries, one for each parameter of the model, to {entries}, one for each of "
            f"its entries, found {count}",
            hint="change --canaries",
        )
    starts = np.cumsum([0, *sizes[:-1]])
    firsts = starts + (stream.uniform(len(sizes)) * np.asarray(sizes)).astype(np.int64)
    rest = np.setdiff1d(np.arange(entries), firsts)
    chosen = np.concatenate([firsts, rest[stream.choose(len(rest), k=count - len(sizes))]])
    shuffled = chosen[np.argsort(stream.words(count), kind="stable")]
    coins = (stream.words(count) >> np.uint64(63)).astype(np.bool_)
    return Canaries(shuffled, np.arange(count) % partners, coins)


@dataclass(frozen=True, repr=False)
class Sample(Batch):
    """The examples that a step drew, and the canaries.

    Attributes:
        canaries: int64 `[c]`, entries of those drawn.
    """

    canaries: _Indices = field(default_factory=lambda: np.empty(0, dtype=np.int64))


@dataclass(frozen=True, repr=False)
class CanaryShard(Shard):
    """A partner's examples with its canaries among them.

    Attributes:
        partner: whose they are.
        watched: int64 `[w]`, the entries of the canaries that this partner has or might have had.
        planted: int64 `[c]`, the entries of those that are in.
        drawn: the last draw. A step keeps what it drew to itself, and the canaries' part is not in its examples.
    """

    partner: int = 0
    watched: _Indices = field(default_factory=lambda: np.empty(0, dtype=np.int64))
    planted: _Indices = field(default_factory=lambda: np.empty(0, dtype=np.int64))
    drawn: list[Sample] = field(default_factory=list)

    def draw(self, sampling: Stream, *, rate: float) -> Sample:
        """Examples and canaries are drawn alike, from one stream: the canaries are the shard's last units."""
        drawn = sampling.poisson_sample(len(self.rows) + len(self.planted), rate=rate)
        real = drawn < len(self.rows)
        self.drawn[:] = [Sample(drawn[real], canaries=self.planted[drawn[~real] - len(self.rows)])]
        return self.drawn[-1]
