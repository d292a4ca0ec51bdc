"""Attacks on the masks of Flower's SecAgg+: their generator, their seeds, their ring, and what is sent beside them.

Source: flwr 1.41.0, `pseudo_rand_gen`: the words of a seed are xored to 32 bits, which start numpy's Mersenne twister
(Matsumoto and Nishimura 1998); entries are drawn from 0 to the ring's size less two. A pairwise seed is base64 text, so
that the top bit of every byte is 0 and at most 2^28 seeds are left, few enough to try each.
"""

from __future__ import annotations

import numpy as np
from flwr.common.secure_aggregation.crypto.symmetric_encryption import generate_shared_key
from flwr.common.secure_aggregation.ndarrays_arithmetic import parameters_mod
from flwr.common.secure_aggregation.secaggplus_utils import pseudo_rand_gen
from flwr.server.workflow import SecAggPlusWorkflow
from flwr.supercore.primitives.asymmetric import bytes_to_private_key, bytes_to_public_key, generate_key_pairs
from numpy.typing import NDArray

from tacit_sim.rivals.flower import Terms
from tacit_sim.rivals.victim import EXAMPLES, LENGTH, VICTIM, Obtained, cohort, obtained, rebuilt, updates
from tacit_sim.rivals.workflow import advertise, collect, deal, mean_of, play, remove_seed

__all__ = ["PAIR_SEEDS", "known_plaintext", "mask_seed", "search"]

PAIR_SEEDS = 1 << 28
_WINDOW = 1 << 18
_BLOCK = 1 << 14
_TERMS = Terms(cohort=2, threshold=2)


def mask_seed() -> Obtained:
    """What the generator gives away, and the ring in which it hides nothing: of two elements, every mask is 0."""
    one = np.random.default_rng(5).bytes(32)
    other = one[4:] + one[:4]
    alike = one != other and np.array_equal(_mask(one, 1 << 32), _mask(other, 1 << 32))
    topless = int(_mask(one, 4, length=4096).max()) == 2
    bits = int(np.bitwise_or.reduce([_folded(_pairwise_seed()) for _ in range(64)])).bit_count()
    right, asked = _signs()
    what = (
        f"at a ring of 2 no mask: {right} of {asked} signs of 5 nodes' updates read before any unmasking; "
        f"two seeds, one mask; pairwise seeds of {bits} bits; a ring's top value never drawn"
    )
    return Obtained("mask-seed", alike and topless and bits <= 28 and right == asked, what)


def known_plaintext(*, every: bool = False) -> Obtained:
    """The weight is sent in the clear and is also the first masked entry: it shows the mask's first number.

    The server and the round are honest. Of two honest nodes, whatever others the server brings, one pairwise seed is
    unknown: each seed is tried against that number.

    Args:
        every: try all 2^28, about a minute of one core. Otherwise 2^18 of them, in a fraction of a second: those
            around the right one, which is looked up in the node.
    """
    truth = updates([1, VICTIM])
    nodes = cohort(truth)
    seen = play(nodes, _TERMS)
    masked = seen.masked[VICTIM]
    left = remove_seed(masked.arrays, rebuilt(seen.shares[VICTIM]), terms=_TERMS)
    first = int(left[0][0] - round(masked.examples / _TERMS.max_weight * _TERMS.target_range)) % _TERMS.modulus
    start, count = (0, PAIR_SEEDS) if every else (_near(nodes[VICTIM].mask_secret, seen.keys[1].mask), _WINDOW)
    fits = [found for seed in search(first, start=start, count=count) if (found := _opened(left, seed)) is not None]
    told = f"weight {masked.examples} and loss {float(masked.metrics['loss']):.2f} in clear"
    how = f"{told}, then its pairwise seed found among {count:,} tried of 2^28; honest server, round of 2"
    return obtained("known-plaintext", mean_of(fits[0], _TERMS, count=1), truth[VICTIM], how=how, terms=_TERMS)


