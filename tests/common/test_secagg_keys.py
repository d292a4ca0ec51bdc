"""The primitives against published vectors, and what keeps one use of them from another: labels and bindings."""

from __future__ import annotations

import hashlib
import hmac

import numpy as np
import pytest
from cohort import OTHER_SPELLINGS, REQUEST, SMALL_ORDER, make_round, secret_key
from cryptography.hazmat.primitives.ciphers.aead import AESGCM
from hypothesis import given
from hypothesis import strategies as st

from tacit.secagg.abort import Abort, Reason, Stage
from tacit.secagg.bindings import (
    advert_text,
    agreement_text,
    commitment,
    pair_key,
    presence_text,
    seed_key,
    session_of,
    share_address,
)
from tacit.secagg.keys import (
    Digest,
    PublicKey,
    Secret,
    Signature,
    agree,
    derive,
    digest,
    identity_of,
    is_usable,
    open_sealed,
    public_of,
    seal,
    sign,
    verifies,
)
from tacit.secagg.labels import USAGES, label


def test_signatures_are_those_of_rfc_8032():
    key = Secret(bytes.fromhex("9d61b19deffd5a60ba844af492ec2cc44449c5697b326919703bac031cae7f60"))
    identity = PublicKey(bytes.fromhex("d75a980182b10ab7d54bfed3c964073a0ee172f3daa62325af021a68f707511a"))
    signature = bytes.fromhex(
        "e5564300c360ac729086e2cc806e828a84877f1eb8e5d974d873e065224901555fb8821590a33bacc61e39701cf9b46bd25bf5f0595bbe24"
        "655141438e7a100b"
    )
    assert identity_of(key) == identity
    assert sign(key, b"") == signature
    assert verifies(Signature(signature), identity=identity, message=b"") is True


@pytest.mark.parametrize("change", ["message", "signature", "identity", "short", "no point"])
def test_another_signature_does_not_verify(change):
    key, message = secret_key(0), b"text"
    identity, signature = identity_of(key), sign(key, message)
    match change:
        case "message":
            message = b"other"
        case "signature":
            signature = Signature(bytes([signature[0] ^ 1]) + signature[1:])
        case "identity":
            identity = identity_of(secret_key(1))
        case "short":
            signature = Signature(signature[:-1])
        case "no point":
            identity = PublicKey(bytes(31) + b"\xff\xff")
    assert verifies(signature, identity=identity, message=message) is False


def test_agreement_is_that_of_rfc_7748():
    alice = Secret(bytes.fromhex("77076d0a7318a57d3c16c17251b26645df4c2f87ebc0992ab177fba51db92c2a"))
    bob = Secret(bytes.fromhex("5dab087e624a8a4b79e17f8b83800ee66f3bb1292618b6fd1c2f8b27ff88e0eb"))
    shared = bytes.fromhex("4a5d9d5ba4ce2de1728e3bf480350f25e07e21c947d19e3376f09b3c1e161742")
    assert public_of(alice).hex() == "8520f0098930a754748b7ddcb43ef75a0dbf3a0d26381af4eba4a98eaa9b4e6a"
    assert agree(alice, public_of(bob)) == agree(bob, public_of(alice)) == shared


@pytest.mark.parametrize("point", [*SMALL_ORDER, *OTHER_SPELLINGS[:2]])
def test_points_of_small_order_give_no_secret(point):
    assert is_usable(point) is False
    with pytest.raises(ValueError, match="shared key"):
        agree(secret_key(0), point)


def test_other_points_give_one():
    assert all(is_usable(public_of(secret_key(i))) is True for i in range(20))
    assert is_usable(PublicKey((9).to_bytes(32, "little"))) is True


def test_derived_keys_are_those_of_rfc_5869():
    # Test case 3 of RFC 5869, its first 32 bytes: no salt, no info.
    expected = bytes.fromhex("8da4e775a563c18f715f802a063c5a31b8a11f5c5ee1879ec3454e5f3c738d2d")
    assert derive(Secret(b"\x0b" * 22), b"") == expected


@given(st.binary(min_size=32, max_size=32), st.binary(max_size=40))
def test_derived_keys_are_hmac_twice(secret, info):
    extracted = hmac.digest(bytes(32), secret, "sha256")
    assert derive(Secret(secret), info) == hmac.digest(extracted, info + b"\1", "sha256")


