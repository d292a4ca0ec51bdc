"""The server's signature under a job: what a partner approves for a run is what the run consists of.

It rides in every message that carries the job. The key is the one that the partner pinned when it joined.
"""

from __future__ import annotations

from tacit.codec import Writer
from tacit.errors import BadInput
from tacit.job import Job
from tacit.secagg.constants import SIGNATURE
from tacit.secagg.keys import PublicKey, Secret, Signature, verifies
from tacit.secagg.keys import sign as sign_with

__all__ = ["check", "sign"]

_DOMAIN = b"tacit-job"  # nothing else that the server signs begins so
_VERSION = 1


def sign(key: Secret, *, run: str, job: Job) -> Signature:
    """The signature over the run's id and the hash of everything that partners agree to in `job`: 64 bytes, Ed25519."""
    return sign_with(key, _message(run, job))


def check(commission: bytes, *, server: PublicKey, run: str, job: Job) -> None:
    """Whether `commission` is `server`'s for exactly this job and run.

    Guarantee: a job that differs from the signed one in anything but speed is refused: model, data it asks for,
    mechanism, clip, noise, steps, rounds, cohort, aggregation.

    Raises:
        BadInput: it is not.
    """
    fits = len(commission) == SIGNATURE
    if not fits or not verifies(Signature(commission), identity=server, message=_message(run, job)):
        raise BadInput(
            "expected a job signed for this run with the server's key, found another signature or none",
            hint="submit the job anew with tacit-server run; a partner that joined another server has to join anew",
        )


def _message(run: str, job: Job) -> bytes:
    writer = Writer().fixed(_DOMAIN, size=len(_DOMAIN)).number(_VERSION, size=1)
    return writer.text(run).fixed(bytes.fromhex(job.hash()), size=32).done()
