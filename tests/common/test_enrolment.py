"""The proof of possession: one name, one request, one invitation, one identity, one purpose."""

from __future__ import annotations

import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PublicKey
from hypothesis import given
from hypothesis import strategies as st

from tacit.codec import Reader
from tacit.errors import BadInput
from tacit.link import enrolment
from tacit.link.enrolment import check, fingerprint, sign
from tacit.secagg.keys import PublicKey, Secret, digest, identity_of
from tacit.secagg.labels import USAGES, label

IDENTITY, OTHER = Secret(bytes(range(32))), Secret(bytes(32))
ABOUT = {"name": "hospital-a", "request": b"a request", "invitation": "ab" * 32}
NAMES = st.from_regex(r"[a-z0-9][a-z0-9-]{0,20}", fullmatch=True)
INVITATIONS = st.binary(min_size=32, max_size=32).map(bytes.hex)


@given(st.binary(min_size=32, max_size=32), NAMES, st.binary(max_size=50), INVITATIONS)
def test_a_proof_holds_for_what_it_was_made_for(seed, name, request, invitation):
    about = {"name": name, "request": request, "invitation": invitation}
    check(identity_of(Secret(seed)), sign(Secret(seed), **about), **about)


@pytest.mark.parametrize(
    "change", [{"name": "hospital-b"}, {"request": b"another"}, {"request": b""}, {"invitation": "ac" * 32}]
)
def test_a_proof_holds_for_nothing_else(change):
    with pytest.raises(BadInput, match="found a wrong one"):
        check(identity_of(IDENTITY), sign(IDENTITY, **ABOUT), **(ABOUT | change))


def test_a_proof_is_its_identity_s():
    with pytest.raises(BadInput, match="found a wrong one"):
        check(identity_of(OTHER), sign(IDENTITY, **ABOUT), **ABOUT)


def test_every_bit_of_a_proof_counts():
    proof = sign(IDENTITY, **ABOUT)
    for bit in range(8 * len(proof)):
        broken = bytearray(proof)
        broken[bit // 8] ^= 1 << bit % 8
        with pytest.raises(BadInput):
            check(identity_of(IDENTITY), bytes(broken), **ABOUT)
    assert len(proof) == 64


@given(st.binary(max_size=70), st.binary(max_size=40))
def test_other_bytes_are_bad_input(proof, public):
    with pytest.raises(BadInput):
        check(PublicKey(public), proof, **ABOUT)


def test_what_is_signed_byte_by_byte():
    """The slow twin: another program could make the proof from this alone."""
    public = identity_of(IDENTITY)
    signed = b"tacit-enrolment" + bytes([1]) + len("hospital-a").to_bytes(4, "big") + b"hospital-a"
    signed += digest(b"a request") + bytes.fromhex("ab" * 32)
    Ed25519PublicKey.from_public_bytes(public).verify(sign(IDENTITY, **ABOUT), signed)


def test_nothing_signed_for_a_round_is_a_proof():
    """Labels of secure aggregation begin otherwise, at the same length."""
    begin = enrolment._message(**ABOUT)[:12]
    assert len(USAGES) >= 8
    for usage in USAGES:
        assert Reader(label(usage)).fixed(size=12) != begin


@pytest.mark.parametrize("text", ["", "ab", "AB" * 32, "ab" * 33, "zz" * 32, "ab" * 31 + "a\n"])
def test_fingerprints_that_are_none(text):
    with pytest.raises(BadInput, match="64 hexadecimal digits"):
        sign(IDENTITY, **(ABOUT | {"invitation": text}))


def test_names_are_checked_before_anything_is_signed():
    with pytest.raises(BadInput, match="partner's name"):
        sign(IDENTITY, **(ABOUT | {"name": "Hospital A"}))


def test_what_people_compare():
    public = identity_of(IDENTITY)
    groups = fingerprint(public).split(" ")
    assert [len(group) for group in groups] == [4] * 8
    assert digest(public).hex().startswith("".join(groups))
    assert fingerprint(public) != fingerprint(identity_of(OTHER))