def search(first: int, *, start: int = 0, count: int = PAIR_SEEDS) -> list[int]:
    """Seeds of 32 bits, of those a pairwise mask can have, whose mask in a ring of 2^32 begins with `first`.

    Args:
        start: first seed to try, of 2^28.
        count: number of seeds to try.
    """
    found: list[int] = []
    for begin in range(start, min(start + count, PAIR_SEEDS), _BLOCK):
        seeds = _unpacked(np.arange(begin, min(begin + _BLOCK, start + count), dtype=np.uint32))
        found.extend(seeds[_first_numbers(seeds) == first].tolist())
    return found


def _near(secret: bytes, public: bytes) -> int:
    """Where the part of the seeds begins that holds the seed of this pair of keys."""
    seed = generate_shared_key(bytes_to_private_key(secret), bytes_to_public_key(public))
    return _packed(_folded(seed)) // _WINDOW * _WINDOW


def _first_numbers(seeds: NDArray[np.uint32]) -> NDArray[np.uint32]:
    """First number of the twister at each seed, uint32 of the same shape: it takes its words 0, 1 and 397."""
    second = word = _next_word(seeds, 1)
    for place in range(2, 398):
        word = _next_word(word, place)
    mixed = (seeds & np.uint32(0x80000000)) | (second & np.uint32(0x7FFFFFFF))
    value: NDArray[np.uint32] = word ^ (mixed >> np.uint32(1)) ^ ((mixed & np.uint32(1)) * np.uint32(0x9908B0DF))
    value ^= value >> np.uint32(11)
    value ^= (value << np.uint32(7)) & np.uint32(0x9D2C5680)
    value ^= (value << np.uint32(15)) & np.uint32(0xEFC60000)
    value ^= value >> np.uint32(18)
    return value


def _next_word(word: NDArray[np.uint32], place: int) -> NDArray[np.uint32]:
    after = word >> np.uint32(30)
    after ^= word
    after *= np.uint32(1812433253)
    after += np.uint32(place)
    return after


def _opened(left: list[NDArray[np.int64]], seed: int) -> list[NDArray[np.int64]] | None:
    """`left` without the mask of `seed`, if every entry is then one that a single update can have."""
    arrays = parameters_mod(remove_seed(left, seed.to_bytes(4, "little"), terms=_TERMS), _TERMS.modulus)
    return arrays if all(int(array.max()) <= _TERMS.target_range for array in arrays) else None


def _signs() -> tuple[int, int]:
    """Signs read right, of all signs of five updates, in a ring of two that Flower's own server takes too."""
    terms = Terms(cohort=5, threshold=4, clipping_range=1e-9, target_range=1, modulus=2, max_weight=float(EXAMPLES))
    SecAggPlusWorkflow(1.0, 0.8, max_weight=EXAMPLES, clipping_range=1e-9, quantization_range=1, modulus_range=2)
    truth = updates(range(1, 6))
    nodes = cohort(truth)
    masked = collect(nodes, deal(nodes, advertise(nodes, terms)))
    right = [np.count_nonzero((masked[n].arrays[1] == 1) == (vector > 0)) for n, vector in truth.items()]
    return int(sum(right)), LENGTH * len(truth)


def _mask(seed: bytes, ring: int, *, length: int = 64) -> NDArray[np.int64]:
    (mask,) = pseudo_rand_gen(seed, ring, [(length,)])
    return mask


def _pairwise_seed() -> bytes:
    (private, _), (_, public) = generate_key_pairs(), generate_key_pairs()
    return generate_shared_key(private, public)


def _folded(seed: bytes) -> int:
    """The 32 bits that Flower makes of a seed."""
    return int(np.bitwise_xor.reduce(np.frombuffer(seed, dtype="<u4")))


def _packed(seed: int) -> int:
    """The place among the 2^28 of a seed whose bytes have no top bit."""
    return sum((seed >> 8 * byte & 0x7F) << 7 * byte for byte in range(4))


def _unpacked(places: NDArray[np.uint32]) -> NDArray[np.uint32]:
    seeds = np.zeros_like(places)
    for byte in range(4):
        seeds |= (places >> np.uint32(7 * byte) & np.uint32(0x7F)) << np.uint32(8 * byte)
    return seeds
