"""The command about other partners' keys: peers."""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from tacit.errors import BadInput
from tacit.link.enrolment import fingerprint
from tacit_client import peers
from tacit_client.keys import Keys
from tacit_client.site import Folder

__all__ = ["add"]


def add(commands: Any, *, parents: Sequence[argparse.ArgumentParser]) -> None:
    """Add the command to the parser's `commands`."""
    known = commands.add_parser("peers", parents=parents, help="show, accept or remove the other partners' keys")
    known.add_argument("folder", type=Path, metavar="DIR")
    known.add_argument("action", nargs="?", choices=("accept", "remove"))
    known.add_argument("name", nargs="?", metavar="NAME", help="of the partner to accept or to remove")
    known.set_defaults(act=_peers)


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
