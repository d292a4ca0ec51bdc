"""Reading a partner's files: what is read as what, and one clear line for everything that is wrong."""

from __future__ import annotations

import gzip
import json
import os
import struct
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

from tacit.data.arrays import read_idx
from tacit.data.files import FORMATS, read
from tacit.errors import BadInput

SECRET = "patient Ada Lovelace"
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


class TestTables:
    def test_csv(self, tmp_path: Path) -> None:
        found = read(written(tmp_path, "a.csv", "\ufeff" + CSV), format="csv", input="text", columns=("site",))
        assert found.inputs.tolist() == ["hello", "one, two"]
        assert found.inputs.dtype == object
        assert (found.labels.tolist(), found.labels.dtype, found.classes) == ([0, 1], np.int64, ("ham", "spam"))
        assert found.columns["site"].tolist() == ["a", "b"]

    def test_input_left_over_is_found(self, tmp_path: Path) -> None:
        found = read(written(tmp_path, "a.csv", CSV), format="auto", columns=("site",))
        assert found.inputs.tolist() == ["hello", "one, two"]

    def test_numeric_columns(self, tmp_path: Path) -> None:
        path = written(tmp_path, "a.csv", "age,y,pulse\n1,0,2.5\n3,1,-4e1\n")
        found = read(path, format="auto", input="age, pulse")
        assert found.inputs.dtype == np.float32
        np.testing.assert_array_equal(found.inputs, np.array([[1, 2.5], [3, -40]], dtype=np.float32))

    def test_nothing_is_guessed_in_text(self, tmp_path: Path) -> None:
        found = read(written(tmp_path, "a.csv", "text,label\nNA,nan\n007,null\n"), format="csv")
        assert found.inputs.tolist() == ["NA", "007"]
        assert found.classes == ("nan", "null")

    def test_a_quote_in_tsv_is_a_character(self, tmp_path: Path) -> None:
        path = written(tmp_path, "a.tsv", 'label\ttext\n0\t"open\n1\tb, c\n')
        assert read(path, format="auto").inputs.tolist() == ['"open', "b, c"]

    @pytest.mark.parametrize("name", ["a.csv.gz", "a.jsonl.gz"])
    def test_gz(self, tmp_path: Path, name: str) -> None:
        content = CSV if "csv" in name else '{"text": "hello", "label": 1}\n'
        found = read(written(tmp_path, name, gzip.compress(content.encode())), format="auto", input="text")
        assert found.inputs[0] == "hello"

    def test_jsonl(self, tmp_path: Path) -> None:
        rows = [{"x": [1, 2], "label": 7}, {"x": [3, 4.5], "label": 7.0}]
        found = read(written(tmp_path, "a.jsonl", "\n".join(map(json.dumps, rows))), format="auto")
        assert found.inputs.tolist() == [[1, 2], [3, 4.5]]
        assert found.classes == ("7",)

    def test_parquet_text_numbers_and_images(self, tmp_path: Path) -> None:
        file = tmp_path / "i.png"
        Image.fromarray(images()[0]).save(file)
        columns = {"t": ["a", "b"], "n": [1, 2], "i": [{"bytes": file.read_bytes(), "path": "x"}] * 2, "label": [1, 0]}
        pq.write_table(pa.table(columns), tmp_path / "a.parquet")
        shapes = {name: read(tmp_path / "a.parquet", format="auto", input=name).inputs for name in "tni"}
        assert shapes["t"].tolist() == ["a", "b"]
        assert shapes["n"].tolist() == [[1.0], [2.0]]
        np.testing.assert_array_equal(shapes["i"], np.stack([images()[0]] * 2))

    @given(st.lists(st.tuples(st.text(min_size=1), st.sampled_from(["x", "y z", "ü"])), min_size=1))
    def test_jsonl_keeps_every_text(self, rows: list[tuple[str, str]]) -> None:
        import tempfile

        rows = [(text, label) for text, label in rows if text.strip()] or [("a", "x")]
        with tempfile.TemporaryDirectory() as folder:
            lines = "\n".join(json.dumps({"text": text, "label": label}) for text, label in rows)
            found = read(written(Path(folder), "a.jsonl", lines), format="jsonl")
        assert found.inputs.tolist() == [text for text, _ in rows]
        assert [found.classes[i] for i in found.labels] == [label for _, label in rows]


