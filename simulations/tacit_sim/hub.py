"""Public data sets from the Hugging Face hub, through the `datasets` library, kept as two parquet files.

Only public sets come this way: the library copies what it loads into a cache, here one that is removed at once.
"""

from __future__ import annotations

import tempfile
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from tacit.data.examples import Examples
from tacit.data.files import read
from tacit.errors import BadInput, JobFailed
from tacit_sim.originals import hashed_share

__all__ = ["FILES", "Hub", "Loader", "fetch", "load"]

FILES = ("train.parquet", "test.parquet")

Loader = Callable[..., Any]
"""`datasets.load_dataset`, or what a test puts in its place: `(name, *, split, cache_dir) -> datasets.Dataset`."""


@dataclass(frozen=True)
class Hub:
    """Where a set is on the hub.

    Attributes:
        name: the repository.
        train, test: the splits; `test` None cuts off the share of `tacit_sim.originals.hashed_share`.
        input, label: the columns; labels are whole numbers from 0.
    """

    name: str
    train: str
    test: str | None
    input: str
    label: str


def load(hub: Hub, *, folder: Path, classes: int) -> tuple[Examples, Examples]:
    """(train, test) from the parquet files in `folder`; classes are named `0`, `1`, ...

    Raises:
        BadInput: a file is missing, corrupt or holds other columns or labels.
    """
    names = tuple(str(label) for label in range(classes))
    train, test = (
        read(folder / file, format="parquet", input=hub.input, label=hub.label, classes=names) for file in FILES
    )
    return train, test


def fetch(hub: Hub, *, folder: Path, classes: int, load_dataset: Loader | None) -> Path:
    """Fetches the set into `folder` as `train.parquet` and `test.parquet`.

    Both are written beside it and read once before they take their names, so that what is in `folder` is whole.

    Args:
        hub: where the set is.
        folder: made where it is missing.
        classes: the number of classes that the labels must fit.
        load_dataset: None: the `datasets` library's.

    Raises:
        JobFailed: the hub can not be reached or does not give the set.
        BadInput: the set is not what `hub` says, or the folder can not be written.
    """
    try:
        folder.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(dir=folder, prefix=".fetching-") as beside:
            _write(hub, Path(beside), load_dataset or _library())
            load(hub, folder=Path(beside), classes=classes)
            for file in FILES:
                (Path(beside) / file).replace(folder / file)
    except PermissionError as error:
        raise BadInput(
            f"expected a folder to write to, found {folder} without that right", hint="name another"
        ) from error
    return folder


def _library() -> Loader:
    from datasets import load_dataset

    loader: Loader = load_dataset
    return loader


def _write(hub: Hub, beside: Path, load_dataset: Loader) -> None:
    from datasets.exceptions import DatasetsError

    cache = str(beside / "cache")
    try:
        train = load_dataset(hub.name, split=hub.train, cache_dir=cache)
        test = None if hub.test is None else load_dataset(hub.name, split=hub.test, cache_dir=cache)
    except (OSError, ValueError, DatasetsError) as error:
        raise JobFailed(
            f"expected the data set {hub.name} from the hub, found {type(error).__name__}: {error}".splitlines()[0],
            hint="check the network and try again, or put the set's files into the data folder by hand",
        ) from error
    for split in (train, test):
        _check_columns(hub, split)
    for part, file in zip(_parts(hub, train, test), FILES, strict=True):
        part.select_columns([hub.input, hub.label]).to_parquet(str(beside / file))


def _check_columns(hub: Hub, split: Any) -> None:
    if split is not None and not {hub.input, hub.label} <= set(split.column_names):
        raise BadInput(
            f"expected columns {hub.input} and {hub.label} in {hub.name}, found {', '.join(split.column_names)}",
            hint="the set has changed on the hub: put its original files into the data folder",
        )


def _parts(hub: Hub, train: Any, test: Any) -> tuple[Any, Any]:
    if test is not None:
        return train, test
    held = hashed_share(list(train[hub.input]), labels=np.array(train[hub.label], dtype=np.int64))
    return train.select(np.flatnonzero(~held)), train.select(np.flatnonzero(held))
