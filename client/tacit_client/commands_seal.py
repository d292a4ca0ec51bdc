"""Commands about files that nobody reads without a key: seal, open."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from tacit.errors import BadInput
from tacit.passphrase import ask_passphrase, read_passphrase
from tacit.seal import Lock, make_key, read_key
from tacit_client import sealing
from tacit_client.memory import keep_freed_memory

__all__ = ["add"]


def add(commands: Any, *, parents: Sequence[argparse.ArgumentParser]) -> None:
    """Add the commands to the parser's `commands`."""
    seal = commands.add_parser("seal", parents=parents, help="seal a file, or each file in a folder")
    _add_arguments(seal, what="what to seal", out="what to make; PATH.sealed where it is left out")
    seal.add_argument("--remove", action="store_true", help="remove the original once the sealed one was read back")
    seal.set_defaults(act=_seal)

    opened = commands.add_parser("open", parents=parents, help="open what was sealed")
    _add_arguments(opened, what="what to open", out="what to make; PATH without .sealed where it is left out")
    opened.add_argument("--remove", action="store_true", help="remove the sealed one")
    opened.set_defaults(act=_open)


def _add_arguments(parser: argparse.ArgumentParser, *, what: str, out: str) -> None:
    parser.add_argument("path", type=Path, metavar="PATH", help=f"{what}, a file or a folder")
    parser.add_argument("--out", type=Path, metavar="PATH", help=out)
    secret = parser.add_mutually_exclusive_group(required=True)
    secret.add_argument("--key", type=Path, metavar="FILE", help="the key file; seal makes one that is missing")
    secret.add_argument("--passphrase", action="store_true", help="ask for a passphrase")
    secret.add_argument("--passphrase-file", type=Path, metavar="FILE", help="a file with the passphrase in one line")


def _seal(args: argparse.Namespace) -> int:
    keep_freed_memory()
    if (secret := args.key or args.passphrase_file) is not None:
        sealing.check_apart(secret, path=args.path)
    new = args.key is not None and not args.key.exists()
    if new and not args.path.exists():  # no key for nothing
        raise BadInput(f"expected a file or folder at {args.path}, found none", hint="correct the path")
    lock = _made(args.key) if new else _lock(args, twice=True)
    done = sealing.seal(args.path, out=args.out, lock=lock, remove=args.remove)
    print(f"sealed {_amount(done)} as {done.out}")
    if args.remove:
        print(f"removed {args.path}: until it is overwritten, a removed file can be recovered from a disk")
    else:
        print(f"{args.path} is still there in clear")
    return 0


def _open(args: argparse.Namespace) -> int:
    keep_freed_memory()
    done = sealing.open_sealed(args.path, out=args.out, lock=_lock(args, twice=False), remove=args.remove)
    print(f"opened {_amount(done)} as {done.out}, in clear")
    if args.remove:
        print(f"removed {args.path}")
    return 0


def _made(path: Path) -> Lock:
    key = make_key(path)
    print(f"made the key {path}: keep a copy of it in another place, for nothing else opens what it seals")
    return key


def _lock(args: argparse.Namespace, *, twice: bool) -> Lock:
    if args.key is not None:
        return read_key(args.key)
    if args.passphrase_file is not None:
        return read_passphrase(args.passphrase_file)
    if not sys.stdin.isatty():
        raise BadInput("expected a terminal to ask for the passphrase, found none", hint="use --passphrase-file")
    return ask_passphrase("passphrase: ", twice=twice)


def _amount(done: sealing.Done) -> str:
    return f"{done.files} {'file' if done.files == 1 else 'files'} of {done.size:,} bytes"
