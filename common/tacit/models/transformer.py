"""A transformer encoder for texts, of layers whose gradients are known example by example.

The layout is the pre-norm encoder of Xiong et al., On Layer Normalization in the Transformer Architecture
(arXiv:2002.04745v2, figure 1b), with learned positions and the mean over tokens as the text's vector.
`torch.nn.MultiheadAttention` gives no per-example gradients, hence `Attention`.
"""

from __future__ import annotations

from typing import Literal, Self

from pydantic import Field, model_validator
from torch import Tensor, nn
from torch.nn.functional import gelu, scaled_dot_product_attention

from tacit.errors import BadInput
from tacit.tasks.task import Options
from tacit.tasks.tokens import vocabulary_size

__all__ = ["Attention", "Transformer", "TransformerOptions", "build_transformer"]


class TransformerOptions(Options):
    """What the network `transformer` takes.

    Attributes:
        classes: number of classes, 2 or more.
        width: size of a token's vector, a multiple of `heads`.
        depth: number of blocks.
        heads: attention heads a block.
        length: tokens a text; longer texts are cut, shorter ones padded.
        feed_forward: hidden width of a block's feed-forward layers, as a multiple of `width`.
        tokens: "bytes" (UTF-8, no vocabulary) or "wordpiece".
        vocabulary: for "wordpiece" only: a public vocabulary by name (`bert-uncased`) or by path.
        entries: for "wordpiece" only: keep this many entries from the head of the vocabulary, which lists
            frequent words first. The embedding, and with it every gradient and every message, shrinks in
            proportion; rarer words fall into pieces.
    """

    classes: int = Field(ge=2)
    width: int = Field(default=64, ge=1)
    depth: int = Field(default=2, ge=1)
    heads: int = Field(default=4, ge=1)
    length: int = Field(default=128, ge=1)
    feed_forward: int = Field(default=4, ge=1)
    tokens: Literal["bytes", "wordpiece"] = "bytes"
    vocabulary: str | None = None
    entries: int | None = Field(default=None, ge=1)

    @model_validator(mode="after")
    def _fits(self) -> Self:
        if self.width % self.heads:
            raise BadInput(
                f"expected width to be a multiple of heads, found width {self.width} and heads {self.heads} "
                "at task.options",
                hint="choose a width that the number of heads divides",
            )
        if self.tokens == "wordpiece" and self.vocabulary is None:
            raise BadInput(
                'expected a vocabulary with tokens = "wordpiece", found none at task.options.vocabulary',
                hint='set vocabulary = "bert-uncased" or the path of a vocabulary file, or tokens = "bytes"',
            )
        if self.tokens == "bytes" and (self.vocabulary, self.entries) != (None, None):
            raise BadInput(
                'expected no vocabulary and no entries with tokens = "bytes", found one at task.options',
                hint='leave both out, or set tokens = "wordpiece"',
            )
        return self


class Attention(nn.Module):
    """Multi-head self-attention of four `nn.Linear`, each with the batch along dimension 0."""

    def __init__(self, width: int, *, heads: int) -> None:
        super().__init__()
        self.heads = heads
        self.query = nn.Linear(width, width)
        self.key = nn.Linear(width, width)
        self.value = nn.Linear(width, width)
        self.output = nn.Linear(width, width)

    def forward(self, x: Tensor, attended: Tensor) -> Tensor:
        """Float `[n, length, width]` to the same shape; `attended` is bool `[n, length]`, true where a
        token may be looked at, and true somewhere in every row.
        """
        query, key, value = (self._split(layer(x)) for layer in (self.query, self.key, self.value))
        mixed = scaled_dot_product_attention(query, key, value, attn_mask=attended[:, None, None, :])
        joined: Tensor = self.output(mixed.transpose(1, 2).flatten(2))
        return joined

    def _split(self, x: Tensor) -> Tensor:
        n, length, width = x.shape
        return x.view(n, length, self.heads, width // self.heads).transpose(1, 2)


class _Block(nn.Module):
    def __init__(self, options: TransformerOptions) -> None:
        super().__init__()
        width, hidden = options.width, options.width * options.feed_forward
        self.attention_norm = nn.LayerNorm(width)
        self.attention = Attention(width, heads=options.heads)
        self.feed_norm = nn.LayerNorm(width)
        self.widen = nn.Linear(width, hidden)
        self.narrow = nn.Linear(hidden, width)

    def forward(self, x: Tensor, attended: Tensor) -> Tensor:
        x = x + self.attention(self.attention_norm(x), attended)
        fed: Tensor = self.narrow(gelu(self.widen(self.feed_norm(x))))
        return x + fed


class Transformer(nn.Module):
    """An encoder with a linear head.

    Guarantee: an example's logits and gradient depend on that example alone, and not on its padding.
    """

    def __init__(self, options: TransformerOptions, *, vocabulary: int) -> None:
        super().__init__()
        self.tokens = nn.Embedding(vocabulary, options.width)
        self.positions = nn.Embedding(options.length, options.width)
        self.blocks = nn.ModuleList(_Block(options) for _ in range(options.depth))
        self.norm = nn.LayerNorm(options.width)
        self.head = nn.Linear(options.width, options.classes)
        # Unit-variance vectors, torch's default, drown the first gradients.
        nn.init.normal_(self.tokens.weight, std=0.1)
        nn.init.normal_(self.positions.weight, std=0.02)

    def forward(self, ids: Tensor, positions: Tensor, mask: Tensor) -> Tensor:
        """Logits float `[n, classes]`.

        Args:
            ids: int64 `[n, length]`, tokens.
            positions: int64 `[n, length]`, each token's place. Given for every example, because the
                gradient of the positions is taken example by example too.
            mask: bool `[n, length]`, false where a token is padding. An example that is all padding is a
                text without words: its vector is zero.
        """
        # A softmax over nothing is NaN in some kernels; what an empty text attends to is masked out of the mean.
        attended = mask | ~mask.any(dim=1, keepdim=True)
        x = self.tokens(ids) + self.positions(positions)
        for block in self.blocks:
            x = block(x, attended)
        kept = mask.unsqueeze(2).to(x.dtype)
        mean = (self.norm(x) * kept).sum(dim=1) / kept.sum(dim=1).clamp(min=1.0)
        logits: Tensor = self.head(mean)
        return logits


def build_transformer(options: TransformerOptions) -> nn.Module:
    """The network of `options`. Raises BadInput where its vocabulary can not be read."""
    size = vocabulary_size(options.tokens, vocabulary=options.vocabulary, entries=options.entries)
    return Transformer(options, vocabulary=size)
