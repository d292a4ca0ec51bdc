"""A user's own data set in a simulation: read from a path, with a test set of its own or a share cut off."""

from __future__ import annotations

from pathlib import Path

from tacit.data.examples import Examples
from tacit.data.files import read
from tacit.data.splits import stratified
from tacit.errors import BadInput

__all__ = ["load_path"]


def load_path(
    path: Path,
    *,
    format: str,  # noqa: A002 - the keys of a job and of tacit.data.files.read
    input: str | None,  # noqa: A002
    label: str | None,
    columns: tuple[str, ...],
    test: Path | None,
    test_share: float,
    seed: int,
    image_size: int | None,
) -> tuple[Examples, Examples]:
    """(train, test) from `path`.

    Args:
        path, format, input, label, columns, image_size: as in `tacit.data.files.read`.
        test: the test set, of the same format and columns; its classes must be among those of `path`.
        test_share: where `test` is None, the share of every class that is cut off, above 0 and below 1.
        seed: of that cut.

    Raises:
        BadInput: as `read` does; a share out of range or one that leaves no test example.
    """
    train = read(path, format=format, input=input, label=label, columns=columns, image_size=image_size)
    if test is not None:
        held = read(
            test,
            format=format,
            input=input,
            label=label,
            columns=columns,
            classes=train.classes,
            image_size=image_size,
        )
        _check_shapes(train, held, path=path, test=test)
        return train, held
    rest, cut = stratified(train.labels, share=test_share, seed=seed)
    if not len(cut):
        raise BadInput(
            f"expected a test_share that leaves test examples, found {test_share} of {len(train)} examples in {path}",
            hint="raise test_share or name a test set",
        )
    return train.take(rest), train.take(cut)


def _check_shapes(train: Examples, held: Examples, *, path: Path, test: Path) -> None:
    if train.inputs.shape[1:] != held.inputs.shape[1:] or train.inputs.dtype != held.inputs.dtype:
        raise BadInput(
            f"expected test inputs like those of {path} ({train.inputs.dtype} {list(train.inputs.shape[1:])}), "
            f"found {held.inputs.dtype} {list(held.inputs.shape[1:])} in {test}",
            hint="set image_size, or export both sets alike",
        )
