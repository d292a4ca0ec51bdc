"""Examples cut in two: a held-out share for evaluation."""

from __future__ import annotations

import hashlib
import hmac

import numpy as np
from numpy.typing import NDArray

from tacit.errors import BadInput

__all__ = ["holdout", "kept", "stratified"]


def kept(n: int, *, share: float) -> int:
    """How many of `n` examples, or persons, are left to train on where `share` is held out: never none of some.

    Guarantee: of two counts the larger keeps at least as many.
    """
    return n - max(0, min(round(n * share), n - 1))


def holdout(n: int, *, share: float, key: bytes) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Which of `n` examples train and which are held out, the same at every call with the same key.

    Examples are ranked by HMAC-SHA-256 of their number under `key`; the first `share` of them, rounded, is held
    out, but never all. To keep the examples of one person together, split persons instead.

    Args:
        n: examples, at least 1.
        share: 0 to below 1.
        key: bytes that only the owner of the examples knows; not empty.

    Returns:
        (train, held out): int64, each ascending, disjoint, together 0..n-1.

    Raises:
        BadInput: no examples, a share out of range, or an empty key.

    Guarantee: depends on `n`, `share` and `key` alone, never on an example, so the choice reveals nothing about
    one; and an example that is held out in one round is in all.
    """
    _check_share(share)
    if n < 1:
        raise BadInput(f"expected at least 1 example, found {n}", hint="give the partner examples")
    if not key:
        raise BadInput("expected a key for the held-out share, found an empty one", hint="give at least one byte")
    ranked = sorted(range(n), key=lambda i: hmac.digest(key, i.to_bytes(8, "big"), hashlib.sha256))
    cut = n - kept(n, share=share)
    return _ascending(ranked[cut:]), _ascending(ranked[:cut])


def stratified(labels: NDArray[np.int64], *, share: float, seed: int) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """A random cut that takes the same share of every class.

    Args:
        labels: int64 `[n]`.
        share: 0 to below 1; of each class it is rounded, and one example at least stays.
        seed: of numpy's PCG64; for simulations and users' own experiments, not for secrets.

    Returns:
        (rest, cut): int64, each ascending, disjoint, together 0..n-1.

    Raises:
        BadInput: a share out of range.
    """
    _check_share(share)
    rng = np.random.default_rng(seed)
    cut: list[int] = []
    for label in np.unique(labels):
        members = rng.permutation(np.flatnonzero(labels == label))
        cut.extend(members[: min(round(len(members) * share), len(members) - 1)].tolist())
    return np.setdiff1d(np.arange(len(labels)), cut).astype(np.int64), _ascending(cut)


def _ascending(indices: list[int]) -> NDArray[np.int64]:
    return np.array(sorted(indices), dtype=np.int64)


def _check_share(share: float) -> None:
    if not 0 <= share < 1:
        raise BadInput(f"expected a share from 0 to below 1, found {share}", hint="give a share such as 0.1")
