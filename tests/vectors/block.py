"""A block of two steps as JSON: four partners; in the second step one of them sends no vector."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
from play import SEED, Tape, clone, make_round, words

from tacit.secagg import block, client, server
from tacit.secagg.keys import digest
from tacit.secagg.messages import MaskedVector

__all__ = ["block_document"]

STEPS = 2
ABSENT = {1: (), 2: (3,)}


def block_document(about: str, round_document: Any) -> dict[str, Any]:
    """The block, with everything that was said in it.

    Args:
        round_document: makes JSON of a `Round`.
    """
    new, parties = make_round("block", n=4, update=3, number=5)
    tapes = {i: Tape(f"block / random {i}") for i in parties}
    drawn: dict[int, dict[str, str]] = {i: {} for i in parties}
    begun = {i: block.advertise(new, party, steps=STEPS, random=tapes[i]) for i, party in parties.items()}
    for i, tape in tapes.items():
        drawn[i]["advertise"] = tape.cut()
    admitted, roster = block.admit(new, {i: data for i, (_, data) in begun.items()}, steps=STEPS)
    shared = {i: block.share(state, roster, random=tapes[i]) for i, (state, _) in begun.items()}
    for i, tape in tapes.items():
        drawn[i]["share"] = tape.cut()
    routed, inboxes = block.route(admitted, {i: data for i, (_, data) in shared.items()})
    blocks = {i: block.open_shares(state, inboxes[i]) for i, (state, _) in shared.items()}
    return {
        "about": about,
        "seed": SEED,
        "round": round_document(new),
        "session": admitted.session.hex(),
        "parties": {
            i: {"name": party.name, "identity_key": bytes(party.key).hex(), "random": drawn[i]}
            for i, party in parties.items()
        },
        "advertise": {"answered": {i: data.hex() for i, (_, data) in begun.items()}},
        "share": {"received": roster.hex(), "answered": {i: data.hex() for i, (_, data) in shared.items()}},
        "inboxes": {i: data.hex() for i, data in inboxes.items()},
        "steps": [_step(number, blocks, routed) for number in ABSENT],
    }


def _step(number: int, blocks: dict[int, block.Block], routed: block.Routed) -> dict[str, Any]:
    request = digest(f"{SEED} / request of step {number}".encode())
    gathering, states, answered = block.begin(routed, number, request=request), {}, {}
    plain = {i: _vector(number, i) for i in blocks if i not in ABSENT[number]}
    for i, vector in plain.items():
        blocks[i], opened = block.step(blocks[i], number)
        masked = clone(vector)
        states[i], presence = client.mask(opened, masked, request=request)
        answered[i] = {**words(masked), "presence": presence.hex()}
        server.gather(gathering, i, masked, presence)
    confirmed, end = _end(gathering, states)
    found = {i: client.unmask(state, bytes.fromhex(end["unmask"])) for i, state in states.items()}
    total = server.finish(confirmed, {i: data for i, (_, data) in found.items()})
    return {
        "request": request.hex(),
        "session": gathering.admitted.session.hex(),
        "vectors": {i: words(vector) for i, vector in plain.items()},
        "answered": answered,
        **end,
        "revealed": {i: data.hex() for i, (_, data) in found.items()},
        "sum": {"survivors": total.survivors, **words(total)},
    }


def _end(gathering: server.Gathering, states: dict[int, Any]) -> tuple[server.Confirmed, dict[str, Any]]:
    """What goes before the reveals: `Complete`, or a list and its quorum; `states` go on to what awaits it."""
    if (complete := block.complete(gathering)) is not None:
        return complete[0], {"unmask": complete[1].hex()}
    listed, survivors = server.listing(gathering)
    agreed = {i: client.approve(state, survivors) for i, state in states.items()}
    states.update({i: state for i, (state, _) in agreed.items()})
    said: Mapping[int, bytes] = {i: data for i, (_, data) in agreed.items()}
    confirmed, quorum = server.confirm(listed, said)
    agreements = {i: data.hex() for i, data in said.items()}
    return confirmed, {"agree": survivors.hex(), "agreed": agreements, "unmask": quorum.hex()}


def _vector(number: int, i: int) -> MaskedVector:
    tape = Tape(f"block / vector {number} {i}")
    update, counters = np.frombuffer(tape(12), dtype="<u4"), np.frombuffer(tape(24), dtype="<u8")
    return MaskedVector(update.astype(np.uint32), counters.astype(np.uint64))
