"""What every command shares at the terminal.

Rules: results on stdout; `error: ...` and `hint: ...` on stderr, in lower case and without a final period; exit 0 on
success, 1 on a failed job or where the system refuses a file or a disk, 2 on bad usage or bad input, 130 on Ctrl-C; a
traceback only with --verbose. Long work shows a progress bar on a terminal and a line a round otherwise.
"""

from __future__ import annotations

import argparse
import logging
import os
import sys
import traceback
from collections.abc import Callable
from typing import NoReturn

from tacit.errors import BadInput, TacitError

__all__ = ["Parser", "plain", "run", "system", "verbose_flag"]

_INTERRUPTED = 130  # as a shell says it: 128 and the number of SIGINT


class Parser(argparse.ArgumentParser):
    """Says what is wrong with a command line as everything else is said. Give it as `parser_class` to subparsers."""

    def error(self, message: str) -> NoReturn:
        """Raises BadInput."""
        raise BadInput(f"expected a command line as in --help, found that {message}", hint=f"see {self.prog} --help")


def verbose_flag() -> Parser:
    """A parent for the parser of every command: the flag --verbose."""
    parser = Parser(add_help=False)
    parser.add_argument("--verbose", action="store_true", help="tracebacks and progress of every part")
    return parser


def run(main: Callable[[], int], *, verbose: bool, interrupted: str = "give the same command to go on") -> int:
    """Call `main`, which parses and acts, and return the exit code.

    Args:
        main: gives its exit code; a TacitError, an OSError or Ctrl-C is told in two lines.
        verbose: show tracebacks, and what every part logs.
        interrupted: the hint after Ctrl-C, as an imperative.
    """
    _quiet_environment()
    logging.basicConfig(level=logging.INFO if verbose else logging.ERROR, format="%(message)s")
    try:
        code = main()
        sys.stdout.flush()
    except KeyboardInterrupt:
        return _tell("interrupted", interrupted, _INTERRUPTED)
    except BrokenPipeError:  # the reader of a pipe, such as `head`, has seen enough
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 1
    except TacitError as error:
        if verbose:
            traceback.print_exc()
        return _tell(error.message, error.hint, error.exit_code)
    except OSError as error:  # a right or a disk that nobody asked about beforehand
        if verbose:
            traceback.print_exc()
        return _tell(*system(error), 1)
    return code


def system(error: OSError) -> tuple[str, str]:
    """Message and hint for what the system refused."""
    place = f" at {error.filename}" if error.filename is not None else ""
    found = error.strerror or type(error).__name__
    return (
        f"expected the system to let this be read or written, found: {found}{place}",
        "check the rights of this user and the free space there; --verbose says where it came from",
    )


def plain(text: str) -> str:
    """`text` as one line that moves no cursor and sets no colour, whoever wrote it."""
    line = " ".join(text.split())
    return "".join(character if character.isprintable() else "\N{REPLACEMENT CHARACTER}" for character in line)


def _quiet_environment() -> None:
    """Before any import of flwr or tensorboard, which read these: nothing is sent anywhere, nothing is chatted."""
    os.environ["FLWR_TELEMETRY_ENABLED"] = "0"
    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")


def _tell(message: str, hint: str, code: int) -> int:
    print(f"error: {plain(message)}\nhint: {plain(hint)}", file=sys.stderr)
    return code
