"""A folder for each class: texts, told apart from images."""

from __future__ import annotations

from pathlib import Path

import pytest
from sample_files import image_folder, written

from tacit.data.files import read
from tacit.errors import BadInput


def _texts(root: Path) -> Path:
    for kind, name, content in (("spam", "b.txt", "buy"), ("ham", "2.TXT", "\ufeffgrüße\n"), ("ham", "1.txt", "hello")):
        (root / kind).mkdir(exist_ok=True, parents=True)
        written(root / kind, name, content)
    return root


@pytest.mark.parametrize("kind", ["auto", "text"])
def test_texts(tmp_path: Path, kind: str) -> None:
    found = read(_texts(tmp_path), format=kind)
    assert found.inputs.tolist() == ["hello", "grüße\n", "buy"]
    assert (found.labels.tolist(), found.classes) == ([0, 0, 1], ("ham", "spam"))


def test_hidden_files_and_those_beside_the_classes_are_passed_over(tmp_path: Path) -> None:
    root = _texts(tmp_path)
    written(root, "README.txt", "x")
    written(root / "ham", ".hidden.txt", "x")
    written(root / "ham", "Thumbs.db", b"\xff")
    (root / ".git").mkdir()
    written(root / ".git", "x.txt", "x")
    (root / "empty").mkdir()
    found = read(root, format="auto", classes=("ham", "spam", "eggs"))
    assert (len(found), found.classes) == (3, ("ham", "spam", "eggs"))


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("9.txt", b"\xff\xfe", "text in UTF-8, found other bytes at"),
        ("9.txt", b"", "expected text in every file, found none in"),
        ("9.txt", b" \n\t", "expected text in every file, found none in"),
        ("9.png", b"x", "expected only texts (.txt) in a class folder, found"),
    ],
)
def test_a_bad_text_is_named(tmp_path: Path, name: str, content: bytes, message: str) -> None:
    written(_texts(tmp_path) / "ham", name, content)
    with pytest.raises(BadInput) as caught:
        read(tmp_path, format="text")
    assert message in caught.value.message
    assert f"ham/{name}" in caught.value.message


def test_no_classes_and_a_file(tmp_path: Path) -> None:
    with pytest.raises(BadInput, match="expected a folder of texts for each class, found none"):
        read(tmp_path, format="text")
    with pytest.raises(BadInput, match="expected a folder for format text, found a file"):
        read(written(tmp_path, "a.txt", "x"), format="text")


def test_images_are_no_texts(tmp_path: Path) -> None:
    folder = image_folder(tmp_path)
    assert read(folder, format="auto").inputs.shape == (4, 5, 6)
    with pytest.raises(BadInput, match="expected only texts"):
        read(folder, format="text")
    with pytest.raises(BadInput, match="expected images for image_size"):
        read(_texts(tmp_path / "texts"), format="auto", image_size=5)
