"""Masks: AES-256 in counter mode, added to a vector block by block."""

from __future__ import annotations

from typing import Any

import numpy as np
from cryptography.hazmat.primitives.ciphers import Cipher, algorithms, modes
from numpy.typing import NDArray

from tacit.secagg.keys import Secret

__all__ = ["add_mask", "keystream"]

_BLOCK = 1 << 17  # bytes made at a time: they and the part of the vector that they meet stay in a core's cache
_ZEROS = bytes(_BLOCK)
_START = bytes(16)


def keystream(key: Secret, size: int) -> bytes:
    """The first `size` bytes of the mask of `key`."""
    return Cipher(algorithms.AES256(key), modes.CTR(_START)).encryptor().update(bytes(size))


def add_mask(vector: NDArray[Any], key: Secret, *, sign: int) -> None:
    """Add the mask of `key` to `vector` in place, or take it off, modulo 2^32 or 2^64.

    Args:
        vector: uint32 or uint64 `[d]`, contiguous.
        key: used for this vector and never again.
        sign: 1 or -1.

    Guarantee: entries are whole little-endian words of keystream, so a mask is uniform over the whole ring, top value
    included; to whoever lacks the key the sum is as random as AES-256.
    """
    if not len(vector):
        return
    # The counter starts at zero: every key is made for one session, pair and channel, so no block is used twice.
    cipher = Cipher(algorithms.AES256(key), modes.CTR(_START)).encryptor()
    add = np.add if sign == 1 else np.subtract
    block = bytearray(min(_BLOCK, vector.nbytes))
    words = np.frombuffer(block, dtype=vector.dtype.newbyteorder("<"))
    for start in range(0, len(vector), len(words)):
        part = vector[start : start + len(words)]
        cipher.update_into(memoryview(_ZEROS)[: part.nbytes], block)
        add(part, words[: len(part)], out=part)
