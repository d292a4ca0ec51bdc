"""Columns that never leave the reader, and pseudonyms in place of values."""

from __future__ import annotations

import hashlib
import hmac
import json
import unicodedata
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given
from hypothesis import strategies as st
from memory_search import alive_after_reading, alive_in_a_reader
from sample_files import idx_folder, image_folder, written

from tacit.data.files import read
from tacit.data.screen import Screen
from tacit.errors import BadInput

NAME, NUMBER = "Ada-Lovelace-", "patient-90210-"
SECRET = b"of this partner"
KINDS = ("csv", "tsv", "jsonl", "parquet", "npz")


def _made(folder: Path, kind: str, *, rows: int = 40) -> Path:
    """A table in which column `name` and `id` hold what no reader may keep."""
    path = folder / f"a.{kind}"
    table = {
        "name": [f"{NAME}{i}" for i in range(rows)],
        "id": [f"{NUMBER}{i // 4}" for i in range(rows)],
        "text": [f"words {i}" for i in range(rows)],
        "label": ["x", "y"] * (rows // 2),
    }
    match kind:
        case "csv" | "tsv":
            by = "," if kind == "csv" else "\t"
            lines = [by.join(table), *(by.join(row) for row in zip(*table.values(), strict=True))]
            return written(folder, path.name, "\n".join(lines) + "\n")
        case "jsonl":
            rows_ = [dict(zip(table, row, strict=True)) for row in zip(*table.values(), strict=True)]
            return written(folder, path.name, "\n".join(map(json.dumps, rows_)))
        case "parquet":
            pq.write_table(pa.table(table), path)
        case "npz":
            np.savez(path, **{name: np.array(values) for name, values in table.items()})
    return path


def _read(path: Path, **more: Any) -> Any:
    return read(path, format="auto", input="text", **more)


@pytest.mark.parametrize("kind", KINDS)
def test_nothing_of_what_is_dropped_or_pseudonymised_is_alive_after_reading(tmp_path: Path, kind: str) -> None:
    path = _made(tmp_path, kind)
    screened = {"columns": ["id"], "drop": ["name"], "pseudonymise": ["id"]}
    assert alive_after_reading(path, NAME, NUMBER, "words ", **screened) == [0, 0, 40]
    assert alive_after_reading(path, NAME, NUMBER, "words ", columns=["id", "name"]) == [40, 10, 40]


def test_a_reader_of_lines_keeps_none_either(tmp_path: Path) -> None:
    """It holds every row until its columns are asked for."""
    path = _made(tmp_path, "jsonl")
    assert alive_in_a_reader(path, NAME, NUMBER, "words ", drop="name", pseudonymise="id") == [0, 0, 40]
    assert alive_in_a_reader(path, NAME, NUMBER, "words ", drop="label", pseudonymise="text") == [40, 10, 0]


@pytest.mark.parametrize("kind", KINDS)
def test_a_pseudonym_is_a_keyed_hash_of_the_value(tmp_path: Path, kind: str) -> None:
    found = _read(_made(tmp_path, kind), columns=("id",), pseudonymise=("id",), secret=SECRET, drop=("name",))
    expected = [hmac.digest(SECRET, f"{NUMBER}{i // 4}".encode(), hashlib.sha256)[:16].hex() for i in range(40)]
    assert found.columns["id"].tolist() == expected
    other = _read(_made(tmp_path, kind), columns=("id",), pseudonymise=("id",), secret=b"of another", drop=("name",))
    assert not set(other.columns["id"].tolist()) & set(expected)


@given(st.integers(0, 2**53), st.sampled_from(["{}", " {}", "{} ", "{}.0"]))
def test_one_person_written_in_two_ways_is_one(number, form):
    screen = Screen(pseudonymise=frozenset({"id"}), secret=SECRET)
    assert screen.value("id", form.format(number)) == screen.value("id", number) == screen.value("id", float(number))
    assert screen.value("id", number) != screen.value("id", number + 1)
    assert screen.value("other", number) == number


def test_one_person_whose_letters_are_put_together_in_two_ways_has_one_pseudonym():
    screen = Screen(pseudonymise=frozenset({"id"}), secret=SECRET)
    composed, apart = (unicodedata.normalize(form, "Müller, Zoë") for form in ("NFC", "NFD"))
    assert composed != apart
    assert screen.value("id", composed) == screen.value("id", apart)


@pytest.mark.parametrize("missing", [None, "", "  ", float("nan")])
def test_a_missing_person_is_not_one_with_a_pseudonym(missing):
    value = Screen(pseudonymise=frozenset({"id"}), secret=SECRET).value("id", missing)
    assert value is missing


def test_a_row_without_a_person_is_refused(tmp_path: Path) -> None:
    path = written(tmp_path, "a.csv", "id,text,label\n7,a,x\n,b,y\n")
    with pytest.raises(BadInput, match="a value in every row of column id, found none in row 2"):
        _read(path, columns=("id",), pseudonymise=("id",), secret=SECRET)


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("key", ["drop", "pseudonymise"])
def test_a_misspelt_column_is_an_error_that_names_those_there_are(tmp_path: Path, kind: str, key: str) -> None:
    with pytest.raises(BadInput, match=r"expected a column 'nmae' to .*, found name, id, text, label in .*a\."):
        _read(_made(tmp_path, kind), secret=SECRET, **{key: ("nmae",)})


@pytest.mark.parametrize(
    ("more", "message"),
    [
        ({"drop": ("text",)}, "expected as input .* found 'text' in drop"),
        ({"drop": ("label",), "label": "label"}, "expected as label .* found 'label' in drop"),
        ({"drop": ("label",)}, "expected a column label, labels, target, y, found name, id, text in"),
        ({"drop": ("id",), "columns": ("id",)}, "expected as column to keep .* found 'id' in drop"),
        ({"pseudonymise": ("text",), "secret": SECRET}, "expected as input .* found 'text' in pseudonymise"),
        ({"pseudonymise": ("id",)}, "expected a secret for pseudonyms, found none"),
        ({"pseudonymise": ("id",), "drop": ("id",), "secret": SECRET}, "found 'id' in both lists"),
    ],
)
def test_what_contradicts_itself(tmp_path: Path, more: dict[str, Any], message: str) -> None:
    with pytest.raises(BadInput, match=message):
        _read(_made(tmp_path, "csv"), **more)


@pytest.mark.parametrize("kind", KINDS)
def test_what_is_screened_is_not_taken_as_the_input(tmp_path: Path, kind: str) -> None:
    path = _made(tmp_path, kind)
    found = read(path, format="auto", drop=("name",), pseudonymise=("id",), secret=SECRET)
    assert found.inputs.tolist()[:2] == ["words 0", "words 1"]
    assert dict(found.columns) == {}


def test_a_key_that_only_later_rows_have_is_dropped(tmp_path: Path) -> None:
    rows = ({"text": "a", "label": 1}, {"text": "b", "label": 1, "name": f"{NAME}9"})
    path = written(tmp_path, "a.jsonl", "\n".join(map(json.dumps, rows)))
    assert alive_after_reading(path, NAME, drop=["name"]) == [0]
    assert alive_in_a_reader(path, NAME, drop="name", pseudonymise="label") == [0]


@pytest.mark.parametrize("make", [idx_folder, image_folder])
def test_folders_and_idx_have_no_columns_to_drop(tmp_path: Path, make: Any) -> None:
    with pytest.raises(BadInput, match="which has no columns"):
        read(make(tmp_path), format="auto", drop=("label",))


def test_it_shows_no_secret():
    assert "partner" not in repr(Screen(frozenset(), frozenset({"id"}), SECRET))
