"""One wording of validation: pydantic's findings as a single `expected ..., found ...` line."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any, TypeVar

from pydantic import BaseModel, ValidationError

from tacit.errors import BadInput

__all__ = ["contradiction", "parse"]

M = TypeVar("M", bound=BaseModel)

_SHOWN = 80  # characters of a found value that an error repeats


def parse(model: type[M], raw: Mapping[str, Any], *, where: str) -> M:
    """`raw` as a `model`, strictly.

    The values go through JSON so that a TOML array may fill a tuple and nothing else is converted.

    Args:
        model: a pydantic model with `extra="forbid"`.
        raw: what was read from a file.
        where: what an error calls the thing read, for instance `job.toml`.

    Raises:
        BadInput: on the first key that is unknown, missing, of the wrong type or out of range.
    """
    try:
        text = json.dumps(raw)
    except TypeError as error:
        raise BadInput(
            f"expected numbers, texts, booleans and lists in {where}, found {error}",
            hint="write dates and times as texts",
        ) from None
    except RecursionError:  # what could just be read may be too deep to be written
        raise BadInput(
            f"expected values a few levels deep in {where}, found hundreds of levels", hint="write it anew"
        ) from None
    try:
        return model.model_validate_json(text)
    except ValidationError as error:
        raise _bad_input(model, error, where) from None


def _bad_input(model: type[BaseModel], error: ValidationError, where: str) -> BadInput:
    first = error.errors(include_url=False)[0]
    key = ".".join(str(part) for part in first["loc"]) or "the file"
    match first["type"]:
        case "extra_forbidden":
            known = _known_keys(model, first["loc"][:-1])
            return BadInput(
                f"expected a known key in {where}, found {key}",
                hint=f"remove it or use one of: {', '.join(known)}",
            )
        case "missing":
            return BadInput(f"expected {key} in {where}, found nothing", hint=f"add {key}")
        case "value_error":
            cause = first["ctx"]["error"]
            if isinstance(cause, _Contradiction):
                return BadInput(f"{cause.message} in {where}", hint=cause.hint)
            return BadInput(f"expected {key}: {cause} in {where}", hint=f"change {key}")
        case _:
            expected = first["msg"].removeprefix("Input should be ")
            found = json.dumps(first["input"])[:_SHOWN]
            return BadInput(f"expected {key} to be {expected}, found {found} in {where}", hint=f"change {key}")


def _known_keys(model: type[BaseModel], path: tuple[str | int, ...]) -> list[str]:
    for part in path:
        field = model.model_fields.get(str(part))
        if field is None or not (isinstance(field.annotation, type) and issubclass(field.annotation, BaseModel)):
            return []
        model = field.annotation
    return sorted(model.model_fields)


class _Contradiction(ValueError):
    """Two keys that are each right and can not stand together."""

    def __init__(self, message: str, hint: str) -> None:
        super().__init__(message)
        self.message = message
        self.hint = hint


def contradiction(message: str, *, hint: str) -> ValueError:
    """The error a model's validator raises where keys exclude each other; `parse` turns it into BadInput."""
    return _Contradiction(message, hint)
