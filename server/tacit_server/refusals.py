"""What the gateway says when it can not do what a call asks: gRPC's status, and a reason for the partner's eyes."""

from __future__ import annotations

import logging
from collections.abc import Iterator
from contextlib import contextmanager
from typing import TypeVar

import grpc

from tacit.errors import BadInput, TacitError
from tacit.link.pieces import Oversize
from tacit_server.database import Unusable
from tacit_server.fleet import Gone, Unreachable
from tacit_server.rate import within
from tacit_server.roster import Refused
from tacit_server.sessions import Taken

__all__ = ["Absent", "Busy", "answered", "first", "own_files"]

_log = logging.getLogger(__name__)

_SOON = 30.0  # seconds for the first request of a call
R = TypeVar("R")


class Absent(Exception):
    """A call about a message by a partner that does not attend."""


class Busy(Exception):
    """More than a partner may ask now."""


_STATUS: list[tuple[type[Exception], grpc.StatusCode]] = [
    (Refused, grpc.StatusCode.PERMISSION_DENIED),
    (Oversize, grpc.StatusCode.OUT_OF_RANGE),
    (TacitError, grpc.StatusCode.INVALID_ARGUMENT),
]


@contextmanager
def answered(context: grpc.ServicerContext) -> Iterator[None]:
    """Turn what a call raises into gRPC's status, with a reason for the partner's eyes."""
    try:
        yield
    except Taken:
        reason = "expected one process of a partner, found another one connected; stop it, or wait a minute"
        context.abort(grpc.StatusCode.ALREADY_EXISTS, reason)
    except Busy:
        context.abort(grpc.StatusCode.RESOURCE_EXHAUSTED, "expected fewer calls, found too many; wait a second")
    except Absent:
        context.abort(grpc.StatusCode.FAILED_PRECONDITION, "expected a partner that attends, found none")
    except Unreachable:
        context.abort(grpc.StatusCode.UNAVAILABLE, "expected the SuperLink to answer, found it starting; ask again")
    except Gone:
        context.abort(grpc.StatusCode.NOT_FOUND, "expected a message that waits, found that its run is over")
    except OSError as error:
        _log.error("%s", error)
        context.abort(grpc.StatusCode.UNAVAILABLE, "expected room on the server's disk, found none; ask again later")
    except Unusable as error:
        _log.error("%s; %s", error.message, error.hint)
        context.abort(grpc.StatusCode.UNAVAILABLE, "expected the server's files to be usable, found one that is not")
    except TacitError as error:
        code = next(code for kind, code in _STATUS if isinstance(error, kind))
        _log.warning("refused: %s", error.message)
        context.abort(code, f"{error.message}\n{error.hint}")


@contextmanager
def own_files() -> Iterator[None]:
    """BadInput in the body is about the server's own files: where they lie is not for the partner's eyes."""
    try:
        yield
    except BadInput as error:
        raise Unusable(error.message, hint=error.hint) from None


def first(requests: Iterator[R], context: grpc.ServicerContext) -> R:
    """The first request, for which nobody is waited for long. Raises BadInput where there is none."""
    with within(_SOON, otherwise=context.cancel):
        found = next(requests, None)
    if found is None:
        raise BadInput("expected a request, found none", hint="install the same version of tacit on both sides")
    return found
