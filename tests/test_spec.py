"""The spec beside the code names tests and modules that exist."""

from __future__ import annotations

import re
from pathlib import Path

ROOT = Path(__file__).parent.parent
PRIVACY = (ROOT / "common" / "tacit" / "spec" / "privacy.md").read_text(encoding="utf-8")


def test_every_pitfall_names_tests_that_exist():
    rows = [line for line in PRIVACY.partition("## Pitfalls")[2].splitlines() if line.startswith("|")][2:]
    assert len(rows) >= 15
    present = {path.stem for path in (ROOT / "tests").rglob("test_*.py")}
    for row in rows:
        handled, pinned = (cell.strip() for cell in row.strip("|").split("|")[2:])
        named = re.findall(r"`(test_\w+)`", pinned)
        assert set(named) <= present, row
        assert named or handled.startswith("not yet"), row


def test_every_module_that_the_spec_names_is_there():
    named = set(re.findall(r"`([a-z_/]+\.py)`", PRIVACY))
    assert len(named) >= 4
    present = {
        path.relative_to(ROOT).as_posix()
        for folder in ("common", "client", "server")
        for path in (ROOT / folder).rglob("*.py")
    }
    for name in named:
        assert any(path.endswith(name) for path in present), name
