"""What a partner's folder says of its ledger: where it is, under which key, and over which data."""

from __future__ import annotations

import os
import time
from collections.abc import Callable
from contextlib import closing
from pathlib import Path

from tacit.data.fingerprint import fingerprint
from tacit.errors import BadInput
from tacit.link import keyfile
from tacit.privacy.events import EXAMPLE
from tacit.secagg.constants import KEY
from tacit.secagg.keys import Secret
from tacit_client.book import MEMORY, Book
from tacit_client.budget import Budget
from tacit_client.keys import Keys
from tacit_client.ledger import DataSet, accept
from tacit_client.site import Folder
from tacit_client.tally import Tally

__all__ = ["accept_data", "dataset", "ledger_key", "look", "look_at_budget", "open_budget"]


def ledger_key(folder: Folder) -> Secret:
    """The key of the folder's ledger: its own, or the one beside a ledger that several folders share.

    The key of a shared ledger is made with the ledger, by whichever folder is used first.

    Raises:
        BadInput: missing beside a ledger that is there, or open to others.
    """
    if folder.config.ledger is None:
        return Keys(folder.keys).ledger
    path = folder.ledger.with_name(f"{folder.ledger.name}.key")
    if not path.exists() and not folder.ledger.exists():
        _make(path)
    if not path.exists():
        raise BadInput(
            f"expected the key of the shared ledger at {path}, found none",
            hint="put back the key that was made with the ledger: nothing in it can be believed without",
        )
    return keyfile.read_key(path)


def dataset(folder: Folder) -> DataSet:
    """The data of the folder as the ledger knows it. Raises BadInput where it can not be read."""
    section = folder.config.data
    found = fingerprint(
        folder.data, lock=folder.data_lock, format=section.format, input=section.input, label=section.label
    )
    return DataSet(found, section.unit or EXAMPLE)


def open_budget(folder: Folder, *, data: DataSet | None = None, clock: Callable[[], float] = time.time) -> Budget:
    """The budget of the folder's data.

    Args:
        folder: the partner's.
        data: what was read of it; looked up when left out.
        clock: seconds since 1970.

    Raises:
        Tampered: a ledger that is not as this partner left it.
        BadInput: no ledger, key or data that can be used, or data that the ledger does not know.
    """
    return Budget(
        folder.ledger,
        partner=folder.config.name,
        key=ledger_key(folder),
        dataset=dataset(folder) if data is None else data,
        policy=folder.config.policy,
        clock=clock,
    )


def look_at_budget(folder: Folder, *, data: DataSet, clock: Callable[[], float] = time.time) -> Budget:
    """The budget of `data` in `folder` for one who only looks: none is spent, no file is made.

    A ledger that is not there yet is an empty one. Arguments and errors as of `open_budget`.
    """
    new = not folder.ledger.exists()
    return Budget(
        MEMORY if new else folder.ledger,
        partner=folder.config.name,
        key=Keys(folder.keys).ledger if new else ledger_key(folder),
        dataset=data,
        policy=folder.config.policy,
        writable=new,
        clock=clock,
    )


def look(folder: Folder) -> Tally:
    """The sums of the folder's ledger; of none where there is no ledger yet.

    Changes nothing, and works while another process trains.

    Raises:
        Tampered: a ledger that is not as this partner left it.
        BadInput: no ledger or key that can be used.
    """
    if not folder.ledger.exists():
        return Tally()
    with closing(Book(folder.ledger, key=ledger_key(folder), clock=time.time, writable=False)) as book:
        return book.tally()


def accept_data(folder: Folder, *, new_people: bool, continues: str = "") -> tuple[DataSet, DataSet]:
    """Take what site.toml names as the partner's data from now on; `tacit_client.ledger.accept` with the folder's own.

    Returns:
        The data, and the data set that its budget began with.

    Raises:
        Tampered, BadInput: as there.
    """
    data = dataset(folder)
    root = accept(
        folder.ledger,
        partner=folder.config.name,
        key=ledger_key(folder),
        dataset=data,
        new_people=new_people,
        continues=continues,
    )
    return data, root


def _make(path: Path) -> None:
    """A new key at `path`, unless another process is quicker: then that one's counts."""
    new = path.with_name(f"{path.name}.{os.getpid()}")
    keyfile.write(new, os.urandom(KEY))
    try:
        os.link(new, path)  # fails where there is one, as a rename would not
    except FileExistsError:
        pass
    except OSError as error:
        raise BadInput(f"expected to write {path}, found {error.strerror}", hint="check the folder's rights") from None
    finally:
        new.unlink(missing_ok=True)
