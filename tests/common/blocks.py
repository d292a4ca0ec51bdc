"""A block with fixed keys, opened honestly and driven step by step."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from typing import Any

from cohort import Coins, make_parties, make_vectors

from tacit.secagg import block, client, server
from tacit.secagg.abort import Stage
from tacit.secagg.keys import Digest, digest
from tacit.secagg.messages import MaskedVector
from tacit.secagg.round import Round

__all__ = ["BlockDrive", "request_of", "vectors_of"]


def request_of(number: int) -> Digest:
    """What everybody was asked in a step."""
    return digest(f"what everybody was asked in step {number}".encode())


def vectors_of(new: Round, number: int) -> dict[int, MaskedVector]:
    """The plain vectors of a step."""
    return make_vectors(new, seed=number)


class BlockDrive:
    """A block that is open; each step is asked for on its own.

    Args:
        absent: who gives no keys.
        silent: who gives keys and shares nothing.
    """

    def __init__(
        self,
        new: Round,
        *,
        steps: int,
        absent: Collection[int] = (),
        silent: Collection[int] = (),
        coins: str = "coins",
    ) -> None:
        self.round, self.steps = new, steps
        self.parties, self.random = make_parties(new), Coins(coins)
        here = [i for i in self.parties if i not in absent]
        found = {i: block.advertise(new, self.parties[i], steps=steps, random=self.random) for i in here}
        self.advertised = {i: state for i, (state, _) in found.items()}
        self.adverts = {i: data for i, (_, data) in found.items()}
        self.admitted, self.roster = block.admit(new, self.adverts, steps=steps)
        shared = {i: block.share(self.advertised[i], self.roster, random=self.random) for i in here if i not in silent}
        self.shared = {i: state for i, (state, _) in shared.items()}
        self.envelopes = {i: data for i, (_, data) in shared.items()}
        self.routed, self.inboxes = block.route(self.admitted, self.envelopes)
        self.blocks: dict[int, Any] = {i: block.open_shares(self.shared[i], self.inboxes[i]) for i in self.shared}

    def masked(
        self, number: int, who: Collection[int] | None = None, *, request: Digest | None = None
    ) -> tuple[dict[int, Any], dict[int, bytes], server.Gathering]:
        """States, presences and the server's sum after the vectors of a step."""
        asked = request or request_of(number)
        gathering = block.begin(self.routed, number, request=asked)
        vectors, states, presences = vectors_of(self.round, number), {}, {}
        for i in self.blocks if who is None else who:
            self.blocks[i], opened = block.step(self.blocks[i], number)
            states[i], presences[i] = client.mask(opened, vectors[i], request=asked)
            server.gather(gathering, i, vectors[i], presences[i])
        return states, presences, gathering

    def step(self, number: int, gone: Mapping[int, Stage] | None = None) -> server.Sum:
        """The sum of one step, where some vanish before answering in a stage. Raises Abort where too few are left."""
        order = list(Stage)
        leaves = {i: order.index(stage) for i, stage in (gone or {}).items()}

        def here(stage: Stage) -> list[int]:
            return [i for i in self.blocks if leaves.get(i, len(order)) > order.index(stage)]

        states, _, gathering = self.masked(number, here(Stage.MASK))
        ended = block.complete(gathering)
        if ended is None:
            listed, survivors = server.listing(gathering)
            agreed = {i: client.approve(states[i], survivors) for i in here(Stage.AGREE)}
            states = {i: state for i, (state, _) in agreed.items()}
            confirmed, message = server.confirm(listed, {i: data for i, (_, data) in agreed.items()})
        else:
            confirmed, message = ended
        answering = [i for i in here(Stage.UNMASK) if i in states]
        return server.finish(confirmed, {i: client.unmask(states[i], message)[1] for i in answering})
