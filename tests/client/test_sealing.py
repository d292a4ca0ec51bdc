"""tacit-client seal and open: whole or not at all, nothing overwritten, nothing removed too early."""

from __future__ import annotations

import os
import resource
import stat
import subprocess
import sys
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tacit.errors import BadInput
from tacit.seal import CHUNK, FILE, Key, is_sealed, make_key, seal
from tacit_client import sealing
from tacit_client.cli import main
from tacit_client.sealing import open_sealed

KEY = Key(bytes(range(32)))


def _tree(path: Path) -> dict[str, bytes]:
    """Every file under `path`, hidden ones too."""
    return {str(p.relative_to(path)): p.read_bytes() for p in sorted(path.rglob("*")) if p.is_file()}


def _seal(path: Path, *, out: Path | None = None, remove: bool = False) -> Path:
    return sealing.seal(path, out=out, lock=KEY, remove=remove).out


@pytest.fixture
def scans(tmp_path: Path) -> Path:
    """A folder with folders, odd names and an empty file."""
    root = tmp_path / "scans"
    (root / "cat" / "deep").mkdir(parents=True)
    (root / "a b.csv").write_bytes(b"x,label\n1,2\n")
    (root / "cat" / "1.png").write_bytes(os.urandom(3000))
    (root / "cat" / "deep" / ".hidden").write_bytes(b"")
    return root


@settings(max_examples=30)
@given(st.binary(max_size=300).filter(lambda content: not is_sealed(content)))
def test_a_file_comes_back(tmp_path_factory, content):
    path = tmp_path_factory.mktemp("seal") / "scans.csv"
    path.write_bytes(content)
    sealed = _seal(path, remove=True)
    assert sealed.name == "scans.csv.sealed"
    assert not path.exists()
    assert len(content) < 8 or content not in sealed.read_bytes()[43:]
    assert open_sealed(sealed, out=None, lock=KEY, remove=True).size == len(content)
    assert _tree(path.parent) == {"scans.csv": content}


def test_a_folder_comes_back(scans: Path) -> None:
    before = _tree(scans)
    done = sealing.seal(scans, out=None, lock=KEY, remove=True)
    assert (done.files, done.size) == (3, sum(map(len, before.values())))
    assert sorted(p.name for p in scans.parent.iterdir()) == ["scans.sealed"]
    assert sorted(_tree(done.out)) == ["a b.csv.sealed", "cat/1.png.sealed", "cat/deep/.hidden.sealed"]
    open_sealed(done.out, out=None, lock=KEY, remove=True)
    assert _tree(scans) == before
    assert sorted(p.name for p in scans.parent.iterdir()) == ["scans"]


def test_what_is_made_is_open_to_its_owner_alone(scans: Path) -> None:
    for made in (_seal(scans), open_sealed(_seal(scans / "cat"), out=scans.parent / "new", lock=KEY, remove=False).out):
        paths = [made, *made.rglob("*")]
        assert len(paths) >= 4
        assert all(stat.S_IMODE(path.stat().st_mode) & 0o077 == 0 for path in paths)


@pytest.mark.parametrize("name", ["scans", "scans/cat/1.png"])
def test_nothing_is_overwritten(scans: Path, name: str) -> None:
    path = scans.parent / name
    target = path.with_name(path.name + ".sealed")
    for make in (Path.touch, Path.mkdir, lambda p: p.symlink_to("nowhere")):
        make(target)
        with pytest.raises(BadInput, match=r"expected nothing at .*\.sealed, found something"):
            _seal(path)
        target.rmdir() if target.is_dir() else target.unlink()
    sealed = _seal(path)
    with pytest.raises(BadInput, match="expected nothing at"):
        open_sealed(sealed, out=None, lock=KEY, remove=True)
    assert sealed.exists()


