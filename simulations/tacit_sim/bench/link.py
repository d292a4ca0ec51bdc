"""What the link costs: a message there and back, a model's bytes, and the messages of a secure round.

Everything is measured on real processes with real TLS, by the commands that operators and partners type; Flower's own
way and the bare copy of the bytes are measured in the same run.
"""

from __future__ import annotations

import json
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from statistics import median
from typing import Any

from tacit.errors import BadInput, JobFailed
from tacit_server.child import environment
from tacit_server.folder import Folder
from tacit_server.submit import Control
from tacit_server.superlink import HOST, place
from tacit_sim.bench.bundle import echo_bundle
from tacit_sim.bench.echo import Order
from tacit_sim.bench.loopback import loopback_seconds
from tacit_sim.bench.round import PARAMETERS, round_lines
from tacit_sim.bench.table import Table
from tacit_sim.rehearsal import Rehearsal, free_port

__all__ = ["CASES", "Case", "measure_link"]

Row = dict[str, Any]


@dataclass(frozen=True)
class Case:
    """What is measured.

    Attributes:
        name: begins with the measure: round trip, model or secure round.
        partners: processes.
        length: bytes of the message each way; of a secure round nothing.
        repeats: measurements, unless `measure_link` is told another number.
    """

    name: str
    partners: int
    length: int
    repeats: int


CASES = (
    Case("round trip, 4 kB, 3 partners", 3, 4096, 20),
    Case("model, 400 MB, 1 partner", 1, 400_000_000, 3),
    Case(f"secure round, {PARAMETERS:,} parameters, 3 partners", 3, 0, 10),
)

_AIMS = {"round trip, 4 kB, 3 partners": 0.6, CASES[2].name: 3.0}
"""Seconds that Tacit's number should be under."""

_COLUMNS = {
    **{"case": "", "measure": "", "way": "", "found": ".3f", "unit": "", "over_tacit": ".2f"},
    **{"processor_s": "", "aim": "", "repeats": ",", "slowest": ".3f"},
}
_NOTES = (
    "round trip: until every partner's answer is in the ServerApp; tacit by the gateway and mutual TLS, flower by "
    "flower-superlink, flower-supernode --insecure and Grid.send_and_receive, after tacit's processes have ended;",
    "model: MB/s there and back together, arrays at both ends; loopback: the same bytes through gRPC between two "
    "processes in pieces of 1 MiB;",
    "secure round: from the roster to the new model, mechanism none; protocol: secagg and aggregate of the run's "
    "history; beyond training: the whole round but the mean time that a partner trained, so everything but training;",
    "medians; processor_s: seconds of all processes together for one measurement; over_tacit: of the same measure",
)
_WARM = 3
_FLOWER_WARM, _FLOWER_REPEATS = 1, 3  # three seconds of sleep in most
_SLOWEST = 900.0  # seconds for all measurements of one case
_LOOK = 0.2
_MB = 1e6


def measure_link(cases: Sequence[Case] = CASES, *, repeats: int | None = None) -> Table:
    """Seconds and bytes a second of every case.

    Args:
        cases: what to measure.
        repeats: measurements of each; each case's own number where left out.

    Raises:
        BadInput: a case whose name says nothing that can be measured.
        JobFailed: a process that did not do its part.
    """
    rows = [row for case in cases for row in _rows(case, repeats=repeats or case.repeats)]
    return Table(name="link", columns=_COLUMNS, rows=tuple(rows), settings={"warm": _WARM}, notes=_NOTES)


def _rows(case: Case, *, repeats: int) -> list[Row]:
    with tempfile.TemporaryDirectory(prefix="tacit-bench-") as name:
        folder = Path(name)
        match case.name.partition(",")[0]:
            case "round trip":
                return _trips(case, folder, repeats=repeats)
            case "model":
                return _models(case, folder, repeats=repeats)
            case "secure round":
                return _rounds(case, folder, repeats=repeats)
    raise BadInput(f"expected a round trip, a model or a secure round, found {case.name}", hint="rename the case")


def _trips(case: Case, folder: Path, *, repeats: int) -> list[Row]:
    ours = _Found(*_tacit_echo(case, folder / "tacit", repeats=repeats))
    theirs = _Found(*_flower_echo(case, folder / "flower", repeats=min(repeats, _FLOWER_REPEATS)))
    return [
        _row(case, "time", "tacit", ours, base=ours.middle),
        _row(case, "time", "flower", theirs, base=ours.middle),
    ]


def _models(case: Case, folder: Path, *, repeats: int) -> list[Row]:
    ways = {"tacit": _Found(*_tacit_echo(case, folder / "tacit", repeats=repeats))}
    (folder / "keys").mkdir()
    for way, tls in (("loopback", None), ("loopback, mutual TLS", folder / "keys")):
        ways[way] = _Found(loopback_seconds(case.length, repeats=repeats, tls=tls), None)
    speeds = {way: found.speed(2 * case.length) for way, found in ways.items()}
    base = speeds["tacit"].middle
    return [_row(case, "speed", way, found, base=base, unit="MB/s") for way, found in speeds.items()]


