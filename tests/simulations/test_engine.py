"""The engines: which of them a machine can run."""

from __future__ import annotations

import os

import pytest
from flwr.app import Context
from flwr.clientapp import ClientApp
from flwr.serverapp import Grid, ServerApp

from tacit.errors import BadInput, JobFailed
from tacit_sim import engine
from tacit_sim.engine import ENGINES, check_engine, run_inline


def test_more_cores_than_there_are_are_refused(make_job):
    cores = os.cpu_count()
    check_engine("ray", make_job(f"simulation.partner_cpus={float(cores)}").simulation)
    with pytest.raises(BadInput, match=rf"^expected simulation.partner_cpus of at most .* {cores} cores, found "):
        check_engine("ray", make_job(f"simulation.partner_cpus={cores + 0.5}").simulation)


def test_the_inline_engine_needs_neither_cores_nor_ray(make_job, monkeypatch):
    monkeypatch.setattr(engine, "find_spec", lambda name: None)
    check_engine("inline", make_job("simulation.partner_cpus=4096.0").simulation)
    with pytest.raises(BadInput, match=r"^expected ray for the engine ray, found it not installed$"):
        check_engine("ray", make_job().simulation)


def test_the_server_meets_as_many_nodes_as_partners(make_job):
    seen: list[int] = []
    server = ServerApp()

    @server.main()
    def main(grid: Grid, context: Context) -> None:
        seen.extend(grid.get_node_ids())

    run_inline(server, ClientApp(), make_job("simulation.partners=7").simulation)
    assert seen == [1, 2, 3, 4, 5, 6, 7]


def test_the_servers_error_comes_through(make_job):
    server = ServerApp()

    @server.main()
    def main(grid: Grid, context: Context) -> None:
        raise JobFailed("expected luck, found none", hint="try again")

    with pytest.raises(JobFailed, match="found none"):
        run_inline(server, ClientApp(), make_job().simulation)


def test_the_engines_are_those_of_the_command_line():
    assert ENGINES == ("inline", "ray")
