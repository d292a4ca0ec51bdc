"""What secure aggregation costs, beside Flower 1.41's SecAgg+ by its own functions on the same input in the same run.

Time is processor time, of all threads together: what one core would need, and little moved by other work on the
machine. Nothing is scaled up to what was not run; every row says what it holds.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from statistics import median
from typing import Any

from flwr.supercore.primitives.asymmetric import generate_key_pairs, public_key_to_bytes

from tacit.secagg.constants import EDGE_UNIT
from tacit_sim.bench.cohort import Cohort, make_cohort, make_update
from tacit_sim.bench.memory import Peak, peak_of
from tacit_sim.bench.partner import PartnerRound, sent
from tacit_sim.bench.server import Cast, Played, Prepared, server_round
from tacit_sim.bench.table import Table
from tacit_sim.rivals.cost import Stage, client_round, server_unmask
from tacit_sim.rivals.flower import Masked

__all__ = ["CASES", "Case", "measure_secagg"]


@dataclass(frozen=True)
class Case:
    """A cohort and an update.

    Attributes:
        name: begins with what is measured.
        partners: in the cohort.
        length: entries of the update.
        complete: everyone shares masks with everyone; else the graph that a server of ours asks for.
        lost: of the server: partners who vanish before they send their vectors; None for the client's side.
        prepared: of the server: no real partners, and no Flower.
    """

    name: str
    partners: int
    length: int
    complete: bool = False
    lost: int | None = None
    prepared: bool = False


CASES = (
    Case("client 10 x 1,000,000", 10, 10**6),
    Case("client 10 x 10,000,000", 10, 10**7),
    Case("client 100 x 100,000", 100, 10**5),
    Case("client 500 x 100,000", 500, 10**5),
    Case("client 500 x 100,000, complete graph", 500, 10**5, complete=True),
    Case("memory 10 x 10,000,000", 10, 10**7),
    Case("server 100 x 100,000, none lost", 100, 10**5, lost=0),
    Case("server 100 x 100,000, 10 lost", 100, 10**5, lost=10),
    Case("server 100 x 100,000, 30 lost", 100, 10**5, lost=30),
    Case("server 500 x 100,000, none lost", 500, 10**5, lost=0, prepared=True),
    Case("server 500 x 100,000, 50 lost", 500, 10**5, lost=50, prepared=True),
    Case("server 500 x 100,000, 150 lost", 500, 10**5, lost=150, prepared=True),
    Case("server 500 x 100,000, complete graph, none lost", 500, 10**5, complete=True, lost=0, prepared=True),
    Case("server 500 x 100,000, complete graph, 50 lost", 500, 10**5, complete=True, lost=50, prepared=True),
    Case("server 500 x 100,000, complete graph, 150 lost", 500, 10**5, complete=True, lost=150, prepared=True),
)

_AIMS: dict[tuple[str, str], float] = {
    ("client 500 x 100,000", "time"): 0.5,
    ("client 500 x 100,000, complete graph", "time"): 0.5,
    ("client 10 x 1,000,000", "sent"): 1.1,
    ("client 10 x 10,000,000", "sent"): 1.1,
    ("memory 10 x 10,000,000", "peak"): 3.0,
    ("server 500 x 100,000, 50 lost", "time"): 5.0,
    ("server 500 x 100,000, complete graph, 50 lost", "time"): 5.0,
}
"""What Tacit's number should be under, by case and measure."""

_RIVAL_AIMS: dict[tuple[str, str], float] = {
    ("client 10 x 10,000,000", "time"): 5.0,
    ("client 10 x 10,000,000", "mask"): 5.0,
}
"""What Flower's number over Tacit's should be at least."""

