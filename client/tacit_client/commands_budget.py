"""Commands about what the data was used for, and which data that is: budget, data."""

from __future__ import annotations

import argparse
import json
import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from tacit.errors import BadInput
from tacit_client.site import Folder

__all__ = ["add"]

_POINTS = 16  # of a curve: each takes a composition


def add(commands: Any, *, parents: Sequence[argparse.ArgumentParser]) -> None:
    """Add the commands to the parser's `commands`."""
    budget = commands.add_parser("budget", parents=parents, help="what was spent, by which job, and what remains")
    budget.add_argument("folder", type=Path, metavar="DIR")
    budget.add_argument("--json", action="store_true", help="as JSON")
    budget.add_argument("--plot", type=Path, metavar="FILE", help="draw epsilon against releases into an SVG file")
    budget.set_defaults(act=_budget)
    data = commands.add_parser("data", parents=parents, help="which data it is, and taking changed data into use")
    data.add_argument("words", nargs="+", metavar="DIR [accept]", help="the folder; accept: use the data as it is now")
    data.add_argument(
        "--new-people", action="store_true", help="with accept: nobody in it was in data before; begin a new budget"
    )
    data.add_argument(
        "--continues", default="", metavar="FINGERPRINT", help="with accept: the data whose people are in it; its start"
    )
    data.set_defaults(act=_data)


def _budget(args: argparse.Namespace) -> int:
    from tacit_client.account import account, words
    from tacit_client.holding import look

    folder = Folder.open(args.folder)
    tally = look(folder)
    found = account(tally, name=folder.config.name, policy=folder.config.policy)
    if args.plot is not None:
        _draw(folder, tally, args.plot)
    print(json.dumps(found, indent=2) if args.json else words(found))
    return 0


def _draw(folder: Folder, tally: Any, path: Path) -> None:
    from tacit_client.account import curve
    from tacit_client.plot import picture

    policy, names = folder.config.policy, dict.fromkeys(tally.datasets().values())
    curves = {
        f"{root.fingerprint[:12]}, by {root.unit}": curve(tally.history(root), policy=policy, most=_POINTS)
        for root in names
    }
    drawn = picture(curves, limit=policy.epsilon_limit, delta=policy.delta)
    try:
        path.write_text(drawn, encoding="utf-8")
    except OSError as error:
        raise BadInput(f"expected to write {path}, found {error.strerror}", hint="name another file") from None


def _data(args: argparse.Namespace) -> int:
    match args.words:
        case ["accept", folder] | [folder, "accept"]:
            if not re.fullmatch("[0-9a-f]*", args.continues) or (args.continues and args.new_people):
                raise BadInput(
                    "expected --new-people, or the start of a fingerprint with --continues, found another",
                    hint="see tacit-client data DIR and tacit-client budget DIR",
                )
            return _accept(Folder.open(Path(folder)), new_people=args.new_people, continues=args.continues)
        case [folder] if not args.new_people and not args.continues:
            return _show(Folder.open(Path(folder)))
    raise BadInput(
        f"expected DIR or DIR accept, found {' '.join(args.words)}", hint="write tacit-client data DIR accept"
    )


def _accept(folder: Folder, *, new_people: bool, continues: str) -> int:
    from tacit_client.audit import Audit
    from tacit_client.holding import accept_data

    audit = Audit.of(folder)
    audit.mend()  # what can not be written down is not taken into use
    data, root = accept_data(folder, new_people=new_people, continues=continues)
    facts = {"dataset": data.fingerprint, "unit": data.unit, "budget": root.fingerprint, "new_people": new_people}
    audit.write("data-accepted", facts)
    budget = "a budget of its own" if root == data else f"the budget of {root.fingerprint[:12]}, which goes on"
    print(f"accepted {data.fingerprint[:12]}, by {data.unit}, with {budget}")
    return 0


def _show(folder: Folder) -> int:
    from tacit_client.holding import dataset, look
    from tacit_client.policy import cost

    data, tally, policy = dataset(folder), look(folder), folder.config.policy
    print(f"path         {folder.data}")
    print(f"fingerprint  {data.fingerprint}")
    print(f"unit         {data.unit}")
    if (root := tally.root(data)) is not None:
        print(
            f"budget       epsilon {cost(policy, tally.spent(root)):.3f} of {policy.epsilon_limit:g} spent, since",
            end="",
        )
        print(f" {root.fingerprint[:12]}")
    elif tally.datasets():
        print("budget       none: the ledger does not know this content by this unit; tacit-client data DIR accept")
    else:
        print("budget       nothing was ever spent")
    return 0
