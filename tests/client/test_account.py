"""The account: what was spent on which data by which job, what one more would cost, and the picture of it."""

from __future__ import annotations

import json
import xml.etree.ElementTree as ET
from collections.abc import Callable
from contextlib import closing
from pathlib import Path

import pytest
from folders import change, make_folder, write_npz

from tacit.privacy.accounting import epsilon
from tacit.privacy.events import Event
from tacit_client.account import account, curve
from tacit_client.audit import Audit
from tacit_client.cli import main
from tacit_client.config import PolicySection
from tacit_client.holding import dataset, look, open_budget
from tacit_client.ledger import Release
from tacit_client.plot import picture
from tacit_client.site import Folder

EVENT = Event(kind="dp-sgd", sampling_rate=0.02, noise_multiplier=1.0, steps=20)


def _cost(rounds: int) -> float:
    return epsilon([EVENT] * rounds, delta=1e-5)


@pytest.fixture
def folder(tmp_path: Path) -> Folder:
    return make_folder(tmp_path / "a", name="a", data=write_npz(tmp_path / "x.npz", n=20, seed=1), delta=1e-5)


@pytest.fixture
def run(capsys) -> Callable[..., tuple[int, str, str]]:
    def call(*argv: object) -> tuple[int, str, str]:
        capsys.readouterr()
        code = main([str(arg) for arg in argv])
        return code, *capsys.readouterr()

    return call


def _spend(folder: Folder, run: str, *, rounds: int, finished: int) -> None:
    with closing(open_budget(folder)) as budget:
        for number in range(1, rounds + 1):
            release = Release(run, number, 1, EVENT, job=f"{run}-hash".ljust(64, "0"))
            budget.reserve(release)
            if number <= finished:
                budget.confirm(release)


def test_the_account_names_data_jobs_unfinished_rounds_and_what_one_more_would_cost(run, folder) -> None:
    _spend(folder, "first", rounds=3, finished=3)
    _spend(folder, "second", rounds=2, finished=1)
    found = json.loads(run("budget", folder.path, "--json")[1])
    assert found["dataset"] == dataset(folder).fingerprint == found["budgets"][0]["datasets"][0]
    assert (found["unit"], found["unfinished"], len(found["budgets"])) == ("example", 1, 1)
    assert found["spent"] == pytest.approx(_cost(5))
    assert found["one_more"] == {"run": "second", "epsilon": pytest.approx(_cost(7)), "within": True}
    assert [(one["run"], one["job"][:6], one["releases"], one["unfinished"]) for one in found["runs"]] == [
        ("first", "first-", 3, 0),
        ("second", "second", 2, 1),
    ]
    out = run("budget", folder.path)[1]
    assert f"one more   epsilon {_cost(7):.3f} after another like second: within the limit" in out
    assert "unfinished 1 rounds were charged and not finished; they count" in out
    assert "second-hash0" in out


def test_one_more_says_what_a_budget_that_has_it_would_grant(run, folder) -> None:
    _spend(folder, "first", rounds=3, finished=3)
    for limit, within in ((_cost(6) * 1.001, True), (_cost(6) * 0.999, False)):
        policy = PolicySection(epsilon_limit=limit)
        found = account(look(folder), name="a", policy=policy)
        assert found["one_more"]["within"] is within
    change(folder.path, "epsilon_limit = 8.0", f"epsilon_limit = {_cost(3)}")
    assert "beyond the limit, and refused" in run("budget", folder.path)[1]


def test_looking_makes_no_ledger_and_works_beside_one_that_is_open(run, folder) -> None:
    assert run("budget", folder.path)[0] == 0
    assert not folder.ledger.exists()
    with closing(open_budget(folder)) as budget:
        budget.reserve(Release("open", 1, 1, EVENT))
        assert json.loads(run("budget", folder.path, "--json")[1])["runs"][0]["releases"] == 1
        budget.reserve(Release("open", 2, 1, EVENT))  # looking was no harm
        assert json.loads(run("budget", folder.path, "--json")[1])["runs"][0]["releases"] == 2


def test_the_picture_is_the_curve_and_the_same_every_time(run, folder, tmp_path) -> None:
    _spend(folder, "first", rounds=5, finished=5)
    files = [tmp_path / "one.svg", tmp_path / "two.svg"]
    for file in files:
        assert run("budget", folder.path, "--plot", file)[0] == 0
    text = files[0].read_text()
    assert text == files[1].read_text()
    assert ET.fromstring(text).tag == "{http://www.w3.org/2000/svg}svg"
    for said in ("limit 8", "releases", "epsilon at delta 1e-05", dataset(folder).fingerprint[:12]):
        assert said in text
    code, _, err = run("budget", folder.path, "--plot", tmp_path / "missing" / "x.svg")
    assert (code, "expected to write" in err) == (2, True)


