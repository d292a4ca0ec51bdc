"""The partner's examples for a job: read once, kept in memory, encoded as the job's task says.

What is wrong with the data stands in the partner's own log in full. The server hears that it does not fit, and no row,
count or path.
"""

from __future__ import annotations

import hmac
import json
import logging
import os
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray

from tacit.data import files
from tacit.data.examples import Examples
from tacit.data.fingerprint import fingerprint
from tacit.data.labels import text
from tacit.data.source import listed
from tacit.data.splits import holdout
from tacit.errors import BadInput
from tacit.job import Job
from tacit.privacy.events import EXAMPLE, check_person
from tacit.seal import Lock
from tacit.tasks.table import find, parse_options
from tacit.tasks.task import Encoded, Options, Task
from tacit_client.config import DataSection
from tacit_client.persons import Persons, held_out, number
from tacit_client.train import Shard

__all__ = ["Data", "Fitted"]

_log = logging.getLogger(__name__)

_PSEUDONYMS = b"tacit/v1/pseudonym"  # what the key of pseudonyms is derived for

_Indices = NDArray[np.int64]
_Stamp = tuple[tuple[str, int, int], ...]


@dataclass(frozen=True, repr=False)
class Fitted:
    """The examples as a job wants them.

    Attributes:
        task: of the job.
        options: of its model.
        train: examples to train on.
        holdout: examples that are never trained on.
    """

    task: Task
    options: Options
    train: Shard
    holdout: Shard


class Data:
    """The partner's files in memory.

    Args:
        path: of the file or folder.
        section: how to read it.
        key: of the split into training and held-out examples, and of pseudonyms; the same over all starts.
        lock: opens the files that are sealed.

    Attributes:
        unit: what is protected: `example`, or the column that names the person.
        units: how many of them there are.
        fingerprint: of the content, 64 hexadecimal digits; the same whether sealed, renamed or neither.

    Raises:
        BadInput: the files can not be read or used, or have classes that `labels` of site.toml leaves out; in full, for
            the partner's eyes.

    Guarantee: writes nothing; no repr or message shows an example. Nothing of a column in `drop` is kept, and of one in
    `pseudonymise` only hashes under a key derived from `key`, which stays here.
    """

    def __init__(self, path: Path, section: DataSection, *, key: bytes, lock: Lock | None = None) -> None:
        self._path, self._section, self._key = path, section, key
        self.unit = EXAMPLE if section.unit is None else check_person(section.unit)
        before = _stamp(path)
        self._examples = files.read(
            path,
            format=section.format,
            input=section.input,
            label=section.label,
            columns=() if section.unit is None else (section.unit,),
            image_size=section.image_size,
            drop=section.drop,
            pseudonymise=section.pseudonymise,
            secret=hmac.digest(key, _PSEUDONYMS, "sha256"),
            lock=lock,
        )
        self._needed = _needed(self._examples.classes, section)
        self._names = None if section.unit is None else self._examples.columns[section.unit].tolist()
        self.units = len(self) if self._names is None else len(set(number(self._names).tolist()))
        self.fingerprint = fingerprint(path, lock=lock, format=section.format, input=section.input, label=section.label)
        self._stamp = before  # from before either was read: a change in between is noticed as one made later
        self._encoded: tuple[str, Encoded] | None = None
        self._fitted: tuple[str, Fitted] | None = None

    @property
    def classes(self) -> dict[str, int]:
        """How many examples each class has; for the partner's eyes."""
        counts = np.bincount(self._examples.labels, minlength=len(self._examples.classes))
        return dict(zip(self._examples.classes, counts.tolist(), strict=True))

    def __len__(self) -> int:
        return len(self._examples)

    def __repr__(self) -> str:
        return f"Data(n={len(self)}, unit={self.unit})"

    def fit(self, job: Job) -> Fitted:
        """The examples for `job`.

        Raises:
            BadInput: files that were changed or have vanished since they were read, a class that the job has to know
                and does not, data that does not fit its task, a task that is not installed here. For the server's eyes.

        Guarantee: the split depends on the number of examples, the job's `partner_holdout` and the key alone, so that
        an example held out in one round is held out in all, and in all jobs with that share. With a unit it depends on
        the persons' names instead of the number, and no person is on both sides.
        """
        self._check_unchanged()
        if self._fitted is None or self._fitted[0] != job.hash():
            self._fitted = None
            self._fitted = job.hash(), self._fit(job)
        return self._fitted[1]

    def _fit(self, job: Job) -> Fitted:
        try:
            found = find(job.task.kind)
        except BadInput as error:
            raise _told(
                error,
                BadInput(
                    f"expected the task {job.task.kind} here, found that it can not be used",
                    hint="have the partner install the package that has it",
                ),
            ) from None
        if job.task.package and job.task.package != found.package:
            raise BadInput(
                f"expected the task {job.task.kind} of {job.task.package}, found that of {found.package}",
                hint="install the same version of that package on both sides",
            )
        options = parse_options(found.task, job.task.model, job.task.options)
        encoded = self._encode(job, found.task, options)
        train, held = self._split(job.evaluation.partner_holdout)
        shard = Shard(encoded, torch.from_numpy(train), self._persons(train))
        return Fitted(found.task, options, shard, Shard(encoded, torch.from_numpy(held), self._persons(held)))

    def _split(self, share: float) -> tuple[_Indices, _Indices]:
        """Examples to train on and those held out."""
        if self._names is None:
            return holdout(len(self), share=share, key=self._key)
        held = held_out(self._names, share=share, key=self._key)
        return np.flatnonzero(~held), np.flatnonzero(held)

    def _persons(self, rows: _Indices) -> Persons | None:
        """Whose the examples at `rows` are."""
        if self._names is None:
            return None
        return Persons.of(number(self._names)[rows], unit=self.unit, most=self._section.max_per_unit)

    def _check_unchanged(self) -> None:
        now = _stamp(self._path)
        if now and now == self._stamp:
            return
        what = "changed" if now else "no longer there"
        full = BadInput(
            f"expected the data at {self._path} as it was when it was read, found it {what}",
            hint="put it back, or start tacit-client run again to train with what is there now",
        )
        raise _told(
            full,
            BadInput(
                f"expected this partner's data as it was, found it {what}", hint="ask the partner to look at its log"
            ),
        )

    def _encode(self, job: Job, task: Task, options: Options) -> Encoded:
        section = job.task.model_dump(mode="json", include={"kind", "model", "options", "labels"})
        name = json.dumps(section, sort_keys=True)
        if self._encoded is None or self._encoded[0] != name:
            self._encoded = None  # both at once may not fit in memory
            known = job.task.labels or tuple(str(i) for i in range(options.classes))
            examples = _numbered(self._examples, known, needed=self._needed, section=self._section)
            try:
                self._encoded = name, task.encode(options, examples)
            except BadInput as error:
                short = BadInput(
                    "expected data that fits the job's task and options, found other data here",
                    hint="ask the partner to look at its log",
                )
                raise _told(error, short) from None
        return self._encoded[1]


