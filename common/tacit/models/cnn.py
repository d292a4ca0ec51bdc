"""Convolutional networks with tanh, which train better under clipping than with relu.

The forms "four" and "eight" are those of Tramer and Boneh, Differentially Private Learning Needs Better
Features (arXiv:2011.11660v3, tables 8 and 9, without their group normalisation).
"""

from __future__ import annotations

from itertools import pairwise
from typing import Literal, Self

import torch
from pydantic import Field, model_validator
from torch import nn

from tacit.errors import BadInput
from tacit.tasks.task import Options

__all__ = ["CnnOptions", "build_cnn"]

_LEAST_SIDE = {"small": 4, "four": 16, "eight": 8}


class CnnOptions(Options):
    """What the network `cnn` takes.

    Attributes:
        classes: number of classes, 2 or more.
        shape: of an image, `[h, w]` or `[h, w, c]`, in pixels and channels.
        layers: "small" (two convolutions, for images below 16 pixels), "four" (two convolutions and two
            linear layers, for 28x28 grey), "eight" (six convolutions and two linear layers, for 32x32
            colour), or "auto", which takes one of these by the shape.
    """

    classes: int = Field(ge=2)
    # A job's TOML has lists where a frozen record has tuples.
    shape: tuple[int, ...] = Field(strict=False)
    layers: Literal["auto", "small", "four", "eight"] = "auto"

    @model_validator(mode="after")
    def _fits(self) -> Self:
        if len(self.shape) not in (2, 3) or min(self.shape) < 1:
            raise BadInput(
                f"expected [h, w] or [h, w, c] of positive numbers, found {list(self.shape)} at task.options.shape",
                hint="give the height, the width and, for colour, the number of channels of the images",
            )
        least = _LEAST_SIDE[self.form]
        if min(self.shape[:2]) < least:
            raise BadInput(
                f'expected images of {least} pixels a side or more for layers "{self.form}", '
                f"found {list(self.shape)} at task.options.shape",
                hint='set layers to "auto", or use larger images',
            )
        return self

    @property
    def channels(self) -> int:
        """Colour channels of an image: 1 where the shape has none."""
        return self.shape[2] if len(self.shape) == 3 else 1

    @property
    def form(self) -> Literal["small", "four", "eight"]:
        """The form that is built: `layers`, with "auto" resolved by the shape."""
        if self.layers != "auto":
            return self.layers
        side = min(self.shape[:2])
        if side < 16:
            return "small"
        return "four" if self.channels == 1 and side < 32 else "eight"


def build_cnn(options: CnnOptions) -> nn.Module:
    """The network of `options`: float `[n, c, h, w]` to logits float `[n, classes]`.

    With grey 28x28 and 10 classes, "four" has 26,010 parameters; with 32x32x3, "eight" has 550,570.
    """
    match options.form:
        case "small":
            body, width = _small(options), 32
        case "four":
            body, width = _four(options), 32
        case "eight":
            body, width = _eight(options), 128
    return nn.Sequential(*body, nn.Flatten(), *_head(_features(body, options), width, options.classes))


def _small(options: CnnOptions) -> list[nn.Module]:
    return [
        nn.Conv2d(options.channels, 16, 3, padding=1),
        nn.Tanh(),
        nn.MaxPool2d(2),
        nn.Conv2d(16, 32, 3, padding=1),
        nn.Tanh(),
        nn.MaxPool2d(2),
    ]


def _four(options: CnnOptions) -> list[nn.Module]:
    return [
        nn.Conv2d(options.channels, 16, 8, stride=2, padding=2),
        nn.Tanh(),
        nn.MaxPool2d(2, 1),
        nn.Conv2d(16, 32, 4, stride=2),
        nn.Tanh(),
        nn.MaxPool2d(2, 1),
    ]


def _eight(options: CnnOptions) -> list[nn.Module]:
    body: list[nn.Module] = []
    for i, (before, after) in enumerate(pairwise((options.channels, 32, 32, 64, 64, 128, 128))):
        body += [nn.Conv2d(before, after, 3, padding=1), nn.Tanh()]
        if i % 2 == 1:
            body.append(nn.MaxPool2d(2))
    return body


def _head(features: int, width: int, classes: int) -> list[nn.Module]:
    return [nn.Linear(features, width), nn.Tanh(), nn.Linear(width, classes)]


def _features(body: list[nn.Module], options: CnnOptions) -> int:
    """Size of the flattened output of `body`."""
    height, width = options.shape[:2]
    with torch.no_grad():
        return int(nn.Sequential(*body)(torch.zeros(1, options.channels, height, width)).numel())
