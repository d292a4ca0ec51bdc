"""The specification worked out a second time, without a line of the product, against the written vectors.

Slow and obvious: bytes by hand, HMAC for HKDF, AES one block at a time, integers for vectors and for the field. Where
this and the product agree, the vectors pin the specification and not one program.
"""

from __future__ import annotations

import hashlib
import hmac
import json
from pathlib import Path
from typing import Any

import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey, Ed25519PublicKey
from cryptography.hazmat.primitives.asymmetric.x25519 import X25519PrivateKey, X25519PublicKey
from cryptography.hazmat.primitives.ciphers import Cipher, algorithms, modes
from cryptography.hazmat.primitives.ciphers.aead import AESGCM

FOLDER = Path(__file__).parents[1] / "vectors"
ROUNDS = ("protocol-n3", "protocol-n4-dropouts", "protocol-n5-majority", "counters-only")
PRIME = 2**256 + 297
BITS = {"update": 32, "counters": 64}
Document = dict[str, Any]


def load(name: str) -> Document:
    document: Document = json.loads((FOLDER / f"{name}.json").read_text(encoding="utf-8"))
    return document


def big(value: int, size: int) -> bytes:
    return value.to_bytes(size, "big")


def blob(value: bytes) -> bytes:
    return big(len(value), 4) + value


def label(usage: str, *parts: bytes | int | str) -> bytes:
    found = b"tacit-secagg" + b"\x01" + blob(usage.encode())
    for part in parts:
        if isinstance(part, bytes):
            found += b"\x00" + blob(part)
        elif isinstance(part, str):
            found += b"\x01" + blob(part.encode())
        else:
            found += b"\x02" + big(part, 8)
    return found


def sha(data: bytes) -> bytes:
    return hashlib.sha256(data).digest()


def hkdf(secret: bytes, info: bytes) -> bytes:
    """RFC 5869 without salt, one block."""
    return hmac.digest(hmac.digest(bytes(32), secret, "sha256"), info + b"\x01", "sha256")


