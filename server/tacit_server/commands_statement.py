"""The operator's command about signed statements: verify-statement."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import TYPE_CHECKING, Any

from tacit_server.folder import Folder

if TYPE_CHECKING:
    from tacit.verification import Known

__all__ = ["add"]


def add(commands: argparse._SubParsersAction[Any], *, parents: tuple[argparse.ArgumentParser, ...] = ()) -> None:
    """Add the command to a parser; it sets `handler`, which takes the arguments and gives the exit code.

    Args:
        commands: what `add_subparsers` returned.
        parents: of the command's parser, for flags that all commands share.
    """
    checked = commands.add_parser("verify-statement", parents=parents, help="check a statement, whoever made it")
    checked.add_argument("file", type=Path, metavar="FILE", help="statement.json of a run, or a partner's RUN.json")
    checked.add_argument("--dir", type=Path, metavar="DIR", help="the server's folder, to compare keys with")
    checked.set_defaults(handler=_verify)


def _verify(args: argparse.Namespace) -> int:
    from tacit.verification import lines, verify_file

    known = None if args.dir is None else _known(Folder.open(args.dir))
    found = verify_file(args.file, known=known)
    print(lines(found))
    return 0 if all(finding.holds is not False for finding in found) else 1


def _known(folder: Folder) -> Known:
    from tacit.link import keyfile
    from tacit.secagg.keys import identity_of
    from tacit.verification import Known
    from tacit_server.roster import Roster

    partners = {row.name: row.identity for row in Roster(folder.roster_path).partners() if row.identity}
    return Known(identity_of(keyfile.read_key(folder.signing_key)), partners, str(folder.path))