_NOTES = (
    "time: processor seconds, all threads; of a client, all that it computes in a round, Flower's in turn with ours; "
    "numpy's linear algebra may take more threads than it needs, see OPENBLAS_NUM_THREADS;",
    "mask: from the shares' arrival to the packed vector (ours: open, quantise, request, mask, pack; Flower's: mask);",
    "Flower's client has as many peers as ours and the same threshold; with 200 peers or more it runs once;",
    "peers of one client and the server: real keys, signatures and seals, made outside the clock;",
    "sent: over a plain float32 vector; ours all five messages as protobuf, Flower's without its framing;",
    "peak: over a plain float32 vector, which is counted; resident set above what stood before, until the vector is "
    "masked, and with the message packed; Flower's masking packs;",
    "server: each sum compared with the plain sum; 100 has real partners; 500 has prepared ones: shares on lines, "
    "random bytes for seals, no masks between survivors, all of which cost the server the same;",
    "partial: Flower's server did one item of each part, by the wall clock, so found and over_tacit are lower bounds; "
    "at 500, where one secret takes it minutes, it was left out;",
    "published (Bonawitz et al. 2017, 500 x 100,000, 10 % lost): client 0.85 s, server 62 s",
)

_COLUMNS = {
    **{"case": "", "measure": "", "who": "", "found": ".3f", "unit": "", "over_tacit": ".2f"},
    **{"aim": "", "holds": "", "by_part": ""},
}
_SLOW = 200  # peers above which Flower's client runs once: its Shamir sharing takes a minute or more
_MASKING = ("open", "quantise", "request", "mask", "pack")  # what Flower's stage `mask` does too
_FLOWER_KEYS = 2  # that a node sends
_NPY_HEADER = 128  # bytes before an array in numpy's file format
_FLOAT = 4  # bytes of a float32

Row = dict[str, Any]


def measure_secagg(cases: Sequence[Case] = CASES, *, repeats: int = 3) -> Table:
    """Time, memory and bytes of every case.

    Args:
        cases: what to measure.
        repeats: runs of the client, Flower's in turn with ours; the server and memory are measured once.

    Raises:
        JobFailed: a server whose sum is not the plain sum, or a process that measures memory and fails.
    """
    _warm()
    rows: list[Row] = []
    cast: tuple[Case, Cast] | None = None
    for case in cases:
        if case.lost is not None:
            if cast is None or _cohort_of(case) != _cohort_of(cast[0]):
                cast = case, _cast(case)
            rows += _server(case, cast[1], lost=case.lost)
        elif case.name.startswith("memory"):
            rows += _memory(case)
        else:
            rows += _client(case, repeats=repeats)
    return Table(name="secagg", columns=_COLUMNS, rows=tuple(rows), settings={"repeats": repeats}, notes=_NOTES)


def _warm() -> None:
    """Imports and tables that the first round of a process waits for."""
    update = make_update(1000)
    cohort = make_cohort(3, length=1000, complete=False)
    _clocked(PartnerRound(cohort, update, model=update).stages(), sent)
    _clocked(client_round(update, cohort=3), _flower_sent)


@dataclass(frozen=True)
class _Run:
    """Seconds by stage, and bytes sent in all."""

    seconds: Mapping[str, float]
    sent: int

    @property
    def total(self) -> float:
        return sum(self.seconds.values())

    @property
    def masking(self) -> float:
        return sum(seconds for name, seconds in self.seconds.items() if name in _MASKING)


def _clocked(stages: Iterable[Stage], size: Callable[[object], int]) -> _Run:
    seconds, total = {}, 0
    for stage in stages:
        started = time.process_time()
        message = stage.work()
        seconds[stage.name] = time.process_time() - started
        total += size(message)
    return _Run(seconds, total)


def _client(case: Case, *, repeats: int) -> list[Row]:
    update = make_update(case.length)
    cohort = make_cohort(case.partners, length=case.length, complete=case.complete)
    ours: list[_Run] = []
    theirs: list[_Run] = []
    for _ in range(repeats):
        partner = PartnerRound(cohort, update, model=update)
        ours.append(_clocked(partner.stages(), sent))
        if not theirs or partner.peers < _SLOW:
            rival = client_round(update, cohort=partner.peers + 1, threshold=partner.needed)
            theirs.append(_clocked(rival, _flower_sent))
    plain = _FLOAT * case.length
    return [
        *_pair(case, "time", ours, theirs, of=lambda run: run.total),
        *_pair(case, "mask", ours, theirs, of=lambda run: run.masking),
        *_pair(case, "sent", ours, theirs, of=lambda run: run.sent / plain),
    ]


def _flower_sent(message: object) -> int:
    """Bytes in what a stage of Flower's client gave, its framing left out."""
    match message:
        case Masked():
            return sum(array.nbytes + _NPY_HEADER for array in message.arrays)
        case dict():
            return sum(map(len, message.values()))
        case list():
            return sum(len(share) for _, share in message)
    return _FLOWER_KEYS * len(public_key_to_bytes(generate_key_pairs()[1]))


