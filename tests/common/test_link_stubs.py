"""The generated code of the link is what its .proto says."""

from __future__ import annotations

from pathlib import Path

import pytest

import tacit.link

HERE = Path(tacit.link.__file__).parent


def test_the_generated_code_is_current(tmp_path):
    tools = pytest.importorskip("grpc_tools.protoc", reason="grpcio-tools is a tool of developers")
    places = [f"--{kind}_out={tmp_path}" for kind in ("python", "pyi", "grpc_python")]
    assert tools.main(["protoc", f"-I{HERE.parents[1]}", *places, "tacit/link/link.proto"]) == 0
    made = sorted((tmp_path / "tacit" / "link").iterdir())
    assert [file.name for file in made] == ["link_pb2.py", "link_pb2.pyi", "link_pb2_grpc.py"]
    for file in made:
        assert file.read_text() == (HERE / file.name).read_text(), f"generate {file.name} anew"
