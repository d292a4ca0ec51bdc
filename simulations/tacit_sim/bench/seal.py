"""What sealing a file costs: `tacit-client seal` and `open` as processes, beside two others on the same file.

Fernet is the recipe of `cryptography`, which holds a whole file in memory; `openssl enc` is the speed of one core's
AES, with nothing that notices a changed byte. Every process is measured from its start to its end, imports included.
"""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from statistics import median
from typing import Any

from tacit.errors import JobFailed
from tacit_sim.bench.table import Table

__all__ = ["CASES", "Case", "measure_seal"]

_PIECE = 2**20
_FERNET = """\
import sys
from pathlib import Path
from cryptography.fernet import Fernet
act, key, source, sink = sys.argv[1:]
cipher = Fernet(key.encode())
Path(sink).write_bytes(getattr(cipher, act)(Path(source).read_bytes()))
"""
# A process begins with the memory of the one that started it, and is said to have had it: ours starts from a small one.
_STARTER = """\
import json, os, subprocess, sys, time
began = time.perf_counter()
process = subprocess.Popen(sys.argv[1:], stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL)
_, status, used = os.wait4(process.pid, 0)
spent = [time.perf_counter() - began, used.ru_utime + used.ru_stime, used.ru_maxrss]
print(json.dumps(spent))
sys.exit(os.waitstatus_to_exitcode(status))
"""
_KEY = "A" * 43 + "="  # of the rival's, for a file of random bytes

_NOTES = (
    "one_core_MB_s: bytes over processor time; MB_s: over the wall clock, with the disk; peak_MiB: of the process;",
    "over: one_core_MB_s of tacit over this one's, on the same file in the same run;",
    "openssl enc leaves a changed byte unnoticed, Fernet holds the whole file several times in memory",
)
_COLUMNS = {
    **{"case": "", "who": "", "one_core_MB_s": ".0f", "MB_s": ".0f", "peak_MiB": ".1f", "over": ".2f"},
    "aim": "",
}
_AIM = "400 MB/s of one core, under 64 MiB"


@dataclass(frozen=True)
class Case:
    """A file of random bytes.

    Attributes:
        name: of the case.
        size: in bytes.
    """

    name: str
    size: int


CASES = (Case("100 MB", 10**8), Case("1 GB", 10**9))


@dataclass(frozen=True)
class _Spent:
    wall: float
    processor: float
    peak: float


def measure_seal(cases: Sequence[Case] = CASES, *, repeats: int = 3) -> Table:
    """Time and memory of sealing and of opening each case, medians of `repeats`.

    Raises:
        JobFailed: a process that fails, or what was opened is not what was sealed.
    """
    rows: list[dict[str, Any]] = []
    for case in cases:
        with tempfile.TemporaryDirectory(prefix="tacit-bench-") as folder:
            rows += _case(case, Path(folder), repeats=repeats)
    return Table(name="seal", columns=_COLUMNS, rows=tuple(rows), settings={"repeats": repeats}, notes=_NOTES)


def _case(case: Case, folder: Path, *, repeats: int) -> list[dict[str, Any]]:
    plain = folder / "plain"
    _fill(plain, case.size)
    found: dict[tuple[str, str], list[_Spent]] = {}
    for _ in range(repeats):
        for who, commands in _commands(folder).items():
            for act, command in commands.items():
                found.setdefault((who, act), []).append(_run(command))
            _compare(plain, folder / f"{who}.open")
            for name in (f"{who}.sealed", f"{who}.open"):
                (folder / name).unlink()
    return [_row(case, who, act, spent, found["tacit", act]) for (who, act), spent in found.items()]


def _commands(folder: Path) -> dict[str, dict[str, list[str]]]:
    """How each seals `plain` and opens it again."""
    plain, key = str(folder / "plain"), str(folder / "key")
    tacit = str(Path(sys.executable).parent / "tacit-client")
    made: dict[str, Callable[[str, str], dict[str, list[str]]]] = {
        "tacit": lambda sealed, opened: {
            "seal": [tacit, "seal", plain, "--out", sealed, "--key", key],
            "open": [tacit, "open", sealed, "--out", opened, "--key", key],
        },
        "fernet": lambda sealed, opened: {
            "seal": [sys.executable, "-c", _FERNET, "encrypt", _KEY, plain, sealed],
            "open": [sys.executable, "-c", _FERNET, "decrypt", _KEY, sealed, opened],
        },
    }
    if openssl := shutil.which("openssl"):
        cipher = [openssl, "enc", "-aes-256-ctr", "-K", "00" * 32, "-iv", "00" * 16]
        made["openssl enc"] = lambda sealed, opened: {
            "seal": [*cipher, "-in", plain, "-out", sealed],
            "open": [*cipher, "-d", "-in", sealed, "-out", opened],
        }
    return {who: make(str(folder / f"{who}.sealed"), str(folder / f"{who}.open")) for who, make in made.items()}


def _run(command: list[str]) -> _Spent:
    starter = [sys.executable, "-I", "-S", "-c", _STARTER, *command]
    done = subprocess.run(starter, check=False, stdin=subprocess.DEVNULL, capture_output=True, text=True)
    if done.returncode != 0:
        raise JobFailed(
            f"expected {Path(command[0]).name} to succeed, found {done.stderr.strip()}",
            hint="make room on the disk, or name another with TMPDIR",
        )
    wall, processor, peak = json.loads(done.stdout)
    unit = 1 if sys.platform == "darwin" else 1024  # of ru_maxrss, in bytes
    return _Spent(wall, processor, peak * unit / 2**20)


def _row(case: Case, who: str, act: str, spent: list[_Spent], ours: list[_Spent]) -> dict[str, Any]:
    processor = median(one.processor for one in spent)
    return {
        "case": f"{act} {case.name}",
        "who": who,
        "one_core_MB_s": case.size / 1e6 / processor,
        "MB_s": case.size / 1e6 / median(one.wall for one in spent),
        "peak_MiB": max(one.peak for one in spent),
        "over": processor / median(one.processor for one in ours),
        "aim": _AIM if who == "tacit" else "",
    }


def _fill(path: Path, size: int) -> None:
    with path.open("wb") as file:
        for start in range(0, size, _PIECE):
            file.write(os.urandom(min(_PIECE, size - start)))


def _compare(one: Path, other: Path) -> None:
    with one.open("rb") as left, other.open("rb") as right:
        while (piece := left.read(_PIECE)) == right.read(_PIECE):
            if not piece:
                return
    raise JobFailed(f"expected {other.name} to open to what was sealed, found other bytes", hint="report it")
