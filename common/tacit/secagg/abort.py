"""Why the protocol stops: one exception that names the stage and the reason.

Its text tells names, counts and positions; never a key, a seed, a share or an entry of a vector.
"""

from __future__ import annotations

from collections.abc import Mapping
from enum import Enum

from tacit.errors import TacitError

__all__ = ["Abort", "Reason", "Stage"]


class Stage(Enum):
    """The five stages, by what the partner does."""

    ADVERTISE = "advertise"
    SHARE = "share"
    MASK = "mask"
    AGREE = "agree"
    UNMASK = "unmask"


class Reason(Enum):
    """What a check found, and what its reader should do about it."""

    ORDER = "a step out of order"
    MALFORMED = "bytes that do not decode"
    OTHER_ROUND = "a message of another round"
    REPEATED = "a round that was taken part in already"
    NOT_LISTED = "a party or a list that lacks who must be in it"
    DUPLICATE = "a party or a key twice, or out of order"
    COHORT = "too few accepted peers"
    STRANGERS = "too many parties that are not accepted peers"
    THRESHOLD = "a threshold under the floor"
    TOO_FEW = "fewer parties than the threshold"
    IDENTITY = "an identity key other than the pinned one"
    SIGNATURE = "a signature that does not verify"
    OWN_KEYS = "own keys changed"
    KEY = "a public key that gives no secret"
    SHARE = "a share that does not open"
    VECTOR = "a vector of another length or kind"
    REQUEST = "a request other than the one agreed to"
    SECRET = "a secret rebuilt wrong"


_HINTS = {
    Reason.COHORT: "accept more peers, or wait for them; a cohort of strangers hides nothing",
    Reason.STRANGERS: "accept these peers after comparing fingerprints, or leave them out of the cohort",
    Reason.THRESHOLD: "raise aggregation.threshold",
    Reason.TOO_FEW: "wait until more partners are there, or raise round_timeout",
    Reason.IDENTITY: "ask that partner by another channel whether it made a new key; else treat it as an attack",
}
_HINT = "the round is over here; if it happens again, ask the operator: a message was changed or misdirected"


class Abort(TacitError):
    """A failed check. The round is over for whoever raises it.

    Args:
        stage: where.
        reason: which check.
        found: what was expected and what was found, in one line.
        rejected: at the server: by position, whose messages were set aside in the stage that ended here.
    """

    exit_code = 1

    def __init__(
        self, stage: Stage, reason: Reason, found: str, *, rejected: Mapping[int, Abort] | None = None
    ) -> None:
        super().__init__(f"secure aggregation, stage {stage.value}: {found}", hint=_HINTS.get(reason, _HINT))
        self.stage = stage
        self.reason = reason
        self.rejected = rejected or {}
