"""Reading a partner's files: what is read as what."""

from __future__ import annotations

import gzip
import json
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image
from sample_files import CSV, idx_bytes, idx_folder, image_folder, images, written

from tacit.data.arrays import read_idx
from tacit.data.files import read
from tacit.errors import BadInput


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
