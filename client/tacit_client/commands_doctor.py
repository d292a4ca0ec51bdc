"""The command that says whether a job could start: doctor."""

from __future__ import annotations

import argparse
import json
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any

from tacit.terminal import plain

if TYPE_CHECKING:
    from tacit_client.checkup.finding import Finding

__all__ = ["add"]


def add(commands: Any, *, parents: Sequence[argparse.ArgumentParser]) -> None:
    """Add the command to the parser's `commands`."""
    doctor = commands.add_parser("doctor", parents=parents, help="whether a job could start, and else what to do")
    doctor.add_argument("folder", type=Path, metavar="DIR", help="the partner's folder")
    doctor.add_argument("--json", action="store_true", help="as JSON")
    doctor.set_defaults(act=_doctor)


def _doctor(args: argparse.Namespace) -> int:
    """Exit code 1 where no job could start."""
    from tacit_client.doctor import could_start, examine

    found = examine(args.folder)
    print(json.dumps([asdict(finding) for finding in found], indent=2) if args.json else _words(found))
    return 0 if could_start(found) else 1


def _words(found: Sequence[Finding]) -> str:
    width = max(len(finding.check) for finding in found)
    lines = []
    for finding in found:
        lines.append(f"{finding.verdict:4}  {finding.check:{width}}  {plain(finding.found)}")
        if finding.remedy:
            lines.append(f"{'':{width + 8}}{plain(finding.remedy)}")
    return "\n".join([*lines, "", _verdict(found)])


def _verdict(found: Sequence[Finding]) -> str:
    count = {verdict: sum(finding.verdict == verdict for finding in found) for verdict in ("FAIL", "skip", "warn")}
    if count["FAIL"]:
        return f"no job could start: {count['FAIL']} FAIL, {count['skip']} not looked at, {count['warn']} warn"
    return f"a job could start, {count['warn']} warn" if count["warn"] else "a job could start"
