"""Attacks by a server that changes what nodes are told of keys, cohorts, rounds and jobs: Flower's SecAgg+ obeys.

No key is signed and nothing names a round, so a node can not tell its peers' keys from the server's (Bonawitz et al.
2017, ePrint 2017/281, section 6, adds the signatures that SecAgg+ as built here leaves out).
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace

import numpy as np
from flwr.common import Scalar
from flwr.common.secure_aggregation.crypto.symmetric_encryption import decrypt, encrypt, generate_shared_key
from flwr.common.secure_aggregation.secaggplus_utils import share_keys_plaintext_concat, share_keys_plaintext_separate
from flwr.supercore.primitives.asymmetric import bytes_to_public_key, generate_key_pairs, public_key_to_bytes
from numpy.typing import NDArray

from tacit_sim.rivals.flower import Keys, Node, Terms, Train, Vector, held
from tacit_sim.rivals.victim import (
    EXAMPLES,
    LENGTH,
    VICTIM,
    Obtained,
    cohort,
    obtained,
    rebuilt,
    refusal,
    stripped,
    updates,
)
from tacit_sim.rivals.workflow import (
    add_up,
    advertise,
    collect,
    deal,
    deliver,
    gather,
    mean_of,
    play,
    remove_pairs,
    remove_seed,
    unmask,
)

__all__ = [
    "changed_job",
    "missing_keys",
    "model_inconsistency",
    "repeated_key",
    "replay",
    "small_cohort",
    "strangers",
    "swapped_keys",
]

_TERMS = Terms(cohort=5, threshold=4)
_FIVE = range(1, 6)
_NOTHING = np.zeros(1)


def swapped_keys() -> Obtained:
    """The server puts its own sealing keys in its peers' place, opens the victim's shares and needs no one else."""
    truth = updates(_FIVE)
    nodes = cohort(truth)
    keys = advertise(nodes, _TERMS)
    pairs = {number: generate_key_pairs() for number in nodes if number != VICTIM}
    told = {n: Keys(mask=keys[n].mask, seal=public_key_to_bytes(public)) for n, (_, public) in pairs.items()}
    sealed = nodes[VICTIM].share({**told, VICTIM: keys[VICTIM]})
    seal = bytes_to_public_key(keys[VICTIM].seal)
    shared = {number: generate_shared_key(private, seal) for number, (private, _) in pairs.items()}
    opened = [share_keys_plaintext_separate(decrypt(shared[number], sealed[number])) for number in pairs]
    forged = {n: encrypt(key, share_keys_plaintext_concat(n, VICTIM, b"", b"")) for n, key in shared.items()}
    found = stripped(
        nodes[VICTIM].mask(forged, model=_NOTHING),
        seed=rebuilt(seed for _, _, seed, _ in opened),
        secret=rebuilt(secret for _, _, _, secret in opened),
        peers={number: keys[number].mask for number in pairs},
        terms=_TERMS,
    )
    how = f"{len(opened)} of its shares opened with the server's keys, before any unmasking"
    return obtained("swapped-keys", found, truth[VICTIM], how=how, terms=_TERMS)


def repeated_key() -> Obtained:
    """Each key below the victim's number repeats one above it: its pairwise masks cancel in its own vector.

    Flower compares keys as text; a line feed more makes the same key pass for another.
    """
    truth = updates(_FIVE)
    nodes = cohort(truth)
    keys = advertise(nodes, _TERMS)
    twins = {1: 4, 2: 5}
    plain = {**keys, 1: keys[4]}
    refused = refusal(lambda: nodes[VICTIM].share(plain))
    told = {**keys, **{low: replace(keys[low], mask=keys[high].mask + b"\n") for low, high in twins.items()}}
    sealed = {number: node.share(told if number == VICTIM else keys) for number, node in nodes.items()}
    masked = collect(nodes, sealed)
    shares = gather([node.unmask(active=list(nodes), dead=[]) for node in nodes.values()])
    found = stripped(masked[VICTIM], seed=rebuilt(shares[VICTIM]), terms=_TERMS)
    how = f"{2 * len(twins)} pairwise masks cancel under keys written twice; byte-equal keys are refused ({refused})"
    return obtained("repeated-key", found, truth[VICTIM], how=how, terms=_TERMS)


def missing_keys() -> Obtained:
    """The victim is told a threshold of one and no key but its own: no pairwise mask, and one share is the seed."""
    truth = updates([VICTIM])
    (node,) = cohort(truth).values()
    terms = Terms(cohort=1, threshold=1)
    keys = node.setup(terms)
    refused = refusal(lambda: node.share({}))
    node.share({VICTIM: keys})
    masked = node.mask({}, model=_NOTHING)
    ((_, share),) = node.unmask(active=[VICTIM], dead=[])
    found = stripped(masked, seed=rebuilt([share]), terms=terms)
    how = f"no peer and one share; only a list under the server's own threshold is refused ({refused})"
    return obtained("missing-keys", found, truth[VICTIM], how=how, terms=terms)


def replay() -> Obtained:
    """Mask keys of a round whose drop-outs gave them up honestly are told to the victim again in the next round."""
    truth = updates(range(1, 8))
    nodes = cohort(truth)
    dropped = [1, 2, 5, 6]
    old = play(nodes, Terms(cohort=7, threshold=3), lost=dropped)
    secrets = {number: rebuilt(old.shares[number]) for number in dropped}

    terms = Terms(cohort=5, threshold=3)
    later = {number: nodes[number] for number in [*dropped, VICTIM]}
    keys = advertise(later, terms)
    refused = refusal(lambda: later[VICTIM].share(old.keys))
    told = {**keys, **{number: replace(keys[number], mask=old.keys[number].mask) for number in dropped}}
    sealed = {number: node.share(told if number == VICTIM else keys) for number, node in later.items()}
    masked = collect(later, sealed)
    shares = gather([node.unmask(active=list(later), dead=[]) for node in later.values()])
    left = remove_seed(masked[VICTIM].arrays, rebuilt(shares[VICTIM]), terms=terms)
    for number, secret in secrets.items():
        left = remove_pairs(left, secret, owner=number, peers={VICTIM: keys[VICTIM].mask}, terms=terms, sign=-1)
    how = f"{len(dropped)} mask keys of an earlier round accepted again; a whole old message is refused ({refused})"
    return obtained("replay", mean_of(left, terms, count=1), truth[VICTIM], how=how, terms=terms)


def strangers() -> Obtained:
    """Four nodes of the server's own fill the round; no message of theirs differs from an honest one."""
    truth = updates(_FIVE)
    found = play(_with_strangers(truth[VICTIM], _FIVE), _TERMS).mean
    how = f"{len(_FIVE) - 1} of {len(_FIVE)} nodes were the server's, with no examples"
    return obtained("strangers", found, truth[VICTIM], how=how, terms=_TERMS)


