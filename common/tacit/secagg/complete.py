"""The short end of a step in which nobody dropped out: shares of the seeds, without a list agreed on before.

For steps of a block alone, where the graph is complete: `spec/secagg.md`, "A block of steps", has the argument.
"""

from __future__ import annotations

from tacit.secagg.abort import Abort, Reason, Stage
from tacit.secagg.checks import check_state
from tacit.secagg.messages import Complete, Reveal, decode, encode
from tacit.secagg.states import Done, Masked

__all__ = ["reveal"]


def reveal(state: object, data: bytes) -> tuple[Done, bytes]:
    """Stage 4 of a step that all of U2 answered (a `Complete`): a share of every seed; gives a `Reveal`.

    Raises:
        Abort: a state out of order; a round that is no step of a block; a message of another step.

    Guarantee: no share of a mask key is ever given here, and whoever signed a list of survivors gives nothing: from
    `Masked` a step goes on to `client.approve` or here, never both.
    """
    stage = Stage.UNMASK
    masked = check_state(state, Masked, stage)
    if not masked.step:
        raise Abort(stage, Reason.ORDER, "expected a step of a block, found a round of its own")
    if decode(Complete, data, context=masked.round.context).session != masked.session:
        raise Abort(stage, Reason.OTHER_ROUND, "expected a message of this step, found one of another")
    seeds = tuple((owner, seed) for owner, (seed, _) in sorted(masked.held.items()))
    return Done(), encode(Reveal(masked.me, seeds), context=masked.round.context)
