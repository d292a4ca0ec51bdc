"""The doctor in a folder: what it says, and whether the folder is afterwards as it was."""

from __future__ import annotations

import io
import json
import os
import shutil
import stat
import subprocess
import sys
from collections.abc import Mapping
from contextlib import redirect_stderr, redirect_stdout
from dataclasses import dataclass
from pathlib import Path

from tacit_client.cli import main

__all__ = ["Visit", "by_call", "by_process", "shifted"]


@dataclass(frozen=True)
class Visit:
    """What the doctor said, and whether the folder is as it was."""

    code: int
    findings: list[dict[str, str]]
    said: str
    wrong: str
    unchanged: bool
    keys: tuple[bytes, ...]

    def lines(self, verdict: str) -> list[tuple[str, str, str]]:
        return [(f["check"], f["found"], f["remedy"]) for f in self.findings if f["verdict"] == verdict]


def _state(place: Path) -> dict[str, tuple[int, int, bytes]]:
    """Every file in a folder: mode, time of change, content."""
    return {
        str(path.relative_to(place)): (
            stat.S_IMODE((found := path.stat()).st_mode),
            found.st_mtime_ns,
            b"" if path.is_dir() else path.read_bytes(),
        )
        for path in sorted(place.rglob("*"))
    }


def by_process(place: Path, *flags: str, settings: Mapping[str, str] | None = None) -> Visit:
    """By a process of its own."""
    before = _state(place)
    command = [str(Path(sys.executable).parent / "tacit-client"), "doctor", str(place), *flags]
    environment = os.environ | {"OMP_NUM_THREADS": "1"} | dict(settings or {})
    done = subprocess.run(command, capture_output=True, text=True, env=environment, timeout=300, check=False)
    return _seen(place, before, code=done.returncode, said=done.stdout, wrong=done.stderr)


def by_call(place: Path, *flags: str) -> Visit:
    """By the command's function, in this process."""
    before, said, wrong = _state(place), io.StringIO(), io.StringIO()
    with redirect_stdout(said), redirect_stderr(wrong):
        code = main(["doctor", str(place), *flags])
    return _seen(place, before, code=code, said=said.getvalue(), wrong=wrong.getvalue())


def _seen(place: Path, before: object, *, code: int, said: str, wrong: str) -> Visit:
    findings = json.loads(said) if said.startswith("[") else []
    secrets = tuple(path.read_bytes() for path in place.glob("keys/*.key") if path.stat().st_size == 32)
    return Visit(code, findings, said, wrong, before == _state(place), secrets)


def shifted(folder: Path) -> dict[str, str]:
    """What shifts a process's clock; nothing where there is no compiler."""
    compiler = shutil.which("cc")
    if compiler is None:
        return {}
    made, source = folder / "clock.so", Path(__file__).with_name("clock.c")
    subprocess.run([compiler, "-shared", "-fPIC", "-O1", "-o", str(made), str(source), "-ldl"], check=True)
    return {"LD_PRELOAD": str(made)}
