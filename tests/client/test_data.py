"""The partner's examples: read once, numbered as the job says, split the same way for ever; the server hears little."""

from __future__ import annotations

import logging
import os
import pickle
import unicodedata
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from folders import CLASSES, SIDE, write_csv, write_npz

from tacit.errors import BadInput
from tacit.job import Job
from tacit.privacy.randomness import Randomness
from tacit.seal import FILE, make_key, seal
from tacit_client.config import DataSection
from tacit_client.data import Data

N, KEY = 120, b"key of one partner"
SECRET = "somebody's diagnosis"


@pytest.fixture
def job(make_job) -> Callable[..., Job]:
    def make(*overrides: str) -> Job:
        options = f"task.options.shape=[{SIDE},{SIDE}]", "task.options.classes=3"
        labels = 'task.labels=["cup", "axe", "bow"]'
        return make_job(*options, labels, "evaluation.partner_holdout=0.25", *overrides)

    return make


@pytest.fixture
def pictures(tmp_path: Path) -> Data:
    return Data(write_npz(tmp_path / "scans.npz", n=N, seed=1), DataSection(), key=KEY)


def _targets(data: Data, job: Job) -> torch.Tensor:
    fitted = data.fit(job)
    return fitted.train.data.targets


def test_labels_are_numbered_in_the_order_of_the_job(tmp_path, pictures, job) -> None:
    names = np.load(tmp_path / "scans.npz")["label"].tolist()
    assert _targets(pictures, job()).tolist() == [("cup", "axe", "bow").index(name) for name in names]
    assert _targets(pictures, job('task.labels=["axe","bow","cup"]')).tolist() == [CLASSES.index(n) for n in names]


@pytest.mark.parametrize(("job_form", "data_form"), [("NFC", "NFD"), ("NFD", "NFC"), ("NFD", "NFD")])
def test_a_class_whose_letters_are_put_together_in_two_ways_is_one(tmp_path, job, job_form, data_form) -> None:
    classes = tuple(unicodedata.normalize(data_form, name) for name in ("axe", "bögen", "cup"))
    path = write_npz(tmp_path / "x.npz", n=N, seed=1, classes=classes)
    known = unicodedata.normalize(job_form, "bögen")
    found = Data(path, DataSection(), key=KEY).fit(job(f'task.labels=["{known}","cup","axe"]'))
    names = np.load(path)["label"].tolist()
    assert found.train.data.targets.tolist() == [{"c": 1, "a": 2}.get(name[0], 0) for name in names]


def test_without_names_the_classes_are_numbers(tmp_path, job) -> None:
    path = write_npz(tmp_path / "x.npz", n=N, seed=1, classes=("0", "1", "2"))
    found = _targets(Data(path, DataSection(), key=KEY), job("task.labels=[]"))
    assert found.tolist() == [int(name) for name in np.load(path)["label"]]


def test_a_partner_may_lack_a_class(tmp_path, job) -> None:
    path = write_npz(tmp_path / "x.npz", n=N, seed=1, classes=("bow",))
    assert set(_targets(Data(path, DataSection(), key=KEY), job()).tolist()) == {2}


def test_with_named_classes_a_refusal_tells_of_none_that_is_here(tmp_path, job, caplog) -> None:
    """Guarantee: it depends on site.toml alone, so a server that leaves a class out learns nothing."""
    section = DataSection(labels=("axe", "bow", "cup"))
    with_all = Data(write_npz(tmp_path / "x.npz", n=N, seed=1), section, key=KEY)
    without = Data(write_npz(tmp_path / "y.npz", n=N, seed=1, classes=("axe", "bow")), section, key=KEY)
    heard = []
    for data in (with_all, without):
        with pytest.raises(BadInput) as error:
            data.fit(job('task.labels=["axe","bow","dog"]'))
        heard.append((error.value.message, error.value.hint))
    assert heard[0] == heard[1]
    assert "expected every class of data.labels of site.toml in task.labels, found some left out" in heard[0]
    assert caplog.text.count("every class of data.labels of site.toml in task.labels (axe, bow, dog), found cup") == 2
    assert without.fit(job()).train.data.targets.tolist() == [
        ("cup", "axe", "bow").index(name) for name in np.load(tmp_path / "y.npz")["label"].tolist()
    ]


