"""The format of sealed files once more, from `spec/seal.md` alone: a slow reader and writer, and files to compare with.

Run as a program it writes `tests/vectors/seal/files.json`.
"""

from __future__ import annotations

import hashlib
import hmac
import json
import string
from pathlib import Path

import pytest
from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.ciphers import Cipher, algorithms, modes
from hypothesis import given, settings
from hypothesis import strategies as st

from tacit.errors import BadInput
from tacit.passphrase import Passphrase
from tacit.seal import Key, seal, unseal

VECTORS = Path(__file__).resolve().parents[1] / "vectors" / "seal" / "files.json"
KEY = hashlib.sha256(b"the key of the vectors").digest()
TEXT = "the passphrase of the vectors"
CHUNK = 1_048_576


def passphrase_header(cost: int, *, scrypt_salt: bytes) -> bytes:
    return b"tacit-seal\x02" + bytes([cost]) + scrypt_salt


def passphrase_key(text: str, header: bytes) -> bytes:
    """The master key, by the other implementation of scrypt."""
    return hashlib.scrypt(text.encode(), salt=header[12:44], n=2 ** header[11], r=8, p=1, maxmem=2**29, dklen=32)


def file_key(key: bytes, *, header: bytes, salt: bytes, use: str) -> bytes:
    """HKDF of RFC 5869, of two HMACs: 32 bytes are one block."""
    extracted = hmac.digest(salt, key, "sha256")
    info = header + len(use.encode()).to_bytes(4, "big") + use.encode()
    return hmac.digest(extracted, info + b"\x01", "sha256")


def twin_seal(plain: bytes, *, key: bytes, use: str, salt: bytes, header: bytes = b"tacit-seal\x01") -> bytes:
    under = file_key(key, header=header, salt=salt, use=use)
    parts = [plain[i : i + CHUNK] for i in range(0, len(plain), CHUNK)] or [b""]
    sealed = header + salt
    for i, part in enumerate(parts):
        cipher = Cipher(algorithms.AES256(under), modes.GCM(_nonce(i, last=i == len(parts) - 1))).encryptor()
        sealed += cipher.update(part) + cipher.finalize() + cipher.tag
    return sealed


def twin_unseal(sealed: bytes, *, use: str, key: bytes = b"", text: str = "") -> bytes:
    match sealed[:11]:
        case b"tacit-seal\x01" if key:
            header, rest = sealed[:11], sealed[11:]
        case b"tacit-seal\x02" if text and len(sealed) > 11 and 10 <= sealed[11] <= 18:
            header, rest = sealed[:44], sealed[44:]
            key = passphrase_key(text, header)
        case _:
            raise ValueError("another kind of file, or of key")
    under, rest = file_key(key, header=header, salt=rest[:32], use=use), rest[32:]
    parts = [rest[i : i + CHUNK + 16] for i in range(0, len(rest), CHUNK + 16)]
    if not parts or (len(parts) > 1 and len(parts[-1]) <= 16):
        raise ValueError("no chunk, or an empty one at the end")
    plain = b""
    for i, part in enumerate(parts):
        if len(part) < 16:
            raise ValueError("less than a tag")
        nonce = _nonce(i, last=i == len(parts) - 1)
        cipher = Cipher(algorithms.AES256(under), modes.GCM(nonce, part[-16:])).decryptor()
        plain += cipher.update(part[:-16]) + cipher.finalize()
    return plain


def _nonce(number: int, *, last: bool) -> bytes:
    return bytes(3) + number.to_bytes(8, "big") + (b"\x01" if last else b"\x00")


