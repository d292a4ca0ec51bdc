"""The import graph, read from the source: who may import whom, and which library is met where."""

from __future__ import annotations

import ast
import os
import subprocess
import sys
from graphlib import TopologicalSorter
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
FOLDERS = {"tacit": "common", "tacit_client": "client", "tacit_server": "server", "tacit_sim": "simulations"}
ARROWS = {
    "tacit": set(),
    "tacit_client": {"tacit"},
    "tacit_server": {"tacit"},
    "tacit_sim": {"tacit", "tacit_client", "tacit_server"},
}
# Where a library may be met: a module, or a package with all that is in it.
LIBRARIES = {
    "torch": (
        "tacit.models",
        "tacit.tasks",
        "tacit.vector",
        "tacit.evaluate",
        "tacit_client.clipping",
        "tacit_client.gradients",
        "tacit_client.train",
        "tacit_client.app",
        "tacit_client.checkup.machine",
        "tacit_client.data",
        "tacit_client.office",
        "tacit_client.optimizer",
        "tacit_server.export",
        "tacit_server.proposal",
        "tacit_sim",
    ),
    "opacus": ("tacit_client.gradients", "tacit_client.optimizer", "tacit_sim.bench"),
    "flwr": (
        "tacit.link.objects",
        "tacit.link.records",
        "tacit_client.app",
        "tacit_client.letters",
        "tacit_client.node",
        "tacit_client.office",
        "tacit_server.answers",
        "tacit_server.app",
        "tacit_server.fleet",
        "tacit_server.main",
        "tacit_server.roll",
        "tacit_server.sessions",
        "tacit_server.shortcut",
        "tacit_server.submit",
        "tacit_server.superlink_child",
        "tacit_server.transport",
        "tacit_server.rounds",
        "tacit_server.update",
        "tacit_sim",
    ),
    "cryptography": (
        "tacit.link.certificates",
        "tacit.link.pem",
        "tacit.passphrase",
        "tacit.privacy.randomness",
        "tacit.seal",
        "tacit.secagg",
        "tacit_server.fleet",
    ),
    "grpc": (
        "tacit.link.channel",
        "tacit_client.calls",
        "tacit_client.link",
        "tacit_client.node",
        "tacit_server.gateway",
        "tacit_server.refusals",
        "tacit_server.service",
        "tacit_sim.bench",
    ),
    "mnemonic": ("tacit.link.words",),
    "httpx": ("tacit_server.fleet", "tacit_server.main", "tacit_server.submit"),
}
GENERATED = ("tacit.link.link_pb2", "tacit.link.link_pb2_grpc")
LIGHT = (
    "tacit.job",
    "tacit.wire",
    "tacit.privacy.accounting",
    "tacit.privacy.events",
    "tacit.privacy.mechanism",
    "tacit.privacy.randomness",
    "tacit.data.files",
    "tacit.metrics",
    "tacit.quantize",
    "tacit.secagg.client",
    "tacit.secagg.run",
    "tacit.secagg.server",
    "tacit.link.certificates",
    "tacit.link.channel",
    "tacit.seal",
    "tacit_client.account",
    "tacit_client.join",
    "tacit_client.policy",
    "tacit_server.setup",
)


def _modules() -> dict[str, ast.Module]:
    found = {}
    for package, folder in FOLDERS.items():
        for path in sorted((ROOT / folder / package).rglob("*.py")):
            parts = path.relative_to(ROOT / folder).with_suffix("").parts
            name = ".".join(parts[:-1] if parts[-1] == "__init__" else parts)
            if name in GENERATED:
                continue
            found[name] = ast.parse(path.read_text(encoding="utf-8"), filename=str(path))
    return found


MODULES = _modules()


def _imports(name: str) -> set[str]:
    """Every module that `name` imports, also inside functions; `from p import m` counts as p.m where that is one."""
    found = set()
    for node in ast.walk(MODULES[name]):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"a relative import in {name}"
            inner = {f"{node.module}.{alias.name}" for alias in node.names}
            found |= (inner & MODULES.keys()) or {node.module}
    return found