def _pair(
    case: Case, measure: str, ours: Sequence[_Run], theirs: Sequence[_Run], *, of: Callable[[_Run], float]
) -> list[Row]:
    ratio = median(of(their) / of(our) for our, their in zip(ours, theirs, strict=False))
    return [
        _row(case, measure, who, median(map(of, runs)), over=over, parts=_by_stage(measure, runs), runs=len(runs))
        for who, runs, over in (("tacit", ours, 1.0), ("flower", theirs, ratio))
    ]


def _by_stage(measure: str, runs: Sequence[_Run]) -> dict[str, float]:
    """Seconds, said once a case."""
    if measure != "time":
        return {}
    return {name: median(run.seconds[name] for run in runs) for name in runs[0].seconds}


def _memory(case: Case) -> list[Row]:
    plain = _FLOAT * case.length
    found = {who: _peak(case, who, traced=False) for who in ("tacit", "flower")}
    traced = _peak(case, "tacit", traced=True)  # Flower's own allocations would be counted several times slower

    def rows(measure: str, of: Callable[[Peak], int]) -> list[Row]:
        ours, theirs = (of(peak) / plain for peak in found.values())
        return [
            _row(case, measure, "tacit", ours, parts={"by tracemalloc": of(traced) / plain}),
            _row(case, measure, "flower", theirs, over=theirs / ours),
        ]

    return [*rows("peak", lambda peak: peak.masked), *rows("peak, packed", lambda peak: peak.whole)]


def _peak(case: Case, who: str, *, traced: bool) -> Peak:
    return peak_of(who, cohort=case.partners, length=case.length, traced=traced)


def _cohort_of(case: Case) -> tuple[int, int, bool, bool]:
    return case.partners, case.length, case.complete, case.prepared


def _cast(case: Case) -> Cast:
    cohort = make_cohort(case.partners, length=case.length, complete=case.complete)
    return Prepared(cohort) if case.prepared else Played(cohort)


def _server(case: Case, cast: Cast, *, lost: int) -> list[Row]:
    steps = server_round(cast, lost=lost)
    row = _row(case, "time", "tacit", sum(steps.values()), parts=steps)
    return [row] if case.prepared else [row, _flower_server(case, cast.cohort, lost=lost, ours=row["found"])]


def _flower_server(case: Case, cohort: Cohort, *, lost: int, ours: float) -> Row:
    around = round((case.partners - 1) * cohort.round.edges / EDGE_UNIT)
    found = server_unmask(cohort=case.partners, length=case.length, dropped=lost, neighbours=around, most=1)
    parts = [part for part in found if part.whole]
    seconds = {part.name: part.seconds for part in parts}
    total = sum(seconds.values())
    partial = "partial: " + ", ".join(f"{part.name} {part.measured} of {part.whole}" for part in parts)
    return _row(case, "time", "flower", total, over=total / ours, parts=seconds, partial=partial)


def _row(
    case: Case,
    measure: str,
    who: str,
    found: float,
    *,
    over: float = 1.0,
    parts: Mapping[str, float] | None = None,
    runs: int = 1,
    partial: str = "",
) -> Row:
    return {
        "case": case.name,
        "measure": measure,
        "who": who,
        "found": found,
        "unit": "s" if measure in {"time", "mask"} else "x plain",
        "over_tacit": over,
        "aim": _aim(case, measure, who, found=found, over=over),
        "holds": partial or f"all, {runs} x",
        "by_part": ", ".join(f"{name} {value:.4f}" for name, value in (parts or {}).items()),
        "parts": dict(parts or {}),
    }


def _aim(case: Case, measure: str, who: str, *, found: float, over: float) -> str:
    key = case.name, measure
    if who == "tacit" and key in _AIMS:
        return f"under {_AIMS[key]:g}: {'met' if found < _AIMS[key] else 'missed'}"
    if who == "flower" and key in _RIVAL_AIMS:
        return f"{_RIVAL_AIMS[key]:g} x tacit: {'met' if over >= _RIVAL_AIMS[key] else 'missed'}"
    return ""
