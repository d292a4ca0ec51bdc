"""A passphrase seals as a key does, costs one scrypt, and no file makes it cost more."""

from __future__ import annotations

import io
import unicodedata
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tacit import passphrase as module
from tacit.errors import BadInput
from tacit.passphrase import COSTS, Passphrase, ask_passphrase, read_passphrase
from tacit.seal import Key, Sealer, Unsealer, seal, unseal

WORDS = "correct horse battery"
QUICK = COSTS[0]


def _pass(text: str = WORDS) -> Passphrase:
    return Passphrase(text, cost=QUICK)


@given(st.binary(max_size=100), st.text(min_size=12, max_size=20))
@settings(max_examples=20)
def test_what_it_has_sealed_it_opens_and_no_other(plain, text):
    sealed = seal(plain, key=_pass(text), use="u")
    assert unseal(sealed, key=_pass(text), use="u", where="w") == plain
    with pytest.raises(BadInput, match="chunk 0 of w"):
        unseal(sealed, key=_pass(text + "."), use="u", where="w")
    with pytest.raises(BadInput, match="chunk 0 of w"):
        unseal(sealed, key=_pass(text), use="v", where="w")


def test_every_bit_of_the_header_counts():
    sealed = seal(b"content", key=_pass(), use="u")
    assert len(sealed) == 11 + 1 + 32 + 32 + 7 + 16
    seen = 0
    for place in (10, 11, 12, 43, 44, 75):
        changed = bytearray(sealed)
        changed[place] ^= 1
        with pytest.raises(BadInput, match=r"^expected .*, found .* w$"):
            unseal(bytes(changed), key=_pass(), use="u", where="w")
        seen += 1
    assert seen == 6
    for length in (11, 12, 43, 44, 75):
        with pytest.raises(BadInput, match="found its first bytes only at w"):
            unseal(sealed[:length], key=_pass(), use="u", where="w")


def test_the_wrong_kind_of_lock_is_named():
    key = Key(bytes(32))
    with pytest.raises(BadInput, match="expected the key file that sealed w, found a passphrase"):
        unseal(seal(b"x", key=key, use="u"), key=_pass(), use="u", where="w")
    with pytest.raises(BadInput, match="expected the passphrase that sealed w, found a key file"):
        unseal(seal(b"x", key=_pass(), use="u"), key=key, use="u", where="w")


@pytest.mark.parametrize("cost", [0, 1, COSTS[0] - 1, COSTS[-1] + 1, 30, 63, 255])
def test_a_header_that_asks_for_too_much_or_too_little_is_refused_before_scrypt(cost, monkeypatch):
    sealed = bytearray(seal(b"content", key=_pass(), use="u"))
    sealed[11] = cost
    monkeypatch.setattr(module, "Scrypt", None)
    with pytest.raises(BadInput, match=f"expected a cost of scrypt from 10 to 18, found {cost} in w"):
        unseal(bytes(sealed), key=_pass(), use="u", where="w")
    with pytest.raises(BadInput, match="cost"):
        Passphrase(WORDS, cost=cost)


def test_a_folder_of_files_costs_one_scrypt(monkeypatch):
    runs = []
    real = module.Scrypt
    monkeypatch.setattr(module, "Scrypt", lambda **given: runs.append(given) or real(**given))
    one = _pass()
    files = [seal(bytes([i]), key=one, use="u") for i in range(20)]
    assert len(runs) == 1
    other = _pass()
    assert [unseal(file, key=other, use="u", where="w") for file in files] == [bytes([i]) for i in range(20)]
    assert len(runs) == 2
    assert len({file[44:76] for file in files}) == 20, "each file has a salt of its own"


def test_two_values_of_one_passphrase_have_no_salt_in_common():
    one, other = (seal(bytes(50), key=_pass(), use="u") for _ in range(2))
    assert one[12:44] != other[12:44]


def test_what_is_sealed_by_default_costs_what_its_source_says():
    file = io.BytesIO()
    with Sealer(file, key=Passphrase(WORDS), use="u"):
        pass
    assert file.getvalue()[11] == 17