def test_a_class_that_site_toml_does_not_name_is_found_at_the_start(tmp_path) -> None:
    path = write_npz(tmp_path / "x.npz", n=N, seed=1)
    with pytest.raises(
        BadInput, match=r"^expected classes among data\.labels in site\.toml, found cup too in the column"
    ):
        Data(path, DataSection(labels=("axe", "bow")), key=KEY)


def test_an_unknown_class_is_refused_by_its_column_only(tmp_path, job, caplog) -> None:
    path = write_npz(tmp_path / "x.npz", n=N, seed=1, classes=("axe", SECRET))
    data = Data(path, DataSection(label="label"), key=KEY)
    with (
        caplog.at_level(logging.ERROR),
        pytest.raises(BadInput, match="every class of column label in task") as caught,
    ):
        data.fit(job())
    _says_little(caught.value, tmp_path)
    assert SECRET in caplog.text  # in the partner's own log


def test_the_split_is_the_partners_own_and_stays(tmp_path, pictures, job) -> None:
    fitted = pictures.fit(job())
    assert (len(fitted.train), len(fitted.holdout)) == (90, 30)
    assert not set(fitted.train.rows.tolist()) & set(fitted.holdout.rows.tolist())
    again = Data(tmp_path / "scans.npz", DataSection(), key=KEY).fit(job('name="other"'))
    assert torch.equal(again.holdout.rows, fitted.holdout.rows)
    other = Data(tmp_path / "scans.npz", DataSection(), key=b"another").fit(job())
    assert not torch.equal(other.holdout.rows, fitted.holdout.rows)


def test_files_are_read_and_encoded_once(pictures, job, monkeypatch) -> None:
    first = pictures.fit(job())
    monkeypatch.setattr("tacit.data.files.read", None)
    assert pictures.fit(job("training.rounds=3")).train.data is first.train.data
    assert pictures.fit(job('task.labels=["axe","bow","cup"]')).train.data is not first.train.data


@pytest.mark.parametrize("how", ["touched", "grown", "gone"])
def test_a_file_that_changed_is_refused(tmp_path, pictures, job, caplog, how) -> None:
    path = tmp_path / "scans.npz"
    pictures.fit(job())
    if how == "gone":
        path.rename(tmp_path / "elsewhere.npz")
    elif how == "grown":
        write_npz(path, n=N + 1, seed=1)
    else:
        os.utime(path, ns=(1, 1))
    with caplog.at_level(logging.ERROR), pytest.raises(BadInput, match="data as it was, found it") as caught:
        pictures.fit(job())
    _says_little(caught.value, tmp_path)
    assert str(path) in caplog.text
    if how == "gone":
        (tmp_path / "elsewhere.npz").rename(path)
        pictures.fit(job())  # put back


def test_a_picture_that_goes_from_a_folder_is_noticed(tmp_path, job) -> None:
    from PIL import Image

    for name in CLASSES:
        (tmp_path / "scans" / name).mkdir(parents=True)
        for i in range(4):
            Image.new("L", (SIDE, SIDE), i).save(tmp_path / "scans" / name / f"{i}.png")
    data = Data(tmp_path / "scans", DataSection(format="image-folder"), key=KEY)
    assert len(data.fit(job()).train.data) == 12
    (tmp_path / "scans" / "bow" / "2.png").unlink()
    with pytest.raises(BadInput, match="found it changed"):
        data.fit(job())


def test_data_of_another_shape_says_little_to_the_server(pictures, job, tmp_path, caplog) -> None:
    with caplog.at_level(logging.ERROR), pytest.raises(BadInput, match="data that fits the job's task") as caught:
        pictures.fit(job("task.options.shape=[9,9]"))
    _says_little(caught.value, tmp_path)
    assert f"[{SIDE}, {SIDE}]" in caplog.text


