"""The command about the audit log: audit verify, show and renew."""

from __future__ import annotations

import argparse
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from tacit.errors import BadInput
from tacit.lock import take
from tacit.terminal import plain
from tacit_client import mark
from tacit_client.audit import Audit, Entry
from tacit_client.keys import Keys
from tacit_client.site import Folder

__all__ = ["add"]


def add(commands: Any, *, parents: Sequence[argparse.ArgumentParser]) -> None:
    """Add the command to the parser's `commands`."""
    audit = commands.add_parser("audit", parents=parents, help="check, read or renew the audit log")
    actions = audit.add_subparsers(required=True, metavar="ACTION", parser_class=type(audit))
    for name, act, words in (
        ("verify", _verify, "check every line, and say where the chain breaks"),
        ("show", _show, "read it"),
        ("renew", _renew, "put a broken log aside and begin another, which says so"),
    ):
        action = actions.add_parser(name, parents=parents, help=words)
        action.add_argument("folder", type=Path, metavar="DIR", help="the partner's folder")
        action.set_defaults(act=act)
        if name == "show":
            action.add_argument("--event", metavar="NAME", help="only lines of this event, such as refused")
            action.add_argument("--json", action="store_true", help="the lines as they stand")


def _verify(args: argparse.Namespace) -> int:
    folder = Folder.open(args.folder)
    audit = Audit.of(folder)
    count = len(audit.entries())
    covered = mark.kept(folder.mark, key=mark.key_of(Keys(folder.keys).ledger))
    if covered is not None:
        mark.check_log(covered, audit)
    print(f"{count} lines, unbroken" + (f"; all {covered.line} that answers spoke for are there" if covered else ""))
    return 0


def _show(args: argparse.Namespace) -> int:
    for entry in Audit.of(Folder.open(args.folder)).entries():
        if args.event in (None, entry.event):
            print(json.dumps(vars(entry) | {"hash": entry.hash.hex()}) if args.json else _words(entry))
    return 0


def _renew(args: argparse.Namespace) -> int:
    folder = Folder.open(args.folder)
    covered = mark.kept(folder.mark, key=mark.key_of(Keys(folder.keys).ledger))
    with take(folder.lock, what=str(folder.path)):
        _check_broken(Audit.of(folder), covered)
        aside = Audit.of(folder).renew(covered=covered.line if covered else 0)
    print("a new audit log begins" + (f"; the old one is {aside}, and should be kept" if aside else ""))
    return 0


def _check_broken(audit: Audit, covered: mark.Mark | None) -> None:
    """A log that verifies stays: a new one would know less of what was granted and denied. Raises BadInput.

    What a crash left of a line is no reason either: it is cut off here, as at a start.
    """
    try:
        audit.mend()
        count = len(audit.entries())
        if covered is not None:
            mark.check_log(covered, audit)
    except BadInput:
        return
    raise BadInput(
        f"expected a broken audit log, found one of {count} lines that verifies", hint="keep it: there is no need"
    )


def _words(entry: Entry) -> str:
    facts = "  ".join(f"{name}={plain(_value(value))}" for name, value in entry.facts.items() if value is not None)
    return f"{entry.seq:6}  {entry.at[:19].replace('T', ' ')}  {plain(entry.event):21}  {facts}"


def _value(value: Any) -> str:
    return f"{value:.6g}" if isinstance(value, float) else value if isinstance(value, str) else json.dumps(value)
