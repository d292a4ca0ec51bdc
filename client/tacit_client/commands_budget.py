"""Commands about what the data was used for: budget."""

from __future__ import annotations

import argparse
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from tacit_client.site import Folder

__all__ = ["add"]


def add(commands: Any, *, parents: Sequence[argparse.ArgumentParser]) -> None:
    """Add the command to the parser's `commands`."""
    budget = commands.add_parser("budget", parents=parents, help="what was spent, by which run, and what remains")
    budget.add_argument("folder", type=Path, metavar="DIR")
    budget.add_argument("--json", action="store_true", help="as JSON")
    budget.set_defaults(act=_budget)


def _budget(args: argparse.Namespace) -> int:
    from tacit_client.account import account, words

    found = account(Folder.open(args.folder))
    print(json.dumps(found, indent=2) if args.json else words(found))
    return 0
