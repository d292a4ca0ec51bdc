"""The README's commands, run as they stand."""

from __future__ import annotations

import os
import re
import shlex
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
README = (ROOT / "README.md").read_text(encoding="utf-8")


def _blocks(language: str) -> list[str]:
    found = re.findall(r"^```(\w*)\n(.*?)^```$", README, flags=re.MULTILINE | re.DOTALL)
    return [text for name, text in found if name == language]


def _commands(program: str) -> list[list[str]]:
    lines = [line for block in _blocks("sh") for line in block.splitlines()]
    return [words for words in (shlex.split(line, comments=True) for line in lines) if words and words[0] == program]


@pytest.fixture(scope="module")
def workplace(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("readme")
    (folder / "simulations").symlink_to(ROOT / "simulations")
    return folder


def _run(words: list[str], *, where: Path) -> subprocess.CompletedProcess[str]:
    program = Path(sys.executable).parent / words[0]
    environment = {**os.environ, "PATH": f"{program.parent}{os.pathsep}{os.environ['PATH']}"}
    command = [str(program), *words[1:]]
    return subprocess.run(command, check=False, cwd=where, env=environment, capture_output=True, text=True)


@pytest.mark.e2e
@pytest.mark.timeout(900)
def test_the_commands_of_a_simulation_run_in_the_order_in_which_they_stand(workplace: Path) -> None:
    commands = _commands("tacit-sim")
    assert len(commands) == 7
    for words in commands:
        done = _run(words, where=workplace)
        assert (done.returncode, done.stderr) == (0, ""), (words, done.stderr)
    recompute = _blocks("python")
    assert len(recompute) == 1
    python = [sys.executable, "-c", recompute[0]]
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
