"""The specification of secure aggregation says what the code does: excerpts, tables and sizes, compared one by one."""

from __future__ import annotations

import ast
import importlib
import inspect
import json
import re
import textwrap
from math import prod
from pathlib import Path
from typing import Any, get_args

import pytest

from tacit.secagg import constants, graph
from tacit.secagg.abort import Reason, Stage
from tacit.secagg.block.messages import BlockAdvert, BlockEnvelopes, BlockInbox, BlockRoster
from tacit.secagg.graph import default_threshold, edge_chance
from tacit.secagg.keys import Digest, PublicKey, Secret, Signature
from tacit.secagg.labels import USAGES
from tacit.secagg.messages import (
    Advert,
    Agreement,
    Complete,
    Envelopes,
    Inbox,
    Presence,
    Quorum,
    Reveal,
    Roster,
    Survivors,
    encode,
)
from tacit.secagg.round import Member, Round
from tacit.secagg.states import State

ROOT = Path(__file__).resolve().parents[1]
SECAGG = ROOT / "common" / "tacit" / "secagg"
SPEC = (ROOT / "common" / "tacit" / "spec" / "secagg.md").read_text(encoding="utf-8")
EXCERPTS = re.findall(
    r"^<!-- from common/tacit/secagg/(\w+)\.py: ([\w.]+) -->\n```python\n(.*?)\n```$", SPEC, re.MULTILINE | re.DOTALL
)
CONTEXT = Digest(bytes(32))


def rows(heading: str) -> list[list[str]]:
    """The cells of the first table under `heading`."""
    _, _, below = SPEC.partition(f"\n{heading}\n")
    assert below, heading
    table = re.search(r"(?:^\|.*\n)+", below, re.MULTILINE)
    assert table is not None, heading
    return [[cell.strip() for cell in line.strip("|\n").split(" |")] for line in table[0].splitlines()[2:]]


def test_the_excerpts_are_many():
    assert len(EXCERPTS) == SPEC.count("```python") == 24
    named = {(module, name) for module, name, _ in EXCERPTS}
    assert len(named) == 24
    bindings = importlib.import_module("tacit.secagg.bindings").__all__
    assert {("bindings", name) for name in bindings} <= named
    assert {("checks", "check_company"), ("checks", "check_presences"), ("labels", "label")} <= named
    assert {("run", "aggregate"), ("client", "mask"), ("complete", "reveal")} <= named


@pytest.mark.parametrize(("module", "name", "shown"), EXCERPTS, ids=[f"{m}.{n}" for m, n, _ in EXCERPTS])
def test_an_excerpt_is_the_code(module, name, shown):
    found: Any = importlib.import_module(f"tacit.secagg.{module}")
    for part in name.split("."):
        found = getattr(found, part)
    code = textwrap.dedent(inspect.getsource(inspect.unwrap(found))).rstrip()
    assert shown == code, f"put the code of {module}.{name} into spec/secagg.md as it is now"


def test_every_constant_stands_in_the_table_with_its_value():
    table = {name.strip("`"): _value(value) for name, value, _ in rows("## Constants")}
    assert table == {name: getattr(constants, name) for name in constants.__all__}
    assert len(table) == 15


def _value(text: str) -> int | tuple[int, ...]:
    """A number, a power and a number more or less, or a pair."""
    if text[0] == "(":
        return tuple(map(int, text.strip("()").split(", ")))
    power, _, rest = text.replace(" - ", " + -").partition(" + ")
    base, _, exponent = power.partition("**")
    return int(int(base) ** int(exponent or 1)) + int(rest or 0)


def test_every_constant_names_a_source():
    assert all(source for _, _, source in rows("## Constants"))


def test_every_reason_stands_in_the_table():
    table = {name.strip("`"): stages.split(", ") for name, stages, _, _ in rows("## Reasons to stop")}
    assert set(table) == {reason.name for reason in Reason}
    assert len(table) == 18
    for name, stages in table.items():
        places = [Stage(stage) for stage in stages]
        assert places == [stage for stage in Stage if stage in places], name
    assert all(when and remedy for _, _, when, remedy in rows("## Reasons to stop"))


def test_the_stages_of_a_reason_are_those_of_the_vectors():
    table = {name.strip("`"): set(stages.split(", ")) for name, stages, _, _ in rows("## Reasons to stop")}
    folder = ROOT / "tests" / "vectors"
    cases = json.loads((folder / "hostile.json").read_text())["cases"]
    cases += json.loads((folder / "rejected.json").read_text())["server"]
    assert len(cases) == 97
    for case in cases:
        assert case["stage"] in table[case["reason"]], case["name"]


