"""A fingerprint follows the content: not its name, its place, or whether it is sealed."""

from __future__ import annotations

import hashlib
import os
import random
import shutil
import tempfile
from pathlib import Path

import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st
from sample_files import CSV, idx_folder, image_folder, written

from tacit.data.fingerprint import fingerprint
from tacit.errors import BadInput
from tacit.seal import FILE, Key, is_sealed, seal

KEY = Key(bytes(range(32)))


def _seal(path: Path) -> Path:
    sealed = path.with_name(f"{path.name}.sealed")
    sealed.write_bytes(seal(path.read_bytes(), key=KEY, use=FILE))
    path.unlink()
    return sealed


def _texts(folder: Path, files: dict[str, list[bytes]], *, names: random.Random) -> Path:
    """A folder of classes; the files have names and an order of chance."""
    for kind, contents in files.items():
        (folder / kind).mkdir(parents=True)
        for content in names.sample(contents, len(contents)):
            written(folder / kind, f"{names.getrandbits(60):x}.txt", content)
    return folder


def test_of_a_file_it_is_what_sha256sum_gives(tmp_path: Path) -> None:
    path = written(tmp_path, "a.csv", CSV)
    assert fingerprint(path) == hashlib.sha256(CSV.encode()).hexdigest()


@given(st.binary(min_size=1, max_size=300), st.data())
def test_of_a_file(content, data):
    assume(not is_sealed(content))  # nothing that begins as sealed files do is taken for a file in clear
    with tempfile.TemporaryDirectory() as folder:
        path = written(Path(folder), "a.csv", content)
        first = fingerprint(path)
        moved = path.rename(Path(folder, "b.csv"))
        assert fingerprint(moved) == first
        sealed = _seal(moved)
        assert fingerprint(sealed, lock=KEY) == first
        place = data.draw(st.integers(0, len(content) - 1))
        changed = bytearray(content)
        changed[place] ^= data.draw(st.integers(1, 255))
        assume(not is_sealed(bytes(changed)))
        for other in (bytes(changed), content + b"x", content[:-1] or 2 * content):
            assert fingerprint(written(Path(folder), "c.csv", other)) != first


CLASSES = st.dictionaries(
    st.sampled_from(["ham", "spam", "eggs"]),
    st.lists(st.binary(min_size=1, max_size=8), min_size=1, max_size=4),
    min_size=1,
)


@settings(max_examples=50)
@given(CLASSES, CLASSES, st.integers(0, 2**32))
def test_of_a_folder_of_classes(one, other, seed):
    with tempfile.TemporaryDirectory() as root:
        made = [
            _texts(Path(root, str(i)), files, names=random.Random(seed + i))
            for i, files in enumerate((one, one, other))
        ]
        first, again, third = map(fingerprint, made)
        assert first == again
        same = {k: sorted(v) for k, v in one.items()} == {k: sorted(v) for k, v in other.items()}
        assert (first == third) == same
        for path in [p for p in made[1].rglob("*") if p.is_file()]:
            _seal(path)
        assert fingerprint(made[1], lock=KEY) == first


def test_of_a_folder_every_change_counts(tmp_path: Path) -> None:
    folder = image_folder(tmp_path / "a")
    seen = {fingerprint(folder)}
    (folder / "cat" / "0.png").rename(folder / "dog" / "9.png")  # another class
    seen.add(fingerprint(folder))
    (folder / "dog").rename(folder / "wolf")  # another name of a class
    seen.add(fingerprint(folder))
    shutil.copy(folder / "wolf" / "9.png", folder / "wolf" / "10.png")  # one twice
    seen.add(fingerprint(folder))
    (folder / "wolf" / "10.png").unlink()
    (folder / "wolf" / "9.png").unlink()
    seen.add(fingerprint(folder))
    assert len(seen) == 5


def test_what_readers_pass_over_does_not_count(tmp_path: Path) -> None:
    folder = image_folder(tmp_path)
    before = fingerprint(folder)
    written(folder, "README.md", "beside the classes")
    written(folder / "cat", ".DS_Store", "x")
    written(folder / "cat", "Thumbs.db", "x")
    (folder / "empty").mkdir()
    os.utime(folder / "cat" / "0.png", (0, 0))
    assert fingerprint(folder) == before


@pytest.mark.parametrize("zipped", [False, True])
def test_of_idx_both_files_count_and_no_other(tmp_path: Path, zipped: bool) -> None:
    folder = idx_folder(tmp_path, zipped=zipped)
    end = ".gz" if zipped else ""
    first = fingerprint(folder)
    written(folder, f"t10k-labels-idx1-ubyte{end}", b"not named")
    assert fingerprint(folder) == first == fingerprint(folder / f"train-images-idx3-ubyte{end}")
    seen = {first}
    for name in ("train-images-idx3-ubyte", "train-labels-idx1-ubyte"):
        path = folder / f"{name}{end}"
        path.write_bytes(path.read_bytes() + b"x")
        seen.add(fingerprint(folder))
    assert len(seen) == 3
    before = fingerprint(folder)
    for name in ("train-images-idx3-ubyte", "train-labels-idx1-ubyte"):
        _seal(folder / f"{name}{end}")
    assert fingerprint(folder, lock=KEY) == before
    named = fingerprint(
        folder, format="idx", input="train-images-idx3-ubyte", label="train-labels-idx1-ubyte", lock=KEY
    )
    assert named == before


def test_what_can_not_be_read_has_none(tmp_path: Path) -> None:
    sealed = _seal(written(tmp_path, "a.csv", CSV))
    with pytest.raises(BadInput, match="expected a key for sealed data"):
        fingerprint(sealed)
    sealed.write_bytes(sealed.read_bytes()[:-1])
    with pytest.raises(BadInput, match="chunk 0"):
        fingerprint(sealed, lock=KEY)
    with pytest.raises(BadInput, match="found nothing there"):
        fingerprint(tmp_path / "nowhere")
    (image_folder(tmp_path / "b") / "cat" / "folder").mkdir()
    with pytest.raises(BadInput, match="cat/folder"):
        fingerprint(tmp_path / "b")
