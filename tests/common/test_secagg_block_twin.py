"""A block worked out a second time from the specification, without a line of the product, against its vectors."""

from __future__ import annotations

from typing import Any

import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey, Ed25519PublicKey
from cryptography.hazmat.primitives.asymmetric.x25519 import X25519PrivateKey
from cryptography.hazmat.primitives.ciphers.aead import AESGCM
from test_secagg_twin import BITS, PRIME, added, big, exchange, hkdf, label, load, mask, rebuild, sha

STEPS, N, T = 2, 4, 3
DRAWN = 32 + 2 * 48 * (T - 1)  # of a step in stage share: `b`, then the coefficients of both polynomials


class Twin:
    """The written block, read with nothing but the specification."""

    def __init__(self) -> None:
        self.document = load("block-n4")
        self.context = sha(label("round", bytes.fromhex(self.document["round"]["encoded"])))
        self.roster = bytes.fromhex(self.document["share"]["received"])
        self.session = sha(label("session", self.context, self.roster))
        self.sessions = [sha(label("step", self.session, k)) for k in range(1, STEPS + 1)]
        size = 104 + 32 * STEPS
        self.adverts = [self.roster[38 + size * i :][:size] for i in range(N)]
        self.lengths = {channel: self.document["round"][channel] for channel in BITS}

    def party(self, i: int) -> dict[str, Any]:
        found: dict[str, Any] = self.document["parties"][str(i)]
        return found

    def identity(self, i: int) -> Ed25519PrivateKey:
        return Ed25519PrivateKey.from_private_bytes(bytes.fromhex(self.party(i)["identity_key"]))

    def private(self, i: int) -> list[bytes]:
        """`c`, then `s` of each step."""
        drawn = bytes.fromhex(self.party(i)["random"]["advertise"])
        assert len(drawn) == 32 * (1 + STEPS)
        return [drawn[at : at + 32] for at in range(0, len(drawn), 32)]

    def public(self, i: int) -> list[bytes]:
        body = self.adverts[i][4:36] + self.adverts[i][40 : 40 + 32 * STEPS]
        return [body[at : at + 32] for at in range(0, len(body), 32)]

    def drawn(self, i: int, k: int) -> tuple[bytes, list[int]]:
        """`b` of step k, from 0, and the coefficients of its polynomials."""
        whole = bytes.fromhex(self.party(i)["random"]["share"])
        assert len(whole) == STEPS * DRAWN
        own = whole[DRAWN * k : DRAWN * (k + 1)]
        return own[:32], [int.from_bytes(own[at : at + 48], "big") % PRIME for at in range(32, DRAWN, 48)]

    def own_mask(self, seed: bytes, i: int, k: int, channel: str) -> list[int]:
        return mask(hkdf(seed, label("self", self.sessions[k], i, channel)), channel, self.lengths[channel])

    def pair_mask(self, private: bytes, i: int, j: int, k: int, channel: str) -> list[int]:
        request = bytes.fromhex(self.document["steps"][k]["request"])
        info = label("pair", self.sessions[k], request, min(i, j), max(i, j), channel)
        found = mask(hkdf(exchange(private, self.public(j)[1 + k]), info), channel, self.lengths[channel])
        return found if i < j else [-word for word in found]

    def shares(self, i: int, j: int) -> bytes:
        """What `i` gives `j`: of each step a share of `b` and one of `s`."""
        plain = b""
        for k in range(STEPS):
            seed, coefficients = self.drawn(i, k)
            for secret, falling in ((seed, coefficients[: T - 1]), (self.private(i)[1 + k], coefficients[T - 1 :])):
                polynomial = [*falling, int.from_bytes(secret, "big")]
                plain += big(sum(c * (j + 1) ** (T - 1 - p) for p, c in enumerate(polynomial)) % PRIME, 33)
        return plain


@pytest.fixture(scope="module")
def twin() -> Twin:
    return Twin()


def _values(words: dict[str, str], channel: str) -> list[int]:
    return [int(word, 16) for word in words[channel].split()]


def test_context_and_sessions(twin):
    assert twin.context.hex() == twin.document["round"]["context"]
    assert twin.session.hex() == twin.document["session"]
    assert [session.hex() for session in twin.sessions] == [step["session"] for step in twin.document["steps"]]
    assert twin.roster == b"\x01\x0b" + twin.context + big(N, 4) + b"".join(twin.adverts)


def test_adverts_have_a_key_for_each_step_and_one_signature(twin):
    for i in range(N):
        public = [X25519PrivateKey.from_private_bytes(key).public_key().public_bytes_raw() for key in twin.private(i)]
        signature = twin.identity(i).sign(label("block", twin.context, i, *public))
        expected = big(i, 4) + public[0] + big(STEPS, 4) + b"".join(public[1:]) + signature
        assert bytes.fromhex(twin.document["advertise"]["answered"][str(i)]) == b"\x01\x0a" + twin.context + expected
        assert twin.adverts[i] == expected


