"""Columns that never leave the reader, and pseudonyms in place of values."""

from __future__ import annotations

import gc
import hashlib
import hmac
import json
import re
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given
from hypothesis import strategies as st
from sample_files import idx_folder, image_folder, written

from tacit.data.content import Content
from tacit.data.files import read
from tacit.data.screen import Screen
from tacit.data.tables import jsonl
from tacit.errors import BadInput

NAME, NUMBER = "Ada-Lovelace-", "patient-90210-"
SECRET = b"of this partner"
KINDS = ("csv", "tsv", "jsonl", "parquet", "npz")


def _made(folder: Path, kind: str, *, rows: int = 40) -> Path:
    """A table in which column `name` and `id` hold what no reader may keep, made where this process does not see it."""
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


def _holding(planted: str) -> set[str]:
    """The texts and bytes with `planted` and a digit in them that can be reached from anything alive."""
    gc.collect()
    pattern = re.compile(re.escape(planted) + r"\d")
    found = set()
    seen: set[int] = set()
    left = gc.get_objects()
    while left:
        value = left.pop()
        if id(value) in seen:
            continue
        seen.add(id(value))
        match value:
            case str():
                found |= {value} if pattern.search(value) else set()
            case bytes() | bytearray():
                found |= {repr(value)} if pattern.search(value.decode("latin-1")) else set()
            case np.ndarray() if value.dtype.kind == "O":
                left.extend(value.ravel().tolist())
            case np.ndarray() if value.dtype.kind == "U":
                found |= {text for text in value.ravel().tolist() if pattern.search(text)}
            case int() | float() | np.ndarray() | None:
                pass
            case _:
                left.extend(gc.get_referents(value))
    return found


def _read(path: Path, **more: Any) -> Any:
    return read(path, format="auto", input="text", **more)


@pytest.mark.parametrize("kind", KINDS)
def test_nothing_of_what_is_dropped_or_pseudonymised_is_in_memory(tmp_path: Path, kind: str) -> None:
    path = _made(tmp_path, kind)
    found = _read(path, columns=("id",), drop=("name",), pseudonymise=("id",), secret=SECRET)
    assert found.inputs.tolist()[:2] == ["words 0", "words 1"]
    assert len(_holding("words ")) == 40, "the search finds what is there"
    assert _holding(NAME) == set()
    assert _holding(NUMBER) == set()
    assert NAME not in repr(found.columns)


@pytest.mark.parametrize("kind", ["csv", "jsonl"])
def test_without_the_lists_the_search_finds_them(tmp_path: Path, kind: str) -> None:
    found = _read(_made(tmp_path, kind), columns=("id", "name"))
    assert len(found) == len(_holding(NAME)) == 40
    assert len(_holding(NUMBER)) == 10


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
    lines = '{"text": "a", "label": 1}\n' + json.dumps({"text": "b", "label": 1, "name": f"{NAME}{9}"})
    path = written(tmp_path, "a.jsonl", lines)
    del lines
    assert len(_read(path, drop=("name",))) == 2
    assert _holding(NAME) == set()


def test_a_reader_of_lines_keeps_none_either(tmp_path: Path) -> None:
    """It holds every row until its columns are asked for."""
    screen = Screen(frozenset({"name"}), frozenset({"id"}), SECRET)
    source = jsonl(Content(_made(tmp_path, "jsonl")), screen=screen)
    assert len(_holding("words ")) == 40
    assert _holding(NAME) == _holding(NUMBER) == set()
    assert source.names == ("name", "id", "text", "label")


@pytest.mark.parametrize("make", [idx_folder, image_folder])
def test_folders_and_idx_have_no_columns_to_drop(tmp_path: Path, make: Any) -> None:
    with pytest.raises(BadInput, match="which has no columns"):
        read(make(tmp_path), format="auto", drop=("label",))


def test_it_shows_no_secret():
    assert "partner" not in repr(Screen(frozenset(), frozenset({"id"}), SECRET))
