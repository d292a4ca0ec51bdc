"""Where a virtual partner stands between two messages: in its Flower context, which follows it from worker to worker.

Under ray any worker may answer a partner's next message, so what a real partner holds in its process's memory has to
travel. It never leaves this machine, and the keys of virtual partners are no secrets.
"""

from __future__ import annotations

import pickle

from flwr.app import ConfigRecord, Context

from tacit_client.masking import Standing

__all__ = ["keep", "recall"]

_KEY = "tacit.standing"


def recall(context: Context) -> Standing:
    """What `keep` kept, or a new standing."""
    record = context.state.get(_KEY)
    if not isinstance(record, ConfigRecord):
        return Standing()
    found = pickle.loads(record["pickle"])  # type: ignore[arg-type]  # only `keep` writes there
    if not isinstance(found, Standing):
        raise TypeError(f"expected a Standing, found {type(found).__name__}")
    return found


def keep(context: Context, standing: Standing) -> None:
    """Put `standing` into `context`."""
    context.state[_KEY] = ConfigRecord({"pickle": pickle.dumps(standing)})
