"""What Flower 1.41's SecAgg+ costs one client and the server, with Flower's own functions, stage by stage.

What other nodes would have sent is made outside the measured calls, with Flower's own cryptography. The measured calls
hold what a SuperNode and SecAggPlusWorkflow do between two messages; nothing is scaled up to what was not run.
"""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass

import numpy as np
from flwr.common.secure_aggregation.crypto.shamir import combine_shares, create_shares
from flwr.common.secure_aggregation.crypto.symmetric_encryption import encrypt, generate_shared_key
from flwr.common.secure_aggregation.secaggplus_utils import share_keys_plaintext_concat
from flwr.supercore.primitives.asymmetric import (
    bytes_to_public_key,
    generate_key_pairs,
    private_key_to_bytes,
    public_key_to_bytes,
)

from tacit.errors import BadInput
from tacit_sim.rivals.flower import Keys, Node, Terms, Vector, held
from tacit_sim.rivals.workflow import mean_of, remove_pairs, remove_seed

__all__ = ["Part", "Stage", "client_round", "server_unmask"]

_CLIENT = 1


@dataclass(frozen=True)
class Stage:
    """One stage of a client's round: call `work` once, under any measure, before asking for the next stage."""

    name: str
    work: Callable[[], object]


@dataclass(frozen=True)
class Part:
    """Measured seconds of one part of the server's unmasking.

    Args:
        name: of the part.
        seconds: for the `measured` items.
        measured: items that were run.
        whole: items that the round has; equal to `measured` unless the caller set a limit.
    """

    name: str
    seconds: float
    measured: int
    whole: int


def client_round(vector: Vector, *, cohort: int, threshold: int | None = None) -> Iterator[Stage]:
    """The stages of one client's round among `cohort` nodes: setup, share, mask (with quantisation), unmask.

    Args:
        vector: the update, floats of shape (d,).
        cohort: nodes whose keys the client is sent, itself included: all of a round, or its neighbours.
        threshold: shares that rebuild a secret; floor(2 cohort / 3) + 1 where left out.

    Raises:
        BadInput: fewer than two nodes.
    """
    _check(cohort)
    terms = Terms(cohort=cohort, threshold=threshold or _threshold(cohort))
    node = Node(_CLIENT, held(vector))
    numbers = range(_CLIENT + 1, cohort + 1)
    keys: dict[int, Keys] = {}
    sealed: dict[int, bytes] = {}
    model = np.zeros(1)
    yield Stage("setup", lambda: keys.update({_CLIENT: node.setup(terms)}))
    pairs = {number: generate_key_pairs() for number in numbers}
    masks = {number: public_key_to_bytes(generate_key_pairs()[1]) for number in numbers}
    told = {number: Keys(mask=masks[number], seal=public_key_to_bytes(pairs[number][1])) for number in numbers}
    yield Stage("share", lambda: node.share({**keys, **told}))
    client = bytes_to_public_key(keys[_CLIENT].seal)
    # A share's length does not depend on the threshold, and a low one makes them quickly.
    seeds = create_shares(os.urandom(32), 2, cohort)
    secrets = create_shares(private_key_to_bytes(generate_key_pairs()[0]), 2, cohort)
    for number, (private, _) in pairs.items():
        plain = share_keys_plaintext_concat(number, _CLIENT, seeds[number - 1], secrets[number - 1])
        sealed[number] = encrypt(generate_shared_key(private, client), plain)
    yield Stage("mask", lambda: node.mask(sealed, model=model))
    yield Stage("unmask", lambda: node.unmask(active=[_CLIENT, *numbers], dead=[]))


def server_unmask(
    *, cohort: int, length: int, dropped: int, neighbours: int | None = None, most: int | None = None
) -> tuple[Part, ...]:
    """The server's work once it has the shares: rebuild every secret, take off every mask, read the mean.

    As SecAggPlusWorkflow does, every share that came is used, and a dead node's masks are taken off for all its
    neighbours, the dead among them too.

    Args:
        cohort: nodes in the round.
        length: entries of the vector.
        dropped: nodes lost after they sent their shares.
        neighbours: of each node in the graph; all others where left out.
        most: items of each part to run at most; all where left out. A limited part says so, see `Part`.

    Raises:
        BadInput: fewer than two nodes, or numbers that do not fit the cohort.
    """
    _check(cohort)
    around = cohort - 1 if neighbours is None else neighbours
    if not 0 <= dropped < cohort - 1 or not 1 <= around < cohort:
        raise BadInput(
            f"expected fewer lost nodes and neighbours than the {cohort} nodes, found {dropped} and {around}",
            hint="lower them",
        )
    terms = Terms(cohort=cohort, threshold=2)
    # Each owner's shares come from the living part of its neighbourhood.
    answers = max(2, round((around + 1) * (cohort - dropped) / cohort))
    seed, secret = os.urandom(32), private_key_to_bytes(generate_key_pairs()[0])
    seed_shares, secret_shares = create_shares(seed, 2, answers), create_shares(secret, 2, answers)
    peer = public_key_to_bytes(generate_key_pairs()[1])
    rng = np.random.default_rng(0)
    total = [rng.integers(0, terms.modulus, shape) for shape in (1, length)]

    def pair() -> None:
        remove_pairs(total, secret, owner=2, peers={1: peer}, terms=terms, sign=-1)

    def run(name: str, work: Callable[[], object], whole: int) -> Part:
        return _timed(name, work, whole=whole, most=most)

    return (
        run("seeds rebuilt", lambda: combine_shares(seed_shares), cohort - dropped),
        run("mask keys rebuilt", lambda: combine_shares(secret_shares), dropped),
        run("private masks", lambda: remove_seed(total, seed, terms=terms), cohort - dropped),
        run("pairwise masks", pair, dropped * around),
        run("mean", lambda: mean_of(total, terms, count=cohort - dropped), 1),
    )


def _timed(name: str, work: Callable[[], object], *, whole: int, most: int | None) -> Part:
    measured = whole if most is None else min(most, whole)
    started = time.perf_counter()
    for _ in range(measured):
        work()
    return Part(name, time.perf_counter() - started, measured, whole)


def _threshold(cohort: int) -> int:
    return 2 * cohort // 3 + 1


def _check(cohort: int) -> None:
    if cohort < 2:
        raise BadInput(f"expected a cohort of 2 nodes or more, found {cohort}", hint="raise it")
