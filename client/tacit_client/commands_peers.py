"""The command about other partners' keys: peers."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from tacit.errors import BadInput
from tacit.link.enrolment import fingerprint
from tacit.link.words import words
from tacit.secagg.keys import PublicKey
from tacit_client import peers, roster
from tacit_client.audit import Audit
from tacit_client.calls import greet
from tacit_client.keys import Keys
from tacit_client.peers import Peer
from tacit_client.site import Folder

__all__ = ["add"]


def add(commands: Any, *, parents: Sequence[argparse.ArgumentParser]) -> None:
    """Add the command to the parser's `commands`."""
    known = commands.add_parser("peers", parents=parents, help="show, accept or remove the other partners' keys")
    known.add_argument("folder", type=Path, metavar="DIR")
    known.add_argument("action", nargs="?", choices=("accept", "remove"))
    known.add_argument("name", nargs="?", metavar="NAME", help="of the partner to accept or to remove")
    known.add_argument("--refresh", action="store_true", help="fetch the server's list of partners first")
    known.set_defaults(act=_peers)


def _peers(args: argparse.Namespace) -> int:
    folder = Folder.open(args.folder)
    if args.action is not None and args.name is None:
        raise BadInput(f"expected a name after {args.action}, found none", hint="see tacit-client peers DIR")
    keys = Keys(folder.keys)
    if args.refresh:
        roster.keep(folder.roster, greet(folder.config.server.address, keys.files()).roster, keys=keys)
    match args.action:
        case "accept":
            return _accept(folder, args.name, named=roster.named(folder.roster, keys=keys))
        case "remove":
            return _remove(folder, args.name)
        case _:
            return _list(folder, keys)


def _accept(folder: Folder, name: str, *, named: dict[str, PublicKey]) -> int:
    """Ask a person at a terminal; whoever calls from a program has compared by other means."""
    key = peers.acceptable(folder.peers, name, named=named)
    print(f"{name}  {fingerprint(key)}\n{'':{len(name)}}  {words(key)}", flush=True)
    if sys.stdin.isatty():
        print(f"does {name} read you the same? [y/N] ", end="", flush=True)
        if sys.stdin.readline().strip().lower() not in ("y", "yes"):
            print("not accepted")
            return 1
    Audit.of(folder).write("peer-accepted", {"peer": name, "identity": key.hex()})
    peers.accept(folder.peers, name, named={name: key})
    print(f"accepted; where {name} reads another fingerprint, remove it at once")
    return 0


def _remove(folder: Folder, name: str) -> int:
    """The log comes second here: a full disk is no reason to go on with that peer."""
    key = peers.read(folder.peers).get(name, PublicKey(b""))
    peers.remove(folder.peers, name)
    print(f"removed {name}", flush=True)
    Audit.of(folder).write("peer-removed", {"peer": name, "identity": key.hex()})
    return 0


def _list(folder: Folder, keys: Keys) -> int:
    """An alarm is printed and changes no exit code: this is a look."""
    own, name = keys.public, folder.config.name
    named = roster.named(folder.roster, keys=keys)
    found = [peer for peer in peers.overview(folder.peers, named=named) if peer.name != name]
    width = max(len(name), *(len(peer.name) for peer in found)) if found else len(name)
    itself = Peer(name, own, named.get(name))
    for peer in (itself, *found):
        _print(peer.name, "you" if peer is itself else peer.state, peer.key, width=width)
        if peer.state == "changed" and peer.named is not None:
            _print("", "ALARM", peer.named, width=width, said=" is what the server names now; it is not used")
    if folder.config.policy.trust_new_peers:
        print("site.toml has trust_new_peers = true: new peers count as accepted too")
    return 0


def _print(name: str, state: str, key: PublicKey, *, width: int, said: str = "") -> None:
    print(f"{name:{width}}  {state:9}  {fingerprint(key)}{said}\n{'':{width}}  {'':9}  {words(key)}")
