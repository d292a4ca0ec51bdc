"""Known data sets by name: where their files stand, how they are read, and where they are fetched from.

Nothing is fetched but by `fetch`. A set that was fetched lies as `NAME/train.parquet` and `NAME/test.parquet` in
the data folder, and is read from there where the original files are missing.
"""

from __future__ import annotations

import os
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path

from tacit.data.examples import Examples
from tacit.errors import BadInput
from tacit_sim import hub, originals
from tacit_sim.hub import Hub, Loader
from tacit_sim.own import load_path

__all__ = ["fetch", "load", "load_path", "names"]

_DIGITS = tuple("0123456789")
_CIFAR = ("airplane", "automobile", "bird", "cat", "deer", "dog", "frog", "horse", "ship", "truck")


@dataclass(frozen=True)
class _Known:
    """A data set.

    Attributes:
        classes: their names in label order.
        read: `(data folder) -> (train, test)` from the original files.
        files: those files, relative to the data folder; none where the set comes with a library.
        instead: one file that serves in their place.
        hub: where `fetch` finds it; None where it has to be downloaded by hand.
        site: where the files are offered, if not on the hub.
    """

    classes: tuple[str, ...]
    read: Callable[[Path], tuple[Examples, Examples]]
    files: tuple[str, ...] = ()
    instead: str | None = None
    hub: Hub | None = None
    site: str = ""


_KNOWN = {
    "cifar10-small": _Known(
        _CIFAR,
        originals.cifar10_small,
        ("cifar10_small/cifar10_small.npz",),
        hub=Hub("uoft-cs/cifar10", train="train[:5000]", test="test[:1000]", input="img", label="label"),
    ),
    "digits": _Known(_DIGITS, originals.digits, site="scikit-learn, which has it on board"),
    "mnist": _Known(
        _DIGITS,
        originals.mnist,
        originals.MNIST,
        hub=Hub("ylecun/mnist", train="train", test="test", input="image", label="label"),
    ),
    "mnist-by-writer": _Known(
        _DIGITS,
        originals.mnist_by_writer,
        (*originals.MNIST, originals.WRITERS),
        site="yann.lecun.com/exdb/mnist and github.com/facebookresearch/qmnist",
    ),
    "pneumoniamnist": _Known(
        ("normal", "pneumonia"),
        originals.pneumoniamnist,
        originals.PNEUMONIA,
        instead=originals.PNEUMONIA_OFFICIAL,
        site="medmnist.com",
    ),
    "sms-spam": _Known(
        ("ham", "spam"),
        originals.sms_spam,
        ("sms_spam/SMSSpamCollection",),
        hub=Hub("ucirvine/sms_spam", train="train", test=None, input="sms", label="label"),
    ),
    "sst2": _Known(
        ("negative", "positive"),
        originals.sst2,
        ("sst2_glue/train.tsv", "sst2_glue/dev.tsv"),
        hub=Hub("stanfordnlp/sst2", train="train", test="validation", input="sentence", label="label"),
    ),
}


def names() -> tuple[str, ...]:
    """The known sets, sorted."""
    return tuple(sorted(_KNOWN))


def load(name: str, *, data: Path | None) -> tuple[Examples, Examples]:
    """(train, test) of a known set.

    Args:
        name: one of `names()`.
        data: the data folder; None: the one that the environment variable TACIT_DATA names.

    Raises:
        BadInput: an unknown name, no data folder, or a file that is missing or corrupt.
    """
    known = _known(name)
    root = _root(name, data) if known.files else Path()
    absent = _absent(root, known)
    if absent and known.hub is not None and all((root / name / file).is_file() for file in hub.FILES):
        parts = hub.load(known.hub, folder=root / name, classes=len(known.classes))
    elif absent:
        raise BadInput(
            f"expected {absent[0]} of the data set {name} in {root}, found no such file", hint=_remedy(name, known)
        )
    else:
        parts = known.read(root)
    train, test = (replace(part, classes=known.classes) for part in parts)
    return train, test


def fetch(name: str, *, data: Path, load_dataset: Loader | None = None) -> Path:
    """Fetches a known set from the hub into `data/name`, and gives that folder.

    Args:
        name: one of `names()`.
        data: the data folder; made where it is missing.
        load_dataset: None: the `datasets` library's function of that name.

    Raises:
        BadInput: an unknown name, a set that the hub does not offer, or a folder that can not be written.
        JobFailed: the hub can not be reached. Nothing half written stays behind.
    """
    known = _known(name)
    if known.hub is None:
        raise BadInput(
            f"expected a data set that can be fetched, found {name}, which is offered by {known.site}",
            hint=f"put {known.instead or ', '.join(known.files)} into {data}" if known.files else "use it as it is",
        )
    return hub.fetch(known.hub, folder=data / name, classes=len(known.classes), load_dataset=load_dataset)


def _known(name: str) -> _Known:
    if name not in _KNOWN:
        raise BadInput(
            f"expected a data set among {', '.join(names())}, found {name!r}", hint="name one of them, or a path"
        )
    return _KNOWN[name]


def _root(name: str, data: Path | None) -> Path:
    folder = os.environ.get("TACIT_DATA") if data is None else str(data)
    if not folder:
        raise BadInput(
            f"expected a data folder for the data set {name}, found neither --data nor TACIT_DATA",
            hint=_remedy(name, _known(name)),
        )
    if not Path(folder).is_dir():
        raise BadInput(f"expected a data folder at {folder}, found none", hint=_remedy(name, _known(name)))
    return Path(folder)


def _absent(root: Path, known: _Known) -> list[str]:
    if known.instead is not None and _there(root, known.instead):
        return []
    return [file for file in known.files if not _there(root, file)]


def _there(root: Path, file: str) -> bool:
    return (root / file).is_file() or (root / f"{file}.gz").is_file()


def _remedy(name: str, known: _Known) -> str:
    if known.hub is None:
        return f"put the files from {known.site} there, or `export TACIT_DATA=DIR` where they are"
    return f"fetch it with `tacit-sim data get {name}`, or `export TACIT_DATA=DIR` where it is"