def _damages(whole: bytes) -> list[tuple[str, bytes]]:
    size = CHUNK + 16
    head, one, two, three = whole[:43], whole[43 : 43 + size], whole[43 + size : 43 + 2 * size], whole[43 + 2 * size :]
    flipped = [whole[:at] + bytes([whole[at] ^ 1]) + whole[at + 1 :] for at in (20, 43 + size + 5, len(whole) - 1)]
    return [
        ("chunk 0", flipped[0]),
        ("chunk 1", flipped[1]),
        ("chunk 2", flipped[2]),
        ("chunk 2", whole[:-1]),
        ("chunk 1", head + one + two),
        ("chunk 0", head + two + one + three),
        ("chunk 1", head + one + one + three),
        ("chunk 1", head + one + three),
        ("chunk 2", whole + bytes(size)),
        ("first bytes only", whole[:30]),
        ("another kind", b"x" + whole[1:]),
        ("version 9", whole[:10] + b"\x09" + whole[11:]),
        ("found a key file", whole[:10] + b"\x02" + whole[11:]),
    ]


def test_a_damaged_file_is_named_with_the_chunk_and_nothing_is_left(tmp_path: Path) -> None:
    path = tmp_path / "big.npz.sealed"
    whole = seal(os.urandom(2 * CHUNK + 100), key=KEY, use=FILE)
    for said, content in _damages(whole):
        path.write_bytes(content)
        with pytest.raises(BadInput, match=said) as caught:
            open_sealed(path, out=None, lock=KEY, remove=True)
        assert str(path) in caught.value.message
        assert [p.name for p in tmp_path.iterdir()] == ["big.npz.sealed"]
        assert path.read_bytes() == content
    assert len(_damages(whole)) == 13


def test_one_damaged_file_of_a_folder_leaves_nothing(scans: Path) -> None:
    sealed = _seal(scans, remove=True)
    bad = sealed / "cat" / "1.png.sealed"
    bad.write_bytes(bad.read_bytes()[:-1])
    with pytest.raises(BadInput, match=r"chunk 0 of .*cat/1\.png\.sealed"):
        open_sealed(sealed, out=None, lock=KEY, remove=True)
    assert sorted(p.name for p in scans.parent.iterdir()) == ["scans.sealed"]
    assert len(_tree(sealed)) == 3


def test_what_was_written_wrong_is_noticed_before_the_original_goes(scans: Path, monkeypatch) -> None:
    real = sealing._publish

    def publish(made: Path, target: Path) -> None:
        real(made, target)
        (target / "a b.csv.sealed").write_bytes(seal(b"x,label\n1,3\n", key=KEY, use=FILE))

    monkeypatch.setattr(sealing, "_publish", publish)
    before = _tree(scans)
    with pytest.raises(BadInput, match="found a difference") as caught:
        _seal(scans, remove=True)
    assert "keep the original" in caught.value.hint
    assert _tree(scans) == before


def test_a_file_that_came_meanwhile_stays(scans: Path, monkeypatch) -> None:
    real = sealing._publish
    monkeypatch.setattr(
        sealing, "_publish", lambda made, target: (real(made, target), (scans / "cat" / "new").write_bytes(b"new"))
    )
    _seal(scans, remove=True)
    assert _tree(scans) == {"cat/new": b"new"}


def test_a_file_that_changes_meanwhile_is_refused(scans: Path, monkeypatch) -> None:
    real = sealing._copy

    def copy(*ends):
        size = real(*ends)
        os.utime(scans / "a b.csv", ns=(1, 1))
        return size

    monkeypatch.setattr(sealing, "_copy", copy)
    with pytest.raises(BadInput, match=r"a b\.csv changed meanwhile"):
        _seal(scans)
    assert sorted(p.name for p in scans.parent.iterdir()) == ["scans"]


def test_links_and_sealed_files_are_refused_before_anything_is_made(scans: Path) -> None:
    (scans / "link").symlink_to(scans / "a b.csv")
    with pytest.raises(BadInput, match=r"found something else at .*link"):
        _seal(scans)
    (scans / "link").unlink()
    _seal(scans / "a b.csv")
    with pytest.raises(BadInput, match=r"expected a file in clear, found a sealed one at .*a b\.csv\.sealed"):
        _seal(scans)
    assert sorted(p.name for p in scans.parent.iterdir()) == ["scans"]


def test_places_that_do_not_work(scans: Path) -> None:
    with pytest.raises(BadInput, match="expected a place outside of"):
        _seal(scans, out=scans / "inner")
    with pytest.raises(BadInput, match="No such file"):
        _seal(scans, out=scans.parent / "nowhere" / "x")
    with pytest.raises(BadInput, match=r"expected a file or folder at .*, found none"):
        _seal(scans / "nowhere")
    (scans.parent / "empty").mkdir()
    with pytest.raises(BadInput, match=r"expected files in .*, found none"):
        _seal(scans.parent / "empty")
    (scans / ".sealed").touch()
    for nameless in (scans, scans / ".sealed"):
        with pytest.raises(BadInput, match=r"a name that ends in \.sealed and is more than that"):
            open_sealed(nameless, out=None, lock=KEY, remove=False)
    with pytest.raises(BadInput, match="expected a file or folder with a name, found /"):
        _seal(Path("/"))


