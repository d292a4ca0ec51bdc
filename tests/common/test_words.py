"""Fingerprints as words: the same 128 bits as in hexadecimal digits."""

from __future__ import annotations

import hashlib

from hypothesis import given
from hypothesis import strategies as st
from mnemonic import Mnemonic

from tacit.link.enrolment import fingerprint
from tacit.link.words import words
from tacit.secagg.keys import PublicKey


@given(st.binary(min_size=32, max_size=32))
def test_words_and_digits_say_the_same(key):
    found = words(PublicKey(key)).split(" ")
    assert len(found) == 12
    entropy = bytes(Mnemonic("english").to_entropy(found))  # checks the checksum
    assert entropy == bytes.fromhex(fingerprint(PublicKey(key)).replace(" ", ""))


def test_by_hand():
    """BIP-39 without the package's encoder: 132 bits in groups of eleven."""
    key = bytes(range(32))
    entropy = hashlib.sha256(key).digest()[:16]
    bits = f"{int.from_bytes(entropy):0128b}" + f"{hashlib.sha256(entropy).digest()[0]:08b}"[:4]
    listed = Mnemonic("english").wordlist
    assert len({word[:4] for word in listed}) == len(listed) == 2048
    assert words(PublicKey(key)) == " ".join(listed[int(bits[i : i + 11], 2)] for i in range(0, 132, 11))