def test_reasons_raised_in_a_module_name_stages_of_the_table():
    """Wherever the source writes `Abort(Stage.X, Reason.Y, ...)` outright, X is among Y's stages."""
    table = {name.strip("`"): set(stages.split(", ")) for name, stages, _, _ in rows("## Reasons to stop")}
    seen = 0
    for path in sorted(ROOT.glob("c*/tacit*/**/*.py")):
        for stage, reason in re.findall(r"Abort\(\s*Stage\.(\w+), Reason\.(\w+)", path.read_text(encoding="utf-8")):
            assert Stage[stage].value in table[reason], (path, stage, reason)
            seen += 1
    assert seen >= 15


def test_every_usage_of_a_label_stands_in_the_table_with_its_parts():
    table = {usage.strip("`"): re.findall(r"[^`, ]+", parts) for usage, _, parts in rows("## Labels")}
    assert set(table) == set(USAGES)
    calls = [
        node
        for path in sorted(SECAGG.glob("*.py"))
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8")))
        if isinstance(node, ast.Call) and isinstance(node.func, ast.Name) and node.func.id == "label"
    ]
    assert len(calls) == len(table) == 12
    for call in calls:
        usage = ast.literal_eval(call.args[0])
        assert len(call.args) - 1 == len(table[usage]), usage


def test_every_state_stands_in_the_table():
    awaited = {name.strip("`"): following.strip("`") for name, _, _, following, _ in rows("### States")}
    states = [state.__name__ for state in get_args(State)]
    assert list(awaited) == ["none", *states]
    assert list(awaited.values()) == [*states, ""]
    client = importlib.import_module("tacit.secagg.client")
    named = [function.strip("`") for _, _, function, _, _ in rows("### States")][:-1]
    assert sorted(named) == client.__all__


def test_every_function_of_both_sides_has_a_stage():
    for heading, module in (("## Stages of a partner", "client"), ("## Stages of the server", "server")):
        column = " ".join(cells[1] for cells in rows(heading))
        functions = importlib.import_module(f"tacit.secagg.{module}").__all__
        assert set(re.findall(rf"`{module}\.(\w+)`", column)) == {name for name in functions if name.islower()}
    assert [cells[0] for cells in rows("## Stages of the server")] == [stage.value for stage in Stage]


def test_every_function_of_a_block_is_named():
    block = importlib.import_module("tacit.secagg.block")
    _, _, below = SPEC.partition("\n## A block of steps\n")
    below = below.partition("\n## Constants\n")[0]
    assert set(re.findall(r"`block\.(\w+)`", below)) == {name for name in block.__all__ if name.islower()}
    assert {"`BlockAdvertised`", "`BlockShared`", "`Block`"} <= set(re.findall(r"`\w+`", below))


def _size(text: str, **counts: int) -> int:
    """`42 + 4 u + 66 k m` with the counts put in."""
    total = 0
    for term in text.split(" + "):
        assert re.fullmatch(r"(\d+|[a-z])( [a-z])*", term), text
        total += prod(int(factor) if factor.isdigit() else counts[factor] for factor in term.split())
    return total


MASKS = (PublicKey(bytes(32)),) * 3
BLOCK = BlockAdvert(0, PublicKey(bytes(32)), MASKS, Signature(bytes(64)))
ENVELOPE = bytes(3 * 66 + 16)
ADVERT = Advert(0, PublicKey(bytes(32)), PublicKey(bytes(32)), Signature(bytes(64)))
SIGNED = Signature(bytes(64))
MESSAGES: list[tuple[Any, dict[str, int]]] = [
    (ADVERT, {}),
    (Roster((ADVERT, ADVERT, ADVERT)), {"u": 3}),
    (Envelopes(0, CONTEXT, ((1, bytes(82)), (2, bytes(82)))), {"k": 2}),
    (Inbox((0, 1, 2, 3, 4), ((1, bytes(82)), (3, bytes(82)))), {"u": 5, "k": 2}),
    (Presence(0, SIGNED), {}),
    (Survivors(tuple(Presence(i, SIGNED) for i in (0, 1, 2, 4))), {"u": 4}),
    (Agreement(0, SIGNED), {}),
    (Quorum((Agreement(0, SIGNED), Agreement(1, SIGNED))), {"u": 2}),
    (Reveal(0, ((0, Secret(bytes(33))), (1, Secret(bytes(33))), (2, Secret(bytes(33))))), {"k": 3}),
    (BLOCK, {"m": 3}),
    (BlockRoster((BLOCK, BLOCK)), {"m": 3, "u": 2}),
    (BlockEnvelopes(0, (CONTEXT, CONTEXT, CONTEXT), ((1, ENVELOPE), (2, ENVELOPE))), {"m": 3, "k": 2}),
    (BlockInbox(3, (0, 1, 2, 3, 4), ((1, ENVELOPE), (3, ENVELOPE))), {"m": 3, "u": 5, "k": 2}),
    (Complete(CONTEXT), {}),
]


