"""Runs on Flower's Control API: started, stopped, listed.

The app that Flower is given holds nothing but an import of `tacit_server.main`; what is run is the code that is
installed beside the SuperLink. Flower 1.41.
"""

from __future__ import annotations

import hashlib
from functools import lru_cache
from pathlib import Path

import httpx
import tomli_w
from flwr.cli.build import build_fab_from_files
from flwr.common.serde import fab_to_proto, user_config_to_proto
from flwr.proto.control_pb2 import ListRunsRequest, StartRunRequest, StopRunRequest
from flwr.supercore.control.control_http_client import ControlHttpClient
from flwr.supercore.fab import Fab

from tacit.errors import JobFailed
from tacit_server.neighbours import forget_proxies
from tacit_server.superlink import HOST

__all__ = ["FOLDER", "Control", "make_bundle"]

FOLDER = "folder"
"""The key of the run's config under which the ServerApp finds its run folder."""

_TIMEOUT = 10.0  # seconds for one call over loopback
_OVER = "finished"  # Flower's status of a run that ended in any way
_APP = b'"""The rounds of a federation."""\n\nfrom tacit_server import main\n\napp = main.app\n'


class Control:
    """The SuperLink that listens on `port`. A call that fails raises JobFailed."""

    def __init__(self, port: int) -> None:
        forget_proxies()
        self._client = ControlHttpClient(f"http://{HOST}:{port}", timeout=_TIMEOUT, verify=False)  # no TLS, no bundle

    def close(self) -> None:
        """Let go of the connection."""
        self._client.close()

    def start(self, folder: Path, *, bundle: bytes | None = None) -> int:
        """Start a Flower run for the run folder `folder`. Returns Flower's id of it.

        Args:
            folder: named in the run's config.
            bundle: another app in Flower's form; left out: the rounds.
        """
        content = bundle or make_bundle()
        fab = Fab(hashlib.sha256(content).hexdigest(), content, {})
        request = StartRunRequest(fab=fab_to_proto(fab), override_config=user_config_to_proto({FOLDER: str(folder)}))
        try:
            found = self._client.StartRun(request).run_id
        except (httpx.HTTPError, ValueError) as error:
            raise _unheard(error) from None
        if not found:
            raise _unheard("no id of the run")
        return found

    def stop(self, run: int) -> None:
        """Stop the Flower run `run`; one that is over already is left alone."""
        try:
            self._client.StopRun(StopRunRequest(run_id=run))
        except httpx.HTTPStatusError:
            if run in self.alive():
                raise _unheard(f"run {run} going on") from None
        except (httpx.HTTPError, ValueError) as error:
            raise _unheard(error) from None

    def alive(self) -> set[int]:
        """Ids of the Flower runs that have not ended."""
        try:
            runs = self._client.ListRuns(ListRunsRequest()).run_dict
        except (httpx.HTTPError, ValueError) as error:
            raise _unheard(error) from None
        return {number for number, run in runs.items() if run.status.status != _OVER}


@lru_cache(maxsize=2)
def make_bundle(name: str = "tacit_rounds", *, code: bytes = _APP, server: str = "app", client: str = "app") -> bytes:
    """An app as Flower's bundle (a zip file): no dependencies, so that nothing is ever installed for it.

    Args:
        name: of its one module.
        code: of that module.
        server: the name of the ServerApp there.
        client: what Flower wants named as ClientApp, which no partner of Tacit's ever loads.
    """
    components = {"serverapp": f"{name}:{server}", "clientapp": f"{name}:{client}"}
    project = {
        "project": {
            "name": name.replace("_", "-"), "version": "1.0.0", "description": "", "license": {"text": "Apache-2.0"},
        },
        "tool": {"flwr": {"app": {"publisher": "tacit", "components": components, "config": {FOLDER: ""}}}},
    }  # fmt: skip
    files: dict[str, bytes | Path] = {"pyproject.toml": tomli_w.dumps(project).encode(), f"{name}.py": code}
    content, _ = build_fab_from_files(files)
    return content


def _unheard(found: object) -> JobFailed:
    return JobFailed(f"expected the SuperLink to answer, found {found}", hint="see superlink.log")