def content(length: int) -> bytes:
    """The content of a vector: SHA-256 of "0", "1", ... one after the other."""
    blocks = (hashlib.sha256(str(i).encode()).digest() for i in range(length // 32 + 1))
    return b"".join(blocks)[:length]


@given(st.binary(max_size=200), st.text(max_size=12), st.binary(min_size=32, max_size=32))
def test_each_opens_what_the_other_has_sealed(plain, use, key):
    sealed = seal(plain, key=Key(key), use=use)
    assert twin_unseal(sealed, key=key, use=use) == plain
    again = twin_seal(plain, key=key, use=use, salt=sealed[11:43])
    assert again == sealed
    assert unseal(again, key=Key(key), use=use, where="w") == plain


@settings(max_examples=30)
@given(st.binary(max_size=200), st.text(max_size=12), st.text(string.ascii_letters, min_size=12), st.integers(10, 12))
def test_each_opens_what_the_other_has_sealed_with_a_passphrase(plain, use, text, cost):
    lock = Passphrase(text, cost=cost)
    sealed = seal(plain, key=lock, use=use)
    assert twin_unseal(sealed, text=text, use=use) == plain
    header = passphrase_header(cost, scrypt_salt=lock.salt)
    again = twin_seal(plain, key=passphrase_key(text, header), use=use, salt=sealed[44:76], header=header)
    assert again == sealed
    assert unseal(again, key=Passphrase(text), use=use, where="w") == plain


@pytest.mark.parametrize("length", [CHUNK - 1, CHUNK, CHUNK + 1, 2 * CHUNK, 2 * CHUNK + 17])
def test_they_agree_around_the_borders_of_chunks(length):
    plain = content(length)
    sealed = seal(plain, key=Key(KEY), use="u")
    assert twin_seal(plain, key=KEY, use="u", salt=sealed[11:43]) == sealed
    assert twin_unseal(sealed, key=KEY, use="u") == plain


@given(st.integers(0, 90), st.integers(0, 255), st.integers(0, 3))
def test_they_refuse_the_same(place, value, cut):
    sealed = bytearray(seal(content(40), key=Key(KEY), use="u"))
    sealed[place] = value
    changed = bytes(sealed[: len(sealed) - cut])
    try:
        expected = twin_unseal(changed, key=KEY, use="u")
    except (InvalidTag, ValueError):
        with pytest.raises(BadInput):
            unseal(changed, key=Key(KEY), use="u", where="w")
    else:
        assert unseal(changed, key=Key(KEY), use="u", where="w") == expected == content(40)


@given(st.integers(0, 131), st.integers(0, 255), st.integers(0, 3))
def test_they_refuse_the_same_of_a_passphrase(place, value, cut):
    if place == 11 and 12 < value <= 18:
        return  # seconds of scrypt
    lock = Passphrase(TEXT, cost=10)
    sealed = bytearray(seal(content(40), key=lock, use="u"))
    sealed[place] = value
    changed = bytes(sealed[: len(sealed) - cut])
    try:
        expected = twin_unseal(changed, text=TEXT, use="u")
    except (InvalidTag, ValueError):
        with pytest.raises(BadInput):
            unseal(changed, key=Passphrase(TEXT), use="u", where="w")
    else:
        assert unseal(changed, key=Passphrase(TEXT), use="u", where="w") == expected == content(40)


def _of_passphrases() -> list[dict[str, object]]:
    found = []
    for cost, length in ((10, 0), (11, 17), (17, 40)):
        salts = [hashlib.sha256(f"{what} {cost}".encode()).digest() for what in ("scrypt", "salt")]
        header = passphrase_header(cost, scrypt_salt=salts[0])
        key = passphrase_key(TEXT, header)
        sealed = twin_seal(content(length), key=key, use="file", salt=salts[1], header=header)
        found.append({"cost": cost, "length": length, "salts": [s.hex() for s in salts], "sealed": sealed.hex()})
    return found


def _vectors() -> dict[str, object]:
    files, refused = [], []
    for length in (0, 1, 15, 16, 17, 100, CHUNK - 1, CHUNK, CHUNK + 1, 2 * CHUNK):
        salt = hashlib.sha256(f"salt {length}".encode()).digest()
        sealed = twin_seal(content(length), key=KEY, use="checkpoint", salt=salt)
        shown = {"sealed": sealed.hex()} if length <= 100 else {}
        files.append({"length": length, "salt": salt.hex(), "sha256": hashlib.sha256(sealed).hexdigest(), **shown})
    good = twin_seal(content(20), key=KEY, use="checkpoint", salt=hashlib.sha256(b"salt").digest())
    for why, bad in (
        ("version 3", good[:10] + b"\x03" + good[11:]),
        ("a passphrase's", good[:10] + b"\x02" + good[11:]),
        ("another magic", b"T" + good[1:]),
        ("another salt", good[:11] + bytes(32) + good[43:]),
        ("a bit of the content", good[:43] + bytes([good[43] ^ 1]) + good[44:]),
        ("a bit of the tag", good[:-1] + bytes([good[-1] ^ 128])),
        ("cut by one", good[:-1]),
        ("no chunk", good[:43]),
        ("longer by one", good + b"\0"),
        ("another use", twin_seal(content(20), key=KEY, use="spool", salt=bytes(32))),
        ("another key", twin_seal(content(20), key=bytes(32), use="checkpoint", salt=bytes(32))),
        ("empty", b""),
    ):
        refused.append({"why": why, "sealed": bad.hex()})
    secret = {"text": TEXT, "use": "file", "files": _of_passphrases()}
    return {"key": KEY.hex(), "use": "checkpoint", "files": files, "refused": refused, "passphrase": secret}


def test_the_vectors_are_as_written():
    assert json.loads(VECTORS.read_text(encoding="utf-8")) == _vectors()


def test_the_product_opens_the_vectors_and_seals_them_alike(monkeypatch):
    document = json.loads(VECTORS.read_text(encoding="utf-8"))
    key, use = Key(bytes.fromhex(document["key"])), document["use"]
    for file in document["files"]:
        monkeypatch.setattr("tacit.seal.os.urandom", lambda size, salt=file["salt"]: bytes.fromhex(salt)[:size])
        sealed = seal(content(file["length"]), key=key, use=use)
        assert hashlib.sha256(sealed).hexdigest() == file["sha256"]
        assert sealed.hex() == file.get("sealed", sealed.hex())
        assert unseal(sealed, key=key, use=use, where="w") == content(file["length"])
    for file in document["refused"]:
        with pytest.raises(BadInput, match=r"^expected "):
            unseal(bytes.fromhex(file["sealed"]), key=key, use=use, where="w")
    assert (len(document["files"]), len(document["refused"])) == (10, 12)


def test_the_product_opens_the_vectors_of_a_passphrase_and_seals_them_alike(monkeypatch):
    document = json.loads(VECTORS.read_text(encoding="utf-8"))["passphrase"]
    for file in document["files"]:
        salts = [bytes.fromhex(salt) for salt in file["salts"]]
        monkeypatch.setattr("tacit.seal.os.urandom", lambda size, left=salts: left.pop(0)[:size])
        sealed = seal(content(file["length"]), key=Passphrase(document["text"], cost=file["cost"]), use="file")
        assert sealed.hex() == file["sealed"]
        monkeypatch.undo()
        assert unseal(sealed, key=Passphrase(TEXT), use="file", where="w") == content(file["length"])
    assert len(document["files"]) == 3


if __name__ == "__main__":
    VECTORS.write_text(json.dumps(_vectors(), indent=1) + "\n", encoding="utf-8")
