"""Ledger, budget, log and mark as the doctor looks at them."""

from __future__ import annotations

import shutil
import sqlite3

import folders
import pytest

from tacit.errors import BadInput
from tacit.privacy.events import Event
from tacit_client.audit import Audit
from tacit_client.calls import Greeted
from tacit_client.checkup import books, holdings
from tacit_client.data import Data
from tacit_client.holding import open_budget
from tacit_client.keys import Keys
from tacit_client.ledger import Release
from tacit_client.mark import Behind, Marks
from tacit_client.site import Folder

EVENT = Event(kind="dp-sgd", sampling_rate=0.1, noise_multiplier=1.0, steps=20)


@pytest.fixture
def folder(tmp_path) -> Folder:
    """Of hospital `a`, which has accepted `b` and `c`; data of 90 examples."""
    data = folders.write_npz(tmp_path / "data.npz", n=90, seed=1)
    return folders.make_folders(tmp_path, dict.fromkeys("abc", data))["a"]


def _data(folder: Folder) -> Data:
    return holdings.data(folder).value


def _trained(folder: Folder, *, rounds: int = 1, event: Event = EVENT) -> None:
    """Leave the books as so many rounds do."""
    budget, audit, keys = open_budget(folder), Audit.of(folder), Keys(folder.keys)
    for number in range(1, rounds + 1):
        budget.reserve(Release("run", number, 1, event))
        audit.write("released", {"round": number})
    Marks(folder.mark, secret=keys.ledger, ledger=budget, audit=audit).now()
    budget.close()


def _looked(folder: Folder) -> tuple[books.Budget, Keys]:
    keys = Keys(folder.keys)
    return books.ledger(folder, keys, _data(folder)).value, keys


def test_looking_at_books_that_are_not_there_makes_none(folder):
    budget, keys = _looked(folder)
    assert books.remains(folder, budget).found == "epsilon 0.000 of 8 spent at delta 1e-05"
    assert books.audit(folder, keys).found == "0 lines, unbroken"
    assert not folder.ledger.exists()
    assert not folder.audit.exists()


def test_books_that_are_sound(folder):
    _trained(folder)
    keys = Keys(folder.keys)
    said = books.ledger(folder, keys, _data(folder))
    assert said.found == "2 rows, each as it was written"
    assert books.remains(folder, said.value).verdict == "ok"
    greeted = Greeted(0.0, None, folder.mark.read_bytes())
    assert books.server_mark(keys, greeted, said.value, books.audit(folder, keys).value).verdict == "ok"
    assert "had no answer" in books.server_mark(keys, Greeted(0.0, None, b""), said.value, None).found


def test_a_row_that_was_edited(folder):
    _trained(folder)
    with sqlite3.connect(folder.ledger) as db:
        db.execute("UPDATE entry SET round = 7 WHERE seq = 2")
    with pytest.raises(BadInput, match="found row 2 changed") as caught:
        _looked(folder)
    assert "newest untouched copy" in caught.value.hint


def test_an_older_ledger_and_log(folder, tmp_path):
    _trained(folder)
    for path in (folder.ledger, folder.audit):
        shutil.copy(path, tmp_path / path.name)
    _trained(folder)
    new, keys = folder.mark.read_bytes(), Keys(folder.keys)
    shutil.copy(tmp_path / "ledger.db", folder.ledger)
    with pytest.raises(Behind, match="expected the ledger that this partner last answered with"):
        books.ledger(folder, keys, _data(folder))
    shutil.copy(tmp_path / "audit.log", folder.audit)
    with pytest.raises(Behind, match="expected the audit log that this partner last answered with"):
        books.audit(folder, keys)
    folder.mark.unlink()  # then only the server knows
    budget, log = books.ledger(folder, keys, _data(folder)).value, books.audit(folder, keys).value
    with pytest.raises(Behind):
        books.server_mark(keys, Greeted(0.0, None, new), budget, log)
    assert not folder.mark.exists()


def test_a_ledger_that_was_taken_away(folder):
    _trained(folder)
    folder.ledger.unlink()
    with pytest.raises(Behind):
        _looked(folder)


def test_data_that_the_ledger_does_not_know(folder, tmp_path):
    _trained(folder)
    folders.write_npz(tmp_path / "data.npz", n=90, seed=2)
    with pytest.raises(BadInput, match="expected the data that this partner's ledger knows") as caught:
        _looked(folder)
    assert "tacit-client data" in caught.value.hint


def test_a_budget_that_comes_to_its_end(folder):
    _trained(folder)
    budget, _ = _looked(folder)
    spent = books.policy.cost(folder.config.policy, budget.spent)
    for limit, verdict, words in (
        (spent * 1.2, "ok", "spent at delta 1e-05"),
        (spent * 1.05, "warn", "little is left"),
        (spent, "FAIL", "nothing is left"),
        (spent * 0.5, "FAIL", "nothing is left"),
    ):
        policy = folder.config.policy.model_copy(update={"epsilon_limit": limit})
        said = books.remains(Folder(folder.path, folder.config.model_copy(update={"policy": policy})), budget)
        assert (said.verdict, said.found.endswith(words)) == (verdict, True)
        assert bool(said.remedy) == (verdict != "ok")
    policy = folder.config.policy.model_copy(update={"max_rounds_per_day": 1})
    with pytest.raises(BadInput, match="expected at most 1 rounds of training in 24 hours"):
        books.remains(Folder(folder.path, folder.config.model_copy(update={"policy": policy})), budget)


def test_what_nothing_bounds_leaves_nothing(folder):
    open_folder = folders.again(folder, "allow_unprotected = false", "allow_unprotected = true")
    _trained(open_folder, event=Event(kind="none", sampling_rate=0.1, noise_multiplier=0.0, steps=5))
    assert books.remains(open_folder, _looked(open_folder)[0]).verdict == "ok"
    strict = folders.again(folder, "allow_unprotected = true", "allow_unprotected = false")
    assert books.remains(strict, _looked(strict)[0]).verdict == "FAIL"


def test_a_log_line_that_was_edited(folder):
    _trained(folder)
    folder.audit.write_bytes(folder.audit.read_bytes().replace(b"released", b"Released"))
    with pytest.raises(BadInput, match=r"found a line that was changed .* in line 1") as caught:
        books.audit(folder, Keys(folder.keys))
    assert "tacit-client audit" in caught.value.hint


def test_a_ledger_that_is_not_there_yet(folder):
    keys = Keys(folder.keys)
    said = books.ledger(folder, keys, _data(folder))
    assert (said.verdict, said.found) == ("ok", "none yet; the first run makes it")
    said.value.close()
    assert not folder.ledger.exists()


@pytest.mark.parametrize("place", ["nowhere/ledger.db", "data.npz/ledger.db"])
def test_a_shared_ledger_in_a_folder_that_is_not_there(folder, tmp_path, place):
    folder = folders.again(folder, '# ledger = "/srv/tacit/ledger.db"', f'ledger = "{tmp_path / place}"')
    with pytest.raises(BadInput, match="expected a folder that this user can write in for the ledger") as caught:
        books.ledger(folder, Keys(folder.keys), _data(folder))
    assert "correct ledger in site.toml" in caught.value.hint
