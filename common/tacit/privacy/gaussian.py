"""Draws of the discrete Gaussian: integers x with chances in proportion to exp(-x^2 / 2 sigma^2).

The law is that of Canonne, Kamath and Steinke 2020 (arXiv:2004.00010v5, Definition 1), whose sampler draws one number
at a time from coins. Here many are drawn at once by rejection (von Neumann 1951): a table of rectangles proposes, and
a second random word decides. Floating point decides only where its error can not matter; eighty digits do the rest.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from decimal import Decimal, localcontext
from functools import lru_cache

import numpy as np
from numpy.typing import NDArray

from tacit.errors import BadInput
from tacit.privacy.randomness import Stream

__all__ = ["LARGEST", "SMALLEST", "discrete_gaussian"]

SMALLEST, LARGEST = 0.3, 2.0**50
"""The range of sigma."""

_CELL_BITS = 13
_CELLS = 1 << _CELL_BITS
_REACH = 4  # sigmas that the table covers; what is beyond is the tail
_WIDER = 4  # the tail's blocks are 2^4 times as wide as the table's
_SIGN = 63  # the bit of a word; cell and offset take bits 0 to 12 and 13 to 61
_COIN_BITS = 53
_DOUBTFUL = 2.0**-32
_MORE_BITS = 128
_DIGITS = 80
_ATTEMPTS = 1 << 14  # at a time: what they need stays in the processor's cache


def discrete_gaussian(stream: Stream, n: int, *, sigma: float) -> NDArray[np.int64]:
    """`n` independent draws.

    Args:
        stream: where all randomness comes from.
        n: 0 or more.
        sigma: any float from 0.3 to 2^50, taken as the rational number that it is. The standard deviation is this
            number to six digits from 1 on and to all of a float's digits from 2 on; below 1 it is less.

    Returns:
        int64 `[n]`; every one less than 31 sigma + 1000 in size.

    Raises:
        BadInput: sigma outside of that range, or not a number; a negative `n`.

    Guarantee: the law of each draw is within 2^-180 of the discrete Gaussian in total variation, and draws are
    independent, where the stream's words are uniform. Let f(x) = exp(-x^2 / 2 sigma^2).

    - What is proposed: a cell of 2^13 gives a block b of w = 2^m integers from bw on, W_b cells of them, and an offset,
      uniform; the last block's cells stand for the tail from T >= 4 sigma on, where 16w integers from T + 16wj on are
      chosen with chance 2^-(j+1). A bit gives the sign; minus zero is turned away.
    - What is accepted: x of block b with chance f(x) A / W_b, x of the tail with f(x) A 2^(j+1) 16 / W_tail. So every
      x but zero has the chance f(x) A / 2^(14 + m) in a round of proposals, and so has zero: f's proportions exactly,
      whatever the rounding of W and A. Neither chance is above 1: W_b >= f(bw) A, f falls, and from one block of the
      tail to the next by more than a half, as 16w > sigma / 4 and exp(-T 16w / sigma^2) <= exp(-1).
    - What is left out: j of 53 and more, which is beyond 17 sigma: less than 2 exp(-17^2 / 2) < 2^-206 of the mass.
    - How it is decided: U, uniform in [0, 1), is below the chance p or not. 53 bits of U are compared with p in
      float64. The argument of the exponential is off by at most 5 * 2^-53 of itself, and at most 400 where p is above
      2^-500, so p is off by less than 2^-40, even were `np.exp` wrong by a thousand units in the last place; where U
      and p are further than 2^-32 apart the decision is certain. Else it is taken with 80 digits of p and 192 bits of
      U, and wrong with chance below 2^-188. At least four in ten proposals are accepted.
    """
    if not SMALLEST <= sigma <= LARGEST:
        raise BadInput(f"expected a sigma from {SMALLEST} to 2^50, found {sigma}", hint="choose another scale")
    if n < 0:
        raise BadInput(f"expected 0 draws or more, found {n}", hint="ask for as many as there are entries")
    return _draw(stream, n, table=_table(float(sigma), _DOUBTFUL))


@dataclass(frozen=True, eq=False)
class _Table:
    """The proposals for one sigma.

    Attributes:
        sigma: of the Gaussian.
        doubtful: distance between U and p within which floating point is not trusted.
        shift: m; blocks are 2^m wide.
        tail: number of the block that stands for the tail; one more stands for cells that are always turned away.
        blocks: int16 `[2^13]`, the block of each cell.
        weights: int64 `[tail + 2]`, cells of each block.
        scale: A.
        ratios: float64 `[tail + 2]`, A / W.
        sure: uint64 `[tail + 2]`, words below it are accepted at any offset of the block.
    """

    sigma: float
    doubtful: float
    shift: int
    tail: int
    blocks: NDArray[np.int16]
    weights: NDArray[np.int64]
    scale: int
    ratios: NDArray[np.float64]
    sure: NDArray[np.uint64]


@lru_cache(maxsize=32)
def _table(sigma: float, doubtful: float) -> _Table:
    shift = max(0, math.frexp(sigma)[1] - 6)  # floor(log2(sigma / 32))
    width = 2.0**shift
    tail = math.ceil(_REACH * sigma / width)
    heights = np.exp(-0.5 * np.square(np.arange(tail + 1) * width / sigma))  # at each block's start, and the tail's
    masses = np.append(heights[:-1], heights[-1] * 2 * 2**_WIDER)
    scale = int((_CELLS - 2 * len(masses)) / masses.sum())
    weights = np.floor(masses * scale * (1 + 1e-9)).astype(np.int64) + 1  # above mass * scale, whatever was rounded
    weights = np.append(weights, _CELLS - weights.sum())
    ratios = np.append(scale / weights[:-1], 0.0)
    sure = np.append(heights[1:] * ratios[:tail], [0.0, 0.0]) - 2 * doubtful
    sure[0] = 0.0  # minus zero has to be found there
    return _Table(
        sigma=sigma,
        doubtful=doubtful,
        shift=shift,
        tail=tail,
        blocks=np.repeat(np.arange(tail + 2, dtype=np.int16), weights),
        weights=weights,
        scale=scale,
        ratios=ratios,
        sure=(np.maximum(sure, 0.0) * 2.0**64).astype(np.uint64),
    )


def _draw(stream: Stream, n: int, *, table: _Table) -> NDArray[np.int64]:
    drawn = np.empty(n, dtype=np.int64)
    done = 0
    while done < n:
        count = min(_ATTEMPTS, (n - done) * 9 // 8 + 16)
        found = _attempt(stream, count, table=table)[: n - done]
        drawn[done : done + len(found)] = found
        done += len(found)
    return drawn


def _attempt(stream: Stream, count: int, *, table: _Table) -> NDArray[np.int64]:
    """What is accepted of `count` proposals, in order."""
    words = stream.words(2 * count)
    places, heights = words[:count], words[count:]
    blocks = table.blocks[places & np.uint64(_CELLS - 1)]
    values = _offsets(places, bits=table.shift)
    values += blocks.astype(np.int64) << table.shift
    accepted = heights < table.sure[blocks]
    unsure = np.flatnonzero(~accepted)
    if len(unsure):
        values[unsure], accepted[unsure] = _decide(
            stream, places[unsure], heights[unsure], values[unsure], blocks[unsure], table=table
        )
    signs = places.view(np.int64) >> _SIGN  # 0 or -1
    values ^= signs
    values -= signs
    found: NDArray[np.int64] = values[accepted]
    return found


def _offsets(places: NDArray[np.uint64], *, bits: int) -> NDArray[np.int64]:
    offsets = places >> np.uint64(_CELL_BITS)
    offsets &= np.uint64((1 << bits) - 1)
    return offsets.view(np.int64)


def _decide(
    stream: Stream,
    places: NDArray[np.uint64],
    heights: NDArray[np.uint64],
    values: NDArray[np.int64],
    blocks: NDArray[np.int16],
    *,
    table: _Table,
) -> tuple[NDArray[np.int64], NDArray[np.bool_]]:
    """Sizes of the proposals, those of the tail now drawn, and which of them are accepted."""
    lifts = np.zeros(len(places), dtype=np.int32)  # powers of two by which p is raised in the tail
    tail = np.flatnonzero(blocks == table.tail)
    if len(tail):
        coins = (stream.words(len(tail)) >> np.uint64(64 - _COIN_BITS)).astype(np.float64)
        zeros = _COIN_BITS - np.frexp(coins)[1]  # leading zeros: j
        values[tail] = (table.tail << table.shift) + (zeros.astype(np.int64) << (table.shift + _WIDER))
        values[tail] += _offsets(places[tail], bits=table.shift + _WIDER)
        lifts[tail] = zeros + 1 + _WIDER
        blocks[tail[zeros == _COIN_BITS]] += 1  # never a one: turned away
    chances = np.ldexp(np.exp(-0.5 * np.square(values / table.sigma)) * table.ratios[blocks], lifts)
    margins = chances - (heights >> np.uint64(11)) * 2.0**-53
    accepted = margins > 0
    for i in np.flatnonzero(np.abs(margins) <= table.doubtful):
        more = int.from_bytes(stream.words(_MORE_BITS // 64).tobytes(), "big")
        height = int(heights[i]) << _MORE_BITS | more
        accepted[i] = _below(height, int(values[i]), int(blocks[i]), int(lifts[i]), table=table)
    accepted &= (values != 0) | (places >> np.uint64(_SIGN) == 0)
    return values, accepted


def _below(height: int, value: int, block: int, lift: int, *, table: _Table) -> bool:
    """Whether U = height / 2^192 is below the chance of `value`, by numbers of 80 digits."""
    if block > table.tail:
        return False
    with localcontext() as context:
        context.prec = _DIGITS
        exponent = -(Decimal(value) ** 2) / (2 * Decimal(table.sigma) ** 2)
        chance = exponent.exp() * table.scale * 2**lift / int(table.weights[block])
        return bool(Decimal(height) < chance * 2 ** (64 + _MORE_BITS))
