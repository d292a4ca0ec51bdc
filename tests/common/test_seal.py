"""Sealed files: what was sealed comes back, and nothing else ever does."""

from __future__ import annotations

import io
import os
import stat
from collections import Counter

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tacit import seal as module
from tacit.errors import BadInput
from tacit.seal import CHUNK, Key, Sealer, Unsealer, is_sealed, make_key, read_key, seal, unseal

KEY, OTHER = Key(bytes(range(32))), Key(bytes(32))
SMALL = 64  # a chunk in tests that go through every place


def _plain(length: int) -> bytes:
    """No two chunks of it are alike, whichever of the sizes here a chunk has."""
    return b"".join(i.to_bytes(8, "big") for i in range(length // 8 + 1))[:length]


def _open(sealed: bytes, *, key: Key = KEY, use: str = "checkpoint") -> bytes:
    return unseal(sealed, key=key, use=use, where="the test")


def _refused(sealed: bytes, *, key: Key = KEY, use: str = "checkpoint") -> str:
    with pytest.raises(BadInput, match=r"^expected .*, found .* the test$") as caught:
        _open(sealed, key=key, use=use)
    return caught.value.message


@pytest.fixture
def small(monkeypatch):
    monkeypatch.setattr(module, "CHUNK", SMALL)


@pytest.mark.parametrize("chunks", [0, 1, 2])
@pytest.mark.parametrize("more", [-1, 0, 1])
def test_every_length_around_the_borders_of_chunks_comes_back(chunks, more):
    length = max(0, chunks * CHUNK + more)
    sealed = seal(_plain(length), key=KEY, use="checkpoint")
    assert len(sealed) == 43 + length + 16 * max(1, -(-length // CHUNK))
    assert _open(sealed) == _plain(length)


@given(
    st.lists(st.integers(0, 3 * SMALL), max_size=6),
    st.lists(st.integers(1, 3 * SMALL), min_size=1, max_size=6),
    st.integers(0, 2**16),
)
def test_pieces_of_any_size_go_in_and_come_out(written, read, start):
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(module, "CHUNK", SMALL)
        parts = [_plain(start % 97 + size)[start % 97 :] for size in written]
        file = io.BytesIO()
        with Sealer(file, key=KEY, use="u") as sealer:
            for i, part in enumerate(parts):
                sealer.write(memoryview(part) if i % 2 else part)
        assert len(file.getvalue()) == 43 + sum(written) + 16 * max(1, -(-sum(written) // SMALL))
        file.seek(0)
        reader, found = io.BufferedReader(Unsealer(file, key=KEY, use="u", where="w"), buffer_size=8), []
        for i in range(10_000):
            part = reader.read(read[i % len(read)])
            if not part:
                break
            found.append(part)
        assert b"".join(found) == b"".join(parts)


def test_one_chunk_is_in_memory_at_a_time(monkeypatch):
    seen: list[int] = []

    class Counting(io.BytesIO):
        def write(self, data):
            seen.append(len(data))
            return super().write(data)

        def read(self, size=-1):
            seen.append(size)
            return super().read(size)

    file = Counting()
    with Sealer(file, key=KEY, use="u") as sealer:
        sealer.write(bytes(3 * CHUNK + 5))
    file.seek(0)
    reader = Unsealer(file, key=KEY, use="u", where="w")
    assert len(reader.read(10 * CHUNK)) == CHUNK
    assert Counter(seen) == {43: 1, 11: 1, 32: 1, CHUNK + 16: 3 + 2, 5 + 16: 1}


def test_two_files_of_the_same_content_have_nothing_in_common():
    one, other = (seal(bytes(100), key=KEY, use="u") for _ in range(2))
    assert one[:11] == other[:11]
    assert sum(a == b for a, b in zip(one[11:], other[11:], strict=True)) < 20


def test_nothing_of_the_content_is_seen(small):
    secret = os.urandom(40)
    sealed = seal(b"x" * 30 + secret + b"y" * 300, key=KEY, use="u")
    assert not any(secret[i : i + 4] in sealed for i in range(37))
    assert KEY.secret not in sealed


def test_every_flipped_bit_is_noticed(small):
    """Guarantee: a changed file gives nothing."""
    sealed, seen = seal(_plain(SMALL + 9), key=KEY, use="checkpoint"), 0
    for place in range(len(sealed)):
        for bit in range(8):
            changed = bytearray(sealed)
            changed[place] ^= 1 << bit
            _refused(bytes(changed))
            seen += 1
    assert seen == 8 * (43 + SMALL + 9 + 2 * 16)


@pytest.mark.parametrize("length", [0, 1, SMALL, 2 * SMALL, 2 * SMALL + 1])
def test_a_file_cut_anywhere_is_noticed(small, length):
    sealed = seal(_plain(length), key=KEY, use="checkpoint")
    for end in range(len(sealed)):
        _refused(sealed[:end])


@pytest.mark.parametrize("length", [0, 1, SMALL, 2 * SMALL])
@pytest.mark.parametrize("more", [b"\0", bytes(16), bytes(SMALL + 16)])
def test_bytes_at_the_end_are_noticed(small, length, more):
    _refused(seal(_plain(length), key=KEY, use="checkpoint") + more)


def _chunks(sealed: bytes) -> tuple[bytes, list[bytes]]:
    size = SMALL + 16
    return sealed[:43], [sealed[i : i + size] for i in range(43, len(sealed), size)]


MOVES = {
    "swapped": lambda c: [c[1], c[0], *c[2:]],
    "the last one first": lambda c: [c[-1], *c[:-1]],
    "one left out": lambda c: [c[0], *c[2:]],
    "the first left out": lambda c: c[1:],
    "one twice": lambda c: [c[0], c[0], *c[1:]],
    "the last one twice": lambda c: [*c, c[-1]],
    "none": lambda c: [],
    "the last left out": lambda c: c[:-1],
}


@pytest.mark.parametrize("name", MOVES)
def test_moved_chunks_are_noticed(small, name):
    head, chunks = _chunks(seal(_plain(4 * SMALL), key=KEY, use="checkpoint"))
    assert len(chunks) == 4
    assert _open(head + b"".join(chunks)) == _plain(4 * SMALL)
    _refused(head + b"".join(MOVES[name](chunks)))


def test_a_chunk_of_another_file_is_noticed(small):
    (head, one), (_, other) = (_chunks(seal(_plain(3 * SMALL), key=KEY, use="checkpoint")) for _ in range(2))
    for i in range(3):
        _refused(head + b"".join([*one[:i], other[i], *one[i + 1 :]]))


def test_an_empty_chunk_at_the_end_is_noticed(small, monkeypatch):
    """A writer that closes with one, under the right key, would give a content two shapes."""
    file = io.BytesIO()
    with Sealer(file, key=KEY, use="checkpoint") as sealer:
        sealer.write(_plain(SMALL))
        sealer._put(last=False)
    _refused(file.getvalue())


def test_another_key_or_use_opens_nothing():
    sealed = seal(b"content", key=KEY, use="checkpoint")
    assert "sealed with this key" in _refused(sealed, key=OTHER)
    assert "expected a whole spool sealed with this key" in _refused(sealed, use="spool")
    _refused(sealed, use="checkpoint2")
    _refused(sealed, use="")


def test_what_is_not_sealed_is_told_apart():
    assert _refused(b"{}") == "expected a sealed file, found another kind at the test"
    assert "found version 3" in _refused(b"tacit-seal\x03" + bytes(100))
    assert "found its first bytes only" in _refused(b"tacit-seal")
    assert is_sealed(seal(b"", key=KEY, use="u"))
    assert not is_sealed(b"tacit-sea")


def test_a_byte_after_a_changed_place_is_never_given(small):
    head, chunks = _chunks(seal(_plain(3 * SMALL), key=KEY, use="u"))
    changed = bytearray(chunks[1])
    changed[0] ^= 1
    reader = Unsealer(io.BytesIO(head + chunks[0] + changed + chunks[2]), key=KEY, use="u", where="w")
    assert reader.read(SMALL) == _plain(SMALL)
    for _ in range(3):
        with pytest.raises(BadInput, match="chunk 1 of w"):
            reader.read(SMALL)


def test_a_file_that_was_refused_stays_refused(small):
    """What was added moves out of sight while the first try reads ahead."""
    sealed = seal(_plain(SMALL), key=KEY, use="u")
    reader = Unsealer(io.BytesIO(sealed + b"more"), key=KEY, use="u", where="w")
    for _ in range(3):
        with pytest.raises(BadInput, match="chunk 0 of w"):
            reader.read(SMALL)


def test_a_writer_that_fails_leaves_no_whole_file():
    file = io.BytesIO()

    def write() -> None:
        with Sealer(file, key=KEY, use="checkpoint") as sealer:
            sealer.write(b"half of it")
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        write()
    _refused(file.getvalue())


def test_a_key_is_kept_for_its_owner_alone(tmp_path):
    """Guarantee: mode 0600 whatever the umask is, and the same key comes back."""
    before = os.umask(0)
    try:
        key = make_key(tmp_path / "seal.key")
    finally:
        os.umask(before)
    assert stat.S_IMODE((tmp_path / "seal.key").stat().st_mode) == 0o600
    assert read_key(tmp_path / "seal.key") == key
    assert key != make_key(tmp_path / "other.key")
    assert [path.name for path in sorted(tmp_path.iterdir())] == ["other.key", "seal.key"]


def test_a_key_is_never_replaced(tmp_path):
    make_key(tmp_path / "k")
    content = (tmp_path / "k").read_bytes()
    with pytest.raises(BadInput, match=r"^expected no key at .*/k, found one$"):
        make_key(tmp_path / "k")
    assert (tmp_path / "k").read_bytes() == content
    assert len(list(tmp_path.iterdir())) == 1


def test_a_place_that_can_not_be_written_is_named(tmp_path):
    with pytest.raises(BadInput, match=r"^expected a place for a key at .*/none/k, found: No such file"):
        make_key(tmp_path / "none" / "k")


@pytest.mark.parametrize("mode", [0o640, 0o604, 0o620, 0o602, 0o610, 0o644, 0o777])
def test_a_key_that_others_may_touch_is_refused(tmp_path, mode):
    make_key(tmp_path / "k")
    (tmp_path / "k").chmod(mode)
    with pytest.raises(BadInput, match=rf"^expected a key that its owner alone can read, found mode {mode:04o} at "):
        read_key(tmp_path / "k")


@pytest.mark.parametrize("length", [0, 31, 33, 64])
def test_a_key_of_another_length_is_refused(tmp_path, length):
    (tmp_path / "k").write_bytes(bytes(length))
    (tmp_path / "k").chmod(0o600)
    with pytest.raises(BadInput, match=r"^expected a key of 32 bytes, found another length at "):
        read_key(tmp_path / "k")
    with pytest.raises(BadInput, match=rf"^expected a key of 32 bytes, found {length}$"):
        Key(bytes(length))


def test_no_key_is_refused(tmp_path):
    with pytest.raises(BadInput, match=r"^expected a key at .*, found: No such file"):
        read_key(tmp_path / "k")


def test_a_key_is_not_shown():
    assert repr(KEY) == str(KEY) == "Key(<secret>)"