def test_a_digest_is_sha_256():
    assert digest(b"abc") == hashlib.sha256(b"abc").digest()


@given(st.binary(max_size=70), st.binary(max_size=20))
def test_what_is_sealed_opens_with_the_same_key_and_bound(plain, bound):
    key = secret_key(0)
    sealed = seal(key, plain, bound=bound)
    assert len(sealed) == len(plain) + 16
    assert AESGCM(key).decrypt(bytes(12), sealed, bound) == plain
    opened = open_sealed(key, sealed, bound=bound)
    assert opened == plain
    assert isinstance(opened, Secret)
    assert open_sealed(secret_key(1), sealed, bound=bound) is None
    assert open_sealed(key, sealed, bound=bound + b"x") is None
    assert open_sealed(key, sealed[:-1] + bytes([sealed[-1] ^ 1]), bound=bound) is None


def test_a_label_reads_as_written():
    head = b"tacit-secagg\1" + b"\0\0\0\4pair"
    assert label("pair", b"ab", "c", 5) == head + b"\0\0\0\0\2ab" + b"\1\0\0\0\1c" + b"\2" + (5).to_bytes(8, "big")


PARTS = st.lists(st.binary(max_size=3) | st.text(max_size=3) | st.integers(0, 2**64 - 1), max_size=3)


@given(st.sampled_from(USAGES), PARTS, st.sampled_from(USAGES), PARTS)
def test_labels_are_equal_where_usage_and_parts_are(usage, parts, other_usage, others):
    same = usage == other_usage and [(type(p), p) for p in parts] == [(type(p), p) for p in others]
    assert (label(usage, *parts) == label(other_usage, *others)) is same


def test_parts_do_not_run_into_each_other():
    parts = [(b"a", b"bc"), (b"ab", b"c"), (b"abc",), ("abc",), (b"abc", b""), (b"",), ("",), (), (0,), (0, 0), (256,)]
    assert len({label("pair", *p) for p in parts}) == len(parts)


@pytest.mark.parametrize("usage", ["", "pairs", "Pair"])
def test_another_usage_is_refused(usage):
    with pytest.raises(ValueError, match=f"expected one of advert, .*step, found {usage}$"):
        label(usage)


@pytest.mark.parametrize("part", [np.int64(1), None, 1.0, bytearray(2)])
def test_a_part_of_another_kind_is_not_left_out(part):
    with pytest.raises(TypeError, match=f"found {type(part).__name__}$"):
        label("pair", b"a", part)


