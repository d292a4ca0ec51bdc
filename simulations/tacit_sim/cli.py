"""The command tacit-sim. The rules of the terminal are in `tacit.terminal`."""

from __future__ import annotations

import argparse
import os
import signal
import sys
import threading
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NoReturn

from tacit.errors import BadInput
from tacit.job import Job, load
from tacit.terminal import Parser, run, verbose_flag

__all__ = ["main"]

_DEMO = Path(__file__).parent / "presets" / "digits-demo.toml"
_BENCHES = (
    "distributed: steps between real processes; engine: a round beyond training; link: messages; noise: what drawing "
    "it costs; seal: a file; secagg: secure aggregation; step: a local step"
)


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command line `argv` (the process's own by default) and return the exit code."""
    arguments = list(sys.argv[1:] if argv is None else argv)
    hint = "the checkpoint of the last round is kept; go on with --resume"
    return run(lambda: _act(arguments), verbose="--verbose" in arguments, interrupted=hint)


def _act(arguments: Sequence[str]) -> int:
    os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")  # before any import of ray, which reads these
    os.environ.setdefault("RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO", "0")
    args = _parser().parse_args(arguments)
    code: int = args.act(args)
    return code


def _parser() -> argparse.ArgumentParser:
    parser = Parser(prog="tacit-sim", description="whole federations on this machine")
    common = verbose_flag()
    commands = parser.add_subparsers(required=True, metavar="COMMAND", parser_class=Parser)

    simulation = commands.add_parser("run", parents=[common], help="simulate a job")
    simulation.add_argument("job", type=Path, help="the job file")
    _add_run_flags(simulation)
    simulation.set_defaults(act=_run)

    demo = commands.add_parser("demo", parents=[common], help="a real federation on this machine, on embedded data")
    demo.add_argument("--out", type=Path, help="folder for everything (default: a new one in runs/)")
    demo.add_argument("--set", action="append", default=[], metavar="KEY=VALUE", help="change a key of the job")
    demo.set_defaults(act=_demo)

    data = commands.add_parser("data", help="known data sets").add_subparsers(
        required=True, metavar="ACTION", parser_class=Parser
    )
    listing = data.add_parser("list", parents=[common], help="names of the known data sets")
    listing.set_defaults(act=_data_list)
    split = data.add_parser(
        "split", parents=[common], help="files for the partners and the server of a real federation"
    )
    split.add_argument("job", type=Path, help="the job file, whose [simulation] names the data and how it is split")
    split.add_argument("--out", type=Path, required=True, help="folder to put them in")
    split.set_defaults(act=_data_split)
    get = data.add_parser("get", parents=[common], help="fetch a known data set from the Hugging Face hub")
    get.add_argument("name")
    get.add_argument("--data", type=Path, help="folder to put it in (default: TACIT_DATA)")
    get.set_defaults(act=_data_get)
    _add_bench(commands, common)
    _add_attack(commands, common)
    _add_audit(commands, common)
    return parser


def _add_bench(commands: Any, common: argparse.ArgumentParser) -> None:
    bench = commands.add_parser("bench", parents=[common], help="measured cost, ours beside others' in one run")
    names = ("distributed", "engine", "link", "noise", "seal", "secagg", "step")
    bench.add_argument("name", choices=names, help=_BENCHES)
    bench.add_argument("--json", type=Path, metavar="FILE", help="write the numbers here too")
    bench.add_argument("--only", default="", metavar="TEXT", help="only rows whose case or model has TEXT in its name")
    bench.add_argument("--engine", action="append", help="bench engine: one of inline, ray, flower; may be repeated")
    bench.add_argument("--repeats", type=int, help="measurements of each column, taken in turn")
    bench.set_defaults(act=_bench)


def _add_attack(commands: Any, common: argparse.ArgumentParser) -> None:
    attack = commands.add_parser("attack", parents=[common], help="attacks on secure aggregation and on what is learnt")
    attack.add_argument("name", help="of an attack, or all; --verbose shows every word")
    attack.add_argument("--json", type=Path, metavar="FILE", help="write what came of them here too")
    attack.add_argument("--out", type=Path, metavar="DIR", help="folder for the pictures of those that have one")
    attack.set_defaults(act=_attack)


def _add_audit(commands: Any, common: argparse.ArgumentParser) -> None:
    audit = commands.add_parser("audit", parents=[common], help="epsilon measured with canaries, beside the claim")
    audit.add_argument("job", type=Path, help="the job file")
    audit.add_argument("--canaries", type=int, default=1000, metavar="M", help="default: %(default)s")
    audit.add_argument("--set", action="append", default=[], metavar="KEY=VALUE", help="set a key of the job")
    audit.add_argument("--seed", type=int, help="the same as --set simulation.seed=N")
    audit.add_argument("--data", type=Path, help="folder of the known data sets (default: TACIT_DATA)")
    audit.add_argument("--json", type=Path, metavar="FILE", help="write the numbers here too")
    audit.add_argument("--out", type=Path, metavar="DIR", help="folder for report.html")
    audit.add_argument(
        "--fault", help="make a mistake on purpose, to see the audit fail: half-noise, bare-layer, last-round"
    )
    audit.set_defaults(act=_audit)


def _add_run_flags(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--engine", choices=("inline", "ray"), default="inline", help="default: %(default)s")
    parser.add_argument("--set", action="append", default=[], metavar="KEY=VALUE", help="set a key of the job")
    parser.add_argument("--seed", type=int, help="the same as --set simulation.seed=N")
    parser.add_argument("--out", type=Path, help="output folder (default: a new one under runs/)")
    parser.add_argument("--data", type=Path, help="folder of the known data sets (default: TACIT_DATA)")
    parser.add_argument("--resume", action="store_true", help="go on from the checkpoint in --out")


def _run(args: argparse.Namespace) -> int:
    job = _job(args)
    if args.resume and args.out is None:
        raise BadInput("expected --out with --resume, found none", hint="name the folder of the run to go on with")
    out = args.out or _new_folder(job.name)
    stop = _stop_on_interrupt()

    from tacit_sim.progress import Progress
    from tacit_sim.simulation import simulate

    with Progress(job.training.rounds) as progress:
        result = simulate(
            job, engine=args.engine, data=args.data, out=out, resume=args.resume, progress=progress.show, stop=stop
        )
    _print_summary(result, out)
    return 0


def _job(args: argparse.Namespace) -> Job:
    seed = [] if args.seed is None else [f"simulation.seed={args.seed}"]
    return load(args.job, overrides=[*args.set, *seed])


def _demo(args: argparse.Namespace) -> int:
    job = load(_DEMO, overrides=args.set)
    out = args.out or _new_folder(job.name)

    from tacit_sim.demo import demonstrate

    signal.signal(signal.SIGTERM, signal.default_int_handler)  # as Ctrl-C: the processes are ended, too
    result = demonstrate(job, out=out, tell=lambda text: print(text, flush=True))
    print()
    _print_summary(result, out)
    return 0


def _stop_on_interrupt() -> threading.Event:
    """An event that Ctrl-C sets, besides the usual exception: under ray the rounds run beside the main thread."""
    stop = threading.Event()

    def interrupt(number: int, frame: Any) -> NoReturn:
        stop.set()
        raise KeyboardInterrupt

    if threading.current_thread() is threading.main_thread():
        signal.signal(signal.SIGINT, interrupt)
    return stop


def _new_folder(name: str) -> Path:
    base = Path("runs")
    taken = (base / (name if n == 1 else f"{name}-{n}") for n in range(1, 10**6))
    return next(path for path in taken if not path.exists())


def _print_summary(result: dict[str, Any], out: Path) -> None:
    scores, privacy = result["metrics"]["test"] or {}, result["privacy"]
    print(f"rounds    {result['rounds_completed']} done, {result['rounds_failed']} abandoned")
    if scores:
        print(f"accuracy  {100 * scores['accuracy']:.2f} % on the test set (macro F1 {scores['macro_f1']:.3f})")
    if privacy["epsilon"] is None:
        print("epsilon   none: this run gives no privacy guarantee")
    else:
        print(f"epsilon   {privacy['epsilon']:.3f} at delta {privacy['delta']:g} (the partner that spent most)")
    print(f"report    {out / 'report.html'}")


def _data_list(args: argparse.Namespace) -> int:
    from tacit_sim.known import names

    print("\n".join(names()))
    return 0


def _data_split(args: argparse.Namespace) -> int:
    job = load(args.job)

    from tacit_sim.demo import data_file, share_out

    try:
        args.out.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise BadInput(f"expected to make {args.out}, found {error.strerror}", hint="choose another --out") from None
    names = share_out(job, args.out)
    print("\n".join(map(str, [*(data_file(args.out, name) for name in (*names, "test")), args.out / "job.toml"])))
    return 0


def _data_get(args: argparse.Namespace) -> int:
    from tacit_sim.known import fetch

    folder = args.data or (Path(os.environ["TACIT_DATA"]) if os.environ.get("TACIT_DATA") else None)
    if folder is None:
        raise BadInput("expected a folder for the data, found none", hint="give --data DIR or set TACIT_DATA")
    print(fetch(args.name, data=folder))
    return 0


def _bench(args: argparse.Namespace) -> int:
    from tacit_sim.bench import bench

    table = bench(args.name, only=args.only, engines=args.engine, repeats=args.repeats)
    print(table.text())
    if args.json is not None:
        table.write(args.json)
    return 0


def _attack(args: argparse.Namespace) -> int:
    from tacit_sim.attacks import attack

    report = attack(args.name, show=print, whole=args.verbose)
    print(f"\n{report.count()}")
    if args.json is not None:
        report.write(args.json)
    if args.out is not None:
        report.draw(args.out)
    return 0 if report.refused else 1


def _audit(args: argparse.Namespace) -> int:
    job = _job(args)

    from tacit_sim.audit import audit, text, write, write_json
    from tacit_sim.progress import Progress

    with Progress(job.training.rounds) as progress:
        found = audit(job, canaries=args.canaries, data=args.data, fault=args.fault, progress=progress.show)
    print(f"\n{text(found)}")
    if args.json is not None:
        write_json(args.json, found)
    if args.out is not None:
        write(args.out, found)
    return 0 if found.passes else 1


if __name__ == "__main__":
    sys.exit(main())
