"""Messages that nobody sent: keys, presences and agreements signed anew."""

from __future__ import annotations

from play import Play, Tape

from tacit.secagg.abort import Stage
from tacit.secagg.bindings import advert_text, agreement_text, presence_text
from tacit.secagg.constants import KEY
from tacit.secagg.keys import Digest, PublicKey, Secret, sign
from tacit.secagg.messages import Advert, Agreement, Presence

__all__ = ["ATTACKER", "FIVE", "NOBODY", "agreement", "presence", "respelled", "signed"]

FIVE = "protocol-n5-majority"
ATTACKER = Secret(Tape("attacker")(32))
NOBODY = PublicKey(bytes(32))  # a point of small order


def signed(run: Play, i: int, *, key: Secret, share: PublicKey, mask: PublicKey) -> Advert:
    """Keys of position `i`, signed with `key`."""
    text = advert_text(run.round, sender=i, share_key=share, mask_key=mask)
    return Advert(i, share, mask, sign(key, text))


def respelled(key: PublicKey) -> PublicKey:
    """The same key to RFC 7748, which ignores the top bit, in other bytes."""
    return PublicKey(key[: KEY - 1] + bytes([key[-1] | 0x80]))


def presence(run: Play, i: int, *, present: tuple[int, ...], request: Digest | None = None) -> Presence:
    """What position `i` signs where it was shown other partners, or asked something else."""
    session = run.servers[Stage.SHARE].session
    text = presence_text(run.round, session=session, request=request or run.request, present=present)
    return Presence(i, sign(run.parties[i].key, text))


def agreement(
    run: Play, i: int, *, survivors: tuple[int, ...] = (0, 1, 2, 3), request: Digest | None = None
) -> Agreement:
    """What position `i` signs of other survivors, or asked something else."""
    session = run.servers[Stage.SHARE].session
    text = agreement_text(run.round, session=session, request=request or run.request, survivors=survivors)
    return Agreement(i, sign(run.parties[i].key, text))
