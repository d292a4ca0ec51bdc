"""Who shares masks with whom.

Up to 64 partners everyone does. Above, every pair does with the same chance, by a coin that nobody chose: the graph
is drawn from the hash of all keys of the round (after Bell, Bonawitz, Gascon, Lepoint, Raykova 2020, ePrint 2020/704,
section 3; their graph is a ring in random order, which a server that picks the drop-outs could cut, a random graph
not). `edge_chance` is the bound.
"""

from __future__ import annotations

from collections.abc import Collection
from functools import lru_cache

import numpy as np
from numpy.typing import NDArray

from tacit.secagg.constants import COLLUDERS, DENSE, EDGE_UNIT, FAILURE_BITS, GRIND_BITS, HOLDERS_SHARE
from tacit.secagg.keys import Digest, Secret, derive
from tacit.secagg.labels import label
from tacit.secagg.prg import keystream

__all__ = ["Graph", "default_threshold", "edge_chance"]

_PARTS = (2, 4, 8, 16, 32, 64, 128)  # sizes of the smallest honest part that the bound is tried with


def default_threshold(n: int) -> int:
    """The least threshold that withstands a lying server with fewer than n/3 partners: floor(2n/3) + 1.

    Two sets of that many of n partners have more than n/3 in common, so at least one honest partner, and that one
    signs one list of survivors only (ePrint 2017/281, section 6.2).
    """
    return 2 * n // 3 + 1


class Graph:
    """The graph of one session, and how many holders rebuild a partner's secrets in it.

    Args:
        n: size of the cohort.
        threshold: of the round.
        edges: the chance of an edge, in 256ths.
        session: hash of the round and of all its keys.
        present: positions of the partners that gave keys.
    """

    def __init__(self, n: int, *, threshold: int, edges: int, session: Digest, present: Collection[int]) -> None:
        self._n, self._threshold, self._edges = n, threshold, edges
        self._present = np.zeros(n, dtype=bool)
        self._present[list(present)] = True
        pairs = n * (n - 1) // 2 if edges < EDGE_UNIT else 0
        # Not a secret: every party draws the same graph.
        self._coins = np.frombuffer(keystream(derive(Secret(session), label("graph")), pairs), dtype=np.uint8)

    def neighbours(self, i: int) -> list[int]:
        """Positions of those present that share masks with the partner at position `i`, in rising order."""
        return [int(j) for j in np.flatnonzero(self._joined(i) & self._present)]

    def needed(self, i: int) -> int:
        """How many of `i`'s holders, its neighbours and itself, rebuild a secret of `i`.

        In a sparse graph it follows from the neighbours in the whole cohort, present or not: a server that leaves
        honest partners out must not make its colluders weigh more.
        """
        if self._edges == EDGE_UNIT:
            return self._threshold
        over, under = HOLDERS_SHARE
        return over * (int(self._joined(i).sum()) + 1) // under + 1

    def _joined(self, i: int) -> NDArray[np.bool_]:
        sparse = self._edges < EDGE_UNIT
        joined: NDArray[np.bool_] = self._row(i) < self._edges if sparse else np.ones(self._n, dtype=bool)
        joined[i] = False
        return joined

    def _row(self, i: int) -> NDArray[np.uint8]:
        """The coins of `i` with everyone; pair (a, b) with a < b is coin number a (2n - a - 1) / 2 + b - a - 1."""
        other = np.arange(self._n)
        a, b = np.minimum(other, i), np.maximum(other, i)
        number = a * (2 * self._n - a - 1) // 2 + b - a - 1
        number[i] = 0  # no pair; the caller leaves it out
        coins: NDArray[np.uint8] = self._coins[number]
        return coins


@lru_cache(maxsize=64)
def edge_chance(n: int, *, threshold: int) -> int:
    """The least chance of an edge, in 256ths, with which a sparse graph protects as much as the complete one.

    256, the complete graph, for up to 64 partners, or where the threshold is under `default_threshold`.

    Guarantee: let fewer than n/3 partners collude with a server that names the drop-outs down to the threshold after
    it has seen the graph, and that may try 2^48 graphs (`GRIND_BITS`). Then, but for a chance of 2^-40: (1) no honest
    partner has enough colluding holders to rebuild a secret of its own; (2) the honest survivors are in one piece,
    but for a few who never signed, so the server learns one sum, of all in that piece (spec, theorem). Both are union
    bounds over binomial degrees: `_exposed`, `_split`.
    """
    if n <= DENSE or threshold < default_threshold(n):
        return EDGE_UNIT
    low, high = 1, EDGE_UNIT
    while low < high:
        middle = (low + high) // 2
        low, high = (low, middle) if _holds(n, threshold, middle / EDGE_UNIT) else (middle + 1, high)
    return low


def _holds(n: int, threshold: int, chance: float) -> bool:
    budget = 2.0 ** -(FAILURE_BITS + GRIND_BITS)
    return any(_exposed(n, chance, part) + _split(n, threshold, chance, part) <= budget for part in _PARTS)


def _exposed(n: int, chance: float, part: int) -> float:
    """Bounds the chance that some honest partner is left with fewer than `part` honest holders, itself among them.

    With C colluding and H honest neighbours, d = 1 + C + H holders and floor(9 d / 16) + 1 of them needed, that is
    C + part > needed, or 16 (C + part - 1) > 9 d; part = 1 is the colluders rebuilding a secret alone.
    """
    colluding = (n - 1) // COLLUDERS
    honest = n - colluding
    over, under = HOLDERS_SHARE
    at_least = np.cumsum(np.exp(_binomial(colluding, chance))[::-1])[::-1]
    h = np.arange(honest)
    c = np.maximum((over * (1 + h) - under * (part - 1)) // (under - over) + 1, 0)
    tail = np.where(c <= colluding, at_least[np.minimum(c, colluding)], 0.0)
    return float(honest * (np.exp(_binomial(honest - 1, chance)) * tail).sum())


def _split(n: int, threshold: int, chance: float, part: int) -> float:
    """Bounds the chance that some two sets of honest partners, `part` each at least, have no edge between them.

    They are the honest survivors, at least threshold less colluders; each has at least `part` members, since every
    survivor that signs insists on enough live holders (see `_exposed`), and a seed takes as many to rebuild.
    """
    colluding = (n - 1) // COLLUDERS
    honest = n - colluding
    logs = np.concatenate(([0.0], np.cumsum(np.log(np.arange(1, honest + 1)))))
    total = 0.0
    for a in range(part, honest // 2 + 1):
        b = np.arange(max(a, threshold - colluding - a), honest - a + 1)
        ways = logs[honest] - logs[a] - logs[b] - logs[honest - a - b]
        total += float(np.exp(np.minimum(ways + a * b * np.log1p(-chance), 0.0)).sum())
    return total


def _binomial(trials: int, chance: float) -> NDArray[np.float64]:
    """Logarithms of the binomial chances of 0 to `trials`."""
    logs = np.concatenate(([0.0], np.cumsum(np.log(np.arange(1, trials + 1)))))
    k = np.arange(trials + 1)
    return np.asarray(logs[trials] - logs[k] - logs[trials - k] + k * np.log(chance) + (trials - k) * np.log1p(-chance))
