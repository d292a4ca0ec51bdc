"""tacit-client peers: fingerprints as digits and as words, a question on a terminal, a line in the audit log."""

from __future__ import annotations

import io
from collections.abc import Callable
from pathlib import Path

import pytest
from folders import make_folders, name_peers

from tacit.link.enrolment import fingerprint
from tacit.link.words import words
from tacit.secagg.keys import Secret, identity_of
from tacit_client import peers
from tacit_client.audit import Audit
from tacit_client.cli import main
from tacit_client.keys import Keys
from tacit_client.site import Folder

OTHER = identity_of(Secret(bytes(32)))


@pytest.fixture
def folder(tmp_path: Path) -> Folder:
    return make_folders(tmp_path, dict.fromkeys(("a", "b"), tmp_path / "x.npz"))["a"]


@pytest.fixture
def run(capsys, folder) -> Callable[..., tuple[int, str, str]]:
    def call(*argv: str) -> tuple[int, str, str]:
        capsys.readouterr()
        code = main(["peers", str(folder.path), *argv])
        return code, *capsys.readouterr()

    return call


def _b(folder: Folder):
    return Keys(folder.path.parent / "b" / "keys").public


def _events(folder: Folder) -> list[tuple[str, object]]:
    return [(entry.event, entry.facts["peer"]) for entry in Audit.of(folder).entries()]


def test_a_list_with_digits_and_words(run, folder):
    own, b = Keys(folder.keys).public, _b(folder)
    said = f"a  you        {fingerprint(own)}\n              {words(own)}\n"
    said += f"b  accepted   {fingerprint(b)}\n              {words(b)}\n"
    assert run() == (0, said, "")


def test_removed_and_accepted_by_a_program(run, folder):
    b = _b(folder)
    assert run("remove", "b") == (0, "removed b\n", "")
    assert f"b  new        {fingerprint(b)}" in run()[1]
    code, out, _ = run("accept", "b")
    assert (code, out.splitlines()[:2]) == (0, [f"b  {fingerprint(b)}", f"   {words(b)}"])
    assert peers.read(folder.peers) == {"b": b}
    assert _events(folder) == [("peer-removed", "b"), ("peer-accepted", "b")]
    assert Audit.of(folder).entries()[1].facts["identity"] == b.hex()


class Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


@pytest.mark.parametrize(
    ("typed", "taken"), [("y\n", True), ("Yes\n", True), ("\n", False), ("n\n", False), ("", False), ("sure\n", False)]
)
def test_a_person_is_asked(run, folder, monkeypatch, typed, taken):
    run("remove", "b")
    monkeypatch.setattr("sys.stdin", Terminal(typed))
    code, out, _ = run("accept", "b")
    assert "does b read you the same? [y/N] " in out
    assert out.index(words(_b(folder))) < out.index("does b")
    assert (code, "b" in peers.read(folder.peers), "not accepted" in out) == (int(not taken), taken, not taken)
    assert _events(folder)[1:] == [("peer-accepted", "b")] * taken


def test_a_changed_key_is_an_alarm(run, folder):
    before = peers.read(folder.peers)
    name_peers(folder, {"b": OTHER}, version=2)
    code, out, _ = run()
    assert f"ALARM      {fingerprint(OTHER)} is what the server names now; it is not used" in out
    assert (code, words(OTHER) in out) == (0, True)
    code, out, err = run("accept", "b")
    assert (code, out, "found that the server names another" in err) == (2, "", True)
    assert peers.read(folder.peers) == before
    assert _events(folder) == []


def test_without_an_audit_log_nobody_is_accepted(run, folder):
    run("remove", "b")
    folder.audit.unlink()
    folder.audit.mkdir()
    code, _, err = run("accept", "b")
    assert (code, "audit log" in err, peers.read(folder.peers)) == (2, True, {})


@pytest.mark.parametrize("argv", [(), ("accept", "b")])
def test_a_damaged_list_is_one_line_with_the_remedy(run, folder, argv):
    folder.roster.write_text(folder.roster.read_text().replace("version = 1", "version = 2"))
    code, out, err = run(*argv)
    error, hint = err.splitlines()
    assert (code, out) == (2, "")
    assert error == (
        f"error: expected a list of partners signed with the server's key, found a wrong signature, in {folder.roster}"
    )
    assert hint.startswith("hint: delete that file")


def test_a_folder_of_an_older_version_is_one_line_with_the_remedy(run, folder):
    (folder.keys / "server.pub").unlink()
    code, _, err = run()
    assert (code, len(err.splitlines())) == (2, 2)
    assert "joined with an older version" in err


def test_another_key_under_this_partners_own_name_is_an_alarm(run, folder):
    name_peers(folder, {"a": OTHER, "b": _b(folder)}, version=2)
    said = run()[1].splitlines()
    assert said[0].startswith("a  you ")
    assert said[2].split(None, 1)[0] == "ALARM"
    assert f"{fingerprint(OTHER)} is what the server names now; it is not used" in said[2]
    assert words(OTHER) in said[3]
