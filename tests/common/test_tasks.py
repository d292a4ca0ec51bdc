"""Tasks by name, their options from a job, and what examples become."""

from __future__ import annotations

import importlib.metadata
import os
import sys
import types

import numpy as np
import pytest
import torch

from tacit.data.examples import Examples
from tacit.errors import BadInput
from tacit.tasks import Model, Task, cross_entropy, encode_labels, table
from tacit.tasks.table import find, parse_options

torch.set_num_threads(1)

needs_data = pytest.mark.skipif(not os.environ.get("TACIT_DATA"), reason="TACIT_DATA is not set")

IMAGE = find("image-classification").task
TEXT = find("text-classification").task


def _examples(inputs, labels, classes=("a", "b")) -> Examples:
    return Examples(inputs, np.array(labels, dtype=np.int64), classes)


def _texts(*texts) -> np.ndarray:
    return np.array(texts, dtype=object)


@pytest.mark.parametrize(
    ("kind", "models"), [("image-classification", {"cnn"}), ("text-classification", {"transformer"})]
)
def test_built_in_tasks_are_tacits(kind, models):
    found = find(kind)
    assert (found.task.kind, found.package, set(found.task.models)) == (kind, "tacit", models)


@pytest.mark.parametrize("kind", ["text-generation", "seq2seq"])
def test_a_task_that_is_not_built_is_said_to_be_so(kind):
    with pytest.raises(BadInput, match="which is not built yet"):
        find(kind)


def test_an_unknown_task_is_answered_with_the_known():
    with pytest.raises(BadInput, match='image-classification, text-classification, found "chess"'):
        find("chess")


class _Distribution(importlib.metadata.Distribution):
    """An installed package that has one entry point."""

    def __init__(self, name: str, kind: str, value: str) -> None:
        self._texts = {
            "METADATA": f"Name: {name}\nVersion: 1.2\n",
            "entry_points.txt": f"[{table.GROUP}]\n{kind} = {value}\n",
        }

    def read_text(self, filename):
        return self._texts.get(filename)

    def locate_file(self, path):
        raise NotImplementedError


def _install(monkeypatch, *distributions: _Distribution) -> None:
    entries = importlib.metadata.EntryPoints(entry for d in distributions for entry in d.entry_points)
    monkeypatch.setattr(table, "entry_points", entries.select)
    module = types.ModuleType("fake_task")
    module.TASK = Task("chess", {}, IMAGE.encode, IMAGE.infer, cross_entropy)
    module.NUMBER = 3
    monkeypatch.setitem(sys.modules, "fake_task", module)


def test_a_task_of_an_installed_package_is_found(monkeypatch):
    _install(monkeypatch, _Distribution("chess-task", "chess", "fake_task:TASK"))
    found = find("chess")
    assert (found.task.kind, found.package) == ("chess", "chess-task==1.2")


def test_a_package_can_not_take_the_place_of_a_built_in(monkeypatch):
    _install(monkeypatch, _Distribution("evil", "image-classification", "fake_task:TASK"))
    assert find("image-classification").task is IMAGE


@pytest.mark.parametrize(
    ("kind", "value", "message"),
    [
        ("chess", "no_such_module:TASK", "found ModuleNotFoundError: .* in chess-task==1.2"),
        ("chess", "fake_task:NONE", "found AttributeError: .* in chess-task==1.2"),
        ("chess", "fake_task:NUMBER", "found int in chess-task==1.2"),
        ("draughts", "fake_task:TASK", 'found a task of kind "chess" in chess-task==1.2'),
    ],
)
def test_a_broken_package_is_named(monkeypatch, kind, value, message):
    _install(monkeypatch, _Distribution("chess-task", kind, value))
    with pytest.raises(BadInput, match=message):
        find(kind)


def test_two_packages_with_one_name_are_refused(monkeypatch):
    _install(monkeypatch, *(_Distribution(name, "chess", "fake_task:TASK") for name in ("b", "a")))
    with pytest.raises(BadInput, match=r"found a==1\.2, b==1\.2"):
        find("chess")


def test_options_from_a_job():
    options = parse_options(IMAGE, "cnn", {"classes": 10, "shape": [28, 28]})
    assert (options.classes, options.form) == (10, "four")


@pytest.mark.parametrize(
    ("raw", "messages"),
    [
        ({"shape": [8, 8]}, ["expected a value, found none at task.options.classes"]),
        (
            {"classes": 2, "shape": [8, 8], "layer": "four"},
            ["expected one of classes, shape, layers, found an unknown key at task.options.layer"],
        ),
        (
            {"classes": "2", "shape": [8, 8.5], "layers": "nine"},
            [
                "expected a valid integer, found '2' at task.options.classes",
                "found 8.5 at task.options.shape.1",
                "expected 'auto', 'small', 'four' or 'eight', found 'nine' at task.options.layers",
            ],
        ),
        ({"classes": 1, "shape": [8, 8]}, ["expected greater than or equal to 2, found 1 at task.options.classes"]),
        ({"classes": 2, "shape": "8x8"}, ["expected a list, found '8x8' at task.options.shape"]),
        ({"classes": 2, "shape": [3, 8]}, ["found [3, 8] at task.options.shape"]),
    ],
)
def test_wrong_options_are_named_with_what_was_expected_and_found(raw, messages):
    with pytest.raises(BadInput) as caught:
        parse_options(IMAGE, "cnn", raw)
    for message in messages:
        assert message in str(caught.value)


