"""Every kind of task by name, and the options of its models as given in a job."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from importlib.metadata import EntryPoint, entry_points
from typing import Any

from pydantic import ValidationError
from pydantic_core import ErrorDetails

from tacit.errors import BadInput
from tacit.tasks.image import IMAGE_CLASSIFICATION
from tacit.tasks.task import Options, Task
from tacit.tasks.text import TEXT_CLASSIFICATION

__all__ = ["GROUP", "Found", "find", "parse_options"]

GROUP = "tacit.tasks"
"""Entry point group in which an installed package names its tasks."""

_BUILT_IN = {task.kind: task for task in (IMAGE_CLASSIFICATION, TEXT_CLASSIFICATION)}
_NOT_BUILT_YET = ("seq2seq", "text-generation")

# What the body of a broken module commonly raises.
_BREAKS = (ImportError, AttributeError, NameError, SyntaxError, TypeError, ValueError, RuntimeError, OSError)


@dataclass(frozen=True)
class Found:
    """A task and where it comes from.

    Attributes:
        package: "tacit", or the installed package as "name==version".
    """

    task: Task
    package: str


def find(kind: str) -> Found:
    """The task called `kind`: one of Tacit's own, else one of an installed package.

    Guarantee: a package can not take the place of a task of Tacit's own.

    Raises:
        BadInput: where no task, or more than one, has this name, or its package can not be used.
    """
    if kind in _BUILT_IN:
        return Found(_BUILT_IN[kind], "tacit")
    if kind in _NOT_BUILT_YET:
        raise BadInput(
            f'expected a task that is built, found "{kind}", which is not built yet, at task.kind',
            hint=f"choose one of {', '.join(sorted(_BUILT_IN))}",
        )
    installed = entry_points(group=GROUP)
    named = [entry for entry in installed if entry.name == kind]
    if not named:
        raise BadInput(
            f'expected one of {", ".join(sorted({*_BUILT_IN, *installed.names}))}, found "{kind}" at task.kind',
            hint=f"correct the name, or install the package that has it in the entry point group {GROUP}",
        )
    if len(named) > 1:
        raise BadInput(
            f'expected one package with the task "{kind}", found {", ".join(sorted(map(_package, named)))}',
            hint="uninstall all but one of them",
        )
    return Found(_load(named[0]), _package(named[0]))


def parse_options(task: Task, model: str, raw: Mapping[str, Any]) -> Options:
    """The options of `model` from what a job says under `[task.options]`.

    Raises:
        BadInput: where the task has no such model, or an option is unknown, missing or wrong. Names every key
            that is, what was expected and what was found.
    """
    if model not in task.models:
        raise BadInput(
            f'expected one of {", ".join(sorted(task.models))}, found "{model}" at task.model',
            hint=f'choose a model that "{task.kind}" has',
        )
    options = task.models[model].options
    try:
        return options.model_validate(dict(raw))
    except ValidationError as error:
        faults = [_fault(details, options) for details in error.errors(include_url=False)]
        raise BadInput(
            "; ".join(faults),
            hint=f'correct these keys under [task.options]; "{model}" takes {_keys(options)}',
        ) from error


def _load(entry: EntryPoint) -> Task:
    try:
        task = entry.load()
    except _BREAKS as error:
        raise BadInput(
            f"expected {entry.value} to be importable, found {type(error).__name__}: {error} in {_package(entry)}",
            hint="mend the package and install it again",
        ) from error
    if not isinstance(task, Task) or task.kind != entry.name:
        found = f'a task of kind "{task.kind}"' if isinstance(task, Task) else type(task).__name__
        raise BadInput(
            f'expected {entry.value} to be a Task of kind "{entry.name}", found {found} in {_package(entry)}',
            hint="let the entry point name a tacit.tasks.Task, and give both the same kind",
        )
    return task


def _package(entry: EntryPoint) -> str:
    return f"{entry.dist.name}=={entry.dist.version}" if entry.dist else entry.module


def _fault(details: ErrorDetails, options: type[Options]) -> str:
    place = ".".join(("task.options", *map(str, details["loc"])))
    match details["type"]:
        case "extra_forbidden":
            return f"expected one of {_keys(options)}, found an unknown key at {place}"
        case "missing":
            return f"expected a value, found none at {place}"
        case "tuple_type":
            return f"expected a list, found {details['input']!r} at {place}"
    expected = details["msg"].removeprefix("Input should be ").removeprefix("Value error, ")
    return f"expected {expected[:1].lower()}{expected[1:]}, found {details['input']!r} at {place}"


def _keys(options: type[Options]) -> str:
    return ", ".join(options.model_fields)
