"""Budgets are of data: known content goes on, other content is taken by hand, units are not mixed."""

from __future__ import annotations

from contextlib import closing
from pathlib import Path

import pytest

from tacit.errors import BadInput
from tacit.privacy.events import Event
from tacit.secagg.keys import Secret
from tacit_client.budget import Budget
from tacit_client.config import PolicySection
from tacit_client.ledger import DataSet, Ledger, Release, accept

KEY = Secret(bytes(32))
A, B, C = (DataSet(digit * 64) for digit in "abc")
PEOPLE = DataSet("a" * 64, "patient_id")
EVENT = Event(kind="dp-sgd", sampling_rate=0.02, noise_multiplier=1.0, steps=20)


def _budget(path: Path, data: DataSet, *, partner: str = "p") -> Budget:
    return Budget(path, partner=partner, key=KEY, dataset=data, policy=PolicySection())


def _spend(path: Path, data: DataSet, *, run: str, partner: str = "p") -> None:
    with closing(_budget(path, data, partner=partner)) as budget:
        budget.reserve(Release(run, 1, 1, EVENT.model_copy(update={"unit": data.unit})))


def _spent(path: Path, data: DataSet) -> int:
    with closing(_budget(path, data)) as budget:
        return sum(event.steps for event in budget.spent)


def _accept(path: Path, data: DataSet, *, new_people: bool = False) -> DataSet:
    return accept(path, partner="p", key=KEY, dataset=data, new_people=new_people)


def test_changed_data_is_refused_until_it_is_accepted_and_goes_on_with_the_budget(tmp_path: Path) -> None:
    path = tmp_path / "ledger.db"
    _spend(path, A, run="first")
    with pytest.raises(BadInput, match=r"found other content \(bbbbbbbbbbbbbbbb\)") as caught:
        _budget(path, B)
    assert "tacit-client data DIR accept" in caught.value.hint
    assert _accept(path, B) == A
    assert _spent(path, B) == 20
    _spend(path, B, run="second")
    assert _accept(path, C) == A
    assert {_spent(path, data) for data in (A, B, C)} == {40}
    assert _accept(path, A) == A  # known: nothing to do


def test_new_people_have_a_budget_of_their_own_and_the_old_keep_theirs(tmp_path: Path) -> None:
    path = tmp_path / "ledger.db"
    _spend(path, A, run="first")
    assert _accept(path, B, new_people=True) == B
    assert (_spent(path, A), _spent(path, B)) == (20, 0)
    _spend(path, B, run="second")
    _spend(path, B, run="third")
    assert (_spent(path, A), _spent(path, B)) == (20, 40)


def test_no_content_gets_a_budget_anew(tmp_path: Path) -> None:
    path = tmp_path / "ledger.db"
    _spend(path, A, run="first")
    _accept(path, B)
    for known in (A, B):
        with pytest.raises(BadInput, match="content that the ledger does not know yet with --new-people"):
            _accept(path, known, new_people=True)
    assert _spent(path, B) == 20


def test_another_unit_of_known_content_is_refused_once_anything_was_spent(tmp_path: Path) -> None:
    path = tmp_path / "ledger.db"
    _budget(path, A).close()
    _budget(path, PEOPLE).close()  # nothing was spent yet: nothing is lost
    _spend(path, PEOPLE, run="first")
    assert _spent(path, PEOPLE) == 20
    path = tmp_path / "other.db"
    _spend(path, A, run="first")
    for attempt in (_budget, _accept):
        with pytest.raises(BadInput, match="expected the unit example that the data was accepted with") as caught:
            attempt(path, PEOPLE)
        assert "says nothing about one patient_id" in caught.value.message
    assert _accept(path, PEOPLE, new_people=True) == PEOPLE


def test_a_release_about_another_unit_is_refused(tmp_path: Path) -> None:
    ledger = Ledger(tmp_path / "ledger.db", partner="p", key=KEY, dataset=PEOPLE)
    with closing(ledger), pytest.raises(BadInput, match="unit patient_id of the data set, found example"):
        ledger.reserve(Release("run", 1, 1, EVENT))
    assert _spent(tmp_path / "ledger.db", PEOPLE) == 0


def test_a_budget_counts_whatever_the_partner_is_called_and_its_statement_only_its_own(tmp_path: Path) -> None:
    path = tmp_path / "ledger.db"
    _spend(path, A, run="run", partner="hospital")
    _spend(path, A, run="run", partner="klinik")
    assert _spent(path, A) == 40
    with closing(_budget(path, A, partner="klinik")) as budget:
        assert [event.steps for event in budget.totals(run="run")] == [20]
        assert budget.today() == 2


def test_going_back_to_a_unit_that_was_never_spent_from_is_a_change_of_unit(tmp_path: Path) -> None:
    """Known before anything was spent, it would be a second budget for the same people without a word."""
    path = tmp_path / "ledger.db"
    _budget(path, A).close()
    _spend(path, PEOPLE, run="first")
    with pytest.raises(BadInput, match="expected the unit patient_id that the data was accepted with"):
        _budget(path, A)
    _accept(path, A)  # known: changes nothing
    with pytest.raises(BadInput, match="expected the unit patient_id that the data was accepted with"):
        _budget(path, A)
    assert _accept(path, A, new_people=True) == A
    _spend(path, A, run="second")
    assert (_spent(path, A), _spent(path, PEOPLE)) == (20, 20)
    with pytest.raises(BadInput, match="content that the ledger does not know yet"):
        _accept(path, A, new_people=True)


def test_whose_budget_goes_on_is_not_guessed(tmp_path: Path) -> None:
    """Guarantee: other people's data in between does not give the first people a fresh budget."""
    path = tmp_path / "ledger.db"
    _spend(path, A, run="first")
    _accept(path, B, new_people=True)
    with pytest.raises(BadInput, match="found 2 of those of aaaaaaaaaaaa, bbbbbbbbbbbb") as caught:
        _accept(path, C)
    assert "--continues FINGERPRINT" in caught.value.hint
    with pytest.raises(BadInput, match="found 0 of those of"):
        accept(path, partner="p", key=KEY, dataset=C, continues="f")
    assert accept(path, partner="p", key=KEY, dataset=C, continues="a" * 12) == A
    assert _spent(path, C) == 20
    assert _accept(path, B) == B  # known: nothing to guess
