"""Charts as SVG: what they show, and that any name is safe in them."""

import re
import time
import warnings
from xml.etree import ElementTree

import pytest

from tacit_server import charts

_NASTY = "$\\frac$</text><script>-->病院"


def _history(rounds=3, partners=2, equal=False):
    return [
        {
            "round": number,
            "test": {"accuracy": number / (rounds + 1), "loss": 1.0 / number} if number != 2 else None,
            "federated": None,
            "epsilon_by_partner": {f"p{i}": number * (1.0 if equal else 1.0 + i / 10) for i in range(partners)},
            "seconds": {"train": 2.0, "evaluate": 0.5},
        }
        for number in range(1, rounds + 1)
    ]


def _partners(number, by_class=(3, 4)):
    return {f"p{i}": {"examples": 7 + i, "holdout": 1, "by_class": list(by_class)} for i in range(number)}


def _texts(svg):
    return [element.text for element in ElementTree.fromstring(svg).iter("text")]


def test_every_chart_is_one_element_with_axes_named_and_no_reference():
    history = _history()
    drawn = {
        "accuracy (share right)": charts.accuracy(history),
        "mean loss (nats)": charts.loss(history),
        "epsilon spent": charts.epsilon(history, target=3.0),
        "training examples": charts.split(_partners(3), classes=("a", "b")),
        "time (seconds)": charts.seconds(history),
        "predicted class": charts.confusion([[3, 1], [0, 4]], classes=("a", "b")),
    }
    assert len(drawn) == len(charts.__all__)
    for axis, svg in drawn.items():
        assert axis in _texts(svg)
        assert svg.startswith('<svg role="img" aria-label="')
        assert "http" not in svg
        assert all(target.startswith(("#", "data:")) for target in re.findall(r'href="([^"]*)"', svg))


def test_equal_input_gives_equal_output():
    assert charts.accuracy(_history()) == charts.accuracy(_history())


@pytest.mark.parametrize("rounds", [1, 2, 40])
def test_any_number_of_rounds_draws_without_warning(rounds):
    history = _history(rounds)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        drawn = [charts.accuracy(history), charts.loss(history), charts.epsilon(history, target=None)]
        drawn.append(charts.seconds(history))
    assert all(drawn)


def test_noise_is_drawn_as_error_bars():
    history = _history()
    bare = charts.accuracy(history)
    for line in history:
        line["test"] = line["test"] and {**line["test"], "accuracy_std": 0.04}
    barred = charts.accuracy(history)
    assert "LineCollection" in barred
    assert "LineCollection" not in bare
    assert _texts(barred) == _texts(bare)


def test_nothing_to_draw_is_an_empty_string():
    nothing = [{"round": 1, "test": None, "federated": {"accuracy": float("nan")}, "epsilon_by_partner": {}}]
    for history in ([], nothing):
        assert charts.accuracy(history) == ""
        assert charts.loss(history) == ""
        assert charts.epsilon(history, target=3.0) == ""
        assert charts.seconds(history) == ""
    assert charts.split({}, classes=()) == ""


def test_names_are_text_and_never_markup():
    partners = {_NASTY: {"examples": 3, "by_class": [1, 2]}}
    history = [{"round": 1, "epsilon_by_partner": {_NASTY: 1.0}, "seconds": {_NASTY: 1.0}}]
    drawn = [
        charts.split(partners, classes=(_NASTY, "$")),
        charts.epsilon(history, target=1.0),
        charts.seconds(history),
        charts.confusion([[1, 0], [0, 1]], classes=(_NASTY, "$")),
    ]
    for svg in drawn:
        assert "<script" not in svg
        assert "-->" not in svg
        assert any("</text" in (text or "") for text in _texts(svg))


def test_a_name_with_a_leading_underscore_stands_in_the_legend():
    history = [{"round": 1, "epsilon_by_partner": {"_a": 1.0}}]
    assert any(text.endswith("_a") for text in _texts(charts.epsilon(history, target=None)))


def test_partners_with_equal_epsilon_share_a_line():
    assert "p0 and 3 more, equal" in _texts(charts.epsilon(_history(partners=4, equal=True), target=None))
    assert {"p0", "p3"} < set(_texts(charts.epsilon(_history(partners=4), target=None)))


def test_twelve_partners_are_lines_and_thirteen_a_band():
    assert "p11" in _texts(charts.epsilon(_history(partners=12), target=None))
    assert "least to most of 13 partners" in _texts(charts.epsilon(_history(partners=13), target=None))


def test_thirty_partners_are_bars_and_more_a_histogram():
    texts = _texts(charts.split(_partners(30), classes=("a", "b")))
    assert texts.index("p2") < texts.index("p10")
    texts = _texts(charts.split(_partners(31), classes=("a", "b")))
    assert "p2" not in texts
    assert "training examples of a partner" in texts


def test_more_than_twelve_classes_keep_the_largest():
    classes = [f"c{i}" for i in range(20)]
    texts = _texts(charts.split(_partners(2, by_class=range(20)), classes=classes))
    assert "c19" in texts
    assert "c0" not in texts
    assert "9 others" in texts


def test_partners_without_classes_are_plain_bars():
    texts = _texts(charts.split({"p0": {"examples": 5}}, classes=()))
    assert "p0" in texts


def test_a_confusion_matrix_shows_counts_and_survives_an_empty_class():
    texts = _texts(charts.confusion([[37, 5], [0, 0]], classes=("yes", "no")))
    assert {"37", "5", "yes", "no"} <= set(texts)
    assert "0" not in texts


def test_a_large_confusion_matrix_stays_small():
    size = 200
    matrix = [[int(row == column) for column in range(size)] for row in range(size)]
    svg = charts.confusion(matrix, classes=[str(i) for i in range(size)])
    assert len(svg) < 300_000
    assert 'href="data:image/png;base64' in svg


def test_a_thousand_rounds_take_no_longer_than_a_reader_waits():
    start = time.monotonic()
    charts.seconds(_history(1000))
    assert time.monotonic() - start < 5


def test_public_names():
    assert charts.__all__ == ["accuracy", "confusion", "epsilon", "loss", "seconds", "split"]
