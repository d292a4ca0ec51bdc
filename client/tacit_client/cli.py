"""The command tacit-client. The rules of the terminal are those of `tacit.terminal`."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from importlib import import_module

from tacit.terminal import Parser, run, verbose_flag

__all__ = ["main"]

# The module of each command. It is imported where the command is given, so that a small one starts small.
_COMMANDS = {
    "audit": "tacit_client.commands_audit",
    "budget": "tacit_client.commands_budget",
    "data": "tacit_client.commands_budget",
    "doctor": "tacit_client.commands_doctor",
    "join": "tacit_client.commands_join",
    "open": "tacit_client.commands_seal",
    "peers": "tacit_client.commands_peers",
    "run": "tacit_client.commands_join",
    "seal": "tacit_client.commands_seal",
    "statement": "tacit_client.commands_statement",
    "verify-statement": "tacit_client.commands_statement",
}


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command line `argv` (the process's own by default) and return the exit code."""
    words = list(sys.argv[1:] if argv is None else argv)
    return run(lambda: _act(words), verbose="--verbose" in words)


def _act(words: Sequence[str]) -> int:
    args = _parser(words).parse_args(words)
    code: int = args.act(args)
    return code


def _parser(words: Sequence[str]) -> Parser:
    """Of the command that `words` name, or of all."""
    named = {_COMMANDS[word] for word in words[:1] if word in _COMMANDS}
    parser = Parser(prog="tacit-client", description="a partner's side of a federation")
    common = verbose_flag()
    commands = parser.add_subparsers(required=True, metavar="COMMAND", parser_class=Parser)
    for module in sorted(named or set(_COMMANDS.values())):
        import_module(module).add(commands, parents=(common,))
    return parser


if __name__ == "__main__":
    sys.exit(main())
