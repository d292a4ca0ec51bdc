"""The whole protocol in memory, in the order in which it happens: the text of the specification as code."""

from __future__ import annotations

from collections.abc import Callable, Mapping

from tacit.secagg import client, server
from tacit.secagg.abort import Stage
from tacit.secagg.keys import Digest
from tacit.secagg.messages import MaskedVector
from tacit.secagg.round import Party, Round

__all__ = ["aggregate"]


def aggregate(
    new: Round,
    parties: Mapping[int, Party],
    vectors: Mapping[int, MaskedVector],
    *,
    request: Digest,
    random: Callable[[int], bytes],
    vanish: Mapping[int, Stage] | None = None,
) -> server.Sum:
    """The sum of `vectors`, which are masked in place, of those who do not vanish before stage `mask` is answered.

    Args:
        parties: by position in the cohort.
        vanish: who vanishes, and before answering in which stage.

    Raises:
        Abort: a check failed, or fewer than the threshold are left.
    """
    order = list(Stage)
    leaves = {i: order.index(stage) for i, stage in (vanish or {}).items()}

    def here(stage: Stage) -> list[int]:
        return [i for i in parties if leaves.get(i, len(order)) > order.index(stage)]

    advertised = {i: client.advertise(new, parties[i], random=random) for i in here(Stage.ADVERTISE)}
    admitted, roster = server.admit(new, {i: data for i, (_, data) in advertised.items()})

    shared = {i: client.share(advertised[i][0], roster, random=random) for i in here(Stage.SHARE)}
    gathering, inboxes = server.route(admitted, {i: data for i, (_, data) in shared.items()}, request=request)

    masked = {}
    for i in here(Stage.MASK):
        masked[i] = client.mask(client.open_shares(shared[i][0], inboxes[i]), vectors[i], request=request)
        server.gather(gathering, i, vectors[i], masked[i][1])
    listed, survivors = server.listing(gathering)

    agreed = {i: client.approve(masked[i][0], survivors) for i in here(Stage.AGREE)}
    confirmed, quorum = server.confirm(listed, {i: data for i, (_, data) in agreed.items()})

    reveals = {i: client.unmask(agreed[i][0], quorum) for i in here(Stage.UNMASK) if i in agreed}
    return server.finish(confirmed, {i: data for i, (_, data) in reveals.items()})
