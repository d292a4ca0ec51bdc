"""Files that can not be used: one clear line for each, that shows no input."""

from __future__ import annotations

import errno
import gzip
import os
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from PIL import Image
from sample_files import CSV, idx_folder, image_folder, images, written

from tacit.data.files import FORMATS, read
from tacit.errors import BadInput

SECRET = "patient Ada Lovelace"

# content of one bad file each: name, bytes, what the message must say
BAD_TABLES = [
    ("a.csv", "text,klass\nx,1\n", "column label, labels, target, y, found text, klass"),
    ("a.csv", "other,label\nx,1\n", "column 'text', found other, label"),
    ("a.csv", "text,label\nx,\n", "a label in every row, found none in row 1"),
    ("a.csv", "text,label\nx,1\n ,2\n", "text in every row, found none in row 2"),
    ("a.csv", "text,label\nx,1\ny\n", "2 fields as in the header, found 1 in row 2"),
    ("a.csv", f"text,label\n{SECRET},1,2\n", "2 fields as in the header, found 3 in row 1"),
    ("a.csv", f'text,label\n"{SECRET},1\n', "fields separated by ',', found a break"),
    ("a.csv", "text,text,label\nx,y,1\n", "found text twice"),
    ("a.csv", "text,label\n", "at least one example, found none"),
    ("a.csv", "", "at least one example, found an empty file"),
    ("a.csv", b"text,label\n\xff\xfe,1\n", "text in UTF-8, found other bytes"),
    ("a.csv", f"text,label\n{SECRET} für,1\n".encode("latin-1"), "text in UTF-8, found other bytes"),
    ("a.jsonl", '{"text": "x", "label": 1}'.encode("utf-16"), "text in UTF-8, found other bytes"),
    ("a.csv.gz", gzip.compress(CSV.encode(), mtime=0)[:-9], "whole UTF-8 text file"),
    ("a.csv.gz", b"no gzip", "whole UTF-8 text file"),
    ("a.jsonl", '{"text": "x", "label": 1}\n{"text": "' + SECRET, "broken JSON in line 2"),
    ("a.jsonl", "[1]\n", "found a list in line 1"),
    ("a.jsonl", '{"text": "x", "label": 1}\n{"text": "' + SECRET + '\\ud800", "label": 1}\n', "broken JSON in line 2"),
    ("a.jsonl", '{"text": ' + 5000 * "[" + 5000 * "]" + ', "label": 1}\n', "broken JSON in line 1"),
    ("a.jsonl", '{"text": ' + 400 * "9" + ', "label": 1}\n', "expected numbers, found something else in row 1"),
    ("a.jsonl", '{"text": "x", "label": 1}\n{"label": 1}\n', "found none in row 2"),
    ("a.jsonl", '{"text": "x", "label": 1}\n{"text": 3, "label": 1}\n', "found a int in row 2"),
    ("a.jsonl", '{"text": "x", "label": [1]}\n', "labels as text or numbers, found a list in row 1"),
    ("a.parquet", b"PAR1 is not enough PAR1", "whole parquet file"),
    ("a.npz", b"PK\x03\x04 broken", "whole npz file"),
]


@pytest.mark.parametrize(("name", "content", "message"), BAD_TABLES)
def test_bad_file(tmp_path: Path, name: str, content: str | bytes, message: str) -> None:
    with pytest.raises(BadInput) as caught:
        read(written(tmp_path, name, content), format="auto", input="text")
    assert message in caught.value.message
    assert "a." in caught.value.message, "the message names the file"
    assert SECRET not in caught.value.message
    assert caught.value.hint
    assert not caught.value.message.endswith(".")


@pytest.mark.parametrize("cell", ["", "nan", "inf", "1e39", SECRET])
def test_bad_number(tmp_path: Path, cell: str) -> None:
    path = written(tmp_path, "a.csv", f"a,b,label\n1,2,0\n3,{cell},1\n")
    with pytest.raises(BadInput, match=r"found .* row 2 of column b of .*a\.csv") as caught:
        read(path, format="csv", input="a,b")
    assert SECRET not in str(caught.value)


@pytest.mark.parametrize("value", [np.nan, np.inf, 0.5, -1.0, 256.0])
def test_bad_pixel(tmp_path: Path, value: float) -> None:
    bad = images().astype(np.float32)
    bad[2, 0, 0] = value
    np.savez(tmp_path / "a.npz", x=bad, y=np.arange(4))
    with pytest.raises(BadInput, match="row 3" if not np.isfinite(value) else "from 0 to 255"):
        read(tmp_path / "a.npz", format="npz")


def test_two_columns_of_one_name_in_parquet(tmp_path: Path) -> None:
    columns = [pa.array(["a"]), pa.array(["b"]), pa.array([1])]
    pq.write_table(pa.table(columns, names=["text", "text", "label"]), tmp_path / "a.parquet")
    with pytest.raises(BadInput, match=r"one column of each name, found text twice in .*a\.parquet"):
        read(tmp_path / "a.parquet", format="auto", input="text")


