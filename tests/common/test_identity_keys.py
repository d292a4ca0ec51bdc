"""Keys of small order: a signature that nobody made holds under them, and they are refused in every spelling."""

from __future__ import annotations

import pytest
from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PublicKey
from hypothesis import given
from hypothesis import strategies as st

from tacit.errors import BadInput
from tacit.link import enrolment
from tacit.link.identity import check_identity
from tacit.secagg.keys import PublicKey, Secret, identity_of

P = 2**255 - 19
D = -121665 * pow(121666, P - 2, P) % P
NEUTRAL = (0, 1)


def _add(one, other):
    """Of two points of edwards25519 (RFC 8032, section 5.1.4), in the plainest form."""
    (x1, y1), (x2, y2) = one, other
    t = D * x1 * x2 * y1 * y2
    x = (x1 * y2 + x2 * y1) * pow(1 + t, P - 2, P)
    y = (y1 * y2 + x1 * x2) * pow(1 - t, P - 2, P)
    return x % P, y % P


def _root(square):
    found = pow(square, (P + 3) // 8, P)
    found = found if found * found % P == square else found * pow(2, (P - 1) // 4, P) % P
    return found if found * found % P == square else None


def _points(y):
    x = _root((y * y - 1) * pow(D * y * y + 1, P - 2, P) % P)
    return [] if x is None else [(x, y % P), (-x % P, y % P)]


def _multiply(number, point):
    found = NEUTRAL
    for bit in bin(number)[2:]:
        found = _add(found, found)
        found = _add(found, point) if bit == "1" else found
    return found


def _torsion():
    """The eight points whose order divides eight: multiples of the group's order L of points found by trial."""
    order = 2**252 + 27742317777372353535851937790883648493
    found = set()
    for y in range(2, 40):
        for point in _points(y):
            found.add(_multiply(order, point))
    return found


def _spellings(point):
    """Every encoding that decodes to `point`: y or y + p, and for x = 0 either sign."""
    x, y = point
    signs = {x % 2} if x else {0, 1}
    return {(number | sign << 255).to_bytes(32, "little") for number in (y, y + P) if number < 2**255 for sign in signs}


SMALL = sorted(spelling for point in _torsion() for spelling in _spellings(point))


def test_there_are_eight_points_in_fourteen_spellings():
    assert len(_torsion()) == 8
    assert all(_multiply(8, point) == NEUTRAL for point in _torsion())
    assert len(SMALL) == len(set(SMALL)) == 14


@pytest.mark.parametrize("key", SMALL, ids=bytes.hex)
def test_under_such_a_key_nobody_s_signature_holds(key):
    """cryptography takes R = the negative of some small point and s = 0 for a signature of one message in eight."""
    verifier = Ed25519PublicKey.from_public_bytes(key)
    held = 0
    for spelling in SMALL:
        for number in range(12):
            try:
                verifier.verify(spelling + bytes(32), b"anything %d" % number)
            except InvalidSignature:
                continue
            held += 1
    assert held >= 1
    with pytest.raises(BadInput, match="small order"):
        check_identity(key, whose="a")


def test_the_neutral_point_signs_everything_and_can_not_enrol():
    neutral, forged = (1).to_bytes(32, "little"), (1).to_bytes(32, "little") + bytes(32)
    about = {"name": "a", "request": b"r", "invitation": "ab" * 32}
    Ed25519PublicKey.from_public_bytes(neutral).verify(forged, enrolment._message(**about))
    with pytest.raises(BadInput, match="for a, found one of small order"):
        enrolment.check(PublicKey(neutral), forged, **about)


@given(st.binary(min_size=32, max_size=32))
def test_honest_keys_pass(seed):
    key = identity_of(Secret(seed))
    assert check_identity(key, whose="a") == key


@pytest.mark.parametrize("number", [P, P + 5, 2**255 - 1, 2**256 - 1])
def test_no_key_has_a_second_spelling(number):
    with pytest.raises(BadInput):
        check_identity(number.to_bytes(32, "little"), whose="a")


@pytest.mark.parametrize("length", [0, 31, 33, 64])
def test_other_lengths_are_no_keys(length):
    with pytest.raises(BadInput, match=f"of 32 bytes for a, found {length}"):
        check_identity(b"\x05" * length, whose="a")
