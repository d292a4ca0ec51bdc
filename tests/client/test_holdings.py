"""The data as the doctor looks at it."""

from __future__ import annotations

from pathlib import Path

import folders
import pytest

from tacit.errors import BadInput
from tacit.seal import make_key, read_key
from tacit_client.checkup import holdings
from tacit_client.sealing import seal
from tacit_client.site import Folder


@pytest.fixture
def folder(tmp_path) -> Folder:
    """Of hospital `a`, which has accepted `b` and `c`; data of 90 examples."""
    data = folders.write_npz(tmp_path / "data.npz", n=90, seed=1)
    return folders.make_folders(tmp_path, dict.fromkeys("abc", data))["a"]


def _text(folder: Folder, tmp_path: Path, rows: list[tuple[str, str]]) -> Folder:
    made = folders.write_csv(tmp_path / "rows.csv", rows=rows)
    return folders.again(folder, str(tmp_path / "data.npz"), str(made))


def test_data_that_is_sound(folder):
    said = holdings.data(folder)
    assert said.found == "90 examples of 3 classes"
    assert holdings.balance(said.value).verdict == holdings.size(folder, said.value).verdict == "ok"


def test_data_that_can_not_be_read(folder, tmp_path):
    (tmp_path / "data.npz").unlink()
    with pytest.raises(BadInput, match=r"expected data at .*, found nothing there"):
        holdings.data(folder)
    with pytest.raises(BadInput, match="expected a column 'diagnosis'"):
        holdings.data(
            folders.again(
                _text(folder, tmp_path, [("x", "0")] * 9),
                '# label = "diagnosis"',
                'input = "text"\nlabel = "diagnosis"',
            )
        )


def test_persons_are_counted(folder, tmp_path):
    path = tmp_path / "rows.csv"
    path.write_text("text,label,patient\n" + "".join(f"{i},{i % 2},{i % 60}\n" for i in range(120)))
    folder = folders.again(folder, str(tmp_path / "data.npz"), str(path))
    folder = folders.again(folder, '# unit = "patient_id"', 'input = "text"\nunit = "patient"')
    said = holdings.data(folder)
    assert said.found == "120 examples of 2 classes, 60 different patient"
    assert holdings.size(folder, said.value).found.startswith("60 different patient")


def test_sealed_data_and_its_key(folder, tmp_path):
    make_key(tmp_path / "seal.key")
    key = read_key(tmp_path / "seal.key")
    seal(tmp_path / "data.npz", out=None, lock=key, remove=True)
    folder = folders.again(folder, str(tmp_path / "data.npz"), str(tmp_path / "data.npz.sealed"))
    with pytest.raises(BadInput, match="sealed"):
        holdings.data(folder)
    folder = folders.again(folder, '# key = "keys/seal.key"', f'key = "{tmp_path / "seal.key"}"')
    assert holdings.data(folder).found == "90 examples of 3 classes, sealed"
    (tmp_path / "seal.key").unlink()
    make_key(tmp_path / "seal.key")
    with pytest.raises(BadInput, match="key"):
        holdings.data(folder)


def test_one_class_fails_and_a_rare_one_is_told(folder, tmp_path):
    found = holdings.data(_text(folder, tmp_path, [("secret words", "ill")] * 60)).value
    said = holdings.balance(found)
    assert (said.verdict, said.found) == ("FAIL", "all 60 examples are of the one class ill")
    rows = [("secret words", "ill")] * 198 + [("secret words", "well")]
    (tmp_path / "rows.csv").unlink()
    folders.write_csv(tmp_path / "rows.csv", rows=rows)
    said = holdings.balance(holdings.data(Folder.open(folder.path)).value)
    assert (said.verdict, said.found) == ("warn", "under 1% of the examples are of well")
    folders.write_csv(tmp_path / "rows.csv", rows=[*rows, ("secret words", "well")])
    assert holdings.balance(holdings.data(Folder.open(folder.path)).value).verdict == "ok"  # 2 of 200


def test_few_examples_and_too_few_for_the_delta(folder, tmp_path):
    few = _text(folder, tmp_path, [("x", "0"), ("y", "1")] * 24)
    assert holdings.size(few, holdings.data(few).value).verdict == "warn"
    strict = folders.again(few, "delta = 1e-05", "delta = 0.05")
    found = holdings.data(strict).value
    with pytest.raises(BadInput, match=r"expected policy.delta in site.toml below one over the 48 examples") as caught:
        holdings.size(strict, found)
    assert "set it to" in caught.value.hint


def test_what_is_called_sealed_and_lies_in_clear_is_not_said_to_be_sealed(folder, tmp_path):
    (tmp_path / "data.npz").rename(tmp_path / "data.npz.sealed")
    folder = folders.again(folder, str(tmp_path / "data.npz"), str(tmp_path / "data.npz.sealed"))
    assert holdings.data(folder).found == "90 examples of 3 classes"


def test_how_much_of_a_folder_is_sealed(folder, tmp_path):
    texts, key = tmp_path / "texts.sealed", make_key(tmp_path / "k")
    for name, words in (("ham", "hello"), ("spam", "buy")):
        (texts / name).mkdir(parents=True)
        (texts / name / "1.txt").write_text(words)
    folder = folders.again(folder, str(tmp_path / "data.npz"), str(texts))
    folder = folders.again(folder, '# key = "keys/seal.key"', f'key = "{tmp_path / "k"}"')
    for name, said in (("ham", ", 1 of 2 files sealed"), ("spam", ", sealed")):
        seal(texts / name / "1.txt", out=None, lock=key, remove=True)
        assert holdings.data(folder).found == f"2 examples of 2 classes{said}"
