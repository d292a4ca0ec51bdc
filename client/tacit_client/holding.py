"""What a partner's folder says of its ledger: where it is, under which key, and over which data."""

from __future__ import annotations

import time
from collections.abc import Callable
from pathlib import Path

from tacit.privacy.events import EXAMPLE
from tacit.secagg.keys import Secret
from tacit_client.budget import Budget
from tacit_client.keys import Keys
from tacit_client.ledger import DataSet
from tacit_client.site import Folder

__all__ = ["dataset", "ledger_key", "ledger_path", "open_budget"]


def ledger_path(folder: Folder) -> Path:
    """The file of the ledger."""
    return folder.ledger


def ledger_key(folder: Folder) -> Secret:
    """The key of the ledger. Raises BadInput where it is missing or others can read it."""
    return Keys(folder.keys).ledger


def dataset(folder: Folder) -> DataSet:
    """The data of the folder as the ledger knows it."""
    return DataSet("0" * 64, folder.config.data.unit or EXAMPLE)


def open_budget(folder: Folder, *, clock: Callable[[], float] = time.time) -> Budget:
    """The budget of the folder's data.

    Raises:
        Tampered: a ledger that is not as this partner left it.
        BadInput: no ledger, key or data that can be used, or data that the ledger does not know.
    """
    return Budget(
        ledger_path(folder),
        partner=folder.config.name,
        key=ledger_key(folder),
        dataset=dataset(folder),
        policy=folder.config.policy,
        clock=clock,
    )
