"""Fixtures of several tests of a partner."""

from __future__ import annotations

from collections.abc import Callable, Iterator

import pytest
from folders import make_folders
from offices import JOB, Federation, files

from tacit.job import Job


@pytest.fixture
def job(make_job) -> Callable[..., Job]:
    """The offices' job, with changes."""
    return lambda *overrides: make_job(*JOB, *overrides)


@pytest.fixture
def make(job, tmp_path) -> Iterator[Callable[..., Federation]]:
    """Makes three offices; `policy` are keys of their site.toml."""
    made: list[Federation] = []

    def build(*overrides: str, started: bool = True, **policy: object) -> Federation:
        made.append(Federation(job(*overrides), make_folders(tmp_path, files(tmp_path), **policy)))
        if started:
            made[-1].start()
        return made[-1]

    yield build
    for federation in made:
        federation.stop()
