"""Every error that Tacit raises on purpose.

    TacitError
    ├── BadInput      the user can mend it: job, data, flags              exit 2
    ├── JobFailed     the job was right and could not be finished        exit 1
    └── Abort         a check of secure aggregation failed: the round is over (tacit.secagg.abort)

A class exists only where a caller acts differently on it. A message says what was expected, what was
found and where, in lower case and without a final period; the hint says what to do.
"""

__all__ = ["BadInput", "JobFailed", "TacitError"]


class TacitError(Exception):
    """An error with a remedy.

    Args:
        message: what was expected and what was found.
        hint: what to do about it, as an imperative.
    """

    exit_code = 1

    def __init__(self, message: str, *, hint: str) -> None:
        super().__init__(message, hint)
        self.message = message
        self.hint = hint

    def __str__(self) -> str:
        return self.message


class BadInput(TacitError):
    """A job, a file or a flag that can not be used as it stands."""

    exit_code = 2


class JobFailed(TacitError):
    """A job that was well formed and could not be brought to its end."""

    exit_code = 1
