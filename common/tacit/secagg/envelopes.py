"""Shares sealed by one partner for another, and the X25519 secret of two partners."""

from __future__ import annotations

from tacit.secagg.abort import Abort, Reason, Stage
from tacit.secagg.bindings import share_address
from tacit.secagg.keys import Digest, Exchange, PublicKey, Secret, derive, open_sealed, seal

__all__ = ["agree_with", "open_shared", "seal_shared"]


def agree_with(mine: Exchange, peer: PublicKey, *, name: str, stage: Stage) -> Secret:
    """The secret with the peer of that name. Raises Abort where its key gives none."""
    try:
        return mine.agree(peer)
    except ValueError:
        found = f"expected a key of {name} that gives a secret, found one that does not"
        raise Abort(stage, Reason.KEY, found) from None


def seal_shared(
    plain: Secret, *, mine: Exchange, peer: PublicKey, name: str, session: Digest, sender: int, receiver: int
) -> bytes:
    """Shares for one neighbour, in one envelope a session. Raises Abort: a key of `peer` that gives no secret."""
    address = share_address(session, sender=sender, receiver=receiver)
    key = derive(agree_with(mine, peer, name=name, stage=Stage.SHARE), address)
    return seal(key, plain, bound=address)


def open_shared(
    sealed: bytes, *, mine: Exchange, peer: PublicKey, name: str, session: Digest, sender: int, receiver: int
) -> Secret:
    """What `seal_shared` sealed at the neighbour. Raises Abort where it does not open."""
    address = share_address(session, sender=sender, receiver=receiver)
    key = derive(agree_with(mine, peer, name=name, stage=Stage.MASK), address)
    plain = open_sealed(key, sealed, bound=address)
    if plain is None:
        raise Abort(Stage.MASK, Reason.SHARE, f"expected a share from {name} that opens, found one that does not")
    return plain