def test_an_original_that_can_not_be_removed_is_said_to_be_there(scans: Path, monkeypatch) -> None:
    def closed(_: Path) -> None:
        raise PermissionError(13, "Permission denied")

    before = _tree(scans)
    monkeypatch.setattr(Path, "unlink", closed)
    with pytest.raises(BadInput, match=r"expected to remove .*a b\.csv, found: Permission denied") as caught:
        _seal(scans, remove=True)
    assert "scans.sealed is whole" in caught.value.hint
    monkeypatch.undo()
    assert _tree(scans) == before
    assert len(_tree(scans.with_name("scans.sealed"))) == 3


def test_the_folder_that_one_stands_in(scans: Path, monkeypatch) -> None:
    before = _tree(scans)
    monkeypatch.chdir(scans)
    assert _seal(Path()) == scans.with_name("scans.sealed")
    monkeypatch.chdir(scans.with_name("scans.sealed"))
    with pytest.raises(BadInput, match=r"expected nothing at .*scans, found something"):
        open_sealed(Path(), out=None, lock=KEY, remove=False)
    scans.rename(scans.with_name("away"))
    assert _tree(open_sealed(Path(), out=None, lock=KEY, remove=False).out) == before


@pytest.mark.parametrize("code", ["EPERM", "EOPNOTSUPP"])
def test_a_file_system_without_links(scans: Path, monkeypatch, code: str) -> None:
    def refuse(*ends: object) -> None:
        import errno

        raise OSError(getattr(errno, code), "not here")

    monkeypatch.setattr(os, "link", refuse)
    assert _seal(scans / "a b.csv").exists()


def test_a_full_disk_leaves_nothing(scans: Path, monkeypatch) -> None:
    def full(*ends: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "fsync", full)
    before = _tree(scans.parent)
    with pytest.raises(BadInput, match="No space left on device"):
        _seal(scans, remove=True)
    assert _tree(scans.parent) == before


class TestCommands:
    def test_with_a_key_file(self, scans: Path, capsys) -> None:
        key, before = scans.parent / "scans.key", _tree(scans)
        assert main(["seal", str(scans), "--key", str(key)]) == 0
        said = capsys.readouterr().out
        assert f"made the key {key}: keep a copy of it in another place" in said
        assert "sealed 3 files of 3,012 bytes as" in said
        assert f"{scans} is still there in clear" in said
        assert stat.S_IMODE(key.stat().st_mode) == 0o600
        assert main(["open", f"{scans}.sealed", "--out", f"{scans}2", "--key", str(key)]) == 0
        assert _tree(scans.with_name("scans2")) == before
        assert main(["seal", str(scans), "--key", str(key), "--out", f"{scans}3", "--remove"]) == 0
        said = capsys.readouterr().out
        assert "made the key" not in said
        assert "can be recovered from a disk" in said
        assert not scans.exists()

    def test_with_a_passphrase_file(self, scans: Path, capsys) -> None:
        file = scans.parent / "pass"
        file.write_text("correct horse battery\n")
        file.chmod(0o600)
        path = scans / "a b.csv"
        assert main(["seal", str(path), "--passphrase-file", str(file), "--remove"]) == 0
        assert main(["open", f"{path}.sealed", "--passphrase-file", str(file)]) == 0
        assert path.read_bytes() == b"x,label\n1,2\n"
        file.write_text("another horse battery\n")
        assert main(["open", f"{path}.sealed", "--passphrase-file", str(file), "--out", f"{path}2"]) == 2
        assert (
            "error: expected a whole file sealed with this key, found other bytes in chunk 0" in capsys.readouterr().err
        )

    def test_with_a_passphrase_that_is_asked_for(self, scans: Path, monkeypatch, capsys) -> None:
        path = str(scans / "a b.csv")
        assert main(["seal", path, "--passphrase"]) == 2
        assert "expected a terminal" in capsys.readouterr().err
        monkeypatch.setattr("sys.stdin.isatty", lambda: True)
        answers = iter(["correct horse battery", "correct horse batterie", *["correct horse battery"] * 3])
        monkeypatch.setattr("getpass.getpass", lambda prompt: next(answers))
        assert main(["seal", path, "--passphrase"]) == 2
        assert main(["seal", path, "--passphrase"]) == 0
        assert main(["open", f"{path}.sealed", "--passphrase", "--out", f"{path}2"]) == 0
        assert next(answers, None) is None, "asked twice to seal, once to open"

    def test_a_key_does_not_seal_itself_away(self, scans: Path, capsys) -> None:
        key = scans / "cat" / "own.key"
        assert main(["seal", str(scans), "--key", str(key), "--remove"]) == 2
        assert "expected a key outside of what it seals" in capsys.readouterr().err
        assert len(_tree(scans)) == 3, "no key was made"
        make_key(scans / "one.key")
        for path in (scans, scans / "one.key"):
            assert main(["seal", str(path), "--key", str(scans / "one.key"), "--remove"]) == 2
        assert len(_tree(scans)) == 4

    def test_bad_input_is_one_line_and_makes_no_key(self, scans: Path, capsys) -> None:
        key = scans.parent / "k"
        assert main(["seal", str(scans / "nowhere"), "--key", str(key)]) == 2
        assert main(["open", f"{scans}.sealed", "--key", str(key)]) == 2
        assert not key.exists()
        make_key(key)
        key.chmod(0o644)
        assert main(["seal", str(scans), "--key", str(key)]) == 2
        lines = capsys.readouterr().err.splitlines()
        assert [line.partition(":")[0] for line in lines] == ["error", "hint"] * 3
        assert main(["seal", str(scans)]) == 2
        assert main(["seal", str(scans), "--key", "k", "--passphrase"]) == 2


