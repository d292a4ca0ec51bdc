"""Attacks by a server that changes lists, order and shares: what Flower's nodes are asked for, they answer.

There is no consistency round (Bonawitz et al. 2017, ePrint 2017/281, section 6), so no node learns what the server told
the others, and one request may name a node among the living and the dead.
"""

from __future__ import annotations

from dataclasses import replace
from functools import partial
from itertools import product

import numpy as np

from tacit_sim.rivals.flower import Keys, Node, Terms, held
from tacit_sim.rivals.victim import (
    EXAMPLES,
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
    unmask,
)

__all__ = [
    "both_shares",
    "different_survivors",
    "out_of_order",
    "second_unmask",
    "short_list",
    "tampered_share",
    "wrong_length",
]

_TERMS = Terms(cohort=5, threshold=4)
_FIVE = range(1, 6)
_NOTHING = np.zeros(1)


def both_shares() -> Obtained:
    """Each node is asked, in one message, for its shares of the victim's seed and of its mask key."""
    truth = updates(_FIVE)
    nodes = cohort(truth)
    keys = advertise(nodes, _TERMS)
    masked = collect(nodes, deal(nodes, keys))
    answers = [node.unmask(active=list(nodes), dead=[VICTIM]) for node in nodes.values()]
    halves = [[share for owner, share in answer if owner == VICTIM] for answer in answers]
    found = stripped(
        masked[VICTIM],
        seed=rebuilt(seed for seed, _ in halves),
        secret=rebuilt(secret for _, secret in halves),
        peers={number: pair.mask for number, pair in keys.items() if number != VICTIM},
        terms=_TERMS,
    )
    how = f"all {len(halves)} nodes gave both shares in one answer"
    return obtained("both-shares", found, truth[VICTIM], how=how, terms=_TERMS)


def different_survivors() -> Obtained:
    """Half of the nodes hear that the victim lives, half that it died; each half alone reaches the threshold."""
    truth = updates(range(1, 7))
    nodes = cohort(truth)
    terms = Terms(cohort=6, threshold=3)
    keys = advertise(nodes, terms)
    masked = collect(nodes, deal(nodes, keys))
    others = [number for number in nodes if number != VICTIM]
    alive = gather([nodes[number].unmask(active=list(nodes), dead=[]) for number in (1, 2, VICTIM)])
    gone = gather([nodes[number].unmask(active=others, dead=[VICTIM]) for number in (4, 5, 6)])
    found = stripped(
        masked[VICTIM],
        seed=rebuilt(alive[VICTIM]),
        secret=rebuilt(gone[VICTIM]),
        peers={number: keys[number].mask for number in others},
        terms=terms,
    )
    how = "3 nodes told it survived, 3 that it died, threshold 3 of 6 of the server's choosing"
    return obtained("different-survivors", found, truth[VICTIM], how=how, terms=terms)


def short_list() -> Obtained:
    """A list that names the victim four times passes for four survivors: the sum of one is unmasked."""
    truth = updates(_FIVE)
    nodes = cohort(truth)
    keys = advertise(nodes, _TERMS)
    masked = collect(nodes, deal(nodes, keys))
    others = [number for number in nodes if number != VICTIM]
    refused = refusal(lambda: nodes[1].unmask(active=[VICTIM], dead=others))
    survivors = [VICTIM] * _TERMS.threshold
    shares = gather([node.unmask(active=survivors, dead=others) for node in nodes.values()])
    once = {owner: sorted(set(found)) for owner, found in shares.items()}
    total = unmask(masked[VICTIM].arrays, once, active=[VICTIM], keys=keys, terms=_TERMS)
    found = mean_of(total, _TERMS, count=1)
    how = f"named {len(survivors)} times as survivor, every other as dead; named once is refused ({refused})"
    return obtained("short-list", found, truth[VICTIM], how=how, terms=_TERMS)


def second_unmask() -> Obtained:
    """A finished round is unmasked again with one survivor fewer. Flower's order of stages refuses it."""
    nodes = cohort(updates(_FIVE))
    play(nodes, _TERMS)
    others = [number for number in nodes if number != VICTIM]
    said = {refusal(partial(node.unmask, active=others, dead=[VICTIM])) for node in nodes.values()}
    return Obtained("second-unmask", False, f"refused by all {len(nodes)} nodes: {'; '.join(sorted(said))}")


