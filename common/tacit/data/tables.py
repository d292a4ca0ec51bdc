"""Tables with named columns: csv, tsv, jsonl and parquet, the text formats also with .gz.

Every cell of csv and tsv is read as text and nothing is guessed, so that a message "NA" or a class "01" stays
what it is; a row with more or fewer fields than the header is an error and never padded. In csv a field may stand
in double quotes (RFC 4180); in tsv a quote is a character like others.
"""

from __future__ import annotations

import csv
import gzip
import io
import json
import zlib
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from tacit.data.content import Content
from tacit.data.screen import Screen
from tacit.data.source import Source, corrupt, not_utf8
from tacit.errors import BadInput

__all__ = ["delimited", "jsonl", "parquet"]

_Columns = Mapping[str, NDArray[np.generic]]
_UNREADABLE = (OSError, EOFError, zlib.error)


def delimited(content: Content, *, delimiter: str, screen: Screen) -> Source:
    """A csv (`,`) or tsv (tab) file in UTF-8 whose first line names the columns.

    Raises:
        BadInput: empty, corrupt, two columns of one name, or (on `take`) a row that does not fit the header.
    """
    header = next(_rows(content, delimiter), [])
    _check_once(header, content)
    return Source(str(content), tuple(header), lambda names: _fields(content, delimiter, header, names, screen))


def jsonl(content: Content, *, screen: Screen) -> Source:
    """A file in UTF-8 with one JSON object a line; its columns are the keys of the first, and those to drop.

    Raises:
        BadInput: empty or corrupt, or a line that is no JSON object.
    """
    rows: list[dict[str, Any]] = []
    names: dict[str, None] = {}
    for number, line in enumerate(_lines(content), start=1):
        if line.strip():
            found = _object(line, number, content)
            names.update(dict.fromkeys(found if not rows else screen.drop & found.keys()))
            rows.append({name: screen.value(name, found[name]) for name in found if name not in screen.drop})
    return Source(str(content), tuple(names), lambda wanted: {name: _values(rows, name) for name in wanted})


def parquet(content: Content, *, screen: Screen) -> Source:
    """A parquet file.

    Raises:
        BadInput: truncated or corrupt, or two columns of one name.
    """
    import pyarrow as pa
    import pyarrow.parquet as pq

    def take(names: tuple[str, ...]) -> _Columns:
        try:
            with content.seekable() as stream:
                table = pq.read_table(stream, columns=list(names))
            return {name: _array(table.column(name), name=name, screen=screen) for name in names}
        except (pa.ArrowException, OSError, ValueError, OverflowError) as error:  # the last two: values out of range
            raise corrupt(content, kind="parquet") from error

    try:
        with content.seekable() as stream:
            columns = tuple(pq.read_schema(stream).names)
    except (pa.ArrowException, OSError, ValueError) as error:
        raise corrupt(content, kind="parquet") from error
    _check_once(columns, content)
    return Source(str(content), columns, take)


def _check_once(names: Sequence[str], content: Content) -> None:
    twice = sorted({name for name in names if names.count(name) > 1})
    if twice:
        raise BadInput(
            f"expected one column of each name, found {twice[0]} twice in {content}", hint="rename one of them"
        )


def _array(column: Any, *, name: str, screen: Screen) -> NDArray[np.generic]:
    import pyarrow as pa

    kind = column.type
    if name not in screen.pseudonymise and (pa.types.is_integer(kind) or pa.types.is_floating(kind)):
        numbers: NDArray[np.generic] = column.to_numpy()
        return numbers
    return _column([screen.value(name, value) for value in column.to_pylist()])


def _column(values: list[Any]) -> NDArray[np.object_]:
    # filled one by one: numpy would make a matrix of equally long lists
    column = np.empty(len(values), dtype=object)
    for i, value in enumerate(values):
        column[i] = value
    return column


def _lines(content: Content) -> Iterator[str]:
    try:
        with content.stream() as stream:
            clear = gzip.GzipFile(fileobj=stream) if content.suffix == ".gz" else stream
            # utf-8-sig drops the mark that spreadsheets put in front
            with io.TextIOWrapper(clear, encoding="utf-8-sig", newline="") as lines:
                yield from lines
    except UnicodeDecodeError:
        raise not_utf8(content) from None  # the error holds the line
    except _UNREADABLE as error:
        raise corrupt(content, kind="UTF-8 text") from error


def _rows(content: Content, delimiter: str) -> Iterator[list[str]]:
    """The rows with any field at all, the header first."""
    quoting: Literal[0, 3] = csv.QUOTE_NONE if delimiter == "\t" else csv.QUOTE_MINIMAL
    reader = csv.reader(_lines(content), delimiter=delimiter, quoting=quoting, strict=True)
    try:
        yield from (row for row in reader if row)
    except csv.Error as error:
        raise BadInput(
            f"expected fields separated by {delimiter!r}, found a break of that form in line {reader.line_num} "
            f"of {content}: {error}",
            hint="close every double quote and double those inside a quoted field; one has at most 131,072 letters",
        ) from error


def _fields(content: Content, delimiter: str, header: list[str], names: tuple[str, ...], screen: Screen) -> _Columns:
    places = [header.index(name) for name in names]
    columns: list[list[object]] = [[] for _ in names]
    rows = _rows(content, delimiter)
    next(rows)
    for number, row in enumerate(rows, start=1):
        if len(row) != len(header):
            raise BadInput(
                f"expected {len(header)} fields as in the header, found {len(row)} in row {number} of {content}",
                hint="mend the row; a field that contains the separator stands in double quotes",
            )
        for name, column, place in zip(names, columns, places, strict=True):
            column.append(screen.value(name, row[place]))
    return {name: _column(column) for name, column in zip(names, columns, strict=True)}


def _object(line: str, number: int, content: Content) -> dict[str, Any]:
    try:
        found = json.loads(line)
        if "\\u" in line:
            json.dumps(found, ensure_ascii=False).encode()  # half of a pair of escapes is no letter
    except (ValueError, RecursionError) as error:
        raise BadInput(
            f"expected a JSON object in every line, found broken JSON in line {number} of {content}",
            hint="write one complete object a line",
        ) from error
    if not isinstance(found, dict):
        raise BadInput(
            f"expected a JSON object in every line, found a {type(found).__name__} in line {number} of {content}",
            hint='write lines like {"text": "...", "label": "..."}',
        )
    return found


def _values(rows: list[dict[str, Any]], name: str) -> NDArray[np.object_]:
    # a key that is absent is a missing value, which the caller refuses with the row's number
    return _column([row.get(name) for row in rows])
