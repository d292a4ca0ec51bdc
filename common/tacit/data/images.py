"""Image files and image bytes, decoded to uint8 arrays of one shape.

Grey images stay grey `[h, w]`, all others become RGB `[h, w, 3]`; transparency is dropped, the rotation that a
camera notes is applied, and of an animation the first frame counts.
"""

from __future__ import annotations

import io
import logging
import struct
import warnings
from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageOps, UnidentifiedImageError

from tacit.data.content import Content
from tacit.errors import BadInput

__all__ = ["decode", "resize"]

logging.getLogger("PIL").setLevel(logging.CRITICAL)  # what is wrong with a picture stands in the error

_GREY = {"1", "L", "LA"}
_DEEP = {"I", "F"}  # and every "I;16" variant: more than 8 bits a pixel, which a conversion would clip


def decode(values: Sequence[Any], *, place: str, size: int | None) -> NDArray[np.uint8]:
    """Images decoded and stacked.

    Args:
        values: for each image a file, its bytes, or a dict with `bytes` (as the `datasets` library stores images).
        place: where the images stand, for messages.
        size: height and width in pixels that every image is resized to; None asks for images of one shape.

    Returns:
        uint8 `[n, h, w]` or `[n, h, w, 3]`.

    Raises:
        BadInput: an image is missing, unreadable, deeper than 8 bits, or of another shape than the first.
    """
    found: list[NDArray[np.uint8]] = []
    for row, value in enumerate(values, start=1):
        name = str(value) if isinstance(value, Content) else f"row {row} of {place}"
        pixels = _pixels(value, name=name, size=size)
        if found and pixels.shape != found[0].shape:
            raise BadInput(
                f"expected images of one shape, found {list(found[0].shape)} first and {list(pixels.shape)} at {name}",
                hint="set image_size, and convert the images to all grey or all colour",
            )
        found.append(pixels)
    return np.stack(found)


def resize(pixels: NDArray[np.uint8], *, size: int) -> NDArray[np.uint8]:
    """Images uint8 `[n, h, w]` or `[n, h, w, c]` resized to `size` by `size` pixels (bilinear)."""
    if pixels.shape[1:3] == (size, size):
        return pixels
    flat = pixels[..., 0] if pixels.ndim == 4 and pixels.shape[3] == 1 else pixels
    scaled = np.stack([np.asarray(_scaled(Image.fromarray(image), size=size)) for image in flat])
    return scaled.reshape(len(pixels), size, size, *pixels.shape[3:])


def _pixels(value: Any, *, name: str, size: int | None) -> NDArray[np.uint8]:
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # of large or untidy pictures, which are read all the same
            with Image.open(_opened(value, name=name)) as image:
                return np.asarray(_plain(image, name=name, size=size))
    except (OSError, ValueError, SyntaxError, EOFError, struct.error, Image.DecompressionBombError) as error:
        what = "no image" if isinstance(error, UnidentifiedImageError) else "a damaged one"
        raise BadInput(
            f"expected a readable image, found {what} at {name}", hint="replace or remove the image"
        ) from error


def _opened(value: Any, *, name: str) -> io.BytesIO:
    if isinstance(value, Content):
        return io.BytesIO(value.whole())
    content = value.get("bytes") if isinstance(value, dict) else value
    if not isinstance(content, bytes):
        raise BadInput(f"expected the bytes of an image, found none at {name}", hint="leave out the row")
    return io.BytesIO(content)


def _plain(image: Image.Image, *, name: str, size: int | None) -> Image.Image:
    if image.mode in _DEEP or image.mode.startswith("I;"):
        raise BadInput(
            f"expected an image with 8 bits a channel, found mode {image.mode} at {name}",
            hint="convert the image to 8 bits, with a window that suits it",
        )
    upright = ImageOps.exif_transpose(image).convert("L" if image.mode in _GREY else "RGB")
    return upright if size is None else _scaled(upright, size=size)


def _scaled(image: Image.Image, *, size: int) -> Image.Image:
    return image.resize((size, size), Image.Resampling.BILINEAR)