def out_of_order() -> Obtained:
    """Setup is obeyed in the middle of a round, any number of times: the same updates under two cohorts, one apart."""
    obeyed, refused = _orders()
    truth = updates(_FIVE)
    nodes = cohort(truth)
    collect(nodes, deal(nodes, advertise(nodes, _TERMS)))
    whole = play(nodes, _TERMS)  # every node was waiting for the unmasking
    rest = {number: node for number, node in nodes.items() if number != VICTIM}
    collect(nodes, deal(nodes, advertise(nodes, _TERMS)))
    part = play(rest, replace(_TERMS, cohort=4))
    found = whole.mean * len(nodes) - part.mean * len(rest)
    how = f"two sums after restarts in mid-round; setup obeyed {obeyed} of 3 times, the rest refused {refused} of 9"
    return obtained("out-of-order", found, truth[VICTIM], how=how, terms=replace(_TERMS, cohort=9))


def tampered_share() -> Obtained:
    """One node's share of one seed, altered in its first block, makes another mean and no error."""
    truth = updates(_FIVE)
    nodes = cohort(truth)
    keys = advertise(nodes, _TERMS)
    sealed = deal(nodes, keys)
    inbox = deliver(sealed, receiver=1)
    altered = {**inbox, 2: inbox[2][:40] + bytes([inbox[2][40] ^ 1]) + inbox[2][41:]}
    crossed = {**inbox, 2: sealed[2][VICTIM]}
    refused = [refusal(partial(nodes[1].mask, box, model=_NOTHING)) for box in (altered, crossed)]
    masked = collect(nodes, sealed)
    shares = gather([node.unmask(active=list(nodes), dead=[]) for node in nodes.values()])
    share = shares[VICTIM][0]
    shares[VICTIM][0] = share[:4] + bytes([share[4] ^ 1]) + share[5:]
    total = unmask(add_up(masked.values(), _TERMS), shares, active=list(nodes), keys=keys, terms=_TERMS)
    off = float(np.abs(mean_of(total, _TERMS, count=5) - np.mean(list(truth.values()), axis=0)).max())
    what = f"mean off by up to {off:.0f} with no error, by one bit of one share at stage 3; sealed shares are safe"
    return Obtained("tampered-share", off > 1.0, f"{what} (altered, crossed: {', '.join(refused)})")


def wrong_length() -> Obtained:
    """One node masks a vector of one entry; the sum spreads it over all, and no one notices."""
    truth = updates(_FIVE)
    nodes = {**cohort(truth), 5: Node(5, held(truth[5][:1]), examples=EXAMPLES)}
    mean = play(nodes, _TERMS).mean
    off = float(np.abs(mean - np.mean(list(truth.values()), axis=0)).max())
    what = f"mean of {len(mean)} entries off by up to {off:.0f} with no error, by a node that sent 1 entry"
    return Obtained("wrong-length", off > 1.0 and len(mean) == len(truth[1]), what)


def _orders() -> tuple[int, int]:
    """Messages out of turn, of all (messages had, message sent): setups obeyed of 3, others refused of 9."""
    obeyed = refused = 0
    for had, sent in product(range(4), repeat=2):
        (node,) = cohort(updates([1])).values()
        keys: dict[int, Keys] = {}
        for stage in range(had):
            keys = _send(node, stage, keys)
        if sent == 0:
            obeyed += had != 0 and bool(_send(node, 0, keys))
        elif sent != had:
            refused += "Abort secure aggregation" in refusal(partial(_send, node, sent, keys))
    return obeyed, refused


def _send(node: Node, stage: int, keys: dict[int, Keys]) -> dict[int, Keys]:
    """One stage of a round of one node."""
    match stage:
        case 0:
            return {node.number: node.setup(Terms(cohort=1, threshold=1))}
        case 1:
            node.share(keys)
        case 2:
            node.mask({}, model=_NOTHING)
        case _:
            node.unmask(active=[node.number], dead=[])
    return keys
