"""Known sets: their published counts, fetching through an injected loader, and a user's own path."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from tacit.errors import BadInput, JobFailed
from tacit_sim import known
from tacit_sim.originals import hashed_share

# training count by class, test count by class, shape of an input; from the sets' papers
PUBLISHED = {
    "cifar10-small": (5000, 1000, (32, 32, 3)),
    "digits": (1438, 359, (8, 8)),
    "mnist": ([5923, 6742, 5958, 6131, 5842, 5421, 5918, 6265, 5851, 5949], 10_000, (28, 28)),
    "mnist-by-writer": (60_000, 10_000, (28, 28)),
    "pneumoniamnist": ([1214, 3494], [234, 390], (28, 28)),
    "sms-spam": ([3862, 599], [965, 148], ()),
    "sst2": (67_349, [428, 444], ()),
}
needs_data = pytest.mark.skipif(not os.environ.get("TACIT_DATA"), reason="TACIT_DATA names no data folder")


def test_every_set_has_its_published_counts() -> None:
    assert known.names() == tuple(PUBLISHED)


@pytest.mark.parametrize("name", [pytest.param(n, marks=() if n == "digits" else needs_data) for n in PUBLISHED])
def test_counts(name: str) -> None:
    parts = known.load(name, data=None)
    *counts, shape = PUBLISHED[name]
    for part, count in zip(parts, counts, strict=True):
        by_class = np.bincount(part.labels, minlength=len(part.classes)).tolist()
        assert by_class == count if isinstance(count, list) else sum(by_class) == count
        assert part.inputs.shape[1:] == shape
        assert part.inputs.dtype == (np.uint8 if shape else object)
        assert part.classes == parts[0].classes


def test_digits_are_the_same_every_time_and_of_full_range() -> None:
    (train, test), (again, _) = known.load("digits", data=None), known.load("digits", data=None)
    assert np.array_equal(train.inputs, again.inputs)
    assert (train.inputs.min(), train.inputs.max()) == (0, 255)
    assert train.classes == tuple("0123456789")
    assert np.ptp(np.bincount(test.labels)) <= 2, "stratified"
    assert train.labels[:20].tolist() != sorted(train.labels[:20].tolist())


@needs_data
def test_writers() -> None:
    train, _ = known.load("mnist-by-writer", data=None)
    writers, counts = np.unique(train.columns["writer"], return_counts=True)
    assert (len(writers), counts.min(), int(np.median(counts)), counts.max()) == (539, 19, 116, 131)


@needs_data
def test_no_message_is_trained_on_and_tested() -> None:
    train, test = known.load("sms-spam", data=None)
    assert not set(train.inputs.tolist()) & set(test.inputs.tolist())
    assert train.classes == ("ham", "spam")


def test_hashed_share_does_not_depend_on_order_or_blanks() -> None:
    texts = [f"text {i}" for i in range(100)]
    labels = np.arange(100) % 2
    test = hashed_share(texts, labels=labels)
    assert test.sum() == 20
    assert test[labels == 1].sum() == 10
    backwards = hashed_share([f" {text}\n" for text in texts[::-1]], labels=labels[::-1])
    assert np.array_equal(test, backwards[::-1])


def test_missing_data(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("TACIT_DATA", raising=False)
    cases = [
        ("mnist", None, "neither --data nor TACIT_DATA", "`tacit-sim data get mnist`"),
        ("mnist", tmp_path / "none", "a data folder at", "`export TACIT_DATA=DIR`"),
        ("mnist", tmp_path, "mnist/train-images-idx3-ubyte of the data set mnist in", "`tacit-sim data get mnist`"),
        ("pneumoniamnist", tmp_path, "pneumoniamnist_imbalanced.npz", "medmnist.com"),
        ("minst", None, "a data set among cifar10-small, digits", "name one of them"),
    ]
    for name, data, message, hint in cases:
        with pytest.raises(BadInput) as caught:
            known.load(name, data=data)
        assert message in caught.value.message
        assert hint in caught.value.hint


def hub_of(columns: dict[str, list[Any]], *, images: str | None = None) -> Callable[..., Any]:
    from datasets import Dataset
    from datasets import Image as ImageFeature

    def load_dataset(name: str, *, split: str, cache_dir: str) -> Any:
        found = Dataset.from_dict(columns)
        return found if images is None else found.cast_column(images, ImageFeature())

    return load_dataset


def test_fetch_images_and_load_them(tmp_path: Path) -> None:
    pixels = np.random.default_rng(0).integers(0, 256, (3, 28, 28), dtype=np.uint8)
    hub = hub_of({"image": [Image.fromarray(p) for p in pixels], "label": [7, 0, 9]}, images="image")
    folder = known.fetch("mnist", data=tmp_path, load_dataset=hub)
    assert folder == tmp_path / "mnist"
    assert sorted(file.name for file in folder.iterdir()) == ["test.parquet", "train.parquet"]
    train, test = known.load("mnist", data=tmp_path)
    np.testing.assert_array_equal(train.inputs, pixels)
    assert (test.labels.tolist(), test.classes) == ([7, 0, 9], tuple("0123456789"))


def test_fetch_without_a_test_split(tmp_path: Path) -> None:
    hub = hub_of({"sms": [f"text {i}\n" for i in range(50)], "label": [i % 2 for i in range(50)]})
    known.fetch("sms-spam", data=tmp_path, load_dataset=hub)
    train, test = known.load("sms-spam", data=tmp_path)
    assert (len(train), len(test), test.classes) == (40, 10, ("ham", "spam"))
    assert not set(train.inputs) & set(test.inputs)


def test_a_hub_out_of_reach_leaves_nothing(tmp_path: Path) -> None:
    def no_network(*_: object, cache_dir: str, **__: object) -> None:
        Path(cache_dir).mkdir()
        raise ConnectionError("could not reach the hub")

    with pytest.raises(JobFailed, match="stanfordnlp/sst2 from the hub, found ConnectionError") as caught:
        known.fetch("sst2", data=tmp_path, load_dataset=no_network)
    assert "network" in caught.value.hint
    assert list((tmp_path / "sst2").iterdir()) == []


@pytest.mark.parametrize(
    ("columns", "message"),
    [
        ({"text": ["a"], "label": [1]}, "columns sentence and label"),
        ({"sentence": ["a"], "label": [2]}, "one of the classes 0, 1, found '2'"),
        ({"sentence": [""], "label": [1]}, "text in every row"),
    ],
)
def test_a_set_that_changed_is_refused(tmp_path: Path, columns: dict[str, list[Any]], message: str) -> None:
    with pytest.raises(BadInput, match=message):
        known.fetch("sst2", data=tmp_path, load_dataset=hub_of(columns))
    assert list((tmp_path / "sst2").iterdir()) == []


@pytest.mark.parametrize(("name", "message"), [("digits", "scikit-learn"), ("pneumoniamnist", "medmnist.com")])
def test_sets_that_can_not_be_fetched(tmp_path: Path, name: str, message: str) -> None:
    with pytest.raises(BadInput, match=message):
        known.fetch(name, data=tmp_path)


def test_official_pneumoniamnist_serves_too(tmp_path: Path) -> None:
    (tmp_path / "pneumoniamnist").mkdir()
    part = {"images": np.zeros((4, 28, 28), np.uint8), "labels": np.array([[0], [1], [1], [0]], np.uint8)}
    arrays = {f"{split}_{key}": value for split in ("train", "test") for key, value in part.items()}
    np.savez(tmp_path / "pneumoniamnist/pneumoniamnist.npz", **arrays)
    train, test = known.load("pneumoniamnist", data=tmp_path)
    assert (train.labels.tolist(), test.labels.tolist()) == ([0, 0, 1, 1], [0, 1, 1, 0])


def own(path: Path, **changes: Any) -> Any:
    standard = {"format": "csv", "input": "text", "label": None, "columns": (), "test": None, "image_size": None}
    return known.load_path(path, **{**standard, "test_share": 0.25, "seed": 3, **changes})


def table(path: Path, labels: str) -> Path:
    path.write_text("text,label\n" + "".join(f"t{i},{label}\n" for i, label in enumerate(labels)))
    return path


def test_own_data_with_a_share_cut_off(tmp_path: Path) -> None:
    train, test = own(table(tmp_path / "a.csv", "xy" * 8))
    assert np.bincount(test.labels).tolist() == [2, 2]
    assert sorted([*train.inputs, *test.inputs]) == sorted(f"t{i}" for i in range(16))


def test_own_data_with_a_test_set(tmp_path: Path) -> None:
    train, test = own(table(tmp_path / "a.csv", "xyz"), test=table(tmp_path / "b.csv", "zz"))
    assert (len(train), test.labels.tolist(), test.classes) == (3, [2, 2], ("x", "y", "z"))


def test_own_data_that_does_not_fit(tmp_path: Path) -> None:
    path = table(tmp_path / "a.csv", "xyz")
    with pytest.raises(BadInput, match=r"'w' in row 1 of .*b\.csv: a class never seen"):
        own(path, test=table(tmp_path / "b.csv", "w"))
    for share, message in ((0.25, "leaves test examples, found 0.25 of 3"), (1.0, "below 1"), (-1.0, "from 0")):
        with pytest.raises(BadInput, match=message):
            own(path, test_share=share)
    np.savez(tmp_path / "a.npz", x=np.zeros((2, 4, 4), np.uint8), y=np.arange(2))
    np.savez(tmp_path / "b.npz", x=np.zeros((2, 4, 5), np.uint8), y=np.arange(2))
    with pytest.raises(BadInput, match=r"\[4, 4\].*found uint8 \[4, 5\]"):
        own(tmp_path / "a.npz", format="npz", input="x", test=tmp_path / "b.npz")
