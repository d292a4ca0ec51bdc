"""The model of a run for other programs: safetensors for those who have the network, ONNX for those who have not."""

from __future__ import annotations

import json
import logging
import warnings
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
from numpy.typing import NDArray
from safetensors import SafetensorError, safe_open
from safetensors.numpy import save

from tacit.data.examples import Examples
from tacit.errors import BadInput
from tacit.job import Job, load
from tacit.seal import Key, read_key
from tacit_server import checkpoint
from tacit_server.folder import Folder
from tacit_server.output import CHECKPOINT, RESOLVED

if TYPE_CHECKING:
    from torch import nn

    from tacit.tasks.task import Options, Task

__all__ = ["export"]

_PACKAGES = ("onnx", "onnxscript")
_MOST_BYTES = 2_000_000_000  # one ONNX file is one protobuf message, which ends at 2 GiB
_SAMPLES = 2  # one example would be taken for a batch that is always of one


@dataclass(frozen=True, repr=False)
class _Built:
    """What a job describes: the network, without the run's parameters."""

    job: Job
    task: Task
    options: Options
    network: nn.Module


def export(run: Path, *, format: Literal["safetensors", "onnx"], out: Path) -> Path:  # noqa: A002  # as on the command line
    """Write the model of `run` to the file `out`, in place of what was there; gives `out`.

    That of a finished run, else that of the last checkpoint: the run goes on undisturbed.

    Args:
        run: the run's folder, as `Output` writes it; a sealed checkpoint is opened with the key of the server's folder
            that it lies in, `../../keys/seal.key`.
        format: "safetensors", the parameters by name; or "onnx", the network too, from a batch of any size to
            `logits`. Both name the job's hash in their metadata.

    Raises:
        BadInput: no run, none of its rounds kept, a package that is missing, a task that can not be had as ONNX.
        JobFailed: `out` can not be written.
    """
    _check_out(out)
    if format == "onnx":
        _check_packages()
    built = _build(load(run / RESOLVED))
    vector = _vector(run, built)
    match format:
        case "safetensors":
            content = _safetensors(built, vector)
        case "onnx":
            content = _onnx(built, vector)
    checkpoint.write_atomic(out, content)
    return out


def _check_out(out: Path) -> None:
    if out.is_dir() or not out.absolute().parent.is_dir():
        found = "a folder" if out.is_dir() else "no folder to put it in"
        raise BadInput(f"expected a file to write at {out}, found {found}", hint="choose another --out")


def _check_packages() -> None:
    missing = [name for name in _PACKAGES if find_spec(name) is None]
    if missing:
        raise BadInput(
            f"expected the package {missing[0]} for the format onnx, found none",
            hint="run pip install 'tacit[export]', or export as safetensors",
        )


def _build(job: Job) -> _Built:
    from tacit.tasks.table import find, parse_options

    found = find(job.task.kind)
    if job.task.package and job.task.package != found.package:
        raise BadInput(
            f"expected the task {job.task.kind} of {job.task.package}, found that of {found.package}",
            hint="install the version of that package that the run was made with",
        )
    options = parse_options(found.task, job.task.model, job.task.options)
    return _Built(job, found.task, options, found.task.models[job.task.model].build(options))


def _vector(run: Path, built: _Built) -> NDArray[np.float32]:
    """The parameters of the finished run, else those of its last checkpoint."""
    if (run / "result.json").exists():  # written last
        job_hash, vector = _finished(run / "model.safetensors", built)
    else:
        state = checkpoint.peek(run / CHECKPOINT, key=_key(run))
        job_hash, vector = state.job_hash, state.vector
    if job_hash != built.job.hash():
        raise BadInput(
            f"expected the model of job {built.job.hash()[:12]}, found one of {job_hash[:12]} in {run}",
            hint="restore the run's folder: its files do not belong together",
        )
    return vector


def _finished(path: Path, built: _Built) -> tuple[str, NDArray[np.float32]]:
    names = [name for name, _ in built.network.named_parameters()]
    try:
        with safe_open(path, framework="numpy") as file:
            parts = [file.get_tensor(name).reshape(-1) for name in names]
            return str(file.metadata()["job_hash"]), np.concatenate(parts)
    except (OSError, SafetensorError, KeyError, TypeError) as error:
        raise BadInput(
            f"expected the model of a finished run at {path}, found a damaged file: {error}",
            hint="restore the run's folder from a backup",
        ) from None


def _key(run: Path) -> Key | None:
    """The key of the server whose run this is, or None where it is nobody's, as after a simulation."""
    path = Folder(run.absolute().parent.parent).seal_key
    return read_key(path) if path.exists() else None


def _safetensors(built: _Built, vector: NDArray[np.float32]) -> bytes:
    from tacit.vector import load as put
    from tacit.vector import named

    put(built.network, vector)  # raises where the two do not fit
    arrays = {name: np.ascontiguousarray(array) for name, array in named(built.network, vector).items()}
    return save(arrays, metadata={"job_hash": built.job.hash()})


def _onnx(built: _Built, vector: NDArray[np.float32]) -> bytes:
    import torch

    from tacit.vector import load as put

    if vector.nbytes > _MOST_BYTES:
        raise BadInput(
            f"expected a model of at most {_MOST_BYTES} bytes for the format onnx, found {vector.nbytes}",
            hint="export as safetensors",
        )
    put(built.network, vector)
    encoded = built.task.encode(built.options, _examples(built))
    batch = torch.export.Dim("batch")
    with _quiet():
        program = torch.onnx.export(
            built.network.eval(),
            encoded.inputs,
            dynamic_shapes=tuple({0: batch} for _ in encoded.inputs),
            output_names=["logits"],
            dynamo=True,
            verbose=False,
        )
    if program is None:
        raise BadInput("expected a network that torch can export, found none", hint="export as safetensors")
    program.model.metadata_props["job_hash"] = built.job.hash()
    if built.job.task.labels:
        program.model.metadata_props["labels"] = json.dumps(built.job.task.labels)
    return bytes(program.model_proto.SerializeToString())


def _examples(built: _Built) -> Examples:
    """Empty ones of the right shape, by which the exporter follows what the network does."""
    inputs: NDArray[Any]
    match built.task.kind:
        case "image-classification":
            inputs = np.zeros((_SAMPLES, *_shape(built.options)), np.uint8)
        case "text-classification":
            inputs = np.array([""] * _SAMPLES, dtype=object)
        case kind:
            raise BadInput(
                f"expected a task of tacit's own for the format onnx, found {kind}", hint="export as safetensors"
            )
    classes = tuple(map(str, range(built.options.classes)))
    return Examples(inputs, np.zeros(_SAMPLES, np.int64), classes)


def _shape(options: Options) -> Sequence[int]:
    return tuple(options.model_dump()["shape"])


@contextmanager
def _quiet() -> Iterator[None]:
    """The exporter warns of its own insides, which tells the operator nothing; an error is an exception."""
    logger = logging.getLogger("torch.onnx")
    level = logger.level
    logger.setLevel(logging.ERROR)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        logger.setLevel(level)