def test_truncated_parquet_and_npz(tmp_path: Path) -> None:
    pq.write_table(pa.table({"text": ["a"] * 99, "label": [1] * 99}), tmp_path / "a.parquet")
    np.savez(tmp_path / "a.npz", text=images(), label=np.arange(4))
    for name in ("a.parquet", "a.npz"):
        content = (tmp_path / name).read_bytes()
        for length in (len(content) // 2, len(content) - 1):
            with pytest.raises(BadInput, match="truncated or corrupt"):
                read(written(tmp_path, name, content[:length]), format="auto")


def test_flipped_byte_in_npz(tmp_path: Path) -> None:
    np.savez(tmp_path / "a.npz", text=images(), label=np.arange(4))
    content = bytearray((tmp_path / "a.npz").read_bytes())
    content[200] ^= 1
    with pytest.raises(BadInput, match="truncated or corrupt"):
        read(written(tmp_path, "a.npz", bytes(content)), format="npz")


class Trap:
    """Unpickled, it makes a folder."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    def __reduce__(self) -> tuple[object, tuple[str]]:
        return os.mkdir, (str(self.folder),)


def test_pickles_are_refused_and_not_run(tmp_path: Path) -> None:
    np.savez(tmp_path / "a.npz", text=np.array([Trap(tmp_path / "sprung")], dtype=object), label=np.arange(1))
    with pytest.raises(BadInput, match=r"numbers or texts, found an array of objects as text of .*a\.npz"):
        read(tmp_path / "a.npz", format="npz")
    assert not (tmp_path / "sprung").exists()


@pytest.mark.parametrize("name", ["train-images-idx3-ubyte", "train-labels-idx1-ubyte"])
@pytest.mark.parametrize("zipped", [False, True])
def test_broken_idx(tmp_path: Path, name: str, zipped: bool) -> None:
    path = idx_folder(tmp_path, zipped=zipped) / f"{name}{'.gz' if zipped else ''}"
    whole = path.read_bytes()
    broken = [whole[:-1], whole[: len(whole) // 2], whole[:6], whole[:3], b"\1" + whole[1:]]
    if not zipped:
        broken += [whole + b"x", whole[:2] + b"\x07" + whole[3:], b""]
    for content in broken:
        path.write_bytes(content)
        with pytest.raises(BadInput, match=path.name):
            read(tmp_path, format="idx")
    path.unlink()
    with pytest.raises(BadInput, match="expected"):
        read(tmp_path, format="idx")


def test_lengths_that_differ(tmp_path: Path) -> None:
    np.savez(tmp_path / "a.npz", x=images(4), y=np.arange(3))
    with pytest.raises(BadInput, match="an input for every label, found 4 in x, 3 in y"):
        read(tmp_path / "a.npz", format="npz")


def test_images_of_several_shapes(tmp_path: Path) -> None:
    folder = image_folder(tmp_path)
    Image.new("L", (7, 5)).save(folder / "dog" / "9.png")
    with pytest.raises(BadInput, match=r"one shape, found \[5, 6\] first and \[5, 7\] at .*dog/9.png"):
        read(folder, format="image-folder")


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("9.png", b"no image", "readable image"),
        ("9.png", b"", "readable image"),
        ("9.txt", b"words", "only images"),
    ],
)
def test_bad_image_file(tmp_path: Path, name: str, content: bytes, message: str) -> None:
    written(image_folder(tmp_path) / "dog", name, content)
    with pytest.raises(BadInput, match=f"{message}.*dog/{name}"):
        read(tmp_path, format="image-folder")


def test_truncated_and_deep_images(tmp_path: Path) -> None:
    folder = image_folder(tmp_path)
    file = folder / "dog" / "1.png"
    Image.fromarray(np.random.default_rng(0).integers(0, 255, (5, 6), dtype=np.uint8)).save(file)
    file.write_bytes(file.read_bytes()[:60])
    with pytest.raises(BadInput, match=r"found .* at .*dog/1.png"):
        read(folder, format="image-folder")
    Image.fromarray(np.full((5, 6), 40_000, dtype=np.uint16)).save(file)
    with pytest.raises(BadInput, match="8 bits a channel, found mode I;16"):
        read(folder, format="image-folder")


def test_missing_column_value(tmp_path: Path) -> None:
    path = written(tmp_path, "a.csv", "text,label,person\nx,1,\n")
    with pytest.raises(BadInput, match="every row of column person, found none in row 1"):
        read(path, format="csv", columns=("person",))


def test_paths_and_formats(tmp_path: Path) -> None:
    (tmp_path / "empty").mkdir()
    cases = [
        (tmp_path / "none.csv", "csv", "found nothing there"),
        (tmp_path / "empty", "csv", "expected a file for format csv, found a folder"),
        (written(tmp_path, "a.csv", CSV), "image-folder", "expected a folder for format image-folder"),
        (tmp_path / "empty", "auto", "images for each class, found none"),
        (tmp_path / "empty", "idx", "one file of images"),
        (tmp_path / "a.csv", "excel", f"a format among {', '.join(FORMATS)}, found 'excel'"),
        (written(tmp_path, "a.dat", CSV), "auto", "a file name that tells its format"),
        (tmp_path / "a.csv", "csv", "one column beside the label, found text, site"),
    ]
    for path, kind, message in cases:
        with pytest.raises(BadInput) as caught:
            read(path, format=kind)
        assert message in caught.value.message


def test_image_size_without_images(tmp_path: Path) -> None:
    with pytest.raises(BadInput, match="images for image_size = 8"):
        read(written(tmp_path, "a.csv", CSV), format="csv", input="text", image_size=8)


def test_no_right_to_read(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("os.access", lambda *_: False)
    with pytest.raises(BadInput, match="no right to read"):
        read(written(tmp_path, "a.csv", CSV), format="csv")


def _closed(*_: object, **__: object) -> None:
    raise PermissionError(errno.EACCES, "Permission denied")


def test_a_folder_above_that_is_closed_to_this_user(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = written(tmp_path, "a.csv", CSV)
    monkeypatch.setattr(Path, "stat", _closed)
    with pytest.raises(BadInput, match=r"readable data, found Permission denied at .*a\.csv") as caught:
        read(path, format="csv")
    assert "grant this user the right" in caught.value.hint


def test_a_class_folder_that_is_closed_to_this_user(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    image_folder(tmp_path)
    usual = Path.iterdir
    monkeypatch.setattr(Path, "iterdir", lambda path: _closed() if path.name == "dog" else usual(path))
    for kind in ("auto", "image-folder"):
        with pytest.raises(BadInput, match=r"readable data, found Permission denied at .*dog"):
            read(tmp_path, format=kind)


def test_what_a_library_says_of_a_damaged_picture_stays_with_it(tmp_path: Path, capsys, caplog) -> None:
    path = image_folder(tmp_path) / "dog" / "9.tif"
    Image.new("RGB", (6, 5)).save(path)
    samples = b"\x15\x01\x03\x00\x01\x00\x00\x00"  # of a pixel: tag 277, one number of two bytes
    assert path.read_bytes().count(samples + b"\x03") == 1
    path.write_bytes(path.read_bytes().replace(samples + b"\x03", samples + b"\x43"))
    with pytest.raises(BadInput, match=r"readable image, found .*9\.tif"):
        read(tmp_path, format="auto", image_size=5)
    assert not caplog.records
    assert capsys.readouterr() == ("", "")


@pytest.mark.parametrize("place", [8, 10])
def test_an_npz_in_a_way_of_its_own(tmp_path: Path, place: int) -> None:
    """Encrypted, or packed in a way that Python does not know: the two flags of a member, in its entry of the list."""
    np.savez(tmp_path / "a.npz", text=images(), label=np.arange(4))
    content = bytearray((tmp_path / "a.npz").read_bytes())
    content[content.index(b"PK\x01\x02") + place] |= 0x41 if place == 8 else 0x63
    with pytest.raises(BadInput, match="truncated or corrupt"):
        read(written(tmp_path, "a.npz", bytes(content)), format="npz")


def test_a_parquet_whose_names_are_no_text(tmp_path: Path) -> None:
    pq.write_table(pa.table({"text": ["a"], "label": [1]}), tmp_path / "a.parquet", store_schema=False)
    content = (tmp_path / "a.parquet").read_bytes()
    broken = content.replace(b"label", b"\xe4abel")
    assert broken != content
    with pytest.raises(BadInput, match="truncated or corrupt"):
        read(written(tmp_path, "a.parquet", broken), format="auto", input="text")


def test_a_path_that_no_system_takes(tmp_path: Path) -> None:
    with pytest.raises(BadInput, match="found nothing there"):
        read(tmp_path / "a\0b.csv", format="auto")


def test_what_pillow_warns_of_is_read_without_a_word(tmp_path: Path, recwarn: pytest.WarningsRecorder) -> None:
    """A palette with a transparency for each colour: usual in pictures that an office program wrote."""
    picture = Image.new("P", (6, 5))
    picture.putpalette([7] * 768)
    for name in ("cat", "dog"):
        (tmp_path / name).mkdir()
        picture.save(tmp_path / name / "1.png", transparency=bytes([5] * 256))
    assert read(tmp_path, format="auto").inputs.shape == (2, 5, 6, 3)
    assert not recwarn.list


def test_reading_writes_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    pq.write_table(pa.table({"text": ["a"], "label": [1]}), tmp_path / "a.parquet")
    image_folder(tmp_path / "images")
    idx_folder(tmp_path)
    before = sorted(tmp_path.rglob("*"))
    for path, kind in ((tmp_path / "a.parquet", "auto"), (tmp_path / "images", "auto"), (tmp_path, "idx")):
        read(path, format=kind)
    assert sorted(tmp_path.rglob("*")) == before
    assert len(before) == 10
