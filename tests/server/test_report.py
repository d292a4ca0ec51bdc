"""The report: self-contained, escaped, and exact about privacy."""

import math
import re
import time
import tomllib
from html.parser import HTMLParser
from statistics import NormalDist

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from tacit.errors import BadInput
from tacit_server import report

_JOB = '[privacy]\nmechanism = "dp-sgd"\nepsilon = 3.0\n# <script>job</script>\n'


_RESULT = """
schema = 1
name = "mnist-cnn"
seed = 0
job_hash = "9f2c"
model = {kind = "cnn", parameters = 26010}
metrics = {best = {round = 8, accuracy = 0.951}}
timing = {wall_s = 183.2, train_s = 170.0, secagg_s = 2.1, evaluate_s = 4.0}
data = {dataset = "mnist", partition = "iid", classes = ["0", "1"]}

[privacy]
mechanism = "dp-sgd"
unit = "example"
adjacency = "add-remove"
delta = 1e-5
accountant = "pld"
secure_noise = true
holds_against = ["server", "other partners", "outsiders"]
"""


def _scores(accuracy):
    right = round(100 * accuracy)
    return {"accuracy": accuracy, "loss": 0.2, "macro_f1": accuracy, "confusion": [[right, 100 - right], [7, 93]]}


def _history(names, rounds, private):
    return [
        {
            "round": number,
            "status": "abandoned" if number == 7 else "done",
            "asked": len(names),
            "answered": len(names),
            "dropouts": [names[0]] if number in (3, 5) else [],
            "refusals": {names[-1]: "epsilon limit <b>8.0</b>"} if number == 6 else {},
            "test": None if number == 7 else _scores(0.95 - 0.5 / number),
            "federated": _scores(0.9 - 0.5 / number),
            "epsilon_by_partner": dict.fromkeys(names, 2.981 * number / rounds) if private else {},
            "seconds": {"train": 4.0, "aggregate": 0.1, "evaluate": 0.3},
        }
        for number in range(1, rounds + 1)
    ]


def _run(partners=3, rounds=8, *, names=None, engine="superlink", secure=True, **privacy):
    names = names or [f"partner-{i}" for i in range(partners)]
    result = tomllib.loads(_RESULT)
    result |= {"engine": engine, "rounds_completed": rounds, "aggregation": {"secure": secure, "dropouts": 2}}
    result["metrics"] |= {"test": _scores(0.948), "federated": _scores(0.9)}
    result["data"]["partners"] = {name: {"examples": 5400, "holdout": 600, "by_class": [2700] * 2} for name in names}
    result["privacy"] |= privacy
    private = result["privacy"]["mechanism"] != "none"
    event = {"kind": "gaussian", "sampling_rate": 0.0237, "noise_multiplier": 1.03, "steps": 20}
    result["privacy"] |= {
        "epsilon": 2.981 if private else None,
        "epsilon_by_partner": dict.fromkeys(names, 2.981) if private else {},
        "events_by_partner": {name: [event] * rounds for name in names} if private else {},
    }
    return result, _history(names, rounds, private)


def _page(tmp_path, result, history, job=_JOB):
    path = tmp_path / "report.html"
    report.write(path, result=result, history=history, job_toml=job)
    assert [entry.name for entry in tmp_path.iterdir()] == ["report.html"]
    return path.read_text(encoding="utf-8")


def _words(page):
    """The page's text without markup and charts, with single spaces."""
    return " ".join(re.sub(r"(?s)<(style|svg)\b.*?</\1>|<[^>]*>", " ", page).split())


class _Tags(HTMLParser):
    def __init__(self, page):
        super().__init__()
        self.opened, self.values = [], []
        self.feed(page)

    def handle_starttag(self, tag, attrs):
        self.opened.append(tag)
        self.values += [(name, value) for name, value in attrs if value is not None]


@pytest.fixture
def words(tmp_path, monkeypatch):
    """The words of a run's report, without charts: drawing takes most of the time."""
    names = ("accuracy", "loss", "epsilon", "split", "seconds", "confusion")
    monkeypatch.setattr(report, "_charts", lambda *_, **__: dict.fromkeys(names, ""))
    return lambda run, job=_JOB: _words(_page(tmp_path, *run, job))


