"""Sealing and opening a file or a folder on the partner's disk: whole or not at all, and never over another.

It imports little on purpose, so that a file of any size takes little memory.
"""

from __future__ import annotations

import errno
import os
import stat
import tempfile
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from io import BufferedReader, BufferedWriter
from pathlib import Path

from tacit.errors import BadInput
from tacit.seal import CHUNK, FILE, SUFFIX, Lock, Sealer, Unsealer, is_sealed

__all__ = ["Done", "check_apart", "open_sealed", "seal"]

_NO_LINKS = {errno.EPERM, errno.EOPNOTSUPP, errno.ENOSYS}  # what FAT and some network file systems answer

_One = Callable[[BufferedReader, BufferedWriter, Path], int]
_Plan = list[tuple[Path, Path]]


@dataclass(frozen=True)
class Done:
    """What was made.

    Attributes:
        out: the file or folder.
        files: how many.
        size: bytes in them, in clear.
    """

    out: Path
    files: int
    size: int


def check_apart(secret: Path, *, path: Path) -> None:
    """Raises BadInput where the file `secret`, which may not be there yet, is among what `path` holds.

    Guarantee: no key is sealed under itself, which would lose it and all that it seals.
    """
    if secret.resolve().is_relative_to(path.resolve()):
        raise BadInput(
            f"expected a key outside of what it seals, found {secret} in {path}", hint="name a key somewhere else"
        )


def seal(path: Path, *, out: Path | None, lock: Lock, remove: bool) -> Done:
    """Seal the file at `path`, or each file in the folder there, with `.sealed` after its name.

    Args:
        path: a file or a folder of files in clear.
        out: the file or folder to make; None: `path` with `.sealed` after it.
        lock: the key or passphrase.
        remove: remove what is at `path` once it can be opened again.

    Raises:
        BadInput: nothing there, something else than files and folders, a file that is sealed, or that was changed
            meanwhile; something at `out`, or no place for it.

    Guarantee: at `out` stands all, sealed and synced to the disk, or nothing. A file at `path` is removed only after
    its sealed file was read back from `out` and found to hold it.
    """
    path = path if path.name else path.resolve()  # the folder that one stands in
    if out is None and not path.name:
        raise BadInput(f"expected a file or folder with a name, found {path}", hint="say with --out what to make")
    target = out or path.with_name(path.name + SUFFIX)
    plan = _plan(path, rename=lambda name: name + SUFFIX)
    done = _convert(path, target, plan, one=lambda source, sink, where: _seal(source, sink, where, lock))
    if remove:
        for clear, inner in plan:
            _check_same(clear, target / inner, lock=lock)
        _remove(path, plan, made=target)
    return done


def open_sealed(path: Path, *, out: Path | None, lock: Lock, remove: bool) -> Done:
    """Open what `seal` has made.

    Args:
        path: a sealed file, or a folder of sealed files.
        out: the file or folder to make; None: `path` without `.sealed` at its end.
        lock: the key or passphrase.
        remove: remove what is at `path`.

    Raises:
        BadInput: as `seal`; another key, or a file that was changed, cut or is none, named with the chunk; a name
            that does not end in `.sealed` or is only that, where `out` does not say another.

    Guarantee: at `out` stands all as it was sealed, synced to the disk, or nothing.
    """
    path = path if path.name else path.resolve()
    if out is None and (not path.name.endswith(SUFFIX) or path.name == SUFFIX):
        raise BadInput(
            f"expected a name that ends in {SUFFIX} and is more than that, found {path}",
            hint="say with --out what to make",
        )
    target = out or path.with_name(path.name.removesuffix(SUFFIX))
    plan = _plan(path, rename=lambda name: name.removesuffix(SUFFIX))
    done = _convert(path, target, plan, one=lambda source, sink, where: _open(source, sink, where, lock))
    if remove:
        _remove(path, plan, made=target)
    return done


def _plan(path: Path, *, rename: Callable[[str], str]) -> _Plan:
    """Every file at `path`, with its place in what is made. Raises BadInput at a link or a device."""
    try:
        kind = path.lstat().st_mode
    except (FileNotFoundError, NotADirectoryError):
        raise BadInput(f"expected a file or folder at {path}, found none", hint="correct the path") from None
    if stat.S_ISDIR(kind):
        return [
            (file, Path(entry.name, inner) if entry.is_dir() else Path(rename(entry.name)))
            for entry in sorted(path.iterdir())
            for file, inner in _plan(entry, rename=rename)
        ]
    if not stat.S_ISREG(kind):
        raise BadInput(f"expected files and folders only, found something else at {path}", hint="move it away first")
    return [(path, Path())]


