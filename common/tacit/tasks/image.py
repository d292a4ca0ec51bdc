"""Pictures with one label each."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from torch import Tensor

from tacit.data.examples import Examples
from tacit.errors import BadInput
from tacit.models.cnn import CnnOptions, build_cnn
from tacit.tasks.task import Encoded, Model, Task, cross_entropy, encode_labels

__all__ = ["IMAGE_CLASSIFICATION"]


def _encode(options: CnnOptions, examples: Examples) -> Encoded:
    """Pictures uint8 `[n, h, w]` or `[n, h, w, c]` to float32 `[n, c, h, w]` in -1 to 1.

    Guarantee: the scale is made of constants and of nothing measured on the data.
    """
    images = examples.inputs
    found = images.shape[1:]
    if images.dtype != np.uint8 or len(found) not in (2, 3) or (*found, 1)[:3] != (*options.shape, 1)[:3]:
        raise BadInput(
            f"expected images uint8 of shape {list(options.shape)} as in task.options.shape, "
            f"found {images.dtype} of shape {list(found)}",
            hint="give images of one size, and that size as shape",
        )
    pixels = torch.from_numpy(np.ascontiguousarray(images)).reshape(-1, *(*found, 1)[:3])
    scaled: Tensor = (pixels.permute(0, 3, 1, 2).to(torch.float32) / 255 - 0.5) / 0.5
    return Encoded((scaled.contiguous(),), encode_labels(examples, classes=options.classes))


def _infer(examples: Examples) -> dict[str, Any]:
    return {"classes": len(examples.classes), "shape": list(examples.inputs.shape[1:])}


IMAGE_CLASSIFICATION = Task(
    kind="image-classification",
    models={"cnn": Model(CnnOptions, build_cnn)},
    encode=_encode,
    infer=_infer,
    loss=cross_entropy,
)
