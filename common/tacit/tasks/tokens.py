"""Texts to token numbers: bytes by default, so that no vocabulary tells of the data; WordPiece on wish.

WordPiece is that of Devlin et al., BERT (arXiv:1810.04805v2, section 3), through the library `tokenizers`.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import lru_cache
from pathlib import Path
from typing import Protocol

import numpy as np
from numpy.typing import NDArray
from tokenizers import BertWordPieceTokenizer

from tacit.errors import BadInput
from tacit.vocabulary import find_vocabulary

__all__ = ["ByteTokens", "Tokens", "WordPiece", "choose_tokens", "vocabulary_size"]

_PADDING = "[PAD]"
_NEEDED = (_PADDING, "[UNK]", "[CLS]", "[SEP]")  # the tokenizer asks for all of them
_BYTES_PADDING = 256


class Tokens(Protocol):
    """What turns texts into tokens.

    Attributes:
        length: tokens a text.
        pad: the token that fills a short text; `encode` gives it nowhere else.
        size: number of different tokens, padding included.
    """

    @property
    def length(self) -> int: ...
    @property
    def pad(self) -> int: ...
    @property
    def size(self) -> int: ...

    def encode(self, texts: Sequence[str]) -> NDArray[np.int64]:
        """Texts to int64 `[n, length]`: cut where too long, filled with `pad` where too short."""
        ...


class ByteTokens:
    """The bytes of UTF-8, 0 to 255, and the padding, 256."""

    pad = _BYTES_PADDING
    size = _BYTES_PADDING + 1

    def __init__(self, length: int) -> None:
        self.length = length

    def encode(self, texts: Sequence[str]) -> NDArray[np.int64]:
        """Texts to int64 `[n, length]`. Half a surrogate pair, which UTF-8 has no bytes for, becomes `?`."""
        # A character has at least one byte, so later characters can not reach the result.
        rows = [list(text[: self.length].encode(errors="replace")) for text in texts]
        return _padded(rows, length=self.length, pad=self.pad)


class WordPiece:
    """Pieces of words by a vocabulary with one entry a line, in lower case and without accents.

    Args:
        vocabulary: path of the vocabulary.
        length: tokens a text.
        entries: keep this many lines from the head; None keeps all.

    Raises:
        BadInput: where the file can not be read, or lacks one of the marks [PAD], [UNK], [CLS] and [SEP] in
            the lines that are kept.
    """

    def __init__(self, vocabulary: Path, *, length: int, entries: int | None = None) -> None:
        lines = _read_vocabulary(vocabulary)[:entries]
        numbers = {line: i for i, line in enumerate(lines)}
        for needed in _NEEDED:
            if needed not in numbers:
                raise BadInput(
                    f"expected an entry {needed} in the first {len(lines)} lines, found none in {vocabulary}",
                    hint="use a WordPiece vocabulary with one entry a line, and keep enough entries of it",
                )
        self.length, self.pad, self.size = length, numbers[_PADDING], len(lines)
        self._tokenizer = BertWordPieceTokenizer(vocab=numbers, lowercase=True)

    def encode(self, texts: Sequence[str]) -> NDArray[np.int64]:
        """Texts to int64 `[n, length]`, without marks for start and end."""
        # A text that spells out the padding's name would be masked: it is taken as plain words.
        plain = [text.replace(_PADDING, _PADDING.strip("[]")) for text in texts]
        encodings = self._tokenizer.encode_batch(plain, add_special_tokens=False)
        return _padded([encoding.ids for encoding in encodings], length=self.length, pad=self.pad)


def choose_tokens(name: str, *, length: int, vocabulary: str | None, entries: int | None) -> Tokens:
    """The tokens called `name`: "bytes" or "wordpiece". Raises BadInput for another or without its vocabulary."""
    match name, vocabulary:
        case "bytes", _:
            return ByteTokens(length)
        case "wordpiece", str():
            return WordPiece(find_vocabulary(vocabulary), length=length, entries=entries)
        case _:
            raise BadInput(
                f'expected tokens "bytes", or "wordpiece" with a vocabulary, found "{name}" with {vocabulary}',
                hint='set tokens = "bytes", or tokens = "wordpiece" and vocabulary = "bert-uncased"',
            )


def vocabulary_size(name: str, *, vocabulary: str | None, entries: int | None) -> int:
    """Number of different tokens, padding included. Raises as `choose_tokens`."""
    return choose_tokens(name, length=1, vocabulary=vocabulary, entries=entries).size


@lru_cache(maxsize=4)
def _read_vocabulary(path: Path) -> tuple[str, ...]:
    try:
        return tuple(path.read_text(encoding="utf-8").splitlines())
    except (OSError, UnicodeDecodeError) as error:
        raise BadInput(
            f"expected a vocabulary in UTF-8, found a file that can not be read at {path}",
            hint="check the path and the rights of the file",
        ) from error


def _padded(rows: Sequence[list[int]], *, length: int, pad: int) -> NDArray[np.int64]:
    ids = np.full((len(rows), length), pad, dtype=np.int64)
    for i, row in enumerate(rows):
        kept = row[:length]
        ids[i, : len(kept)] = kept
    return ids
