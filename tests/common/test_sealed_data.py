"""Sealed data is read as data in clear is, in memory alone."""

from __future__ import annotations

import gzip
import json
import os
import shutil
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from sample_files import CSV, idx_folder, image_folder, images, written

from tacit.data.examples import Examples
from tacit.data.files import read
from tacit.errors import BadInput
from tacit.passphrase import Passphrase
from tacit.seal import FILE, Key, Lock, seal

KEY = Key(bytes(range(32)))
ROWS = [{"text": "hello", "label": "ham"}, {"text": "one, two", "label": "spam"}]


def _table(folder: Path, name: str) -> Path:
    lines = "".join(json.dumps(row) + "\n" for row in ROWS)
    match name.partition(".")[2]:
        case "csv":
            return written(folder, name, CSV)
        case "csv.gz":
            return written(folder, name, gzip.compress(CSV.encode()))
        case "tsv":
            return written(folder, name, "text\tlabel\nhello\tham\n")
        case "jsonl":
            return written(folder, name, lines)
        case "jsonl.gz":
            return written(folder, name, gzip.compress(lines.encode()))
        case "npz":
            np.savez(folder / name, text=images(), label=np.arange(4))
        case "parquet":
            pq.write_table(pa.Table.from_pylist(ROWS), folder / name)
    return folder / name


TABLES = ("a.csv", "a.csv.gz", "a.tsv", "a.jsonl", "a.jsonl.gz", "a.npz", "a.parquet")
FOLDERS = ("idx", "idx.gz", "images", "texts")
EVERY = TABLES + FOLDERS


def _made(root: Path, name: str) -> Path:
    """Data of each kind in a folder of its own."""
    folder = root / f"of {name}"
    folder.mkdir()
    match name:
        case "idx" | "idx.gz":
            return idx_folder(folder, zipped=name == "idx.gz")
        case "images":
            return image_folder(folder)
        case "texts":
            for kind in ("ham", "spam"):
                (folder / kind).mkdir()
                written(folder / kind, "1.txt", f"\ufeff{kind} was here, grüße")
            return folder
    return _table(folder, name)


def _seal(path: Path, *, lock: Lock = KEY) -> Path:
    """Seal the file, or every file in the folder, in its place under its name and `.sealed`."""
    for file in [path] if path.is_file() else [p for p in path.rglob("*") if p.is_file()]:
        file.with_name(f"{file.name}.sealed").write_bytes(seal(file.read_bytes(), key=lock, use=FILE))
        file.unlink()
    return path if path.is_dir() else path.with_name(f"{path.name}.sealed")


def _read(path: Path, **more: Any) -> Examples:
    columns = {} if path.is_dir() else {"input": "text"}
    return read(path, format="auto", **columns, **more)


def _same(one: Examples, other: Examples) -> None:
    np.testing.assert_array_equal(one.inputs, other.inputs)
    assert one.inputs.dtype == other.inputs.dtype
    assert one.labels.tolist() == other.labels.tolist()
    assert one.classes == other.classes


@pytest.mark.parametrize("name", EVERY)
def test_sealed_reads_as_clear(tmp_path: Path, name: str) -> None:
    path = _made(tmp_path, name)
    clear = _read(path)
    _same(_read(path, lock=KEY), clear)
    _same(_read(_seal(path), lock=KEY), clear)


@pytest.mark.parametrize("name", EVERY)
def test_with_a_passphrase(tmp_path: Path, name: str) -> None:
    path = _made(tmp_path, name)
    clear = _read(path)
    words = "correct horse battery"
    _same(_read(_seal(path, lock=Passphrase(words, cost=10)), lock=Passphrase(words)), clear)


@pytest.mark.parametrize("name", EVERY)
def test_without_the_key_or_with_another_nothing_is_read(tmp_path: Path, name: str) -> None:
    path = _seal(_made(tmp_path, name))
    with pytest.raises(BadInput, match=r"expected a key for sealed data, found none for .*\.sealed"):
        _read(path)
    with pytest.raises(BadInput, match=r"found other bytes in chunk 0 of .*\.sealed"):
        _read(path, lock=Key(bytes(32)))
    with pytest.raises(BadInput, match="expected the key file that sealed"):
        _read(path, lock=Passphrase("correct horse battery"))


def _files(path: Path) -> list[Path]:
    return [path] if path.is_file() else sorted(p for p in path.rglob("*") if p.is_file())