@pytest.mark.parametrize(("message", "counts"), MESSAGES, ids=[type(message).__name__ for message, _ in MESSAGES])
def test_a_message_is_as_long_as_its_table(message, counts):
    name = type(message).__name__
    assert len(encode(message, context=CONTEXT)) == _laid_out(rows(f"### {name}"), counts)
    below = SPEC.partition(f"\n### {name}\n\n")[2]
    assert below.startswith(f"Kind {message.KIND}, stage {message.STAGE.value}, ")


def _laid_out(table: list[list[str]], counts: dict[str, int]) -> int:
    """The whole length, once every offset is where the row before ended."""
    end = 0
    for offset, size, _ in table:
        assert _size(offset, **counts) == end, offset
        end += _size(size, **counts)
    return end


def test_every_kind_of_message_has_a_table():
    kinds = {message.KIND for message, _ in MESSAGES}
    assert kinds == set(range(1, 15))
    assert len(re.findall(r"^Kind \d+, stage", SPEC, re.MULTILINE)) == 14


def test_a_round_is_as_long_as_its_table():
    names = ("a", "bcd", "é")
    members = tuple(Member(name, PublicKey(bytes([i]) * 32)) for i, name in enumerate(names))
    new = Round("run-7", "ab" * 32, 1, 1, "train", members, 3, 10, 2)
    counts = {"r": 5, "n": 3, "m": 1 + 3 + 2}
    assert len(new.encode()) == _laid_out(rows("### Round"), counts)


def test_the_graphs_in_the_table_are_those_of_the_code():
    table = [list(map(float, cells)) for cells in rows("## Graph")]
    assert [cells[0] for cells in table] == [65, 100, 200, 500, 1000, 5000]
    for n, threshold, edges, mean in table:
        assert threshold == default_threshold(int(n))
        assert edges == edge_chance(int(n), threshold=int(threshold))
        assert mean == round((n - 1) * edges / constants.EDGE_UNIT, 1)


def test_the_part_h_is_as_stated_and_more_edges_keep_the_bound():
    said = re.search(r"h is (\d+) at (\d+) partners, (\d+) at (\d+), (\d+) at (\d+)\.", SPEC.replace("\n", " "))
    assert said is not None
    budget = 2.0 ** -(constants.FAILURE_BITS + constants.GRIND_BITS)
    for part, n in zip(*[map(int, said.groups())] * 2, strict=True):
        least = edge_chance(n, threshold=default_threshold(n))
        right = [h for h in graph._PARTS if _loss(n, edges=least, part=h) <= budget]
        assert min(right) == part, n
    for n in (65, 100, 150):
        least = edge_chance(n, threshold=default_threshold(n))
        kept = [min(_loss(n, edges=e, part=h) for h in graph._PARTS) <= budget for e in range(least - 1, 256)]
        assert kept == [False] + [True] * (256 - least), n


def _loss(n: int, *, edges: int, part: int) -> float:
    chance = edges / constants.EDGE_UNIT
    return graph._exposed(n, chance, part) + graph._split(n, default_threshold(n), chance, part)


def test_the_vectors_that_are_named_are_there():
    table = [name.strip("`") for name, _ in rows("## Vectors")]
    assert sorted(table) == sorted(path.name for path in (ROOT / "tests" / "vectors").glob("*.json"))
    hostile = json.loads((ROOT / "tests" / "vectors" / "hostile.json").read_text())
    rejected = json.loads((ROOT / "tests" / "vectors" / "rejected.json").read_text())
    assert f"{len(hostile['cases'])} messages that a partner must refuse" in SPEC
    assert f"{len(rejected['server'])} answers that the server must not count" in SPEC
    assert f"{len(rejected['rounds'])} byte strings that are no round" in SPEC


def test_files_and_tests_that_are_named_are_there():
    named = set(re.findall(r"`((?:tests|common)/[\w/]+\.py)`", SPEC))
    twin, shown = (f"tests/common/test_secagg_{name}.py" for name in ("twin", "shown"))
    assert named >= {"tests/test_secagg_spec.py", twin, shown, "tests/vectors/generate.py"}
    for name in named:
        assert (ROOT / name).is_file(), name