def test_texts_from_csv(tmp_path, make_job) -> None:
    path = write_csv(tmp_path / "x.csv", rows=[("spend it now", "spam"), ("see you", "ham")] * 5)
    job = make_job(
        'task.kind="text-classification"',
        'task.model="transformer"',
        "task.options.classes=2",
        "task.options.length=8",
        'task.options.tokens="bytes"',
        'task.labels=["ham","spam"]',
    )
    found = Data(path, DataSection(input="text", label="label"), key=KEY).fit(job)
    assert found.train.data.targets.tolist() == [1, 0] * 5


@pytest.mark.parametrize(
    ("section", "said"),
    [
        ({"path": "none.csv"}, "expected data at"),
        ({"input": "text", "label": "diagnosis"}, "expected a column 'diagnosis', found text, label"),
        ({"input": "image"}, "expected a column 'image'"),
        ({"format": "npz"}, "expected a whole npz file"),
    ],
)
def test_what_can_not_be_read_is_told_in_full_at_the_start(tmp_path, section, said) -> None:
    path = write_csv(tmp_path / "x.csv", rows=[("a", "b"), ("c", "d")])
    place = tmp_path / section.get("path", path.name)
    with pytest.raises(BadInput, match=said) as caught:
        Data(place, DataSection(**section), key=KEY)
    assert str(place) in caught.value.message


def test_a_task_that_is_not_installed_or_of_another_version(pictures, job, tmp_path) -> None:
    with pytest.raises(BadInput, match="expected the task own-task here") as caught:
        pictures.fit(job("task.kind=own-task"))
    _says_little(caught.value, tmp_path)
    pictures.fit(job('task.package="tacit"'))
    with pytest.raises(BadInput, match=r"of other==1\.0, found that of tacit"):
        pictures.fit(job('task.package="other==1.0"'))


@pytest.fixture
def texts(make_job) -> Job:
    return make_job(
        'task.kind="text-classification"',
        'task.model="transformer"',
        "task.options.classes=2",
        "task.options.length=8",
        'task.options.tokens="bytes"',
        'task.labels=["ham","spam"]',
        "evaluation.partner_holdout=0.25",
    )


PATIENTS, VISITS = 20, 6
BY_PATIENT = {"input": "note", "label": "kind", "unit": "patient_id"}


def _write_visits(path: Path) -> Path:
    """Six visits of each patient, but forty of the first, in no order."""
    owners = [0] * 40 + [i for i in range(1, PATIENTS) for _ in range(VISITS)]
    np.random.default_rng(5).shuffle(owners)
    rows = [f"note {i},{'spam' if i % 2 else 'ham'},Person-{owner:03},Street {owner}" for i, owner in enumerate(owners)]
    path.write_text("\n".join(["note,kind,patient_id,address", *rows, ""]), encoding="utf-8")
    return path


def _owners(path: Path) -> list[str]:
    return [line.split(",")[2] for line in path.read_text().splitlines()[1:]]


def test_a_person_is_the_unit_and_on_one_side_of_the_cut(tmp_path, texts) -> None:
    path = _write_visits(tmp_path / "visits.csv")
    data, owners = Data(path, DataSection(**BY_PATIENT, max_per_unit=4), key=KEY), _owners(path)
    assert (len(data), data.units, data.unit) == (154, PATIENTS, "patient_id")
    fitted = data.fit(texts)
    train, held = ({owners[row] for row in half.rows.tolist()} for half in (fitted.train, fitted.holdout))
    assert not train & held
    assert (len(train), len(held)) == (15, 5)
    assert len(fitted.train) + len(fitted.holdout) == 154
    assert (fitted.train.units, fitted.train.unit) == (15, "patient_id")
    batch = fitted.train.draw(Randomness(1).stream("sampling"), rate=1.0)
    given = [owners[row] for row in fitted.train.rows[torch.from_numpy(batch.rows)].tolist()]
    assert {name: given.count(name) for name in train} == dict.fromkeys(train, 4)
    again = Data(path, DataSection(**BY_PATIENT), key=KEY).fit(texts)
    assert torch.equal(again.holdout.rows, fitted.holdout.rows)
    assert len(again.train.draw(Randomness(1).stream("sampling"), rate=1.0).rows) == 15  # one row of each, unless told


