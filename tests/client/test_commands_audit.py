"""tacit-client audit verify, show and renew."""

from __future__ import annotations

import json

import pytest
from folders import make_folder

from tacit_client.audit import Audit
from tacit_client.cli import main


@pytest.fixture
def folder(tmp_path):
    made = make_folder(tmp_path / "a", name="a", data=None)
    for i in range(3):
        Audit.of(made).write("refused", {"reason": f"no {i}", "cost": None, "limit": 1.5})
    return made


def _break(folder) -> None:
    folder.audit.write_bytes(folder.audit.read_bytes().replace(b"no 1", b"no 7"))


def test_a_whole_log_verifies(folder, capsys):
    assert main(["audit", "verify", str(folder.path)]) == 0
    assert capsys.readouterr().out == "3 lines, unbroken\n"


def test_a_broken_one_is_named_by_its_line(folder, capsys):
    _break(folder)
    assert main(["audit", "verify", str(folder.path)]) == 2
    said = capsys.readouterr().err
    assert "error: expected an unbroken audit log, found a line that was changed" in said
    assert "in line 2 of" in said
    assert "tacit-client audit renew DIR" in said


def test_it_is_shown_for_people_and_for_scripts(folder, capsys):
    Audit.of(folder).write("other", {"word": "a\nb"})
    assert main(["audit", "show", str(folder.path), "--event", "refused"]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert len(lines) == 3
    assert lines[0].endswith("reason=no 0  limit=1.5")
    assert main(["audit", "show", str(folder.path), "--json"]) == 0
    found = [json.loads(line) for line in capsys.readouterr().out.splitlines()]
    assert [line["seq"] for line in found] == [1, 2, 3, 4]
    assert main(["audit", "show", str(folder.path), "--event", "other"]) == 0
    assert "word=a b" in capsys.readouterr().out


def test_only_a_broken_log_is_renewed(folder, capsys):
    """Guarantee: a log that verifies, and what was granted and denied in it, is not put aside."""
    assert main(["audit", "renew", str(folder.path)]) == 2
    assert "expected a broken audit log, found one of 3 lines that verifies" in capsys.readouterr().err
    _break(folder)
    assert main(["audit", "renew", str(folder.path)]) == 0
    assert "a new audit log begins; the old one is" in capsys.readouterr().out
    assert main(["audit", "verify", str(folder.path)]) == 0
    assert [entry.seq for entry in Audit.of(folder).entries()] == [4]


def test_what_a_crash_left_of_a_line_is_cut_off_and_the_log_stays(folder, capsys):
    with folder.audit.open("ab") as file:
        file.write(b'{"seq":4,"at"')
    assert main(["audit", "verify", str(folder.path)]) == 2
    assert "hint: start tacit-client run DIR" in capsys.readouterr().err
    assert main(["audit", "renew", str(folder.path)]) == 2
    assert "expected a broken audit log, found one of 4 lines that verifies" in capsys.readouterr().err
    assert [entry.event for entry in Audit.of(folder).entries()] == ["refused"] * 3 + ["log-mended"]