def _rounds(case: Case, folder: Path, *, repeats: int) -> list[Row]:
    lines = round_lines(folder, partners=case.partners, rounds=repeats)
    protocol = [line["seconds"]["secagg"] + line["seconds"]["aggregate"] for line in lines]
    beyond = [line["round_seconds"] - line["partner_seconds"] / case.partners for line in lines]
    found = {"protocol": _Found(protocol, None), "beyond training": _Found(beyond, None)}
    return [_row(case, measure, "tacit", each, base=each.middle) for measure, each in found.items()]


@dataclass(frozen=True)
class _Found:
    """Measurements, and processor seconds of one, where they were taken."""

    all: list[float]
    processor: float | None

    @property
    def middle(self) -> float:
        return median(self.all)

    def speed(self, length: int) -> _Found:
        return _Found([length / _MB / seconds for seconds in self.all], self.processor)


def _row(case: Case, measure: str, way: str, found: _Found, *, base: float, unit: str = "s") -> Row:
    aim = _AIMS.get(case.name) if way == "tacit" else None
    return {
        "case": case.name,
        "measure": measure,
        "way": way,
        "found": found.middle,
        "unit": unit,
        "over_tacit": found.middle / base,
        "processor_s": "" if found.processor is None else f"{found.processor:.3f}",
        "processor": found.processor,
        "aim": "" if aim is None else f"< {aim:g} {'met' if found.middle < aim else 'missed'}",
        "repeats": len(found.all),
        "slowest": max(found.all) if unit == "s" else min(found.all),
        "all": found.all,
    }


def _tacit_echo(case: Case, folder: Path, *, repeats: int) -> tuple[list[float], float | None]:
    folder.mkdir()
    with Rehearsal(folder) as federation:
        federation.init()
        federation.up()
        for name in _names(case):
            federation.join(name, data=folder)  # which the echo never opens
            federation.start(name, "python", "-m", "tacit_sim.bench.echo", str(folder / name))
        server = Folder.open(federation.server)
        where = place(server)
        if where is None:
            raise JobFailed("expected a SuperLink, found none", hint="see its log")
        watched = tuple(process.pid for process in federation.processes.values())
        order = Order(case.partners, case.length, _WARM, repeats, str(server.flower_db), watched)
        return _ordered(order, folder, port=where.port, alive=lambda: _check(federation))


def _flower_echo(case: Case, folder: Path, *, repeats: int) -> tuple[list[float], float | None]:
    folder.mkdir()
    port, settings = free_port(), environment(Path(sys.executable), home=folder / "home")
    with Rehearsal(folder, settings=settings) as processes:
        where = "--host", HOST, "--port", str(port), "--disable-runtime-dependency-installation"
        processes.start("superlink", "flower-superlink", "--insecure", *where)
        _reach(port, alive=lambda: _check(processes))
        for name in _names(case):
            own = "--superlink", f"{HOST}:{port}", "--port", str(free_port())
            processes.start(name, "flower-supernode", "--insecure", *own)
        watched = tuple(process.pid for process in processes.processes.values())
        order = Order(case.partners, case.length, _FLOWER_WARM, repeats, "", watched)
        return _ordered(order, folder, port=port, alive=lambda: _check(processes))


def _names(case: Case) -> list[str]:
    return [f"partner-{i + 1}" for i in range(case.partners)]


def _reach(port: int, *, alive: Callable[[], None]) -> None:
    """Wait until a SuperLink answers."""
    control = Control(port)
    deadline = time.monotonic() + _SLOWEST
    while time.monotonic() < deadline:
        alive()
        try:
            control.alive()
        except JobFailed:
            time.sleep(_LOOK)
        else:
            break
    control.close()


def _ordered(order: Order, folder: Path, *, port: int, alive: Callable[[], None]) -> tuple[list[float], float | None]:
    """What the ServerApp measured, and processor seconds of one measurement."""
    run, deadline = folder / "run", time.monotonic() + _SLOWEST
    run.mkdir()
    order.write(run)
    control = Control(port)
    control.start(run, bundle=echo_bundle())
    control.close()
    while not (run / "seconds.json").exists():
        alive()
        if time.monotonic() > deadline:
            raise JobFailed(f"expected an echo within {_SLOWEST:g} s, found none", hint="lower --repeats")
        time.sleep(_LOOK)
    found = json.loads((run / "seconds.json").read_text())
    return found["seconds"], sum(found["processor"].values()) if found["processor"] else None


def _check(processes: Rehearsal) -> None:
    for name, process in processes.processes.items():
        if process.poll() is not None:
            said = processes.log(name).read_text(errors="replace")[-500:].strip()
            raise JobFailed(f"expected {name} to go on, found it ended: {said!r}", hint="see its log")
