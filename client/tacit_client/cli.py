"""The command tacit-client. The rules of the terminal are those of `tacit.terminal`."""

from __future__ import annotations

import argparse
import json
import signal
import sys
import threading
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from tacit import terminal
from tacit.errors import BadInput
from tacit.link.enrolment import fingerprint
from tacit.terminal import Parser, verbose_flag
from tacit_client import log, peers
from tacit_client.keys import Keys
from tacit_client.site import Folder

__all__ = ["main"]


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command line `argv` (the process's own by default) and return the exit code."""
    words = list(sys.argv[1:] if argv is None else argv)

    def act() -> int:
        args = _parser().parse_args(words)
        code: int = args.act(args)
        return code

    return terminal.run(act, verbose="--verbose" in words)


def _parser() -> Parser:
    parser = Parser(prog="tacit-client", description="a partner's side of a federation")
    common = verbose_flag()
    commands = parser.add_subparsers(required=True, metavar="COMMAND", parser_class=Parser)
    _add_join(commands, common)

    run = commands.add_parser("run", parents=[common], help="take part, until Ctrl-C or SIGTERM")
    run.add_argument("folder", type=Path, metavar="DIR", help="the partner's folder")
    run.set_defaults(act=_run)

    known = commands.add_parser("peers", parents=[common], help="show, accept or remove the other partners' keys")
    known.add_argument("folder", type=Path, metavar="DIR")
    known.add_argument("action", nargs="?", choices=("accept", "remove"))
    known.add_argument("name", nargs="?", metavar="NAME", help="of the partner to accept or to remove")
    known.set_defaults(act=_peers)

    budget = commands.add_parser("budget", parents=[common], help="what was spent, by which run, and what remains")
    budget.add_argument("folder", type=Path, metavar="DIR")
    budget.add_argument("--json", action="store_true", help="as JSON")
    budget.set_defaults(act=_budget)
    return parser


def _add_join(commands: Any, common: argparse.ArgumentParser) -> None:
    join = commands.add_parser("join", parents=[common], help="make keys and become a partner")
    join.add_argument("invitation", type=Path, metavar="INVITE", help="the file that the operator sent")
    join.add_argument("--dir", type=Path, required=True, help="the partner's folder, to be made")
    join.add_argument("--data", type=Path, metavar="PATH", help="the examples; can be filled in later in site.toml")
    join.add_argument("--trust-new-peers", action="store_true", help="accept every peer that the server names")
    join.set_defaults(act=_join)


def _join(args: argparse.Namespace) -> int:
    from tacit_client.join import join

    join(args.invitation, args.dir, data=args.data, trust_new_peers=args.trust_new_peers)
    return 0


def _run(args: argparse.Namespace) -> int:
    folder = Folder.open(args.folder)
    stop = _stop_on_signals()

    from tacit_client import node
    from tacit_client.office import Office

    log.start(folder.logs)
    with Office(folder) as office:
        print(f"{folder.config.name} computes on {office.device}", flush=True)
        node.run(folder, office, stop=stop)
    return 0


def _stop_on_signals() -> threading.Event:
    """An event that SIGTERM and Ctrl-C set: the answer at hand is finished first. A second Ctrl-C does not wait."""
    stop = threading.Event()

    def note(number: int, frame: Any) -> None:
        if stop.is_set() and number == signal.SIGINT:
            raise KeyboardInterrupt
        stop.set()

    if threading.current_thread() is threading.main_thread():
        signal.signal(signal.SIGTERM, note)
        signal.signal(signal.SIGINT, note)
    return stop


def _peers(args: argparse.Namespace) -> int:
    folder = Folder.open(args.folder)
    if args.action is not None and args.name is None:
        raise BadInput(f"expected a name after {args.action}, found none", hint="see tacit-client peers DIR")
    match args.action:
        case "accept":
            named = peers.read(folder.roster).get(args.name)
            if named is not None:
                print(f"{args.name}  {fingerprint(named)}", flush=True)
            peers.accept(folder.peers, args.name, roster=folder.roster)
            print(f"accepted; where {args.name} reads another fingerprint, remove it at once")
        case "remove":
            peers.remove(folder.peers, args.name)
            print(f"removed {args.name}")
        case _:
            _list_peers(folder)
    return 0


def _list_peers(folder: Folder) -> None:
    own, name = Keys(folder.keys).public, folder.config.name
    found = [peer for peer in peers.overview(folder.peers, roster=folder.roster) if peer.name != name]
    width = max(len(name), *(len(peer.name) for peer in found)) if found else len(name)
    print(f"{name:{width}}  you        {fingerprint(own)}")
    for peer in found:
        print(f"{peer.name:{width}}  {peer.state:9}  {fingerprint(peer.key)}")
        if peer.state == "changed" and peer.named is not None:
            print(f"{'':{width}}  ALARM      {fingerprint(peer.named)} is what the server names now; it is not used")
    if folder.config.policy.trust_new_peers:
        print("site.toml has trust_new_peers = true: new peers count as accepted too")


def _budget(args: argparse.Namespace) -> int:
    from tacit_client.account import account, words

    found = account(Folder.open(args.folder))
    print(json.dumps(found, indent=2) if args.json else words(found))
    return 0


if __name__ == "__main__":
    sys.exit(main())
