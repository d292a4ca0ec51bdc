"""Texts to tokens and what is refused."""

from __future__ import annotations

import os

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from tacit.errors import BadInput
from tacit.tasks.tokens import ByteTokens, WordPiece, choose_tokens, vocabulary_size
from tacit.vocabulary import find_vocabulary

needs_data = pytest.mark.skipif(not os.environ.get("TACIT_DATA"), reason="TACIT_DATA is not set")

WORDS = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "free", "##dom", "now", "!", "pad"]


@pytest.fixture
def vocabulary(tmp_path):
    path = tmp_path / "vocab.txt"
    path.write_text("\n".join(WORDS) + "\n", encoding="utf-8")
    return path


@given(texts=st.lists(st.text(max_size=20), max_size=4), length=st.integers(1, 24))
def test_bytes_are_the_texts_cut_and_padded(texts, length):
    tokens = ByteTokens(length)
    ids = tokens.encode(texts)
    assert ids.shape == (len(texts), length)
    assert ids.dtype == np.int64
    for text, row in zip(texts, ids, strict=True):
        content = text.encode()[:length]
        assert bytes(row[: len(content)].astype(np.uint8).tolist()) == content
        assert (row[: len(content)] < tokens.pad).all()
        assert (row[len(content) :] == tokens.pad).all()


def test_half_a_surrogate_pair_is_not_an_error():
    assert ByteTokens(3).encode(["a\ud800"]).tolist() == [[97, ord("?"), 256]]


def test_pieces_of_words(vocabulary):
    tokens = WordPiece(vocabulary, length=5)
    ids = tokens.encode(["Freedom NOW!", "", "é free"])
    assert ids.tolist() == [[4, 5, 6, 7, 0], [0] * 5, [1, 4, 0, 0, 0]]
    assert (tokens.size, tokens.pad) == (9, 0)


def test_a_long_text_is_cut(vocabulary):
    assert WordPiece(vocabulary, length=2).encode(["now now now"]).tolist() == [[6, 6]]


def test_no_texts_give_no_rows(vocabulary):
    assert WordPiece(vocabulary, length=2).encode([]).shape == (0, 2)


def test_a_text_can_not_spell_the_padding(vocabulary):
    assert WordPiece(vocabulary, length=2).encode(["[PAD] now"]).tolist() == [[8, 6]]


def test_fewer_entries_make_pieces_unknown(vocabulary):
    tokens = WordPiece(vocabulary, length=2, entries=5)
    assert tokens.size == 5
    assert tokens.encode(["free freedom"]).tolist() == [[4, 1]]


def test_a_vocabulary_without_padding_is_refused(vocabulary):
    with pytest.raises(BadInput, match=r"expected an entry \[SEP\] in the first 3 lines"):
        WordPiece(vocabulary, length=2, entries=3)


def test_a_vocabulary_that_is_no_text_is_refused(tmp_path):
    path = tmp_path / "vocab.txt"
    path.write_bytes(b"\xff\xfe\x00")
    with pytest.raises(BadInput, match="expected a vocabulary in UTF-8"):
        WordPiece(path, length=2)


def test_a_missing_vocabulary_is_refused_with_a_hint(monkeypatch, tmp_path):
    with pytest.raises(BadInput, match="found no file") as caught:
        find_vocabulary(str(tmp_path / "none.txt"))
    assert "bert-uncased" in caught.value.hint
    monkeypatch.setenv("TACIT_DATA", str(tmp_path))
    with pytest.raises(BadInput, match="bert_uncased_vocab"):
        find_vocabulary("bert-uncased")
    monkeypatch.delenv("TACIT_DATA")
    with pytest.raises(BadInput, match="found TACIT_DATA unset"):
        find_vocabulary("bert-uncased")


def test_sizes_by_name(vocabulary):
    assert vocabulary_size("bytes", vocabulary=None, entries=None) == 257
    assert vocabulary_size("wordpiece", vocabulary=str(vocabulary), entries=None) == 9
    assert vocabulary_size("wordpiece", vocabulary=str(vocabulary), entries=6) == 6


@pytest.mark.parametrize("name", ["words", "wordpiece"])
def test_an_unknown_name_or_no_vocabulary_is_refused(name):
    with pytest.raises(BadInput, match='expected tokens "bytes"'):
        choose_tokens(name, length=2, vocabulary=None, entries=None)


@needs_data
def test_the_vocabulary_of_bert():
    tokens = choose_tokens("wordpiece", length=8, vocabulary="bert-uncased", entries=None)
    assert tokens.size == 30_522
    # hello 7592, world 2088, as in every published tokenisation with this vocabulary.
    assert tokens.encode(["Hello, world"]).tolist() == [[7592, 1010, 2088, 0, 0, 0, 0, 0]]