def test_the_page_needs_nothing_else(tmp_path):
    page = _page(tmp_path, *_run())
    tags = _Tags(page)
    assert not {"script", "link", "iframe", "img", "object", "embed", "base", "form"} & set(tags.opened)
    assert all(tags.opened.count(tag) == page.count(f"</{tag}>") for tag in ("div", "p", "table", "tr", "td", "figure"))
    targets = [value for name, value in tags.values if name in {"src", "href", "xlink:href", "srcset", "action"}]
    assert len(targets) > 10
    assert all(target.startswith(("#", "data:image/png;base64,")) for target in targets)
    assert "@import" not in page
    assert all(target.startswith("#") for target in re.findall(r"url\(([^)]*)\)", page))
    assert "://" not in page


def test_the_page_shows_every_part(tmp_path):
    page = _page(tmp_path, *_run())
    text = _words(page)
    assert page.count("<svg") == 6
    parts = """26,010 parameters · engine superlink 94.8% accuracy on the test set
        ε 2.99 at δ = 1e-05; target 3
        3 partners, 16,200 training examples
        8 rounds done, 1 abandoned 3 min 3 s from start to end
        naming the commonest class would be right for 50.0%
        The best round was 8 with 95.1%
        partner-0 5,400 600 2.99 0.0237 1.03 160
        partner-0 3, 5 –
        partner-2 – epsilon limit &lt;b&gt;8.0&lt;/b&gt; (round 6)
        Abandoned, without effect on the model: round 7. What partners spent in them counts.
        Phase All rounds train 32.0 s
        Hash 9f2c. Seed 0. Accountant: pld."""
    for part in map(str.strip, parts.splitlines()):
        assert part in text, part


def test_user_text_is_escaped(tmp_path):
    nasty = "<script>alert(1)</script>\"' --> $x$"
    result, history = _run(names=[nasty, "b", "c"])
    result["name"] = result["data"]["dataset"] = result["engine"] = nasty
    result["data"]["classes"] = [nasty, "1"]
    result["privacy"]["unit"] = result["privacy"]["adjacency"] = nasty
    result["privacy"]["unit_by_partner"] = {nasty: nasty}
    result["privacy"]["holds_against"] = [nasty]
    history[5]["refusals"] = {nasty: nasty}
    for line in history:
        line["seconds"] = {nasty: 1.0}
    page = _page(tmp_path, result, history)
    assert "script" not in _Tags(page).opened
    assert "<script" not in page
    assert "&lt;script&gt;job" in page


@pytest.mark.parametrize("names", [["\udc80", "病院 ١"], ["a" * 500, "", "\x00"]])
def test_odd_names_do_not_cost_the_report(tmp_path, names):
    assert "What is protected" in _page(tmp_path, *_run(names=names))


def test_a_run_without_privacy_shows_no_epsilon(words):
    text = words(_run(1, 1, mechanism="none", secure=False), job='[privacy]\nmechanism = "none"\n')
    assert "No privacy guarantee." in text
    assert "ε =" not in text
    assert "Epsilon" not in text
    assert "holds against" not in text


def test_a_mechanism_without_finite_epsilon_is_no_guarantee(words):
    run = _run()
    run[0]["privacy"] |= {"epsilon": None, "epsilon_by_partner": {"partner-0": None}}
    text = words(run)
    assert "No privacy guarantee. The noise of dp-sgd was too little for any finite epsilon." in text
    assert "ε =" not in text


@pytest.mark.parametrize("mechanism", ["dp-sgd", "distributed-dp-sgd", "client"])
def test_noise_from_a_seed_protects_nobody(words, mechanism):
    seeded = words(_run(mechanism=mechanism, secure_noise=False, engine="inline"))
    secret = words(_run(mechanism=mechanism, secure_noise=True))
    assert seeded.index("This run protects nobody.") < seeded.index("ε 2.99")
    assert "With secret noise it would hold against: the server" in seeded
    assert "It holds against" not in seeded
    assert "This was a simulation" in seeded
    assert "protects nobody" not in secret
    assert "It holds against: the server" in secret
    assert "simulation" not in secret


