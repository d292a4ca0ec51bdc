"""The operator's commands about runs: up, run, status, stop, resume, report, export."""

from __future__ import annotations

import argparse
import json
import sys
import time
from pathlib import Path
from typing import Any

from tacit.errors import JobFailed
from tacit.job import load
from tacit.terminal import plain
from tacit_server import runs
from tacit_server.folder import Folder
from tacit_server.runs import Run, TestSet, held
from tacit_server.status import line_words, read_history, status, words

__all__ = ["add"]

_LOOK = 0.5  # seconds between two looks at a run that is waited for
_REDRAW = 2.0
_CLEAR = "\x1b[H\x1b[2J"  # of a terminal


def add(commands: argparse._SubParsersAction[Any], *, parents: tuple[argparse.ArgumentParser, ...] = ()) -> None:
    """Add the commands to a parser; each sets `handler`, which takes the arguments and gives the exit code.

    Args:
        commands: what `add_subparsers` returned.
        parents: of each command's parser, for flags that all commands share.
    """
    folder = argparse.ArgumentParser(add_help=False)
    folder.add_argument("folder", type=Path, metavar="DIR", help="the server's folder")
    one = argparse.ArgumentParser(add_help=False)
    one.add_argument("name", nargs="?", metavar="NAME", help="of the run (default: the newest)")

    up = commands.add_parser("up", parents=[*parents, folder], help="serve partners and runs until SIGTERM")
    up.set_defaults(handler=_up)
    _add_run(commands, [*parents, folder])

    shown = commands.add_parser("status", parents=[*parents, folder, one], help="runs, rounds, partners")
    shown.add_argument("--watch", action="store_true", help="again every two seconds, until Ctrl-C")
    shown.add_argument("--json", action="store_true", help="as JSON")
    shown.set_defaults(handler=_status)

    for name, handler, text in (
        ("stop", _stop, "end a run; it can be resumed"),
        ("resume", _resume, "go on with a run that was stopped or failed"),
        ("report", _report, "where the report is; written anew for a run that has not finished"),
    ):
        commands.add_parser(name, parents=[*parents, folder, one], help=text).set_defaults(handler=handler)

    export = commands.add_parser("export", parents=[*parents, folder, one], help="the model for other programs")
    export.add_argument("--format", choices=("safetensors", "onnx"), default="safetensors", help="default: %(default)s")
    export.add_argument("--out", type=Path, required=True, metavar="FILE")
    export.set_defaults(handler=_export)


def _add_run(commands: argparse._SubParsersAction[Any], parents: list[argparse.ArgumentParser]) -> None:
    run = commands.add_parser("run", parents=parents, help="submit a job to the partners")
    run.add_argument("job", type=Path, metavar="JOB.toml")
    run.add_argument("--test", type=Path, metavar="PATH", help="the server's own test set")
    run.add_argument("--input", metavar="COL", help="column or array of the test set to learn from")
    run.add_argument("--label", metavar="COL", help="column or array of its labels")
    run.add_argument("--device", default="auto", help="on which the model is evaluated (default: %(default)s)")
    run.add_argument("--set", action="append", default=[], metavar="KEY=VALUE", help="set a key of the job")
    run.add_argument("--name", help="of the run (default: the job's)")
    run.add_argument("--wait", action="store_true", help="until the run is over, a line a round")
    run.set_defaults(handler=_run)


def _up(args: argparse.Namespace) -> int:
    from tacit_server.up import up

    up(args.folder, show=_say)
    return 0


def _run(args: argparse.Namespace) -> int:
    folder = Folder.open(args.folder)
    job = load(args.job, overrides=args.set)
    test = None if args.test is None else TestSet(path=str(args.test.absolute()), input=args.input, label=args.label)

    from tacit_server.proposal import pick_device, resolve

    pick_device(args.device)
    resolved = resolve(job, test).job
    run = runs.submit(folder.runs, resolved, name=args.name, test=test, device=args.device)
    _say(f"run       {run.name}\nfolder    {run.path}")
    if not held(folder.up_lock):
        _say(f"nobody serves {folder.path} now: the run waits for tacit-server up")
    return _wait(run) if args.wait else 0


def _wait(run: Run) -> int:
    """Until the run is over; Ctrl-C leaves it going."""
    told, phase = 0, ""
    while True:
        standing = run.standing
        for line in (history := read_history(run.path))[told:]:
            _say(line_words(line))
        told = len(history)
        if standing.phase != phase:
            phase = standing.phase
            _say(plain(phase + (f": {standing.message}" if standing.message else "")))
        match phase:
            case "finished":
                _say(f"report    {run.path / 'report.html'}")
                return 0
            case "failed" | "stopped":
                raise JobFailed(
                    f"expected the run {run.name} to finish, found it {phase}"
                    + (f": {standing.message}" if standing.message else ""),
                    hint="mend the cause, then tacit-server resume",
                )
        time.sleep(_LOOK)


def _status(args: argparse.Namespace) -> int:
    folder = Folder.open(args.folder)
    while True:
        found = status(folder, name=args.name)
        text = json.dumps(found, indent=2) if args.json else words(found)
        _say((_CLEAR if args.watch and sys.stdout.isatty() else "") + text)
        if not args.watch:
            return 0
        try:
            time.sleep(_REDRAW)
        except KeyboardInterrupt:
            return 0


def _stop(args: argparse.Namespace) -> int:
    run = _found(args)
    runs.stop(run)
    _say(f"{run.name} ends after the message at hand; resume goes on with it")
    return 0


def _resume(args: argparse.Namespace) -> int:
    run = _found(args)
    runs.resume(run)
    _say(f"{run.name} goes on from round {run.standing.round + 1}")
    return 0


def _report(args: argparse.Namespace) -> int:
    from tacit_server.interim import write_report

    _say(str(write_report(_found(args))))
    return 0


def _export(args: argparse.Namespace) -> int:
    from tacit_server.export import export

    run = _found(args)
    export(run.path, format=args.format, out=args.out)
    _say(str(args.out))
    return 0


def _found(args: argparse.Namespace) -> Run:
    return runs.find(Folder.open(args.folder).runs, args.name)


def _say(text: str) -> None:
    print(text, flush=True)