def test_two_ways_to_write_a_letter_are_one():
    text = "grüße aus köln am rhein"
    composed, apart = (unicodedata.normalize(form, text) for form in ("NFC", "NFD"))
    assert composed != apart
    assert unseal(seal(b"x", key=_pass(composed), use="u"), key=_pass(apart), use="u", where="w") == b"x"


def test_it_shows_nothing():
    made = _pass()
    made.key(salt=bytes(32), cost=QUICK)
    assert repr(made) == str(made) == f"{made}" == "Passphrase(<secret>)"


def test_a_short_one_is_refused_and_not_repeated():
    with pytest.raises(BadInput, match="at least 12 characters, found 11") as caught:
        Passphrase("hunter2hunt")
    assert "hunter2" not in str(caught.value) + caught.value.hint


class TestFile:
    def _written(self, folder: Path, content: bytes, *, mode: int = 0o600) -> Path:
        path = folder / "pass"
        path.write_bytes(content)
        path.chmod(mode)
        return path

    @pytest.mark.parametrize("end", [b"", b"\n", b"\r\n"])
    def test_one_line_is_taken_without_its_end(self, tmp_path, end):
        found = read_passphrase(self._written(tmp_path, WORDS.encode() + end))
        assert found.key(salt=bytes(32), cost=QUICK) == _pass().key(salt=bytes(32), cost=QUICK)

    @pytest.mark.parametrize("mode", [0o640, 0o604, 0o602])
    def test_one_that_others_can_read_is_refused(self, tmp_path, mode):
        with pytest.raises(BadInput, match=f"found mode 0{mode:o}") as caught:
            read_passphrase(self._written(tmp_path, WORDS.encode(), mode=mode))
        assert "chmod 600" in caught.value.hint

    @pytest.mark.parametrize(
        ("content", "message"), [
            (b"", "found 0"), (b"a\nb\n", "found 2"), (b"short\n", "found 5"),
            ("grüße aus köln".encode("latin-1"), "in UTF-8, found other bytes"), (b"long" * 2000, "at most 4096 bytes"),
        ],
    )  # fmt: skip
    def test_what_is_none(self, tmp_path, content, message):
        with pytest.raises(BadInput, match=message):
            read_passphrase(self._written(tmp_path, content))

    def test_none_there(self, tmp_path):
        with pytest.raises(BadInput, match=r"expected a passphrase at .*nowhere, found: No such file"):
            read_passphrase(tmp_path / "nowhere")


class TestAsked:
    def _answering(self, monkeypatch, *answers: str) -> list[str]:
        left, asked = list(answers), []

        def answer(prompt: str) -> str:
            asked.append(prompt)
            if not left:
                raise EOFError
            return left.pop(0)

        monkeypatch.setattr("getpass.getpass", answer)
        return asked

    def test_once_to_open_and_twice_to_seal(self, monkeypatch):
        asked = self._answering(monkeypatch, WORDS, WORDS, WORDS)
        for twice in (False, True):
            assert ask_passphrase("p: ", twice=twice).key(salt=bytes(32), cost=QUICK) == _pass().key(
                salt=bytes(32), cost=QUICK
            )
        assert asked == ["p: ", "p: ", "again: "]

    def test_two_that_differ(self, monkeypatch):
        self._answering(monkeypatch, WORDS, WORDS + "x")
        with pytest.raises(BadInput, match="the same passphrase twice"):
            ask_passphrase("p: ", twice=True)

    def test_none_is_typed(self, monkeypatch):
        self._answering(monkeypatch)
        with pytest.raises(BadInput, match="found the end of the input"):
            ask_passphrase("p: ")


def test_reading_piece_by_piece():
    plain = bytes(range(256)) * 10
    stream = io.BufferedReader(Unsealer(io.BytesIO(seal(plain, key=_pass(), use="u")), key=_pass(), use="u", where="w"))
    assert b"".join(iter(lambda: stream.read(7), b"")) == plain
