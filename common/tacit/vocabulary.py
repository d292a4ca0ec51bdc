"""Where vocabularies lie: by name under the data folder, or files of the user's own."""

from __future__ import annotations

import os
from pathlib import Path

from tacit.errors import BadInput

__all__ = ["NAMES", "find_vocabulary"]

_NAMED = {"bert-uncased": "bert_uncased_vocab/vocab.txt"}
NAMES = tuple(_NAMED)
"""Vocabularies by name; all others are files, which a job must not choose on a partner's machine."""


def find_vocabulary(vocabulary: str) -> Path:
    """Path of a vocabulary given by name or by path; names are looked up in the folder TACIT_DATA.

    Raises:
        BadInput: where there is no such file.
    """
    folder = os.environ.get("TACIT_DATA")
    if vocabulary not in _NAMED:
        path = Path(vocabulary)
    elif folder:
        path = Path(folder) / _NAMED[vocabulary]
    else:
        raise BadInput(
            f'expected a data folder for the vocabulary "{vocabulary}", found TACIT_DATA unset',
            hint=f"set TACIT_DATA to a folder that has {_NAMED[vocabulary]}",
        )
    if not path.is_file():
        raise BadInput(
            f'expected the vocabulary "{vocabulary}" at {path}, found no file',
            hint=f"give the path of a vocabulary file, or one of the names {', '.join(_NAMED)}",
        )
    return path