class TestLabels:
    def test_whole_numbers_sort_by_value(self, tmp_path: Path) -> None:
        path = written(tmp_path, "a.csv", "text,label\na,10\nb,9\nc,-1\nd,9.0\n")
        found = read(path, format="csv")
        assert (found.classes, found.labels.tolist()) == (("-1", "9", "10"), [2, 1, 0, 1])

    def test_known_classes_keep_their_order(self, tmp_path: Path) -> None:
        found = read(written(tmp_path, "a.csv", CSV), format="csv", input="text", classes=("spam", "eggs", "ham"))
        assert (found.classes, found.labels.tolist()) == (("spam", "eggs", "ham"), [2, 0])

    def test_unknown_class(self, tmp_path: Path) -> None:
        with pytest.raises(BadInput, match=r"classes ham, eggs, found 'spam' in row 2 .*never seen in training"):
            read(written(tmp_path, "a.csv", CSV), format="csv", input="text", classes=("ham", "eggs"))

    def test_one_label_in_brackets(self, tmp_path: Path) -> None:
        np.savez(tmp_path / "a.npz", x=images(), y=np.array([[0], [1], [1], [0]]))
        assert read(tmp_path / "a.npz", format="npz").labels.tolist() == [0, 1, 1, 0]


class TestArrays:
    def test_npz(self, tmp_path: Path) -> None:
        np.savez(tmp_path / "a.npz", a=images(), b=np.arange(4), c=np.array(list("wxyz")))
        found = read(tmp_path / "a.npz", format="auto", input="a", label="b", columns=("c",))
        np.testing.assert_array_equal(found.inputs, images())
        assert found.inputs.dtype == np.uint8
        assert found.columns["c"].tolist() == list("wxyz")

    @pytest.mark.parametrize("zipped", [False, True])
    @pytest.mark.parametrize("whole_folder", [False, True])
    def test_idx(self, tmp_path: Path, zipped: bool, whole_folder: bool) -> None:
        folder = idx_folder(tmp_path, zipped=zipped)
        path = folder if whole_folder else next(folder.glob("*images*"))
        found = read(path, format="auto")
        np.testing.assert_array_equal(found.inputs, images())
        assert (found.labels.tolist(), found.classes) == ([1, 0, 0, 1], ("1", "3"))

    def test_idx_by_name(self, tmp_path: Path) -> None:
        idx_folder(tmp_path)
        (tmp_path / "train-labels-idx1-ubyte").rename(tmp_path / "answers")
        found = read(tmp_path, format="idx", input="train-images-idx3-ubyte", label="answers")
        assert len(found) == 4

    @pytest.mark.parametrize("dtype", ["uint8", "int32", "float32"])
    def test_idx_types_come_back(self, tmp_path: Path, dtype: str) -> None:
        values = np.arange(24).reshape(2, 3, 4).astype(dtype)
        back = read_idx(written(tmp_path, "a", idx_bytes(values)))
        np.testing.assert_array_equal(back, values)
        assert back.dtype == dtype

    def test_float_images_of_whole_numbers_are_pixels(self, tmp_path: Path) -> None:
        np.savez(tmp_path / "a.npz", x=images().astype(np.float32), y=np.arange(4))
        np.testing.assert_array_equal(read(tmp_path / "a.npz", format="npz").inputs, images())


class TestImages:
    @pytest.mark.parametrize(("mode", "shape"), [("L", (4, 5, 6)), ("RGB", (4, 5, 6, 3)), ("RGBA", (4, 5, 6, 3))])
    def test_folder(self, tmp_path: Path, mode: str, shape: tuple[int, ...]) -> None:
        folder = image_folder(tmp_path, mode=mode)
        written(folder, "README.md", "beside the classes")
        written(folder / "cat", ".DS_Store", "hidden")
        found = read(folder, format="auto")
        assert (found.inputs.shape, found.inputs.dtype) == (shape, np.uint8)
        assert (found.labels.tolist(), found.classes) == ([0, 0, 1, 1], ("cat", "dog"))
        assert found.inputs[1].max() == 10

    def test_image_size_makes_one_shape(self, tmp_path: Path) -> None:
        folder = image_folder(tmp_path)
        Image.new("L", (9, 3)).save(folder / "cat" / "9.png")
        assert read(folder, format="image-folder", image_size=4).inputs.shape == (5, 4, 4)

    @pytest.mark.parametrize("shape", [(3, 8, 8), (3, 8, 8, 1), (3, 8, 8, 3)])
    def test_image_size_of_arrays(self, tmp_path: Path, shape: tuple[int, ...]) -> None:
        np.savez(tmp_path / "a.npz", x=np.full(shape, 7, dtype=np.uint8), y=np.arange(3))
        found = read(tmp_path / "a.npz", format="npz", image_size=4).inputs
        assert found.shape == (3, 4, 4, *shape[3:])
        assert (found == 7).all()


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
    ("a.csv", b"text,label\n\xff\xfe,1\n", "whole UTF-8 text file"),
    ("a.csv.gz", gzip.compress(CSV.encode())[:-9], "whole UTF-8 text file"),
    ("a.csv.gz", b"no gzip", "whole UTF-8 text file"),
    ("a.jsonl", '{"text": "x", "label": 1}\n{"text": "' + SECRET, "broken JSON in line 2"),
    ("a.jsonl", "[1]\n", "found a list in line 1"),
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
    with pytest.raises(BadInput, match="truncated or corrupt"):
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
