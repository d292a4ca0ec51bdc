"""An identity key in twelve words, for two people on a telephone.

The English words of BIP-39 (2013): 2048 that no two share their first four letters, so that a word misheard is a word
missed. Twelve of them hold 128 bits and four of a checksum.
"""

from __future__ import annotations

from mnemonic import Mnemonic

from tacit.secagg.keys import PublicKey, digest

__all__ = ["words"]

_BYTES = 16


def words(identity: PublicKey) -> str:
    """The same 128 bits as `tacit.link.enrolment.fingerprint` has: the first of the key's SHA-256, in twelve words."""
    return str(Mnemonic("english").to_mnemonic(digest(identity)[:_BYTES]))
