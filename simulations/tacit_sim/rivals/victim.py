"""What the attacks on Flower's SecAgg+ share: a cohort, its victim, and the record of what an attacker got."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass

import numpy as np
from flwr.common.secure_aggregation.crypto.shamir import combine_shares
from numpy.typing import NDArray

from tacit.errors import JobFailed
from tacit_sim.rivals.flower import Masked, Node, Terms, held
from tacit_sim.rivals.workflow import mean_of, remove_pairs, remove_seed

__all__ = [
    "EXAMPLES",
    "LENGTH",
    "VICTIM",
    "Obtained",
    "cohort",
    "obtained",
    "rebuilt",
    "refusal",
    "stripped",
    "updates",
]

VICTIM = 3
LENGTH = 256
EXAMPLES = 1000
_SEED = 20_241


@dataclass(frozen=True)
class Obtained:
    """The outcome of one attack.

    Args:
        attack: its name.
        succeeded: the attacker reached the attack's aim.
        what: what it got, with measured numbers, or what refused it.
    """

    attack: str
    succeeded: bool
    what: str


def obtained(
    attack: str, found: NDArray[np.float64], truth: NDArray[np.float64], *, how: str, terms: Terms
) -> Obtained:
    """The record of an attack that claims the victim's update: a success if exact but for Flower's own rounding."""
    error = float(np.abs(found - truth).max())
    what = f"node {VICTIM}'s update, exact to {error:.1e}: {how}"
    return Obtained(attack, error <= terms.cohort * terms.step, what)


def updates(numbers: Iterable[int]) -> dict[int, NDArray[np.float64]]:
    """A fixed update of shape (256,), normal of deviation 0.5, for each node."""
    return {number: np.random.default_rng([_SEED, number]).normal(0.0, 0.5, LENGTH) for number in numbers}


def cohort(vectors: Mapping[int, NDArray[np.float64]]) -> dict[int, Node]:
    """Honest nodes that hold `vectors`."""
    return {number: Node(number, held(vector), examples=EXAMPLES) for number, vector in vectors.items()}


def stripped(
    masked: Masked, *, seed: bytes, terms: Terms, secret: bytes | None = None, peers: Mapping[int, bytes] | None = None
) -> NDArray[np.float64]:
    """The victim's update out of its masked vector.

    Args:
        seed: of its private mask.
        secret: the private key of its pairwise masks, where any are left.
        peers: the public keys of its pairwise masks, by node, as the victim was told them.
    """
    left = remove_seed(masked.arrays, seed, terms=terms)
    if secret is not None:
        left = remove_pairs(left, secret, owner=VICTIM, peers=peers or {}, terms=terms)
    return mean_of(left, terms, count=1)


def rebuilt(shares: Iterable[bytes]) -> bytes:
    """The secret of these shares, each counted once."""
    return combine_shares(sorted(set(shares)))


def refusal(call: Callable[[], object]) -> str:
    """The name and words of what `call` raises.

    Raises:
        JobFailed: it raised nothing.
    """
    # Flower lets through whatever its libraries raise; a future holds it without naming each.
    with ThreadPoolExecutor(max_workers=1) as pool:
        error = pool.submit(call).exception()
    if error is None:
        raise JobFailed("expected Flower to refuse, found an answer", hint="install flwr 1.41")
    return f"{type(error).__name__}: {error}".rstrip(": ")
