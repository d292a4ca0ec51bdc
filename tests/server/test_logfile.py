"""Log files of other processes: moved aside at a start, cut while they are written, five kept."""

from __future__ import annotations

import os

from tacit_server.logfile import last_lines, open_log, trim


def _write(path, text: str) -> None:
    handle = open_log(path)
    os.write(handle, text.encode())
    os.close(handle)


def test_each_start_begins_a_file_and_five_older_ones_stay(tmp_path):
    log = tmp_path / "logs" / "a.log"
    for number in range(8):
        _write(log, f"start {number}")
    kept = {path.name: path.read_text() for path in log.parent.iterdir()}
    assert kept == {"a.log": "start 7", **{f"a.log.{n}": f"start {7 - n}" for n in range(1, 6)}}
    assert log.stat().st_mode & 0o777 == 0o600


def test_an_empty_file_is_not_kept(tmp_path):
    for _ in range(3):
        _write(tmp_path / "a.log", "")
    assert [path.name for path in tmp_path.iterdir()] == ["a.log"]


def test_a_large_file_is_cut_while_it_is_written(tmp_path):
    log = tmp_path / "a.log"
    handle = open_log(log)
    os.write(handle, b"x" * 101)
    trim(log, largest=100)
    os.write(handle, b"after")
    os.close(handle)
    assert log.read_bytes() == b"after"
    assert (tmp_path / "a.log.1").read_bytes() == b"x" * 101
    trim(log, largest=100)
    assert log.read_bytes() == b"after"


def test_the_last_lines_are_found(tmp_path):
    log = tmp_path / "a.log"
    assert last_lines(log, lines=2) == ""
    log.write_text("\n".join(f"line {n}" for n in range(10_000)) + "\n\n")
    assert last_lines(log, lines=2) == "line 9998\nline 9999"
