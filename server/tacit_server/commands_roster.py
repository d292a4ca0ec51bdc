"""The operator's commands about who takes part: init, invite, remove, partners."""

from __future__ import annotations

import argparse
import json
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

from tacit.check import parse
from tacit.errors import BadInput
from tacit.link import keyfile
from tacit.link.enrolment import fingerprint
from tacit.link.invitation import Invitation
from tacit.link.names import check_name
from tacit.link.words import words
from tacit.secagg.keys import identity_of
from tacit_server.config import ServerConfig
from tacit_server.enrol import invite
from tacit_server.folder import Folder
from tacit_server.roster import PartnerRow, Roster

__all__ = ["add"]

_MOMENT = "%Y-%m-%d %H:%M UTC"


def add(commands: argparse._SubParsersAction[Any], *, parents: tuple[argparse.ArgumentParser, ...] = ()) -> None:
    """Add the four commands to a parser; each sets `handler`, which takes the arguments and gives the exit code.

    Args:
        commands: what `add_subparsers` returned.
        parents: of each command's parser, for flags that all commands share.
    """
    folder = argparse.ArgumentParser(add_help=False)
    folder.add_argument("folder", type=Path, metavar="DIR", help="the server's folder")
    every = [*parents, folder]

    init = commands.add_parser("init", parents=every, help="make a server folder: keys, certificates, config")
    init.add_argument("--host", required=True, metavar="NAME", help="by which partners reach this machine")
    init.add_argument("--port", type=int, default=9443, metavar="P", help="of the gateway (default: %(default)s)")
    init.set_defaults(handler=_init)

    invited = commands.add_parser("invite", parents=every, help="write the file that lets one partner join, once")
    invited.add_argument("partner", metavar="PARTNER", help="its name: a-z, 0-9 and hyphens")
    invited.add_argument("--out", type=Path, metavar="FILE", help="default: PARTNER.invitation.toml in this folder")
    invited.add_argument("--hours", type=float, metavar="H", help="until it expires (default: as in server.toml)")
    invited.set_defaults(handler=_invite)

    remove = commands.add_parser("remove", parents=every, help="end a partner's membership, or its invitation")
    remove.add_argument("partner", metavar="PARTNER")
    remove.set_defaults(handler=_remove)

    partners = commands.add_parser("partners", parents=every, help="who was invited, has joined, is connected")
    partners.add_argument("--json", action="store_true", help="as JSON")
    partners.set_defaults(handler=_partners)


def _init(args: argparse.Namespace) -> int:
    from tacit_server.setup import init

    folder = init(args.folder, host=args.host, port=args.port)
    own = identity_of(keyfile.read_key(folder.signing_key))
    print(
        f"a server for partners who reach it at {folder.config.address}\n\n"
        f"  {folder.keys}: private keys; keep a backup that you alone can open\n"
        f"  {folder.config_path}: settings\n"
        f"  identity: {fingerprint(own)}\n"
        f"            {words(own)}\n\n"
        "next:\n"
        f"  1. let partners reach port {folder.config.port} of this machine, and no other\n"
        f"  2. invite each: tacit-server invite {args.folder} PARTNER\n"
        f"  3. tacit-server up {args.folder}"
    )
    return 0


def _invite(args: argparse.Namespace) -> int:
    folder = Folder.open(args.folder)
    name = check_name(args.partner)
    out = args.out or Path(f"{name}.invitation.toml")
    _check_free(out, name)
    hours = folder.config.invitation_hours if args.hours is None else args.hours
    parse(ServerConfig, {"host": folder.config.host, "invitation_hours": hours}, where="--hours")
    made = invite(folder, Roster(folder.roster_path), name=name, lifetime=timedelta(hours=hours), now=datetime.now(UTC))
    made.write(out)
    print(
        f"an invitation for {name} is in {out}; it expires {made.expires:{_MOMENT}}\n\n"
        f"Whoever has the file can join as {name}, once. Hand it over where nobody else can take it: in person, by\n"
        "scp, in an encrypted mail or chat; not in a ticket or a shared folder. There the partner gives\n\n"
        f"  tacit-client join {out.name} --dir DIR\n\n"
        "Afterwards compare identities with the partner, by telephone or in person. The server's own, by which the\n"
        "partner knows that nobody exchanged the file on its way, is\n\n"
        f"  {fingerprint(made.server)}\n"
        f"  {words(made.server)}\n\n"
        f"and the partner's is in tacit-server partners {args.folder}"
    )
    return 0


def _check_free(out: Path, name: str) -> None:
    """An earlier invitation of the same partner may be written over, since it is void; nothing else."""
    if not out.parent.is_dir():
        raise BadInput(f"expected a folder at {out.parent}, found none", hint="correct --out")
    if not out.exists():
        return
    try:
        earlier = Invitation.read(out).name
    except BadInput:
        earlier = ""
    if earlier != name:
        found = f"an invitation for {earlier}" if earlier else "another file"
        raise BadInput(f"expected no file at {out}, found {found}", hint="choose another --out")


def _remove(args: argparse.Namespace) -> int:
    Roster(Folder.open(args.folder).roster_path).remove(args.partner)
    print(
        f"{args.partner} takes part no more; its connection is cut and its invitations are void\n"
        "What it has contributed stays in the models. Tell the other partners: tacit-client peers DIR remove "
        f"{args.partner}"
    )
    return 0


def _partners(args: argparse.Namespace) -> int:
    rows = Roster(Folder.open(args.folder).roster_path).partners()
    now = datetime.now(UTC)
    if args.json:
        print(json.dumps([_as_json(row) for row in rows], indent=2))
    elif not rows:
        print(f"nobody was invited yet: tacit-server invite {args.folder} PARTNER")
    else:
        _print_table([_HEAD, *(line for row in rows for line in _lines(row, now=now))])
    return 0


_HEAD = ("NAME", "STATE", "ONLINE", "DEVICE", "LAST SEEN", "IDENTITY")


def _lines(row: PartnerRow, *, now: datetime) -> list[tuple[str, ...]]:
    """The identity stands there twice, as digits and below them as words, as partners see it."""
    state: str = row.state
    if row.state == "invited" and row.expires is not None:
        state = f"invited until {row.expires:{_MOMENT}}" if now < row.expires else "invitation expired"
    seen = "never" if row.last_seen is None else format(row.last_seen, _MOMENT)
    first = row.name, state, "yes" if row.online else "no", row.device or "-", seen
    if row.identity is None:
        return [(*first, "-")]
    return [(*first, fingerprint(row.identity)), (*("" for _ in first), words(row.identity))]


def _print_table(lines: list[tuple[str, ...]]) -> None:
    widths = [max(map(len, column)) for column in zip(*lines, strict=True)]
    for line in lines:
        print("  ".join(cell.ljust(width) for cell, width in zip(line, widths, strict=True)).rstrip())


def _as_json(row: PartnerRow) -> dict[str, Any]:
    """Moments in ISO 8601, UTC; the whole identity key in hex."""
    return {
        "name": row.name,
        "state": row.state,
        "online": row.online,
        "device": row.device,
        "joined": _iso(row.joined),
        "last_seen": _iso(row.last_seen),
        "invitation_expires": _iso(row.expires),
        "identity": None if row.identity is None else row.identity.hex(),
        "fingerprint": None if row.identity is None else fingerprint(row.identity),
        "words": None if row.identity is None else words(row.identity),
    }


def _iso(moment: datetime | None) -> str | None:
    return None if moment is None else moment.isoformat(timespec="seconds")
