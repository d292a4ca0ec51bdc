"""What Flower is given: a bundle with an import of the rounds and nothing else."""

from __future__ import annotations

import ast
import io
import tomllib
import zipfile

import pytest

from tacit.errors import JobFailed
from tacit_server.submit import FOLDER, Control, make_bundle


def test_the_bundle_holds_an_import_and_no_dependency():
    with zipfile.ZipFile(io.BytesIO(make_bundle())) as bundle:
        assert sorted(bundle.namelist()) == [".info/CONTENT", "pyproject.toml", "tacit_rounds.py"]
        project = tomllib.loads(bundle.read("pyproject.toml").decode())
        module = ast.parse(bundle.read("tacit_rounds.py"))
    assert "dependencies" not in project["project"]
    assert project["tool"]["flwr"]["app"]["config"] == {FOLDER: ""}
    assert project["tool"]["flwr"]["app"]["components"]["serverapp"] == "tacit_rounds:app"
    assert [type(node) for node in module.body] == [ast.Expr, ast.ImportFrom, ast.Assign]
    assert ast.unparse(module.body[2]) == "app = main.app"


def test_the_bundle_is_the_same_every_time():
    first = make_bundle()
    make_bundle.cache_clear()
    assert make_bundle() == first


@pytest.mark.parametrize("call", ["alive", "start", "stop"])
def test_a_superlink_that_is_not_there_is_told(call, tmp_path):
    control = Control(1)  # nobody listens on this port
    arguments = {"alive": (), "start": (tmp_path,), "stop": (1,)}[call]
    with pytest.raises(JobFailed, match=r"^expected the SuperLink to answer, found "):
        getattr(control, call)(*arguments)
    control.close()
