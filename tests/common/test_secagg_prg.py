"""Masks. Right passes at p > 0.001, wrong fails at p < 1e-6; the wrong ones are a biased bit and Flower's range."""

from __future__ import annotations

import itertools
from collections import Counter

import numpy as np
import pytest
from cohort import Coins, Drive, make_round
from cryptography.hazmat.primitives.ciphers import Cipher, algorithms, modes
from flwr.common.secure_aggregation.secaggplus_utils import pseudo_rand_gen
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import stats

from tacit.secagg import client, server
from tacit.secagg.abort import Stage
from tacit.secagg.keys import Secret
from tacit.secagg.prg import add_mask, keystream

ACCEPT, REJECT = 1e-3, 1e-6
KEY = Secret(bytes(range(32)))
BLOCK = 1 << 17
DTYPES = (np.uint32, np.uint64)


def _counter_mode(key: bytes, size: int) -> bytes:
    """AES of 0, 1, 2... as 16 bytes, most significant first (NIST SP 800-38A, section 6.5)."""
    counters = b"".join(i.to_bytes(16, "big") for i in range(-(-size // 16)))
    return Cipher(algorithms.AES256(key), modes.ECB()).encryptor().update(counters)[:size]


def _mask(dtype, length: int, *, key: Secret = KEY) -> np.ndarray:
    vector = np.zeros(length, dtype=dtype)
    add_mask(vector, key, sign=1)
    return vector


def test_the_blocks_are_those_of_the_standard():
    # NIST SP 800-38A, F.5.5 CTR-AES256.Encrypt: the first output block is AES of the first counter.
    key = bytes.fromhex("603deb1015ca71be2b73aef0857d77811f352c073b6108d72d9810a30914dff4")
    counter = bytes.fromhex("f0f1f2f3f4f5f6f7f8f9fafbfcfdfeff")
    output = bytes.fromhex("0bdf7df1591716335e9a8b15c860c502")
    assert Cipher(algorithms.AES256(key), modes.ECB()).encryptor().update(counter) == output
    # SP 800-38A has no vector from counter zero; the twin that the keystream must equal makes the same call.
    assert keystream(Secret(key), 1000) == _counter_mode(key, 1000)


@pytest.mark.parametrize("size", [0, 1, 15, 16, 17, 40])
def test_the_keystream_has_the_size_asked_for(size):
    assert keystream(KEY, size) == _counter_mode(KEY, size)


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("offset", [-1, 0, 1])
@pytest.mark.parametrize("blocks", [0, 1, 2])
def test_masks_are_little_endian_words_of_the_keystream(dtype, offset, blocks):
    size = np.dtype(dtype).itemsize
    length = max(0, blocks * BLOCK // size + offset)
    stream = _counter_mode(KEY, length * size)
    expected = np.array([int.from_bytes(stream[i : i + size], "little") for i in range(0, len(stream), size)], dtype)
    np.testing.assert_array_equal(_mask(dtype, length), expected)


@settings(max_examples=30)
@given(st.sampled_from(DTYPES), st.integers(0, 70), st.integers(0, 3), st.binary(min_size=32, max_size=32))
def test_a_mask_is_added_and_taken_off(dtype, length, blocks, key):
    vector = np.random.default_rng(length).integers(0, np.iinfo(dtype).max, length + 16384 * blocks, dtype=dtype)
    masked = vector.copy()
    add_mask(masked, Secret(key), sign=1)
    np.testing.assert_array_equal(masked, vector + _mask(dtype, len(vector), key=Secret(key)))
    add_mask(masked, Secret(key), sign=-1)
    np.testing.assert_array_equal(masked, vector)


def test_the_ring_wraps():
    vector = np.full(64, 2**32 - 1, dtype=np.uint32)
    add_mask(vector, KEY, sign=1)
    np.testing.assert_array_equal(vector, _mask(np.uint32, 64) - np.uint32(1))


def _uniform(values: np.ndarray, size: int) -> float:
    """p that `values` are uniform over 0 to `size` - 1, by chi-square."""
    return float(stats.chisquare(np.bincount(values, minlength=size)).pvalue)


def _fair(ones: np.ndarray, count: int) -> float:
    """p that every bit is set half the time; `ones` counts each bit over `count` words."""
    return float(stats.chi2.sf(((ones - count / 2) ** 2 / (count / 4)).sum(), len(ones)))


@pytest.mark.statistical
@pytest.mark.parametrize("dtype", DTYPES)
def test_every_byte_of_an_entry_is_uniform(dtype):
    words = _mask(dtype, 1 << 17)
    columns = words.view(np.uint8).reshape(len(words), -1).T
    assert len(columns) == np.dtype(dtype).itemsize
    p = [_uniform(column, 256) for column in columns]
    assert min(p) * len(p) > ACCEPT
    short = np.minimum(columns[0], 254)  # never the top value
    assert _uniform(short, 256) < REJECT


@pytest.mark.statistical
@pytest.mark.parametrize("dtype", DTYPES)
def test_every_bit_of_an_entry_is_fair(dtype):
    words = _mask(dtype, 1 << 17)
    bits = np.unpackbits(words.view(np.uint8)).reshape(len(words), -1)
    assert _fair(bits.sum(axis=0), len(words)) > ACCEPT
    without_top = bits.copy()
    without_top[::10, 0] = 0  # one bit set in 45 % of the words
    assert _fair(without_top.sum(axis=0), len(words)) < REJECT


@pytest.mark.statistical
@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("size", [16, 64, 256])
def test_the_top_value_is_drawn_and_in_flower_not(dtype, size):
    ours = (_mask(dtype, 1 << 16) >> (8 * np.dtype(dtype).itemsize - size.bit_length() + 1)).astype(np.int64)
    assert ours.max() == size - 1
    assert _uniform(ours, size) > ACCEPT
    (flowers,) = pseudo_rand_gen(bytes(KEY), size, [(1 << 16,)])
    assert flowers.max() == size - 2
    assert _uniform(flowers, size) < REJECT


def test_no_two_masks_share_a_keystream(monkeypatch):
    """Over rounds, attempts, purposes and drop-outs, even where the partners' randomness repeats."""
    client_keys: list[tuple[bytes, int]] = []
    server_keys: list[bytes] = []

    def note_client(vector, key, *, sign):
        client_keys.append((bytes(key), sign))
        add_mask(vector, key, sign=sign)

    def note_server(vector, key, *, sign):
        server_keys.append(bytes(key))
        add_mask(vector, key, sign=sign)

    monkeypatch.setattr(client, "add_mask", note_client)
    monkeypatch.setattr(server, "add_mask", note_server)
    n, runs = 5, 0
    for number, attempt, purpose in itertools.product((1, 2), (1, 2), ("train", "evaluate")):
        new = make_round(n, number=number, attempt=attempt, purpose=purpose, threshold=4)
        Drive(new, random=Coins(), vanish={1: Stage.MASK}).sum()
        runs += 1
    uses = Counter(key for key, _ in client_keys)
    pairs = (n - 1) * (n - 2) // 2
    # Of each channel: a self mask of each that came, one key for each pair that came, one for each with the vanished.
    assert Counter(uses.values()) == {1: runs * 2 * (n - 1 + n - 1), 2: runs * 2 * pairs}
    both = {key for key, count in uses.items() if count == 2}
    assert all(Counter(sign for key, sign in client_keys if key == one) == {1: 1, -1: 1} for one in list(both)[:20])
    assert Counter(server_keys) == dict.fromkeys((key for key, count in uses.items() if count == 1), 1)