def stream(key: bytes, size: int, *, start: int = 0) -> bytes:
    """AES-256 of the counters `start`, `start` + 1 and so on, one block after the other."""
    block = Cipher(algorithms.AES256(key), modes.ECB()).encryptor()
    return b"".join(block.update(big(start + i, 16)) for i in range(-(-size // 16)))[:size]


def mask(key: bytes, channel: str, length: int) -> list[int]:
    size = BITS[channel] // 8
    bytes_ = stream(key, size * length)
    return [int.from_bytes(bytes_[size * i : size * (i + 1)], "little") for i in range(length)]


def exchange(private: bytes, public: bytes) -> bytes:
    return X25519PrivateKey.from_private_bytes(private).exchange(X25519PublicKey.from_public_bytes(public))


def rebuild(shares: dict[int, int]) -> bytes:
    """Lagrange at 0, one fraction at a time."""
    found = 0
    for x, share in shares.items():
        above, below = 1, 1
        for y in shares:
            if y != x:
                above, below = above * y % PRIME, below * (y - x) % PRIME
        found += share * above * pow(below, -1, PRIME)
    return big(found % PRIME, 32)


class Twin:
    """A written round, read with nothing but the specification."""

    def __init__(self, document: Document) -> None:
        self.document, new = document, document["round"]
        self.members, self.threshold = new["members"], new["threshold"]
        self.lengths = {channel: new[channel] for channel in BITS}
        listed = b"".join(blob(m["name"].encode()) + bytes.fromhex(m["identity"]) for m in self.members)
        self.encoded = b"\x01" + blob(new["run"].encode()) + bytes.fromhex(new["job"])
        self.encoded += big(new["number"], 4) + big(new["attempt"], 4)
        self.encoded += big(["train", "evaluate"].index(new["purpose"]), 1) + big(len(self.members), 4) + listed
        self.encoded += big(self.threshold, 4) + big(new["edges"], 2) + big(new["update"], 8) + big(new["counters"], 8)
        self.context = sha(label("round", self.encoded))
        self.roster = self.said("share")
        self.session = sha(label("session", self.context, self.roster))
        self.request = bytes.fromhex(document["request"])
        adverts = [self.roster[38 + 132 * i :][:132] for i in range(int.from_bytes(self.roster[34:38], "big"))]
        self.mask_keys = {int.from_bytes(a[:4], "big"): a[36:68] for a in adverts}
        self.share_keys = {int.from_bytes(a[:4], "big"): a[4:36] for a in adverts}

    def said(self, stage: str) -> bytes:
        return bytes.fromhex(self.document["stages"][stage]["received"])

    def answers(self, stage: str) -> dict[int, bytes]:
        found = self.document["stages"][stage]["answered"]
        return {int(i): bytes.fromhex(data) for i, data in found.items()}

    def drawn(self, i: int, stage: str) -> bytes:
        return bytes.fromhex(self.document["parties"][str(i)]["random"][stage])

    def values(self, document: Document, channel: str) -> list[int]:
        return [int(word, 16) for word in document[channel].split()]

    def present(self) -> list[int]:
        return sorted(self.answers("share"))

    def survivors(self) -> list[int]:
        data = self.said("agree")
        return [int.from_bytes(data[at : at + 4], "big") for at in range(38, len(data), 68)]

    def own_mask(self, seed: bytes, i: int, channel: str) -> list[int]:
        return mask(hkdf(seed, label("self", self.session, i, channel)), channel, self.lengths[channel])

    def pair_mask(self, private: bytes, i: int, j: int, channel: str) -> list[int]:
        """That of `i` with `j`, with its sign, from the private key of either's own side."""
        info = label("pair", self.session, self.request, min(i, j), max(i, j), channel)
        found = mask(hkdf(exchange(private, self.mask_keys[j]), info), channel, self.lengths[channel])
        return found if i < j else [-word for word in found]


@pytest.fixture(params=ROUNDS)
def twin(request: pytest.FixtureRequest) -> Twin:
    return Twin(load(request.param))


def added(*columns: list[int], bits: int) -> list[int]:
    return [sum(words) % 2**bits for words in zip(*columns, strict=True)]


def test_round_context_and_session(twin):
    new = twin.document["round"]
    assert (twin.encoded.hex(), twin.context.hex()) == (new["encoded"], new["context"])
    assert twin.session.hex() == twin.document["session"]


def test_adverts_are_signed_keys(twin):
    found = twin.answers("advertise")
    for i, data in found.items():
        keys = [twin.drawn(i, "advertise")[:32], twin.drawn(i, "advertise")[32:]]
        public = [X25519PrivateKey.from_private_bytes(key).public_key().public_bytes_raw() for key in keys]
        identity = Ed25519PrivateKey.from_private_bytes(bytes.fromhex(twin.document["parties"][str(i)]["identity_key"]))
        signature = identity.sign(label("advert", twin.context, i, *public))
        assert data == b"\x01\x01" + twin.context + big(i, 4) + b"".join(public) + signature
    assert twin.roster == b"\x01\x02" + twin.context + big(len(found), 4) + b"".join(d[34:] for d in found.values())
    assert len(found) >= 3


def test_envelopes_hold_shares_of_a_polynomial(twin):
    seen = 0
    for i, data in twin.answers("share").items():
        drawn, t = twin.drawn(i, "share"), twin.threshold
        secrets = drawn[:32], twin.drawn(i, "advertise")[32:]
        pieces = [drawn[32 + 48 * k : 80 + 48 * k] for k in range(2 * (t - 1))]
        coefficients = [int.from_bytes(piece, "big") % PRIME for piece in pieces]
        polynomials = [
            [*coefficients[(t - 1) * k : (t - 1) * (k + 1)], int.from_bytes(secret, "big")]
            for k, secret in enumerate(secrets)
        ]
        others = [j for j in range(len(twin.members)) if j != i]
        expected = b"\x01\x03" + twin.context + big(i, 4) + sha(label("commit", twin.session, i, secrets[0]))
        expected += big(len(others), 4)
        for j in others:
            at = [sum(c * (j + 1) ** (t - 1 - k) for k, c in enumerate(p)) % PRIME for p in polynomials]
            address = label("share", twin.session, i, j)
            key = hkdf(exchange(twin.drawn(i, "advertise")[:32], twin.share_keys[j]), address)
            expected += big(j, 4) + AESGCM(key).encrypt(bytes(12), big(at[0], 33) + big(at[1], 33), address)
            seen += 1
        assert data == expected
    n = len(twin.members)
    assert seen == n * (n - 1)


def test_vectors_are_masked_by_both_kinds_of_mask(twin):
    seen = 0
    for i, answered in twin.document["stages"]["mask"]["answered"].items():
        own = twin.document["parties"][i]
        for channel, bits in BITS.items():
            columns = [
                twin.values(own["vector"], channel),
                twin.own_mask(twin.drawn(int(i), "share")[:32], int(i), channel),
            ]
            private = twin.drawn(int(i), "advertise")[32:]
            columns += [twin.pair_mask(private, int(i), j, channel) for j in twin.present() if j != int(i)]
            assert added(*columns, bits=bits) == twin.values(answered, channel)
            seen += 1
    assert seen == 2 * len(twin.survivors())


def test_presences_sign_whom_they_masked_with(twin):
    text = label("present", twin.context, twin.session, twin.request, *twin.present())
    found = {int(i): said["presence"] for i, said in twin.document["stages"]["mask"]["answered"].items()}
    for i, presence in found.items():
        identity = Ed25519PrivateKey.from_private_bytes(bytes.fromhex(twin.document["parties"][str(i)]["identity_key"]))
        assert bytes.fromhex(presence) == b"\x01\x09" + twin.context + big(i, 4) + identity.sign(text)
    listed = b"".join(bytes.fromhex(presence)[34:] for presence in found.values())
    assert twin.said("agree") == b"\x01\x05" + twin.context + big(len(found), 4) + listed
    assert len(found) >= 3


def test_agreements_sign_the_survivors(twin):
    text = label("agree", twin.context, twin.session, twin.request, *twin.survivors())
    found = twin.answers("agree")
    for i, data in found.items():
        assert data[:38] == b"\x01\x06" + twin.context + big(i, 4)
        Ed25519PublicKey.from_public_bytes(bytes.fromhex(twin.members[i]["identity"])).verify(data[38:], text)
    quorum = b"".join(data[34:] for data in list(found.values())[: twin.threshold])
    assert twin.said("unmask") == b"\x01\x07" + twin.context + big(twin.threshold, 4) + quorum


def test_the_sum_follows_from_what_the_server_was_sent(twin):
    """Masked vectors and revealed shares alone: no private key, seed or plain vector of the file is read."""
    shares: dict[int, dict[int, int]] = {}
    for sender, data in twin.answers("unmask").items():
        for at in range(42, len(data), 37):
            owner, piece = int.from_bytes(data[at : at + 4], "big"), data[at + 4 : at + 37]
            shares.setdefault(owner, {})[sender + 1] = int.from_bytes(piece, "big")
    assert sorted(shares) == twin.present()
    secrets = {owner: rebuild(dict(list(found.items())[: twin.threshold])) for owner, found in shares.items()}
    survivors = twin.survivors()
    assert survivors == twin.document["sum"]["survivors"]
    for channel, bits in BITS.items():
        answered = twin.document["stages"]["mask"]["answered"]
        columns = [twin.values(answered[str(i)], channel) for i in survivors]
        columns += [[-word for word in twin.own_mask(secrets[i], i, channel)] for i in survivors]
        for gone in set(twin.present()) - set(survivors):
            columns += [twin.pair_mask(secrets[gone], gone, j, channel) for j in survivors]
        assert added(*columns, bits=bits) == twin.values(twin.document["sum"], channel)


def test_the_sum_is_that_of_the_plain_vectors(twin):
    for channel, bits in BITS.items():
        columns = [twin.values(twin.document["parties"][str(i)]["vector"], channel) for i in twin.survivors()]
        assert added(*columns, bits=bits) == twin.values(twin.document["sum"], channel)


def test_labels_keys_and_seals():
    found = load("primitives")
    assert len(found["label"]) == 15
    for case in found["label"]:
        parts = [bytes.fromhex(v) if k == "bytes" else v for part in case["parts"] for k, v in part.items()]
        assert label(case["usage"], *parts).hex() == case["label"]
    derived, sealed, session = found["derive"], found["seal"], found["session"]
    assert hkdf(bytes.fromhex(derived["secret"]), bytes.fromhex(derived["info"])).hex() == derived["key"]
    key, plain, bound = (bytes.fromhex(sealed[name]) for name in ("key", "plain", "bound"))
    assert AESGCM(key).encrypt(bytes(12), plain, bound).hex() == sealed["sealed"]
    digest = sha(label("session", bytes.fromhex(session["context"]), bytes.fromhex(session["roster"])))
    assert digest.hex() == session["session"]
    commitment = sha(label("commit", digest, session["owner"], bytes.fromhex(session["seed"])))
    assert commitment.hex() == session["commitment"]


def test_masks_are_little_endian_words_of_one_stream():
    found = load("primitives")["add_mask"]
    assert [case["kind"] for case in found] == ["uint32", "uint64"]
    for case in found:
        size = int(case["kind"][4:]) // 8
        assert len(case["words"]) == 14
        for at, word in case["words"].items():
            block, offset = divmod(int(at) * size, 16)
            bytes_ = stream(bytes.fromhex(case["key"]), 16, start=block)[offset : offset + size]
            assert int.from_bytes(bytes_, "little") == int(word, 16), at


def test_shares_rebuild_their_secret():
    found = load("primitives")["sharing"]
    assert len(found) == 3
    for case in found:
        shares = {int(x): int(piece, 16) for x, piece in case["shares"].items()}
        assert rebuild(dict(list(shares.items())[: case["threshold"]])).hex() == case["secret"]


def test_the_sparse_graph_is_drawn_from_the_session():
    case = load("primitives")["graph"]
    n, coins = case["n"], stream(hkdf(bytes.fromhex(case["session"]), label("graph")), case["n"] * (case["n"] - 1) // 2)
    # The coins in their order: (0, 1), (0, 2), ..., (0, n - 1), (1, 2), ...
    pairs = [(a, b) for a in range(n) for b in range(a + 1, n)]
    edges = {pair for pair, coin in zip(pairs, coins, strict=True) if coin < case["edges"]}
    assert len(case["neighbours"]) == 4
    for i, row in case["neighbours"].items():
        whole = sorted(j for pair in edges if int(i) in pair for j in pair if j != int(i))
        assert " ".join(str(j) for j in whole if j not in case["absent"]) == row
        assert case["needed"][i] == 9 * (len(whole) + 1) // 16 + 1
