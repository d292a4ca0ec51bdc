"""Small files of each format, for the tests of the readers."""

from __future__ import annotations

import gzip
import struct
from pathlib import Path

import numpy as np
from PIL import Image

__all__ = ["CSV", "idx_bytes", "idx_folder", "image_folder", "images", "written"]

CSV = 'text,label,site\nhello,ham,a\n"one, two",spam,b\n'


def written(folder: Path, name: str, content: str | bytes) -> Path:
    path = folder / name
    path.write_bytes(content.encode() if isinstance(content, str) else content)
    return path


def idx_bytes(values: np.ndarray) -> bytes:
    code = {"uint8": 0x08, "int32": 0x0C, "float32": 0x0D}[values.dtype.name]
    sizes = struct.pack(f">{values.ndim}I", *values.shape)
    return bytes([0, 0, code, values.ndim]) + sizes + values.astype(values.dtype.newbyteorder(">")).tobytes()


def images(n: int = 4) -> np.ndarray:
    return np.random.default_rng(0).integers(0, 256, size=(n, 5, 6), dtype=np.uint8)


def idx_folder(folder: Path, *, zipped: bool = False) -> Path:
    end, packed = (".gz", gzip.compress) if zipped else ("", bytes)
    written(folder, f"train-images-idx3-ubyte{end}", packed(idx_bytes(images())))
    written(folder, f"train-labels-idx1-ubyte{end}", packed(idx_bytes(np.array([3, 1, 1, 3], dtype=np.uint8))))
    return folder


def image_folder(folder: Path, *, mode: str = "L", size: tuple[int, int] = (6, 5)) -> Path:
    for name in ("cat", "dog"):
        (folder / name).mkdir(parents=True)
        for i in range(2):
            Image.new(mode, size, color=10 * i).save(folder / name / f"{i}.png")
    return folder