@pytest.mark.parametrize(
    ("run", "statement"),
    [
        ({"mechanism": "none"}, "protected by the noise alone, and there was none."),
        ({"mechanism": "none", "secure": False}, "each partner’s update by itself, without noise that protects it."),
        ({"mechanism": "dp-sgd"}, "no update of one partner"),
        ({"mechanism": "dp-sgd", "secure": False}, "Each was noised before it left the partner"),
        ({"mechanism": "distributed-dp-sgd"}, "the guarantee rests on secure aggregation"),
        ({"mechanism": "distributed-dp-sgd", "secure": False}, "does not hold against the server."),
        ({"mechanism": "distributed-dp-sgd", "secure": False}, "It holds against: other partners,"),
        ({"unit": "example"}, "A person with k examples is protected less"),
        ({"unit": "person"}, "The unit is one person with all the examples of theirs that are used."),
        ({"unit": "patient_id"}, "one person, as the column patient_id names them, with all the examples of theirs"),
        ({"unit": "patient_id"}, "how much any person of a partner can have changed"),
        ({"unit": "mixed"}, "The unit is one unit of one partner, which the table of partners names."),
        ({"unit_by_partner": {"partner-0": "patient_id"}}, "600 patient_id 2.99 "),
        ({"unit": "client"}, "one partner with all its examples more or less"),
        ({"adjacency": "replace"}, "with that one replaced by another"),
        ({}, "the guarantee for training does not cover them"),
        ({}, "numbers of examples in this report are not protected by the guarantee"),
    ],
)
def test_what_holds_and_what_does_not_is_said(words, run, statement):
    assert statement in words(_run(**run))


@pytest.mark.parametrize(("epsilon", "shown"), [(2.98, "2.98"), (2.9801, "2.99"), (3.0, "3.00"), (1e-9, "0.01")])
def test_epsilon_is_never_rounded_down(words, epsilon, shown):
    run = _run()
    run[0]["privacy"] |= {"epsilon": epsilon, "epsilon_by_partner": {"partner-0": epsilon}}
    text = words(run)
    assert f"ε {shown} at" in text
    assert f"600 {shown} " in text


@pytest.mark.parametrize("epsilon", [50.0, 5000.0, math.inf])
def test_a_huge_epsilon_limits_nothing_and_says_so(words, epsilon):
    run = _run()
    run[0]["privacy"]["epsilon"] = epsilon
    text = words(run)
    assert "more than a million" in text
    assert "0.1% 100.0%" in text


@given(st.floats(0.05, 4), st.floats(1e-4, 0.999))
def test_power_bounds_the_best_test_against_gaussian_noise(shift, false_alarms):
    """Oracle: N(0, 1) against N(shift, 1), whose exact trade-off and (epsilon, delta) curve are known."""
    normal = NormalDist()
    exact = normal.cdf(normal.inv_cdf(false_alarms) + shift)
    bounds = []
    for epsilon in np.linspace(0, 20, 200):
        delta = normal.cdf(shift / 2 - epsilon / shift) - math.exp(epsilon) * normal.cdf(-shift / 2 - epsilon / shift)
        bounds.append(report.power(epsilon=epsilon, delta=max(delta, 0.0), false_alarms=false_alarms))
    assert exact - 1e-9 <= min(bounds) <= exact + 0.05


@pytest.mark.parametrize(
    ("part", "value"),
    [
        ("history", None),
        ("metrics", {"test": None}),
        ("metrics", {"test": {"accuracy": 0.5}}),
        ("metrics", {"federated": {"loss": 3.5}}),
        ("data", {"dataset": "own", "partners": {"a": {"examples": 5}}}),
        ("data", {}),
    ],
)
def test_what_is_optional_may_be_absent(tmp_path, part, value):
    result, history = _run()
    del result["privacy"]["events_by_partner"], result["seed"]
    run = (result, []) if part == "history" else (result | {part: value}, history)
    assert "What is protected" in _words(_page(tmp_path, *run))


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"schema": 2}, "expected schema 1 in the result, found 2"),
        ({"privacy": {}}, "expected privacy.mechanism in the result"),
        ({"timing": {}}, "expected timing.wall_s in the result"),
        ({"mechanism": "none"}, "expected no epsilon with mechanism none, found 2.981"),
    ],
)
def test_a_result_that_does_not_fit_is_refused_and_nothing_is_written(tmp_path, change, message):
    result, history = _run()
    (result if set(change) <= set(result) else result["privacy"]).update(change)
    with pytest.raises(BadInput, match=re.escape(message)):
        report.write(tmp_path / "report.html", result=result, history=history, job_toml=_JOB)
    assert not list(tmp_path.iterdir())


def test_a_job_that_is_not_toml_is_refused(tmp_path):
    with pytest.raises(BadInput, match="as TOML"):
        _page(tmp_path, *_run(), job="a = ")


def test_forty_rounds_take_under_two_seconds(tmp_path):
    result, history = _run(10, 40)
    pages, times = [], []
    for _ in range(2):
        start = time.process_time()
        pages.append(_page(tmp_path, result, history))
        times.append(time.process_time() - start)
    assert min(times) < 2
    assert pages[0] == pages[1]


def test_public_names():
    assert report.__all__ == ["power", "write"]