def test_a_curve_has_both_ends_and_few_points_between() -> None:
    events, policy = [EVENT] * 9, PolicySection()
    found = curve(events, policy=policy, most=3)
    assert found == [(place, _cost(place)) for place in (1, 5, 9)]
    assert curve(events[:2], policy=policy, most=3) == [(1, _cost(1)), (2, _cost(2))]
    assert curve([], policy=policy, most=3) == []


def test_pictures_of_nothing_and_of_what_nothing_bounds_are_drawn() -> None:
    for curves in ({}, {"a": []}, {"a": [(1, float("inf"))]}):
        assert "limit 8" in picture(curves, limit=8.0, delta=1e-5)


def test_changed_data_is_shown_refused_accepted_and_goes_on(run, folder) -> None:
    assert "budget       nothing was ever spent" in run("data", folder.path)[1]
    _spend(folder, "first", rounds=2, finished=2)
    first = dataset(folder).fingerprint
    out = run("data", folder.path)[1]
    assert f"fingerprint  {first}" in out
    assert f"epsilon {_cost(2):.3f} of 8 spent" in out
    write_npz(folder.data, n=20, seed=2)
    assert "the ledger does not know this content" in run("data", folder.path)[1]
    code, out, _ = run("data", folder.path, "accept")
    second = dataset(folder).fingerprint
    assert (code, out) == (0, f"accepted {second[:12]}, by example, with the budget of {first[:12]}, which goes on\n")
    assert json.loads(run("budget", folder.path, "--json")[1])["spent"] == pytest.approx(_cost(2))
    write_npz(folder.data, n=20, seed=3)
    code, out, _ = run("data", "accept", folder.path, "--new-people")
    assert (code, "with a budget of its own" in out) == (0, True)
    found = json.loads(run("budget", folder.path, "--json")[1])
    assert (found["spent"], [one["in_use"] for one in found["budgets"]]) == (0.0, [False, True])
    assert found["budgets"][0]["datasets"] == [first, second]
    assert run("budget", folder.path)[1].count("epsilon alone") == 1
    taken = [entry.facts for entry in Audit.of(folder).entries() if entry.event == "data-accepted"]
    assert [(facts["budget"], facts["new_people"]) for facts in taken] == [
        (first, False),
        (dataset(folder).fingerprint, True),
    ]
    write_npz(folder.data, n=20, seed=4)
    code, _, err = run("data", folder.path, "accept")
    assert (code, "found 2 of those of" in err) == (2, True)
    code, out, _ = run("data", folder.path, "accept", "--continues", second[:9])
    assert (code, f"with the budget of {first[:12]}" in out) == (0, True)
    assert json.loads(run("budget", folder.path, "--json")[1])["spent"] == pytest.approx(_cost(2))


def test_data_is_not_taken_into_use_where_that_can_not_be_written_down(run, folder) -> None:
    run("data", folder.path, "accept")
    folder.audit.write_bytes(b"rubbish\n")
    write_npz(folder.data, n=20, seed=2)
    code, _, err = run("data", folder.path, "accept", "--new-people")
    assert (code, "expected an unbroken audit log" in err) == (2, True)
    assert "the ledger does not know this content" in run("data", folder.path)[1]


def test_whose_budget_goes_on_is_named_by_a_fingerprint(run, folder) -> None:
    for words in (("accept", "--continues", "%"), ("accept", "--continues", "ab", "--new-people")):
        code, _, err = run("data", folder.path, *words)
        assert (code, "expected --new-people, or the start of a fingerprint" in err) == (2, True)


@pytest.mark.parametrize("words", [("--new-people",), ("remove",), ("accept", "x")])
def test_words_that_data_does_not_know_are_refused(run, folder, words) -> None:
    code, _, err = run("data", folder.path, *words)
    assert (code, "expected DIR or DIR accept" in err) == (2, True)


def test_folders_that_share_a_ledger_share_its_budget(run, tmp_path) -> None:
    data = write_npz(tmp_path / "x.npz", n=20, seed=1)
    folders = []
    for name in ("a", "b"):
        folder = make_folder(tmp_path / name, name=name, data=data, delta=1e-5)
        change(folder.path, 'device = "cpu"', f'device = "cpu"\nledger = "{tmp_path / "shared.db"}"')
        folders.append(Folder.open(folder.path))
        _spend(folders[-1], "run", rounds=2, finished=2)
    key = tmp_path / "shared.db.key"
    assert key.stat().st_mode & 0o777 == 0o600
    assert not (tmp_path / "a" / "ledger.db").exists()
    for folder in folders:
        found = json.loads(run("budget", folder.path, "--json")[1])
        assert found["spent"] == pytest.approx(_cost(4))
    key.unlink()
    code, _, err = run("budget", folders[0].path)
    assert (code, "expected the key of the shared ledger" in err) == (2, True)
    assert not key.exists()