def test_an_unreadable_key_is_refused_before_anything_is_made(scans: Path, capsys) -> None:
    (scans.parent / "k").write_bytes(bytes(31))
    (scans.parent / "k").chmod(0o600)
    assert main(["seal", str(scans), "--key", str(scans.parent / "k")]) == 2
    assert "expected a key of 32 bytes" in capsys.readouterr().err
    assert sorted(p.name for p in scans.parent.iterdir()) == ["k", "scans"]


@pytest.mark.e2e
@pytest.mark.skipif(not Path("/proc/self/status").exists(), reason="the memory is read from Linux's /proc")
@pytest.mark.parametrize("command", ["seal", "open"])
def test_a_process_stays_under_64_mib_whatever_the_size(tmp_path: Path, command: str) -> None:
    """The interpreter counts too, so that nothing may be imported that is not needed."""
    path, key = tmp_path / "scans.npz", tmp_path / "k"
    with path.open("wb") as file:
        for _ in range(100):
            file.write(bytes(CHUNK))
    make_key(key)
    used, taken = _memory(["seal", str(path), "--key", str(key)])
    if command == "open":
        path.unlink()
        used, taken = _memory(["open", f"{path}.sealed", "--key", str(key)])
    assert 2**20 < used < 64 * 2**20
    assert taken < 80 * CHUNK, "memory that was freed is used again: taking it anew takes longer than opening"
    assert path.stat().st_size == 100 * CHUNK


def _memory(words: list[str]) -> tuple[int, int]:
    """Bytes that the process had at most, and that it took from the kernel.

    The first is the process's own number, for the kernel's may be that of the test's process.
    """
    heavy = ("numpy", "pydantic", "torch", "flwr", "grpc")
    code = (
        "import sys; from tacit_client.cli import main; code = main(sys.argv[1:]); "
        f"print([name for name in {heavy} if name in sys.modules], open('/proc/self/status').read()); "
        "import resource; print('taken', resource.getrusage(resource.RUSAGE_SELF).ru_minflt); sys.exit(code)"
    )
    done = subprocess.run([sys.executable, "-c", code, *words], capture_output=True, text=True, check=True)
    assert "\n[] Name:" in done.stdout
    most, faults = (int(done.stdout.partition(word)[2].split(maxsplit=1)[0]) for word in ("VmHWM:", "\ntaken"))
    return 1024 * most, resource.getpagesize() * faults
