"""The command tacit-server. The rules of the terminal are in `tacit.terminal`."""

from __future__ import annotations

import sys
from collections.abc import Sequence

from tacit.terminal import Parser, run, verbose_flag
from tacit_server import commands_roster, commands_runs, commands_statement

__all__ = ["main"]


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command line `argv` (the process's own by default) and return the exit code."""
    words = list(sys.argv[1:] if argv is None else argv)
    hint = "what was submitted goes on; see tacit-server status"
    return run(lambda: _act(words), verbose="--verbose" in words, interrupted=hint)


def _act(words: Sequence[str]) -> int:
    args = _parser().parse_args(words)
    code: int = args.handler(args)
    return code


def _parser() -> Parser:
    parser = Parser(prog="tacit-server", description="the operator's side of a federation")
    common = verbose_flag()
    commands = parser.add_subparsers(required=True, metavar="COMMAND", parser_class=Parser)
    commands_roster.add(commands, parents=(common,))
    commands_runs.add(commands, parents=(common,))
    commands_statement.add(commands, parents=(common,))
    return parser


if __name__ == "__main__":
    sys.exit(main())