def small_cohort() -> Obtained:
    """A round of two, one of them the server's: a node has no minimum of its own."""
    truth = updates([VICTIM])
    terms = Terms(cohort=2, threshold=2)
    found = play(_with_strangers(truth[VICTIM], [1, VICTIM]), terms).mean
    return obtained("small-cohort", found, truth[VICTIM], how="a round of 2, one of them the server's", terms=terms)


def changed_job() -> Obtained:
    """Numbers of the round told differently to each node, and the noise called off when the vectors are collected.

    A maximal weight of 1e30 rounds a peer's weight and update to nothing; only the victim is told the true one.
    """
    truth = updates(_FIVE)
    nodes = {n: Node(n, _noisy(truth[n], seed=n), examples=EXAMPLES) for n in _FIVE}
    idle = replace(_TERMS, max_weight=1e30)
    keys = {number: node.setup(_TERMS if number == VICTIM else idle) for number, node in nodes.items()}
    sealed = deal(nodes, keys)
    masked = {
        n: node.mask(deliver(sealed, receiver=n), model=_NOTHING, config={"noise": 0.0 if n == VICTIM else 1.0})
        for n, node in nodes.items()
    }
    active = list(nodes)
    shares = gather([node.unmask(active=active, dead=[]) for node in nodes.values()])
    total = unmask(add_up(masked.values(), _TERMS), shares, active=active, keys=keys, terms=_TERMS)
    found = mean_of(total, _TERMS, count=len(nodes))
    how = f"noise set from 1 to 0 at stage 2, {len(nodes) - 1} peers told a maximal weight of 1e30"
    return obtained("changed-job", found, truth[VICTIM], how=how, terms=_TERMS)