def test_bound_to_everything():
    """Each binding gives another value where any of its arguments is another, and no two bindings give the same."""
    new, later = make_round(4), make_round(4, number=2)
    keys = [public_of(secret_key(i)) for i in range(3)]
    one, two = digest(b"one"), digest(b"two")
    seed, other = secret_key(7), secret_key(8)
    found = [
        advert_text(new, sender=1, share_key=keys[0], mask_key=keys[1]),
        advert_text(later, sender=1, share_key=keys[0], mask_key=keys[1]),
        advert_text(new, sender=2, share_key=keys[0], mask_key=keys[1]),
        advert_text(new, sender=1, share_key=keys[2], mask_key=keys[1]),
        advert_text(new, sender=1, share_key=keys[0], mask_key=keys[2]),
        advert_text(new, sender=1, share_key=keys[1], mask_key=keys[0]),
        session_of(new, b"roster"),
        session_of(later, b"roster"),
        session_of(new, b"another"),
        share_address(one, sender=1, receiver=2),
        share_address(two, sender=1, receiver=2),
        share_address(one, sender=2, receiver=1),
        share_address(one, sender=1, receiver=3),
        commitment(seed, session=one, owner=1),
        commitment(other, session=one, owner=1),
        commitment(seed, session=two, owner=1),
        commitment(seed, session=one, owner=2),
        seed_key(seed, session=one, owner=1, channel="update"),
        seed_key(other, session=one, owner=1, channel="update"),
        seed_key(seed, session=two, owner=1, channel="update"),
        seed_key(seed, session=one, owner=2, channel="update"),
        seed_key(seed, session=one, owner=1, channel="counters"),
        pair_key(seed, session=one, request=REQUEST, pair=(1, 2), channel="update"),
        pair_key(other, session=one, request=REQUEST, pair=(1, 2), channel="update"),
        pair_key(seed, session=two, request=REQUEST, pair=(1, 2), channel="update"),
        pair_key(seed, session=one, request=Digest(two), pair=(1, 2), channel="update"),
        pair_key(seed, session=one, request=REQUEST, pair=(1, 3), channel="update"),
        pair_key(seed, session=one, request=REQUEST, pair=(0, 2), channel="update"),
        pair_key(seed, session=one, request=REQUEST, pair=(1, 2), channel="counters"),
        agreement_text(new, session=one, request=REQUEST, survivors=(0, 1, 2)),
        agreement_text(later, session=one, request=REQUEST, survivors=(0, 1, 2)),
        agreement_text(new, session=two, request=REQUEST, survivors=(0, 1, 2)),
        agreement_text(new, session=one, request=Digest(two), survivors=(0, 1, 2)),
        agreement_text(new, session=one, request=REQUEST, survivors=(0, 1, 3)),
        agreement_text(new, session=one, request=REQUEST, survivors=(0, 1)),
        presence_text(new, session=one, request=REQUEST, present=(0, 1, 2)),
        presence_text(later, session=one, request=REQUEST, present=(0, 1, 2)),
        presence_text(new, session=two, request=REQUEST, present=(0, 1, 2)),
        presence_text(new, session=one, request=Digest(two), present=(0, 1, 2)),
        presence_text(new, session=one, request=REQUEST, present=(0, 1, 3)),
        presence_text(new, session=one, request=REQUEST, present=(0, 1)),
    ]
    assert len({bytes(value) for value in found}) == len(found) == 41
    ends = [pair_key(seed, session=one, request=REQUEST, pair=pair, channel="update") for pair in ((1, 2), (2, 1))]
    assert ends[0] == ends[1]


def test_bindings_spelled_out():
    new, one, seed = make_round(4), digest(b"one"), secret_key(7)
    assert session_of(new, b"roster") == digest(label("session", new.context, b"roster"))
    assert commitment(seed, session=one, owner=3) == digest(label("commit", one, 3, bytes(seed)))
    assert seed_key(seed, session=one, owner=3, channel="update") == derive(seed, label("self", one, 3, "update"))
    assert share_address(one, sender=3, receiver=0) == label("share", one, 3, 0)
    assert pair_key(seed, session=one, request=REQUEST, pair=(3, 1), channel="counters") == derive(
        seed, label("pair", one, REQUEST, 1, 3, "counters")
    )


def test_a_presence_has_no_order():
    new, one = make_round(4), digest(b"one")
    texts = {
        presence_text(new, session=one, request=REQUEST, present=some) for some in ({2, 0, 1}, (2, 1, 0), [0, 1, 2])
    }
    assert texts == {label("present", new.context, one, REQUEST, 0, 1, 2)}


def test_what_a_refusal_says():
    known = Abort(Stage.SHARE, Reason.THRESHOLD, "expected 1, found 2")
    assert str(known) == "secure aggregation, stage share: expected 1, found 2"
    assert known.hint == "raise aggregation.threshold"
    assert known.exit_code == 1
    assert known.rejected == {}
    assert Abort(Stage.SHARE, Reason.TOO_FEW, "expected 1, found 0", rejected={3: known}).rejected == {3: known}
    assert Abort(Stage.SHARE, Reason.SIGNATURE, "expected 1, found 2").hint.startswith("the round is over")


def test_every_reason_has_its_hint():
    hints = {reason: Abort(Stage.SHARE, reason, "expected 1, found 2").hint for reason in Reason}
    own = {reason: hint.split()[0] for reason, hint in hints.items() if not hint.startswith("the round is over")}
    assert own == {
        Reason.COHORT: "accept",
        Reason.STRANGERS: "accept",
        Reason.THRESHOLD: "raise",
        Reason.TOO_FEW: "wait",
        Reason.IDENTITY: "ask",
    }


def test_stages_and_reasons_are_told_apart():
    assert [stage.value for stage in Stage] == ["advertise", "share", "mask", "agree", "unmask"]
    assert len({reason.value for reason in Reason}) == len(Reason) == 18