def _convert(path: Path, target: Path, plan: _Plan, *, one: _One) -> Done:
    """Make `target` of `path`, in a hidden folder beside it until it is whole."""
    if os.path.lexists(target):
        raise BadInput(f"expected nothing at {target}, found something", hint="move it away, or name another --out")
    if target.resolve().is_relative_to(path.resolve()):
        raise BadInput(f"expected a place outside of {path}, found {target}", hint="name another --out")
    if not plan:
        raise BadInput(f"expected files in {path}, found none", hint="correct the path")
    try:
        with tempfile.TemporaryDirectory(dir=target.parent, prefix=f".{target.name}.") as hidden:
            made = Path(hidden, "made")
            size = sum(_convert_file(file, made / inner, one=one) for file, inner in plan)
            _publish(made, target)
    except OSError as error:
        raise BadInput(
            f"expected to read {path} and to write {target}, found: {error.strerror}",
            hint="check the rights and the free space there",
        ) from None
    return Done(target, len(plan), size)


def _convert_file(path: Path, made: Path, *, one: _One) -> int:
    made.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
    with path.open("rb") as source, open(_new(made), "wb") as sink:
        before = os.fstat(source.fileno())
        size = one(source, sink, path)
        after = os.fstat(source.fileno())
        sink.flush()
        os.fsync(sink.fileno())
    if (before.st_size, before.st_mtime_ns) != (after.st_size, after.st_mtime_ns):
        raise BadInput(f"expected a file that nobody writes to, found {path} changed meanwhile", hint="try again")
    return size


def _new(path: Path) -> int:
    return os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600)


def _seal(source: BufferedReader, sink: BufferedWriter, where: Path, lock: Lock) -> int:
    if is_sealed(source.read(16)):
        raise BadInput(f"expected a file in clear, found a sealed one at {where}", hint="leave it as it is")
    source.seek(0)
    with Sealer(sink, key=lock, use=FILE) as sealer:
        return _copy(source, sealer.write)


def _open(source: BufferedReader, sink: BufferedWriter, where: Path, lock: Lock) -> int:
    return _copy(Unsealer(source, key=lock, use=FILE, where=str(where)), sink.write)


def _copy(source: BufferedReader | Unsealer, write: Callable[[memoryview], object]) -> int:
    size = 0
    for part in _parts(source):
        write(part)
        size += len(part)
    return size


def _parts(source: BufferedReader | Unsealer) -> Iterator[memoryview]:
    """All of `source`, in one buffer: fresh memory for each part would take longer than sealing it."""
    buffer = memoryview(bytearray(CHUNK))
    while size := source.readinto(buffer):
        yield buffer[:size]


def _publish(made: Path, target: Path) -> None:
    """Give what is whole its name, and sync that. Raises OSError where something has it by now."""
    if made.is_dir():
        for folder, _, _ in os.walk(made):
            _sync(Path(folder))
        made.rename(target)
    else:
        _link(made, target)
    _sync(target.parent)


def _link(made: Path, target: Path) -> None:
    try:
        os.link(made, target)  # unlike a rename it fails where something is
    except OSError as error:
        if error.errno not in _NO_LINKS:
            raise
        made.rename(target)


def _sync(folder: Path) -> None:
    handle = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


def _check_same(clear: Path, sealed: Path, *, lock: Lock) -> None:
    with clear.open("rb") as one, sealed.open("rb") as file:
        other = Unsealer(file, key=lock, use=FILE, where=str(sealed))
        for part in _parts(other):
            if one.read(len(part)) != bytes(part):  # a memoryview is compared byte by byte
                break
        else:
            if not one.read(1):
                return
    raise BadInput(
        f"expected {sealed} to hold what is at {clear}, found a difference",
        hint=f"keep the original, remove {sealed} and seal again",
    )


def _remove(path: Path, plan: _Plan, *, made: Path) -> None:
    """The files of the plan, and the folders that are empty without them. What came meanwhile stays."""
    try:
        for file, _ in plan:
            file.unlink()
        for folder, _, _ in os.walk(path, topdown=False):
            if not os.listdir(folder):
                os.rmdir(folder)
    except OSError as error:
        raise BadInput(
            f"expected to remove {file}, found: {error.strerror}", hint=f"remove what is left by hand: {made} is whole"
        ) from None
