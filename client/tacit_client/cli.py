"""The command tacit-client. The rules of the terminal are those of `tacit.terminal`."""

from __future__ import annotations

import sys
from collections.abc import Sequence

from tacit.terminal import Parser, run, verbose_flag
from tacit_client import commands_budget, commands_join, commands_peers

__all__ = ["main"]

_COMMANDS = (commands_join, commands_peers, commands_budget)


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command line `argv` (the process's own by default) and return the exit code."""
    words = list(sys.argv[1:] if argv is None else argv)
    return run(lambda: _act(words), verbose="--verbose" in words)


def _act(words: Sequence[str]) -> int:
    args = _parser().parse_args(words)
    code: int = args.act(args)
    return code


def _parser() -> Parser:
    parser = Parser(prog="tacit-client", description="a partner's side of a federation")
    common = verbose_flag()
    commands = parser.add_subparsers(required=True, metavar="COMMAND", parser_class=Parser)
    for group in _COMMANDS:
        group.add(commands, parents=(common,))
    return parser


if __name__ == "__main__":
    sys.exit(main())
