"""The server's side of Flower 1.41's SecAgg+: what its workflow does between its messages.

Source: flwr 1.41.0, `flwr.server.workflow.SecAggPlusWorkflow`, stage by stage, from the same functions of
`flwr.common.secure_aggregation` in the same order. Its neighbour graph is complete here (`num_shares=1.0`).
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from flwr.common.secure_aggregation.crypto.shamir import combine_shares
from flwr.common.secure_aggregation.crypto.symmetric_encryption import generate_shared_key
from flwr.common.secure_aggregation.ndarrays_arithmetic import (
    factor_extract,
    get_parameters_shape,
    parameters_addition,
    parameters_mod,
    parameters_subtraction,
)
from flwr.common.secure_aggregation.quantization import dequantize
from flwr.common.secure_aggregation.secaggplus_utils import pseudo_rand_gen
from flwr.supercore.primitives.asymmetric import bytes_to_private_key, bytes_to_public_key
from numpy.typing import NDArray

from tacit.errors import JobFailed
from tacit_sim.rivals.flower import Keys, Masked, Node, Terms

__all__ = [
    "Transcript",
    "add_up",
    "advertise",
    "collect",
    "deal",
    "deliver",
    "gather",
    "mean_of",
    "pair_mask",
    "play",
    "remove_pairs",
    "remove_seed",
    "unmask",
]

Arrays = list[NDArray[np.int64]]
Nodes = Mapping[int, Node]
Shares = Mapping[int, Sequence[bytes]]


@dataclass(frozen=True)
class Transcript:
    """An honest round as its server saw it; `mean` is float64 of shape (d,)."""

    keys: Mapping[int, Keys]
    sealed: Mapping[int, Mapping[int, bytes]]
    masked: Mapping[int, Masked]
    shares: Shares
    mean: NDArray[np.float64]


def play(
    nodes: Nodes,
    terms: Terms,
    *,
    lost: Collection[int] = (),
    model: NDArray[np.float64] | None = None,
) -> Transcript:
    """An honest round. The nodes in `lost` send their shares and then nothing more.

    Raises:
        JobFailed: fewer shares than the threshold.
        ValueError: Flower's own, where a node refuses.
    """
    keys = advertise(nodes, terms)
    sealed = deal(nodes, keys)
    active = [number for number in nodes if number not in lost]
    masked = collect({number: nodes[number] for number in active}, sealed, model=model)
    dead = [number for number in nodes if number in lost]
    shares = gather([nodes[number].unmask(active=active, dead=dead) for number in active])
    total = add_up(masked.values(), terms)
    mean = mean_of(unmask(total, shares, active=active, keys=keys, terms=terms), terms, count=len(active))
    return Transcript(keys=keys, sealed=sealed, masked=masked, shares=shares, mean=mean)


def advertise(nodes: Nodes, terms: Terms) -> dict[int, Keys]:
    """Stage 0 with every node."""
    return {number: node.setup(terms) for number, node in nodes.items()}


def deal(nodes: Nodes, keys: Mapping[int, Keys]) -> dict[int, dict[int, bytes]]:
    """Stage 1 with every node: sealed shares by sender and receiver."""
    return {number: node.share(keys) for number, node in nodes.items()}


def deliver(sealed: Mapping[int, Mapping[int, bytes]], *, receiver: int) -> dict[int, bytes]:
    """What `receiver` is sent at stage 2: sealed shares by sender."""
    return {sender: shares[receiver] for sender, shares in sealed.items() if receiver in shares}


def collect(
    nodes: Nodes, sealed: Mapping[int, Mapping[int, bytes]], *, model: NDArray[np.float64] | None = None
) -> dict[int, Masked]:
    """Stage 2 with every node in `nodes`."""
    sent = np.zeros(1) if model is None else model
    return {number: node.mask(deliver(sealed, receiver=number), model=sent) for number, node in nodes.items()}


def gather(answers: Iterable[Sequence[tuple[int, bytes]]]) -> dict[int, list[bytes]]:
    """Shares by owner, of all `answers` of stage 3."""
    shares: dict[int, list[bytes]] = {}
    for answer in answers:
        for owner, share in answer:
            shares.setdefault(owner, []).append(share)
    return shares


def add_up(masked: Iterable[Masked], terms: Terms) -> Arrays:
    """Sum of the masked vectors in the ring, as the workflow forms it: no length is checked."""
    first, *others = [vector.arrays for vector in masked]
    for arrays in others:
        first = parameters_addition(first, arrays)
    return parameters_mod(first, terms.modulus)


def unmask(total: Arrays, shares: Shares, *, active: Collection[int], keys: Mapping[int, Keys], terms: Terms) -> Arrays:
    """Take off `total` the seed's mask of each node in `active` and the pairwise masks of every other.

    Raises:
        JobFailed: a node of the round with fewer shares than the threshold.
    """
    for owner in keys:
        found = shares.get(owner, ())
        if len(found) < terms.threshold:
            raise JobFailed(
                f"expected {terms.threshold} shares of node {owner}, found {len(found)}", hint="run the round again"
            )
        secret = combine_shares(list(found))
        if owner in active:
            total = remove_seed(total, secret, terms=terms)
        else:
            others = {number: pair.mask for number, pair in keys.items() if number != owner}
            # A dead node sent no vector: what stands in the sum is its peers' half, of the other sign.
            total = remove_pairs(total, secret, owner=owner, peers=others, terms=terms, sign=-1)
    return parameters_mod(total, terms.modulus)


def remove_seed(total: Arrays, seed: bytes, *, terms: Terms) -> Arrays:
    """Take a node's private mask off `total`."""
    return parameters_subtraction(total, pseudo_rand_gen(seed, terms.modulus, get_parameters_shape(total)))


def remove_pairs(
    total: Arrays, secret: bytes, *, owner: int, peers: Mapping[int, bytes], terms: Terms, sign: int = 1
) -> Arrays:
    """Take off `total` the masks that `owner`, of private key `secret`, shares with `peers` (public keys by node).

    Args:
        sign: 1 for the masks in the vector of `owner`, -1 for their counterparts in the vectors of `peers`.
    """
    for peer, public in peers.items():
        mask = pair_mask(secret, public, shapes=get_parameters_shape(total), terms=terms)
        added = (owner > peer) == (sign > 0)
        total = parameters_subtraction(total, mask) if added else parameters_addition(total, mask)
    return total


def pair_mask(secret: bytes, public: bytes, *, shapes: list[tuple[int, ...]], terms: Terms) -> Arrays:
    """The mask that two nodes share, from the private key of one and the public key of the other."""
    key = generate_shared_key(bytes_to_private_key(secret), bytes_to_public_key(public))
    return pseudo_rand_gen(key, terms.modulus, shapes)


def mean_of(total: Arrays, terms: Terms, *, count: int) -> NDArray[np.float64]:
    """Weighted mean of `count` updates from their unmasked sum in the ring."""
    weight, arrays = factor_extract(parameters_mod(total, terms.modulus))
    (vector,) = dequantize(arrays, terms.clipping_range, terms.target_range)
    mean: NDArray[np.float64] = (vector - (count - 1) * terms.clipping_range) * (terms.target_range / weight)
    return mean
