"""Commands about signed statements: statement, verify-statement."""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from tacit.errors import BadInput
from tacit_client.site import Folder

__all__ = ["add"]


def add(commands: Any, *, parents: Sequence[argparse.ArgumentParser]) -> None:
    """Add the commands to the parser's `commands`."""
    made = commands.add_parser("statement", parents=parents, help="make the signed statement about a run, or list runs")
    made.add_argument("folder", type=Path, metavar="DIR")
    made.add_argument("run", nargs="?", metavar="RUN", help="id of the run, or its beginning")
    made.set_defaults(act=_statement)
    checked = commands.add_parser("verify-statement", parents=parents, help="check a statement, whoever made it")
    checked.add_argument("file", type=Path, metavar="FILE", help="RUN.json of a partner or statement.json of a server")
    checked.add_argument("--dir", type=Path, metavar="DIR", help="this partner's folder, to compare keys with")
    checked.set_defaults(act=_verify)


def _statement(args: argparse.Namespace) -> int:
    from tacit_client.statement import entries, job_of, state

    folder = Folder.open(args.folder)
    known = entries(folder)
    if args.run is None:
        for entry in known:
            print(f"{entry.run}  {entry.releases:5} releases  {entry.stated or 'no statement yet'}")
        if not known:
            print("no run has been granted here")
        return 0
    found = [entry.run for entry in known if entry.run == args.run] or [
        entry.run for entry in known if entry.run.startswith(args.run)
    ]
    if len(found) != 1:
        raise BadInput(
            f"expected the id of one run, found {args.run}, which fits {len(found)}",
            hint=f"see tacit-client statement {args.folder}",
        )
    state(folder, run=found[0], job=job_of(folder, found[0]))
    path = folder.statements / f"{found[0]}.json"
    print(f"{path}\n{path.with_suffix('.html')}")
    return 0


def _verify(args: argparse.Namespace) -> int:
    from tacit.verification import Known, lines, verify_file
    from tacit_client import peers, roster
    from tacit_client.keys import Keys

    known = None
    if args.dir is not None:
        folder = Folder.open(args.dir)
        keys = Keys(folder.keys)
        partners = {**peers.read(folder.peers), folder.config.name: keys.public}
        if folder.config.policy.trust_new_peers:  # then what the server names counts
            partners = {**roster.named(folder.roster, keys=keys), **partners}
        known = Known(keys.server, partners, str(folder.path))
    found = verify_file(args.file, known=known)
    print(lines(found))
    return 0 if all(finding.holds is not False for finding in found) else 1
