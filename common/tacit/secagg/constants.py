"""Every number of the protocol, with its source."""

from __future__ import annotations

__all__ = [
    "COLLUDERS",
    "DENSE",
    "DIGEST",
    "EDGE_UNIT",
    "FAILURE_BITS",
    "FIELD",
    "GRIND_BITS",
    "HOLDERS_SHARE",
    "KEY",
    "PRIME",
    "SEALED",
    "SHARE",
    "SIGNATURE",
    "TAG",
    "VERSION",
]

VERSION = 1
"""Of the protocol; in every label and message."""

PRIME = 2**256 + 297
"""The smallest prime above 2^256, so that every 32-byte secret is an element of the field (tests prove it prime)."""

FIELD = 2**255 - 19
"""Of X25519 (RFC 7748, section 4.1): a public key is a number below it."""

KEY = 32
"""Bytes of an X25519 or Ed25519 key (RFC 7748, RFC 8032), of an AES-256 key, of a self-mask seed."""

SHARE = 33
"""Bytes of a share: an element of the field needs 257 bits."""

TAG = 16
"""Bytes that AES-GCM adds (NIST SP 800-38D)."""

SEALED = 2 * SHARE + TAG
"""Bytes of an envelope: a share of `b`, a share of the mask key, the tag."""

SIGNATURE = 64
"""Bytes of an Ed25519 signature."""

DIGEST = 32
"""Bytes of a SHA-256 hash."""

DENSE = 64
"""Up to this many partners everyone shares masks with everyone."""

COLLUDERS = 3
"""Fewer than 1/3 of a cohort may collude with the server (ePrint 2017/281, section 6.2)."""

HOLDERS_SHARE = (9, 16)
"""In a sparse graph more than 9/16 of a partner's holders rebuild its secrets: between the third that may collude
and the two thirds that survive the most drop-outs, nearer to the latter."""

EDGE_UNIT = 256
"""The chance of an edge counts in 256ths: one byte of keystream decides a pair."""

FAILURE_BITS = 40
"""A sparse graph fails to protect somebody with a chance of at most 2^-40 a round."""

GRIND_BITS = 48
"""Graphs that a server and its colluders may try a round before they settle: they choose their keys last. One try
costs two microseconds at least (a hash and a row of keystream), so 2^48 keep 900,000 cores busy for the ten minutes
after which a partner has forgotten the round."""
