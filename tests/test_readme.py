"""The README's commands, run as they stand."""

from __future__ import annotations

import os
import re
import shlex
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from tacit_sim.rehearsal import free_port

ROOT = Path(__file__).parent.parent
README = (ROOT / "README.md").read_text(encoding="utf-8")


def _blocks(language: str) -> list[str]:
    found = re.findall(r"^```(\w*)\n(.*?)^```$", README, flags=re.MULTILINE | re.DOTALL)
    return [text for name, text in found if name == language]


def _commands() -> list[list[str]]:
    lines = [line for block in _blocks("sh") for line in block.splitlines()]
    found = [shlex.split(line, comments=True) for line in lines]
    return [words for words in found if words and words[0].startswith("tacit-")]


@pytest.fixture(scope="module")
def workplace(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("readme")
    (folder / "simulations").symlink_to(ROOT / "simulations")
    return folder


@pytest.fixture
def background() -> Iterator[list[subprocess.Popen[str]]]:
    started: list[subprocess.Popen[str]] = []
    yield started
    for process in reversed(started):  # partners before the server
        process.terminate()
        process.wait(60)
        if process.stdout:
            process.stdout.close()


def _environment() -> dict[str, str]:
    programs = Path(sys.executable).parent
    path = f"{programs}{os.pathsep}{os.environ['PATH']}"
    return {**os.environ, "PATH": path, "OMP_NUM_THREADS": "1", "PYTHONUNBUFFERED": "1"}


def _command(words: list[str], *, port: int) -> list[str]:
    program = str(Path(sys.executable).parent / words[0])
    return [program, *(str(port) if word == "9443" else word for word in words[1:])]


def _start(words: list[str], *, where: Path, port: int) -> subprocess.Popen[str]:
    """A command that the README puts into the background; the server's is awaited."""
    process = subprocess.Popen(
        _command(words, port=port), cwd=where, env=_environment(), stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True,
    )  # fmt: skip
    if words[1] == "up":
        assert process.stdout is not None
        said = []
        while not said or said[-1] not in ("ready\n", ""):
            said.append(process.stdout.readline())
        assert said[-1] == "ready\n", said
    return process


@pytest.mark.e2e
@pytest.mark.timeout(900)
def test_the_commands_run_in_the_order_in_which_they_stand(
    workplace: Path, background: list[subprocess.Popen[str]]
) -> None:
    commands, port = _commands(), free_port()
    assert len(commands) == 33
    assert sum(words[-1] == "&" for words in commands) == 4
    for words in commands:
        if words[-1] == "&":
            background.append(_start(words[:-1], where=workplace, port=port))
            continue
        done = subprocess.run(
            _command(words, port=port), check=False, cwd=workplace, env=_environment(), capture_output=True, text=True
        )
        assert (done.returncode, done.stderr) == (0, ""), (words, done.stdout, done.stderr)
    assert (workplace / "fl" / "runs" / "digits-demo" / "report.html").stat().st_size > 10_000
    assert (workplace / "model.safetensors").stat().st_size > 10_000


@pytest.mark.e2e
def test_epsilon_is_recomputed_as_the_readme_shows(workplace: Path) -> None:
    assert (workplace / "runs" / "short" / "result.json").is_file(), "the test above made it"
    (recompute,) = _blocks("python")
    python = [sys.executable, "-c", recompute]
    done = subprocess.run(python, check=False, cwd=workplace, capture_output=True, text=True)
    lines = [line.split() for line in done.stdout.splitlines()]
    assert [line[0] for line in lines] == ["partner-0", "partner-1", "partner-2"], done.stderr
    for _, computed, reported in lines:
        assert float(computed) == pytest.approx(float(reported), rel=5e-3)


def test_make_knows_the_targets_that_the_readme_names() -> None:
    named = set(re.findall(r"\bmake ([a-z-]+)", README))
    assert {"demo", "test", "check", "test-slow"} <= named
    makefile = (ROOT / "Makefile").read_text(encoding="utf-8")
    for target in named:
        assert re.search(rf"^{target}:", makefile, flags=re.MULTILINE), target


def test_the_tree_names_every_module_and_nothing_that_is_gone() -> None:
    (tree,) = _blocks("")
    named = set(re.findall(r"\b([a-z_]+\.(?:py|md))\b", tree))
    assert len(named) >= 30
    present = {path.name for path in ROOT.rglob("*") if path.suffix in (".py", ".md") and ".venv" not in path.parts}
    assert named <= present


def test_every_preset_stands_in_the_table() -> None:
    presets = sorted(path.stem for path in (ROOT / "simulations" / "tacit_sim" / "presets").glob("*.toml"))
    assert len(presets) >= 8
    for preset in presets:
        assert f"`{preset}`" in README, preset


def test_the_changelog_names_the_version() -> None:
    version = re.search(r'^version = "(.+)"$', (ROOT / "pyproject.toml").read_text(), flags=re.MULTILINE)
    assert version is not None
    assert f"## {version[1]}\n" in (ROOT / "CHANGELOG.md").read_text(encoding="utf-8")
