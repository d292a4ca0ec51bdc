"""Texts with one label each."""

from __future__ import annotations

from typing import Any

import torch

from tacit.data.examples import Examples
from tacit.errors import BadInput
from tacit.models.transformer import TransformerOptions, build_transformer
from tacit.tasks.task import Encoded, Model, Task, cross_entropy, encode_labels
from tacit.tasks.tokens import choose_tokens

__all__ = ["TEXT_CLASSIFICATION"]


def _encode(options: TransformerOptions, examples: Examples) -> Encoded:
    """Texts, an object array of `str` `[n]`, to ids int64, positions int64 and mask bool, each `[n, length]`."""
    texts = list(examples.inputs)
    for i, text in enumerate(texts):
        if not isinstance(text, str):
            # The type and the row, never the value: it is somebody's.
            raise BadInput(
                f"expected texts, found {type(text).__name__} in example {i}",
                hint="give the column of texts as input, and fill or drop the empty cells",
            )
    tokens = choose_tokens(
        options.tokens, length=options.length, vocabulary=options.vocabulary, entries=options.entries
    )
    ids = torch.from_numpy(tokens.encode(texts))
    positions = torch.arange(options.length).repeat(len(texts), 1)
    return Encoded((ids, positions, ids != tokens.pad), encode_labels(examples, classes=options.classes))


def _infer(examples: Examples) -> dict[str, Any]:
    return {"classes": len(examples.classes)}


TEXT_CLASSIFICATION = Task(
    kind="text-classification",
    models={"transformer": Model(TransformerOptions, build_transformer)},
    encode=_encode,
    infer=_infer,
    loss=cross_entropy,
)
