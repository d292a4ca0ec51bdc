"""The signed roster: the server's word, for one federation, one version and exactly these partners."""

from __future__ import annotations

import hashlib
from dataclasses import replace
from datetime import timedelta

import pytest
from cryptography import x509
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PublicKey
from cryptography.hazmat.primitives.serialization import Encoding
from hypothesis import given
from hypothesis import strategies as st

from tacit.errors import BadInput
from tacit.link import link_pb2
from tacit.link.certificates import make_authority
from tacit.link.roster import SignedRoster, federation_of
from tacit.secagg.keys import PublicKey, Secret, Signature, identity_of

KEY = Secret(bytes(range(32)))
SERVER = identity_of(KEY)
HERE, ELSEWHERE = bytes(32), bytes([1]) * 32
A, B, C = (identity_of(Secret(bytes([i]) * 32)) for i in range(3))
NAMES = st.from_regex(r"[a-z0-9][a-z0-9-]{0,62}", fullmatch=True)


def _sign(peers, *, version=7, federation=HERE, key=KEY):
    return SignedRoster.sign(peers, version=version, federation=federation, key=key)


GOOD = _sign({"b": B, "a": A})


@given(st.dictionaries(NAMES, st.integers(0, 2**64), max_size=6), st.integers(1, 2**63 - 1))
def test_it_goes_over_the_link_as_it_was_made(numbers, version):
    peers = {name: identity_of(Secret(hashlib.sha256(name.encode()).digest())) for name in numbers}
    made = _sign(peers, version=version)
    found = SignedRoster.unpack(link_pb2.SignedRoster.FromString(made.pack().SerializeToString()))
    assert found == made
    assert found.pack() == made.pack()
    assert (found.version, dict(found.peers), list(found.peers)) == (version, peers, sorted(peers))
    found.check(server=SERVER, federation=HERE)


def test_what_is_signed_byte_by_byte():
    """The slow twin: another program could make the signature from this alone."""
    signed = b"tacit-roster" + bytes([1]) + HERE + (7).to_bytes(8, "big") + (2).to_bytes(4, "big")
    signed += (1).to_bytes(4, "big") + b"a" + A + (1).to_bytes(4, "big") + b"b" + B
    Ed25519PublicKey.from_public_bytes(SERVER).verify(GOOD.signature, signed)


def test_a_federation_is_its_certificate():
    authority = make_authority(name="a", lifetime=timedelta(days=1))[1]
    der = x509.load_pem_x509_certificate(authority).public_bytes(Encoding.DER)
    assert federation_of(authority) == hashlib.sha256(der).digest()
    with pytest.raises(BadInput):
        federation_of(b"none")


CHANGED = {
    "a later version": replace(GOOD, version=8),
    "an earlier version": replace(GOOD, version=6),
    "one fewer": replace(GOOD, peers={"a": A}),
    "one more": replace(GOOD, peers={"a": A, "b": B, "c": C}),
    "nobody": replace(GOOD, peers={}),
    "another key": replace(GOOD, peers={"a": A, "b": C}),
    "keys exchanged": replace(GOOD, peers={"a": B, "b": A}),
    "another name": replace(GOOD, peers={"a": A, "c": B}),
    "no signature": replace(GOOD, signature=Signature(bytes(64))),
    "another server's": _sign(GOOD.peers, key=Secret(bytes(32))),
    "another federation's": _sign(GOOD.peers, federation=ELSEWHERE),
}


@pytest.mark.parametrize("change", CHANGED)
def test_anything_else_is_not_the_server_s_word(change):
    GOOD.check(server=SERVER, federation=HERE)
    with pytest.raises(BadInput, match="found a wrong signature"):
        CHANGED[change].check(server=SERVER, federation=HERE)


@given(st.integers(0, 511))
def test_every_bit_of_the_signature_counts(bit):
    broken = bytearray(GOOD.signature)
    broken[bit // 8] ^= 1 << bit % 8
    with pytest.raises(BadInput, match="wrong signature"):
        replace(GOOD, signature=Signature(bytes(broken))).check(server=SERVER, federation=HERE)


def _message(*peers, version=7, signature=bytes(64)):
    return link_pb2.SignedRoster(
        version=version, peers=[link_pb2.Peer(name=name, identity=key) for name, key in peers], signature=signature
    )


NONE = {
    "expected every partner once, sorted by name": _message(("b", B), ("a", A)),
    "every partner once, sorted": _message(("a", A), ("a", B)),
    "found one twice": _message(("a", A), ("b", A)),
    "expected a partner's name": _message(("A b", A)),
    "of 32 bytes for a, found 31": _message(("a", A[1:])),
    "for a, found one of small order": _message(("a", (1).to_bytes(32, "little"))),
    "of version 1 or more, found 0": _message(("a", A), version=0),
    "found 9223372036854775808": _message(("a", A), version=2**63),
    "a signature of 64 bytes, found 63": _message(("a", A), signature=bytes(63)),
    "list of partners of version 1 or more": link_pb2.SignedRoster(),
}


@pytest.mark.parametrize("reason", NONE)
def test_what_is_no_roster(reason):
    with pytest.raises(BadInput, match=reason) as raised:
        SignedRoster.unpack(NONE[reason])
    assert raised.value.hint


def test_a_roster_does_not_change_under_the_hands_of_who_has_it():
    given = {"a": A}
    made = _sign(given)
    given["b"] = PublicKey(B)
    assert dict(made.peers) == {"a": A}
    with pytest.raises(TypeError):
        made.peers["b"] = B  # type: ignore[index]  # the point of the test