def test_without_a_unit_rows_are_protected(pictures, job) -> None:
    fitted = pictures.fit(job())
    assert (pictures.units, pictures.unit) == (N, "example")
    assert (fitted.train.units, fitted.train.unit, fitted.train.persons) == (90, "example", None)


@pytest.mark.parametrize("unit", ["example", "x" * 65])
def test_a_column_of_persons_has_a_name_that_an_event_can_bear(tmp_path, unit) -> None:
    path = tmp_path / "x.csv"
    path.write_text(f"note,kind,{unit}\na,b,c\nd,e,f\n")
    with pytest.raises(BadInput, match=r"found .* as data\.unit"):
        Data(path, DataSection(input="note", label="kind", unit=unit), key=KEY)


def test_dropped_and_pseudonymised_columns_are_not_kept(tmp_path, texts) -> None:
    path = _write_visits(tmp_path / "visits.csv")
    section = DataSection(**BY_PATIENT, drop=("address",), pseudonymise=("patient_id",))
    data, other = Data(path, section, key=KEY), Data(path, section, key=b"another")
    fitted = data.fit(texts)
    kept, plain = (pickle.dumps(vars(one)) for one in (data, Data(path, DataSection(**BY_PATIENT), key=KEY)))
    assert b"Person-" in plain
    assert b"Person-" not in kept
    assert b"Street" not in kept
    assert data.units == other.units == PATIENTS
    assert not set(data._names) & set(other._names)  # without the key nobody can tell whose they are
    owners = _owners(path)
    train, held = ({owners[row] for row in half.rows.tolist()} for half in (fitted.train, fitted.holdout))
    assert len(train | held) == len(train) + len(held) == PATIENTS


def test_sealed_data_is_the_same_data(tmp_path, texts) -> None:
    path, key = _write_visits(tmp_path / "visits.csv"), make_key(tmp_path / "seal.key")
    clear = Data(path, DataSection(**BY_PATIENT), key=KEY)
    sealed = tmp_path / "visits.csv.sealed"
    sealed.write_bytes(seal(path.read_bytes(), key=key, use=FILE))
    edited = path.rename(tmp_path / "edited.csv")
    data = Data(sealed, DataSection(**BY_PATIENT), key=KEY, lock=key)
    assert data.fingerprint == clear.fingerprint
    assert len(data.fingerprint) == 64
    assert (len(data), data.units) == (len(clear), clear.units)
    one, other = (loaded.fit(texts).train for loaded in (data, Data(edited, DataSection(**BY_PATIENT), key=KEY)))
    assert torch.equal(one.data.inputs[0], other.data.inputs[0])
    assert torch.equal(one.rows, other.rows)
    with pytest.raises(BadInput, match="sealed"):
        Data(sealed, DataSection(**BY_PATIENT), key=KEY)
    edited.write_text(edited.read_text().replace("note 3,", "note 4,"))
    assert Data(edited, DataSection(**BY_PATIENT), key=KEY).fingerprint != clear.fingerprint


def _says_little(error: BadInput, tmp_path: Path) -> None:
    """No path, no count, no value of a row."""
    said = f"{error.message} {error.hint}"
    for hidden in (str(tmp_path), "scans", SECRET, str(N), "row"):
        assert hidden not in said


@pytest.mark.skipif(not os.environ.get("TACIT_DATA"), reason="TACIT_DATA names no folder of real data")
def test_real_scans(make_job) -> None:
    path = Path(os.environ["TACIT_DATA"]) / "pneumoniamnist" / "pneumoniamnist_balanced.npz"
    data = Data(path, DataSection(input="train_images", label="train_labels"), key=KEY)
    fitted = data.fit(make_job("task.options.shape=[28,28]", "task.options.classes=2", 'task.labels=["0","1"]'))
    assert (len(data), len(fitted.train), len(fitted.holdout)) == (2428, 2185, 243)
    assert fitted.train.data.targets.bincount().tolist() == [1214, 1214]