def _needed(found: tuple[str, ...], section: DataSection) -> tuple[str, ...]:
    """The classes that a job has to know: those that site.toml names, or else those that the data has."""
    named = tuple(dict.fromkeys(text(name) for name in section.labels))
    if named and (strange := sorted(set(found) - set(named))):
        raise BadInput(
            f"expected classes among data.labels in site.toml, found {listed(tuple(strange))} too in "
            f"{_column(section)}",
            hint="name them in data.labels, or mend or leave out the rows of these classes",
        )
    return named or found


def _numbered(examples: Examples, known: tuple[str, ...], *, needed: tuple[str, ...], section: DataSection) -> Examples:
    """The same with labels numbered as the job's classes are.

    Guarantee: with `data.labels` in site.toml, whether a job is refused here depends on them and on no example.
    """
    numbers = {text(name): number for number, name in enumerate(known)}
    if missing := sorted(set(needed) - numbers.keys()):
        where = "data.labels of site.toml" if section.labels else _column(section)
        full = BadInput(
            f"expected a job with every class of {where} in task.labels ({listed(known)}), found "
            f"{listed(tuple(missing))} left out",
            hint="have the job name them, or mend or leave out the rows of these classes",
        )
        short = BadInput(
            f"expected every class of {where} in task.labels, found some left out",
            hint="have the job name every class in task.labels, or ask the partner to look at its log",
        )
        raise _told(full, short)
    order = np.array([numbers[name] for name in examples.classes], dtype=np.int64)
    return replace(examples, labels=order[examples.labels], classes=known)


def _column(section: DataSection) -> str:
    return f"column {section.label}" if section.label else "the column of labels"


def _told(full: BadInput, short: BadInput) -> BadInput:
    """`short`, for the server, after `full` is in the partner's log."""
    _log.error("the data can not be used: %s; %s", full.message, full.hint)
    return short


def _stamp(path: Path) -> _Stamp:
    """Name, time of change and size of a file; of a folder, of every folder in it, and of the files on top.

    A folder's time changes when a file in it comes or goes, so that a million pictures need no look at each. Empty
    where it can not be looked at.
    """
    try:
        return tuple((str(p), (s := p.stat()).st_mtime_ns, 0 if p.is_dir() else s.st_size) for p in _watched(path))
    except OSError:
        return ()


def _watched(path: Path) -> Iterator[Path]:
    yield path
    if path.is_dir():
        yield from sorted(entry for entry in path.iterdir() if entry.is_file())
        for folder, inner, _ in os.walk(path):
            yield from (Path(folder) / name for name in sorted(inner))
