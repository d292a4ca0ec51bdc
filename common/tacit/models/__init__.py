"""Networks that can be trained with privacy, and the check that tells whether one can."""

from tacit.models.check import check_independent, check_private
from tacit.models.cnn import CnnOptions, build_cnn
from tacit.models.transformer import Attention, Transformer, TransformerOptions, build_transformer

__all__ = [
    "Attention",
    "CnnOptions",
    "Transformer",
    "TransformerOptions",
    "build_cnn",
    "build_transformer",
    "check_independent",
    "check_private",
]
