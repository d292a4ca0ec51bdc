"""Known data sets in the files that their authors publish.

Every reader takes the data folder and gives (train, test), with classes named by their label as it stands in the
file. Raises BadInput where a file is corrupt.
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from tacit.data.arrays import read_idx
from tacit.data.examples import Examples
from tacit.data.files import read
from tacit.data.splits import stratified
from tacit.errors import BadInput

__all__ = [
    "MNIST",
    "PNEUMONIA",
    "PNEUMONIA_OFFICIAL",
    "WRITERS",
    "cifar10_small",
    "digits",
    "hashed_share",
    "mnist",
    "mnist_by_writer",
    "pneumoniamnist",
    "sms_spam",
    "sst2",
]

MNIST = (
    "mnist/train-images-idx3-ubyte",
    "mnist/train-labels-idx1-ubyte",
    "mnist/t10k-images-idx3-ubyte",
    "mnist/t10k-labels-idx1-ubyte",
)
WRITERS = "mnist_writers/qmnist-train-labels-idx2-int"  # Yadav and Bottou, arXiv:1905.10498
PNEUMONIA = ("pneumoniamnist/pneumoniamnist_imbalanced.npz", "pneumoniamnist/pneumoniamnist_balanced.npz")
PNEUMONIA_OFFICIAL = "pneumoniamnist/pneumoniamnist.npz"
_WRITER = 2  # the column of the writer's number in the QMNIST labels
_DIGITS_SEED = 20240229  # fixes the order and the test share of digits; changing it changes published numbers
_TEST_SHARE = 0.2


def digits(_: Path) -> tuple[Examples, Examples]:
    """scikit-learn's embedded digits: 1,797 images of 8x8, 0..16 scaled to 0..255; a fixed stratified 20 % tests."""
    from sklearn.datasets import load_digits

    found = load_digits()
    images = np.rint(found.images * (255 / 16)).astype(np.uint8)
    examples = Examples(images, found.target.astype(np.int64), _numbered(10))
    train, test = stratified(examples.labels, share=_TEST_SHARE, seed=_DIGITS_SEED)
    return examples.take(np.random.default_rng(_DIGITS_SEED).permutation(train)), examples.take(test)


def mnist(root: Path) -> tuple[Examples, Examples]:
    """MNIST: 60,000 and 10,000 images of 28x28."""
    return _idx(root, *MNIST[:2]), _idx(root, *MNIST[2:])


def mnist_by_writer(root: Path) -> tuple[Examples, Examples]:
    """MNIST with the column `writer` (int64) on the training images, after QMNIST (arXiv:1905.10498)."""
    train, test = mnist(root)
    plain = root / WRITERS
    path = plain if plain.is_file() else plain.with_name(plain.name + ".gz")
    notes = read_idx(path)
    if notes.shape[0] != len(train) or notes.ndim != 2 or not np.array_equal(notes[:, 0], train.labels):
        raise BadInput(
            f"expected the writers of the {len(train)} MNIST training images, found other labels at {path}",
            hint="fetch both files again",
        )
    return replace(train, columns={"writer": notes[:, _WRITER].astype(np.int64)}), test


def cifar10_small(root: Path) -> tuple[Examples, Examples]:
    """The first 5,000 training and 1,000 test images of CIFAR-10 (A. Krizhevsky 2009), 32x32 RGB."""
    path = root / "cifar10_small/cifar10_small.npz"
    return _npz(path, "x_train", "y_train", classes=10), _npz(path, "x_test", "y_test", classes=10)


def pneumoniamnist(root: Path) -> tuple[Examples, Examples]:
    """PneumoniaMNIST (MedMNIST v2, Yang et al. 2023): 4,708 training and 624 test images of 28x28, the official sets.

    Read from the official file, or put together from two partial copies: the normal images (class 0) of the
    balanced one and the pneumonias of the imbalanced one, whose test set is the official one.
    """
    official = root / PNEUMONIA_OFFICIAL
    if official.is_file():
        imbalanced = balanced = official
    else:
        imbalanced, balanced = (root / name for name in PNEUMONIA)
    sick = _npz(imbalanced, "train_images", "train_labels", classes=2)
    well = _npz(balanced, "train_images", "train_labels", classes=2)
    train = _joined(well.take(np.flatnonzero(well.labels == 0)), sick.take(np.flatnonzero(sick.labels == 1)))
    return train, _npz(imbalanced, "test_images", "test_labels", classes=2)


def sst2(root: Path) -> tuple[Examples, Examples]:
    """SST-2 as in GLUE: 67,349 training texts and the 872 of its development set, which tests."""
    # the input is the one column left: "sentence" in GLUE's files, "content" in some copies of dev.tsv
    train, test = (
        read(root / "sst2_glue" / name, format="tsv", label="label", classes=_numbered(2))
        for name in ("train.tsv", "dev.tsv")
    )
    return train, test


def sms_spam(root: Path) -> tuple[Examples, Examples]:
    """SMS Spam Collection v1 (Almeida et al. 2011): 5,574 messages; `hashed_share` of them tests."""
    path = root / "sms_spam/SMSSpamCollection"
    try:
        lines = path.read_text(encoding="utf-8").rstrip("\n").split("\n")
    except UnicodeDecodeError as error:
        raise BadInput(f"expected UTF-8 text, found other bytes at {path}", hint="fetch the file again") from error
    rows = [_message(line, number, path) for number, line in enumerate(lines, start=1)]
    texts = np.array([text for _, text in rows], dtype=object)
    labels = np.array([label == "spam" for label, _ in rows], dtype=np.int64)
    examples = Examples(texts, labels, ("ham", "spam"))
    test = hashed_share(texts.tolist(), labels=labels)
    return examples.take(np.flatnonzero(~test)), examples.take(np.flatnonzero(test))


def hashed_share(texts: Sequence[str], *, labels: NDArray[np.int64]) -> NDArray[np.bool_]:
    """Which texts test: of each class the 20 % with the lowest SHA-256.

    Blanks around a text do not count. Equal texts of a class fall on one side, so none is both trained on and
    tested; the order of the rows does not matter.

    Returns:
        bool `[n]`.
    """
    hashes = np.array([hashlib.sha256(text.strip().encode()).hexdigest() for text in texts])
    test = np.zeros(len(hashes), dtype=np.bool_)
    for label in np.unique(labels):
        mine = labels == label
        ranked = np.sort(hashes[mine])
        test |= mine & (hashes < ranked[round(len(ranked) * _TEST_SHARE)])
    return test


def _message(line: str, number: int, path: Path) -> tuple[str, str]:
    label, _, text = line.partition("\t")
    if label not in {"ham", "spam"} or not text.strip():
        raise BadInput(
            f"expected ham or spam, a tab and a text, found another form in line {number} of {path}",
            hint="fetch the file again",
        )
    return label, text.strip()


def _numbered(classes: int) -> tuple[str, ...]:
    return tuple(str(label) for label in range(classes))


def _idx(root: Path, images: str, labels: str) -> Examples:
    return read(root, format="idx", input=images, label=labels, classes=_numbered(10))


def _npz(path: Path, images: str, labels: str, *, classes: int) -> Examples:
    return read(path, format="npz", input=images, label=labels, classes=_numbered(classes))


def _joined(first: Examples, second: Examples) -> Examples:
    inputs = np.concatenate([first.inputs, second.inputs])
    return Examples(inputs, np.concatenate([first.labels, second.labels]), first.classes)