def test_an_unknown_model_is_answered_with_the_known():
    with pytest.raises(BadInput, match=r'expected one of cnn, found "resnet" at task\.model'):
        parse_options(IMAGE, "resnet", {})


@pytest.mark.parametrize("shape", [(8, 6), (8, 6, 1), (8, 6, 3)])
def test_images_are_scaled_by_constants(shape):
    images = np.zeros((2, *shape), dtype=np.uint8)
    images[0, 0, 0] = 51
    images[1, 7, 5] = 255
    examples = _examples(images, [0, 1])
    options = parse_options(IMAGE, "cnn", IMAGE.infer(examples))
    (x,) = (encoded := IMAGE.encode(options, examples)).inputs
    assert x.shape == (2, 3 if shape[2:] == (3,) else 1, 8, 6)
    assert x.dtype == torch.float32
    assert (x[:, :, 1:7] == -1).all()
    torch.testing.assert_close(x[0, :, 0, 0], torch.full((x.shape[1],), -0.6))
    assert (x[1, :, 7, 5] == 1).all()
    assert encoded.targets.tolist() == [0, 1]
    # What else is in the batch does not change an example.
    torch.testing.assert_close(IMAGE.encode(options, examples.take(np.array([0]))).inputs[0], x[:1])


def test_an_image_and_the_same_with_one_channel_are_the_same_to_the_options():
    options = parse_options(IMAGE, "cnn", {"classes": 2, "shape": [8, 6, 1]})
    assert IMAGE.encode(options, _examples(np.zeros((1, 8, 6), dtype=np.uint8), [0])).inputs[0].shape == (1, 1, 8, 6)


@pytest.mark.parametrize(
    "images", [np.zeros((1, 6, 8), dtype=np.uint8), np.zeros((1, 8, 6, 3), dtype=np.uint8), np.zeros((1, 8, 6))]
)
def test_images_that_are_not_as_the_options_say_are_refused(images):
    options = parse_options(IMAGE, "cnn", {"classes": 2, "shape": [8, 6]})
    with pytest.raises(BadInput, match=r"expected images uint8 of shape \[8, 6\]"):
        IMAGE.encode(options, _examples(images, [0]))


def test_texts_become_ids_positions_and_mask():
    options = parse_options(TEXT, "transformer", {"classes": 2, "length": 4, "width": 8})
    ids, positions, mask = TEXT.encode(options, _examples(_texts("ab", "", "abcdef"), [0, 1, 0])).inputs
    assert ids.tolist() == [[97, 98, 256, 256], [256] * 4, [97, 98, 99, 100]]
    assert positions.tolist() == [[0, 1, 2, 3]] * 3
    assert positions.is_contiguous()
    assert mask.sum(1).tolist() == [2, 0, 4]
    assert torch.isfinite(TEXT.models["transformer"].build(options)(ids, positions, mask)).all()


def test_no_texts_are_encoded_to_no_rows():
    options = parse_options(TEXT, "transformer", {"classes": 2, "length": 4})
    encoded = TEXT.encode(options, _examples(_texts(), []))
    assert len(encoded) == 0
    assert all(x.shape == (0, 4) for x in encoded.inputs)


def test_what_is_no_text_is_refused_and_not_shown():
    options = parse_options(TEXT, "transformer", {"classes": 2})
    with pytest.raises(BadInput, match="found float in example 1") as caught:
        TEXT.encode(options, _examples(_texts("a", 12.345), [0, 1]))
    assert "12.345" not in str(caught.value) + caught.value.hint


@pytest.mark.parametrize("label", [-1, 2])
def test_a_label_outside_the_classes_is_refused(label):
    with pytest.raises(BadInput, match="expected labels from 0 to 1"):
        encode_labels(_examples(np.zeros((2, 3)), [0, label]), classes=2)


def test_the_loss_is_one_number_an_example():
    loss = cross_entropy(torch.tensor([[0.0, 0.0], [0.0, 100.0]]), torch.tensor([0, 1]))
    torch.testing.assert_close(loss, torch.tensor([np.log(2), 0.0], dtype=torch.float32))


def test_a_model_is_a_value():
    assert Model(IMAGE.models["cnn"].options, IMAGE.models["cnn"].build) == IMAGE.models["cnn"]


@needs_data
def test_a_network_of_pieces_of_words_is_as_large_as_its_vocabulary():
    raw = {"classes": 2, "width": 8, "heads": 2, "tokens": "wordpiece", "vocabulary": "bert-uncased", "entries": 2000}
    network = TEXT.models["transformer"].build(parse_options(TEXT, "transformer", raw))
    assert network.tokens.weight.shape == (2000, 8)
