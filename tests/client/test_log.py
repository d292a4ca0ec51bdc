"""The partner's log: the server's words stand in it, and are never taken for the log's own."""

from __future__ import annotations

import logging
import stat
from collections.abc import Iterator
from logging.handlers import RotatingFileHandler
from pathlib import Path

import pytest

from tacit_client import log

FORGED = "dropped\n2030-01-01 00:00:00,000 INFO charged round 1\r\x1b[2J\u2028\u202eend"


@pytest.fixture
def path(tmp_path: Path) -> Iterator[Path]:
    log.start(tmp_path / "logs")
    yield tmp_path / "logs" / "client.log"
    for name in ("tacit", "tacit_client"):
        logger = logging.getLogger(name)
        for handler in logger.handlers[:]:
            logger.removeHandler(handler)
            handler.close()
        logger.propagate = True
        logger.setLevel(logging.NOTSET)


def test_nobody_writes_lines_into_the_log(path):
    logging.getLogger("tacit_client.node").info("a message was %s", FORGED)
    (line,) = path.read_text().splitlines()
    assert line.endswith("INFO a message was dropped 2030-01-01 00:00:00,000 INFO charged round 1 �[2J �end")
    assert line.isprintable()


def test_a_full_disk_is_one_line_and_the_log_goes_on_at_the_terminal(path, capsys, monkeypatch):
    (file,) = [each for each in logging.getLogger("tacit").handlers if isinstance(each, logging.FileHandler)]
    monkeypatch.setattr(file.stream, "flush", _full)
    for number in (1, 2):
        logging.getLogger("tacit").error("line %d", number)
    said = capsys.readouterr().err
    assert "Traceback" not in said
    (line,) = [line for line in said.splitlines() if "client.log" in line]
    assert line.startswith("expected to write ")
    assert line.endswith("client.log, found: No space left on device; make room on the disk")


def _full() -> None:
    raise OSError(28, "No space left on device")


def _fail(words: str) -> None:
    raise ValueError(words)


def test_an_error_s_words_are_indented(path):
    try:
        _fail(FORGED)
    except ValueError:
        logging.getLogger("tacit_client.node").exception("a message could not be answered")
    first, *rest = path.read_text().splitlines()
    assert first.endswith("ERROR a message could not be answered")
    assert len(rest) > 3
    assert all(line.startswith("    ") and line.isprintable() for line in rest)


def test_every_file_of_the_rotation_is_its_owner_s(path, monkeypatch):
    (handler,) = [h for h in logging.getLogger("tacit_client").handlers if isinstance(h, RotatingFileHandler)]
    monkeypatch.setattr(handler, "maxBytes", 200)
    for number in range(40):
        logging.getLogger("tacit_client.node").info("answer %d", number)
    found = {each.name: stat.S_IMODE(each.stat().st_mode) for each in path.parent.iterdir()}
    assert found == dict.fromkeys(["client.log", *(f"client.log.{i}" for i in range(1, 6))], 0o600)
