"""The echo as Flower's bundle, for the SuperLink: an import and nothing else."""

from __future__ import annotations

from functools import lru_cache
from pathlib import Path

import tomli_w
from flwr.cli.build import build_fab_from_files

from tacit_server.submit import FOLDER

__all__ = ["echo_bundle"]

_APP = b'"""An echo."""\n\nfrom tacit_sim.bench import echo\n\nserver = echo.server\nclient = echo.client\n'


@lru_cache(maxsize=1)
def echo_bundle() -> bytes:
    """ServerApp and ClientApp of `tacit_sim.bench.echo`; its config names a folder, as the rounds' does."""
    project = {
        "project": {"name": "tacit-echo", "version": "1.0.0", "description": "", "license": {"text": "Apache-2.0"}},
        "tool": {
            "flwr": {
                "app": {
                    "publisher": "tacit",
                    "components": {"serverapp": "tacit_echo:server", "clientapp": "tacit_echo:client"},
                    "config": {FOLDER: ""},
                }
            }
        },
    }
    files: dict[str, bytes | Path] = {"pyproject.toml": tomli_w.dumps(project).encode(), "tacit_echo.py": _APP}
    return build_fab_from_files(files)[0]