def model_inconsistency() -> Obtained:
    """Peers get a network whose units never fire, so what they return is what they were sent.

    Source: Pasquini, Francati and Ateniese 2022, arXiv:2111.07380. Every message of SecAgg+ itself is honest.
    """
    live, dead = _Network.live(), _Network.dead()
    nodes = {number: Node(number, _Network(number).train, examples=EXAMPLES) for number in _FIVE}
    truth = np.asarray(_Network(VICTIM).train(live, {}), dtype=np.float64)
    keys = advertise(nodes, _TERMS)
    sealed = deal(nodes, keys)
    masked = {
        number: node.mask(deliver(sealed, receiver=number), model=live if number == VICTIM else dead)
        for number, node in nodes.items()
    }
    active = list(nodes)
    shares = gather([node.unmask(active=active, dead=[]) for node in nodes.values()])
    total = unmask(add_up(masked.values(), _TERMS), shares, active=active, keys=keys, terms=_TERMS)
    peers = len(nodes) - 1
    found = mean_of(total, _TERMS, count=len(nodes)) * len(nodes) - peers * dead
    how = f"{peers} peers trained a network of dead units, in a round honest in all else"
    return obtained("model-inconsistency", found, truth, how=how, terms=_TERMS)


def _with_strangers(update: NDArray[np.float64], numbers: range | list[int]) -> dict[int, Node]:
    idle = held(np.zeros(LENGTH))
    nodes = {number: Node(number, idle, examples=0) for number in numbers}
    return {**nodes, VICTIM: Node(VICTIM, held(update), examples=EXAMPLES)}


def _noisy(update: NDArray[np.float64], *, seed: int) -> Train:
    def train(model: Vector, config: Mapping[str, Scalar]) -> Vector:
        noise = config["noise"]
        return update + float(noise) * np.random.default_rng(seed).normal(0.0, 1.0, LENGTH)

    return train


class _Network:
    """One hidden layer of rectified units on rows of the node's own, one step of gradient descent."""

    inputs, units = 8, 8

    def __init__(self, number: int) -> None:
        rng = np.random.default_rng([7, number])
        self._rows, self._targets = rng.normal(size=(20, self.inputs)), rng.normal(size=20)

    @classmethod
    def live(cls) -> NDArray[np.float64]:
        return np.random.default_rng(8).normal(0.0, 0.3, (cls.inputs + 2) * cls.units)

    @classmethod
    def dead(cls) -> NDArray[np.float64]:
        weights, bias = np.zeros(cls.inputs * cls.units), np.full(cls.units, -1.0)
        return np.concatenate([weights, bias, np.zeros(cls.units)])

    def train(self, model: Vector, config: Mapping[str, Scalar]) -> Vector:
        first, bias, last = np.split(model, [self.inputs * self.units, (self.inputs + 1) * self.units])
        before = self._rows @ first.reshape(self.inputs, self.units) + bias
        hidden = np.maximum(before, 0.0)
        error = (hidden @ last - self._targets) / len(self._targets)
        back = np.outer(error, last) * (before > 0)
        gradient = np.concatenate([(self._rows.T @ back).ravel(), back.sum(axis=0), hidden.T @ error])
        updated: Vector = model - 0.1 * gradient
        return updated
