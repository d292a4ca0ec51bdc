"""Which 32 bytes may be somebody's Ed25519 key (RFC 8032, section 5.1).

Under a key of small order a signature made by nobody verifies: OpenSSL, like most libraries, checks an equation that
such a key satisfies for one message in eight or for every one. Whoever enrolled with it would have signed everything.
"""

from __future__ import annotations

from tacit.errors import BadInput
from tacit.secagg.constants import FIELD, KEY
from tacit.secagg.keys import PublicKey

__all__ = ["check_identity"]

_SIGN = 1 << 255  # the sign of x, beside y
_EIGHTH = 0x05FC536D880238B13933C6D305ACDFD5F098EFF289F4C345B027B2C28F95E826
"""The smaller y of the points of order 8; a test finds it anew."""

_SMALL = {0, 1, FIELD - 1, _EIGHTH, FIELD - _EIGHTH}
"""y of the points of order 4, 1, 2 and 8."""


def check_identity(key: bytes, *, whose: str) -> PublicKey:
    """`key` as the identity of `whose`, who may be a partner or the server.

    Guarantee: none of the eight points of small order passes, in none of their fourteen spellings, nor does any
    other number that stands for a smaller one, so that a key has one spelling.

    Raises:
        BadInput: another length, or such a key.
    """
    if len(key) != KEY:
        raise BadInput(
            f"expected an identity key of {KEY} bytes for {whose}, found {len(key)}", hint=f"let {whose} join anew"
        )
    y = int.from_bytes(key, "little") % _SIGN
    if y >= FIELD or y in _SMALL:
        raise BadInput(
            f"expected an identity key under which only its owner can sign for {whose}, found one of small order",
            hint=f"tell the server's operator: no software of ours makes such a key for {whose}",
        )
    return PublicKey(bytes(key))