def test_one_envelope_holds_the_shares_of_all_steps(twin):
    seen = 0
    for i in range(N):
        expected = b"\x01\x0c" + twin.context + big(i, 4) + big(STEPS, 4)
        for k in range(STEPS):
            expected += sha(label("commit", twin.sessions[k], i, twin.drawn(i, k)[0]))
        others = [j for j in range(N) if j != i]
        expected += big(len(others), 4)
        for j in others:
            address = label("share", twin.session, i, j)
            key = hkdf(exchange(twin.private(i)[0], twin.public(j)[0]), address)
            expected += big(j, 4) + AESGCM(key).encrypt(bytes(12), twin.shares(i, j), address)
            seen += 1
        assert bytes.fromhex(twin.document["share"]["answered"][str(i)]) == expected
    assert seen == N * (N - 1)


def test_inboxes_sort_the_envelopes(twin):
    size, start = 4 + 66 * STEPS + 16, 46 + 32 * STEPS
    sent = {i: bytes.fromhex(twin.document["share"]["answered"][str(i)])[start:] for i in range(N)}
    for i in range(N):
        expected = b"\x01\x0d" + twin.context + big(STEPS, 4) + big(N, 4) + b"".join(big(j, 4) for j in range(N))
        expected += big(N - 1, 4)
        for j in range(N):
            for at in range(0, len(sent[j]), size):
                if j != i and sent[j][at : at + 4] == big(i, 4):
                    expected += big(j, 4) + sent[j][at + 4 : at + size]
        assert bytes.fromhex(twin.document["inboxes"][str(i)]) == expected


@pytest.mark.parametrize("k", range(STEPS))
def test_vectors_and_presences_of_a_step(twin, k):
    step = twin.document["steps"][k]
    text = label("present", twin.context, twin.sessions[k], bytes.fromhex(step["request"]), *range(N))
    for name, answered in step["answered"].items():
        i = int(name)
        for channel, bits in BITS.items():
            columns = [_values(step["vectors"][name], channel), twin.own_mask(twin.drawn(i, k)[0], i, k, channel)]
            columns += [twin.pair_mask(twin.private(i)[1 + k], i, j, k, channel) for j in range(N) if j != i]
            assert added(*columns, bits=bits) == _values(answered, channel)
        assert bytes.fromhex(answered["presence"]) == b"\x01\x09" + twin.context + big(i, 4) + twin.identity(i).sign(
            text
        )
    assert len(step["answered"]) == N - k


def test_a_full_step_ends_without_signatures(twin):
    step = twin.document["steps"][0]
    assert bytes.fromhex(step["unmask"]) == b"\x01\x0e" + twin.context + twin.sessions[0]
    assert "agree" not in step
    for name, data in step["revealed"].items():
        expected = b"\x01\x08" + twin.context + big(int(name), 4) + big(N, 4)
        expected += b"".join(big(owner, 4) + twin.shares(owner, int(name))[:33] for owner in range(N))
        assert bytes.fromhex(data) == expected
    assert len(step["revealed"]) == N


def test_a_step_with_somebody_missing_ends_as_a_round(twin):
    step, alive = twin.document["steps"][1], [0, 1, 2]
    presences = b"".join(bytes.fromhex(step["answered"][str(i)]["presence"])[34:] for i in alive)
    assert bytes.fromhex(step["agree"]) == b"\x01\x05" + twin.context + big(3, 4) + presences
    text = label("agree", twin.context, twin.sessions[1], bytes.fromhex(step["request"]), *alive)
    agreed = {int(i): bytes.fromhex(data) for i, data in step["agreed"].items()}
    for i, data in agreed.items():
        identity = Ed25519PublicKey.from_public_bytes(bytes.fromhex(twin.document["round"]["members"][i]["identity"]))
        identity.verify(data[38:], text)
    quorum = b"".join(data[34:] for data in agreed.values())
    assert bytes.fromhex(step["unmask"]) == b"\x01\x07" + twin.context + big(3, 4) + quorum
    for name, data in step["revealed"].items():
        expected = b"\x01\x08" + twin.context + big(int(name), 4) + big(N, 4)
        for owner in range(N):
            kind = 0 if owner in alive else 33
            expected += big(owner, 4) + twin.shares(owner, int(name))[66 + kind : 99 + kind]
        assert bytes.fromhex(data) == expected
    assert len(agreed) == len(step["revealed"]) == 3


@pytest.mark.parametrize("k", range(STEPS))
def test_the_sum_of_a_step_follows_from_what_the_server_was_sent(twin, k):
    """Masked vectors and revealed shares alone; and it is that of the plain vectors."""
    step, shares = twin.document["steps"][k], {owner: {} for owner in range(N)}
    for sender, text in step["revealed"].items():
        data = bytes.fromhex(text)
        for at in range(42, len(data), 37):
            owner = int.from_bytes(data[at : at + 4], "big")
            shares[owner][int(sender) + 1] = int.from_bytes(data[at + 4 : at + 37], "big")
    secrets = {owner: rebuild(dict(list(found.items())[:T])) for owner, found in shares.items()}
    alive = [int(i) for i in step["answered"]]
    assert step["sum"]["survivors"] == alive
    for channel, bits in BITS.items():
        columns = [_values(step["answered"][str(i)], channel) for i in alive]
        columns += [[-word for word in twin.own_mask(secrets[i], i, k, channel)] for i in alive]
        for gone in set(range(N)) - set(alive):
            columns += [twin.pair_mask(secrets[gone], gone, j, k, channel) for j in alive]
        plain = [_values(step["vectors"][str(i)], channel) for i in alive]
        assert added(*columns, bits=bits) == added(*plain, bits=bits) == _values(step["sum"], channel)
