"""The hash of the code: the same wherever the files lie, another where one differs."""

from __future__ import annotations

import shutil
import subprocess
import sys
from pathlib import Path

import pytest

import tacit
import tacit_client
from tacit.code import hash_tree, installed
from tacit.errors import BadInput


@pytest.fixture
def copies(tmp_path) -> dict[str, Path]:
    """The two packages as a wheel puts them: in another place, side by side, with what Python leaves."""
    for package in (tacit, tacit_client):
        shutil.copytree(Path(package.__file__).parent, tmp_path / package.__name__)
        (tmp_path / package.__name__ / "__pycache__").mkdir(exist_ok=True)
        (tmp_path / package.__name__ / "__pycache__" / "x.cpython-311.pyc").write_bytes(b"1")
    return {package.__name__: tmp_path / package.__name__ for package in (tacit, tacit_client)}


def test_a_copy_has_the_same_hash(copies):
    here = installed("tacit", "tacit_client")
    assert here.sha256 == hash_tree(copies)
    assert here.version == "0.1.0"
    code = "from tacit.code import installed; print(installed('tacit', 'tacit_client').sha256)"
    there = copies["tacit"].parent
    done = subprocess.run([sys.executable, "-c", code], cwd=there, env={"PYTHONPATH": str(there)}, capture_output=True,
                          text=True, check=True)  # fmt: skip
    assert done.stdout.strip() == here.sha256


@pytest.mark.parametrize("place", ["tacit/statement.py", "tacit/link/link.proto", "tacit/statement.html.j2"])
def test_another_file_another_name_and_one_more_or_less_are_other_code(copies, place):
    file = copies["tacit"].parent / place
    hashes = [hash_tree(copies)]
    file.write_bytes(file.read_bytes() + b"\n")
    hashes.append(hash_tree(copies))
    file.rename(file.with_name(f"other{file.suffix}"))
    hashes.append(hash_tree(copies))
    file.with_name(f"other{file.suffix}").unlink()
    hashes.append(hash_tree(copies))
    assert len(set(hashes)) == 4


def test_server_and_partner_run_other_code():
    assert len({installed("tacit", each).sha256 for each in ("tacit_client", "tacit_server")}) == 2


def test_no_path_outside_and_nothing_compiled_counts(copies):
    before = hash_tree(copies)
    (copies["tacit"] / "notes.txt").write_text("x")
    (copies["tacit"] / "module.pyc").write_text("x")
    assert hash_tree(copies) == before


def test_a_package_that_is_not_there():
    with pytest.raises(BadInput, match="expected the package tacit_nowhere to be installed"):
        installed("tacit_nowhere")