@pytest.mark.parametrize("name", EVERY)
def test_a_changed_or_cut_file_is_named_and_nothing_is_read(tmp_path: Path, name: str) -> None:
    path = _seal(_made(tmp_path, name))
    file = _files(path)[-1]
    whole = file.read_bytes()
    bad = [whole[:-1], whole[:60], whole + b"x", whole[:40] + bytes([whole[40] ^ 1]) + whole[41:]]
    for content in bad:
        file.write_bytes(content)
        with pytest.raises(BadInput, match=r"found (other bytes in chunk 0 of|its first bytes only at)") as caught:
            _read(path, lock=KEY)
        assert str(file) in caught.value.message
    assert len(bad) == 4


@pytest.mark.parametrize("end", ["jsonl", "csv"])
def test_rows_before_a_changed_chunk_are_not_given(tmp_path: Path, end: str) -> None:
    row = '{"text": "hello", "label": 1}\n' if end == "jsonl" else "hello,1\n"
    rows = ("text,label\n" if end == "csv" else "") + row * (2_900_000 // len(row))
    path = _seal(written(tmp_path, f"a.{end}", rows))
    whole = path.read_bytes()
    size = 2**20 + 16
    chunks = [whole[43:][i : i + size] for i in range(0, len(whole) - 43, size)]
    assert len(chunks) == 3
    swapped = whole[:43] + chunks[0] + chunks[2] + chunks[1]
    for content, chunk in ((whole[:-1], 2), (whole[: 43 + 2 * size], 1), (swapped, 1), (whole[: 43 + size], 0)):
        path.write_bytes(content)
        with pytest.raises(BadInput, match=f"in chunk {chunk} of .*a.{end}.sealed"):
            _read(path, lock=KEY)


WRITTEN: list[tuple[str, object]] = []
WATCHING: list[bool] = []


def _hook(event: str, args: tuple[object, ...]) -> None:
    if not WATCHING:
        return
    if event == "open":
        _, mode, flags = args
        if (isinstance(mode, str) and set(mode) & set("wax+")) or int(flags) & (os.O_WRONLY | os.O_RDWR | os.O_CREAT):  # type: ignore[call-overload]  # an int by the event's definition
            WRITTEN.append((event, args))
    elif event.startswith(("tempfile.", "shutil.")) or event in {"os.mkdir", "os.rename", "os.link"}:
        WRITTEN.append((event, args))


@pytest.fixture
def watched() -> Iterator[list[tuple[str, object]]]:
    """What is opened to be written, made or renamed while the test runs; a hook can not be taken off again."""
    if not hasattr(sys, "_tacit_watched"):
        sys.addaudithook(_hook)
        sys._tacit_watched = True  # type: ignore[attr-defined]  # once in a process
    WRITTEN.clear()
    WATCHING.append(True)
    yield WRITTEN
    WATCHING.clear()


@pytest.mark.parametrize("name", EVERY)
def test_nothing_is_written_while_sealed_data_is_read(tmp_path: Path, name: str, watched, monkeypatch) -> None:
    WATCHING.clear()
    path = _seal(_made(tmp_path, name))
    _read(path, lock=KEY)  # the imports write their caches
    monkeypatch.setenv("TMPDIR", str(tmp_path / "nowhere"))
    before = sorted((p, p.stat().st_mtime_ns) for p in tmp_path.rglob("*"))
    WATCHING.append(True)
    _read(path, lock=KEY)
    assert watched == []
    WATCHING.clear()
    assert sorted((p, p.stat().st_mtime_ns) for p in tmp_path.rglob("*")) == before


def test_the_watch_sees_what_is_written(tmp_path: Path, watched) -> None:
    written(tmp_path, "a", "x")
    assert [event for event, _ in watched] == ["open"]


def test_a_sealed_file_may_have_any_name(tmp_path: Path) -> None:
    path = _seal(_made(tmp_path, "a.csv"))
    odd = path.with_name("b.csv")
    shutil.move(path, odd)
    assert len(_read(odd, lock=KEY)) == 2
    with pytest.raises(BadInput, match="a file name that tells its format"):
        _read(odd.rename(tmp_path / "b.sealed"), lock=KEY)


def test_an_idx_file_names_its_labels(tmp_path: Path) -> None:
    path = _seal(_made(tmp_path, "idx.gz"))
    given = path / "train-images-idx3-ubyte.gz.sealed"
    assert len(read(given, format="auto", lock=KEY)) == 4
    named = read(path, format="idx", input="train-images-idx3-ubyte.gz", label="train-labels-idx1-ubyte", lock=KEY)
    assert len(named) == 4


def test_nothing_sealed_is_no_data(tmp_path: Path) -> None:
    with pytest.raises(BadInput, match=r"^expected .*, found "):
        _read(_seal(written(tmp_path, "a.csv", "")), lock=KEY)
