"""The two ways to run a federation on this machine."""

from __future__ import annotations

import logging
import os
import warnings
from importlib.util import find_spec
from tempfile import TemporaryDirectory
from typing import Any

from flwr.app import Context, RecordDict, UserConfig
from flwr.clientapp import ClientApp
from flwr.serverapp import ServerApp

from tacit.errors import BadInput
from tacit.job import SimulationSection
from tacit_sim.grid import InlineGrid

__all__ = ["ENGINES", "check_engine", "quiet", "run_inline", "run_ray"]

ENGINES = ("inline", "ray")


def check_engine(engine: str, simulation: SimulationSection) -> None:
    """Raises BadInput where this machine can not run `engine` as `simulation` says."""
    if engine != "ray":
        return
    if find_spec("ray") is None:
        raise BadInput(
            "expected ray for the engine ray, found it not installed", hint="pip install 'tacit[simulation]'"
        )
    _check_shares(simulation)


def run_inline(server: ServerApp, client: ClientApp, simulation: SimulationSection) -> None:
    """Run `server` against the virtual partners in this process, one after another."""
    quiet()
    context = Context(run_id=1, node_id=0, node_config={}, state=RecordDict(), run_config=UserConfig())
    server(InlineGrid(client, partners=simulation.partners), context)


def run_ray(server: ServerApp, client: ClientApp, simulation: SimulationSection) -> None:
    """Run `server` with Flower's simulation runtime on Ray: several processes, with the job's CPU and GPU shares.

    Flower 1.41 keeps one pool of equal workers, so every partner has the same shares.

    Raises:
        BadInput: Ray is not installed, or no worker fits on this machine.
    """
    quiet()
    check_engine("ray", simulation)
    import ray
    from flwr.simulation import run_simulation

    backend: dict[str, Any] = {
        "init_args": {"include_dashboard": False, "log_to_driver": False, "logging_level": logging.ERROR},
        "client_resources": {"num_cpus": simulation.partner_cpus, "num_gpus": simulation.partner_gpus},
    }
    with TemporaryDirectory(prefix="tacit-flower-") as home:
        os.environ["FLWR_HOME"] = home  # or Flower notes an identity for its telemetry in the user's home
        try:
            run_simulation(server, client, num_supernodes=simulation.partners, backend_config=backend)
        finally:
            ray.shutdown()


def quiet() -> None:
    """Keep the dependencies' own words off the user's terminal; their errors are still raised."""
    os.environ.setdefault("RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO", "0")
    os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
    os.environ.setdefault("RAY_DEDUP_LOGS", "0")
    for name in ("flwr", "ray"):
        logging.getLogger(name).setLevel(logging.CRITICAL)
    warnings.filterwarnings("ignore", category=DeprecationWarning, module=r"(flwr|ray)(\.|$)")


def _check_shares(simulation: SimulationSection) -> None:
    cores = os.cpu_count() or 1
    if simulation.partner_cpus > cores:
        raise BadInput(
            f"expected simulation.partner_cpus of at most this machine's {cores} cores, found "
            f"{simulation.partner_cpus:g}",
            hint="lower simulation.partner_cpus",
        )