def _within(name: str, places: tuple[str, ...]) -> bool:
    return any(name == place or name.startswith(f"{place}.") for place in places)


def test_every_package_is_seen():
    assert len(MODULES) >= 180
    seen = {package: sum(_within(name, (package,)) for name in MODULES) for package in FOLDERS}
    least = {"tacit": 64, "tacit_client": 23, "tacit_server": 45, "tacit_sim": 52}
    assert {package for package in FOLDERS if seen[package] < least[package]} == set()


@pytest.mark.parametrize("package", FOLDERS)
def test_arrows_point_one_way(package):
    own = [name for name in MODULES if _within(name, (package,))]
    met = {imported.partition(".")[0] for name in own for imported in _imports(name)} & FOLDERS.keys()
    assert met - {package} <= ARROWS[package]


def test_the_permitted_arrows_are_used():
    met = {
        imported.partition(".")[0] for name in MODULES if _within(name, ("tacit_sim",)) for imported in _imports(name)
    }
    assert ARROWS["tacit_sim"] <= met


def test_no_cycle():
    graph = {name: _imports(name) & MODULES.keys() - {name} for name in MODULES}
    assert sum(map(len, graph.values())) >= 400
    assert len(tuple(TopologicalSorter(graph).static_order())) == len(MODULES)


@pytest.mark.parametrize("library", LIBRARIES)
def test_a_library_is_met_only_where_it_belongs(library):
    users = {name for name in MODULES if any(_within(imported, (library,)) for imported in _imports(name))}
    assert users
    assert {name for name in users if not _within(name, LIBRARIES[library])} == set()


@pytest.mark.parametrize("module", LIGHT)
def test_light_modules_load_no_torch(module):
    heavy = "torch", "opacus", "flwr", "ray"
    code = f"import sys, {module}; print(sorted(m for m in {heavy} if m in sys.modules))"
    path = os.pathsep.join(str(ROOT / folder) for folder in FOLDERS.values())
    done = subprocess.run(
        [sys.executable, "-c", code],
        env={**os.environ, "PYTHONPATH": path},
        capture_output=True,
        text=True,
        check=True,
        timeout=60,
    )
    assert done.stdout.strip() == "[]"


def test_broad_excepts_stand_at_the_edge_of_a_process():
    broad = {"Exception", "BaseException"}
    found = {}
    for name, tree in MODULES.items():
        handlers = [node for node in ast.walk(tree) if isinstance(node, ast.ExceptHandler)]
        caught = [{n.id for n in ast.walk(h.type) if isinstance(n, ast.Name)} if h.type else broad for h in handlers]
        if count := sum(bool(names & broad) for names in caught):
            found[name] = count
    assert found == {"tacit_client.node": 1, "tacit_sim.grid": 1}


def _public(name: str) -> list[str] | None:
    for node in MODULES[name].body:
        if isinstance(node, ast.Assign) and any(isinstance(t, ast.Name) and t.id == "__all__" for t in node.targets):
            return list(ast.literal_eval(node.value))
    return None


def _order(name: str) -> tuple[int, str]:
    """Constants, then classes, then functions, as ruff sorts."""
    return (0 if name.isupper() else 1 if name[0].isupper() else 2), name


def test_public_names_are_listed_and_sorted():
    seen = 0
    for name, tree in MODULES.items():
        public = _public(name)
        defined = [n.name for n in tree.body if isinstance(n, ast.FunctionDef | ast.ClassDef) and n.name[0] != "_"]
        if public is None:
            assert not defined, f"{name} defines {defined} and has no __all__"
            continue
        seen += 1
        assert public == sorted(public, key=_order), name
        assert set(defined) <= set(public), name
    assert seen >= 100


def test_no_assert_in_the_product():
    asserts = [name for name, tree in MODULES.items() for node in ast.walk(tree) if isinstance(node, ast.Assert)]
    assert asserts == []


def test_files_of_tests_have_names_of_their_own():
    """pytest imports them by bare name."""
    names = [path.name for path in (ROOT / "tests").rglob("*.py") if path.name != "conftest.py"]
    assert len(names) >= 150
    assert sorted(names) == sorted(set(names))
