"""What data is, whatever it is called: SHA-256 (FIPS 180-4) of its content in clear."""

from __future__ import annotations

import hashlib
from pathlib import Path

from tacit.codec import Writer
from tacit.data import arrays, files, folders
from tacit.data.content import Content
from tacit.data.source import corrupt
from tacit.seal import CHUNK, Lock

__all__ = ["fingerprint"]


def fingerprint(
    path: Path,
    *,
    lock: Lock | None = None,
    format: str = "auto",  # noqa: A002 - the keys of a partner's [data]
    input: str | None = None,  # noqa: A002 - as `format`
    label: str | None = None,
) -> str:
    """The fingerprint of the data that `tacit.data.files.read` reads with the same arguments.

    Of a table or npz it is the SHA-256 of the file, as sha256sum gives it. Of idx files, of their two hashes. Of a
    folder of classes, of the sorted pairs of class and file's hash. Files that the readers pass over do not count.

    Args:
        path: a file or folder.
        lock: opens what is sealed.
        format: one of `tacit.data.files.FORMATS`.
        input: of idx, the images' file name.
        label: of idx, the labels' file name.

    Returns:
        64 hexadecimal digits.

    Raises:
        BadInput: no such data, or it can not be read; a sealed file without its key, or one that was changed.

    Guarantee: moving, renaming, sealing and opening files changes nothing, and neither does the order or the time of a
    file; data that differs in a byte, a file more or less, or a file in another class has another fingerprint.
    """
    kind = files.kind_of(path, format=format)
    match kind:
        case "idx":
            pair = arrays.idx_pair(path, input=input, label=label)
            return _joined(kind, [(name, _digest(Content(file, lock))) for name, file in sorted(pair.items())])
        case "image-folder" | "text":
            each = folders.classed(path, lock=lock)
            return _joined("classes", sorted((file.path.parent.name, _digest(file)) for file in each))
    return _digest(Content(path, lock)).hex()


def _joined(kind: str, parts: list[tuple[str, bytes]]) -> str:
    writer = Writer().text(f"tacit/v1/fingerprint/{kind}").number(len(parts), size=8)
    for name, digest in parts:
        writer.text(name).fixed(digest, size=32)
    return hashlib.sha256(writer.done()).hexdigest()


def _digest(content: Content) -> bytes:
    found = hashlib.sha256()
    try:
        with content.stream() as stream:
            while part := stream.read(CHUNK):
                found.update(part)
    except OSError as error:
        raise corrupt(content, kind="readable") from error
    return found.digest()
