"""The job: what loads, what is refused and in which words, what its hash covers."""

from __future__ import annotations

import math
import tomllib
from itertools import pairwise

import pytest
import tomli_w
from hypothesis import given
from hypothesis import strategies as st

from tacit.check import parse
from tacit.errors import BadInput
from tacit.job import NEEDS_SINGLE_UPDATES, SERVER_OPTIONS, Job, load, override

CONTRACT = """
name = "mnist-cnn"
[task]
kind = "image-classification"
model = "cnn"
[task.options]
[training]
rounds = 40
local_steps = 20
batch_size = 128
optimizer = "sgd"
learning_rate = 0.5
momentum = 0.9
server_strategy = "fedavg"
[training.server_options]
[privacy]
mechanism = "dp-sgd"
epsilon = 3.0
delta = 1e-5
max_grad_norm = 0.1
[aggregation]
secure = true
min_cohort = 3
threshold = 3
round_timeout = 600.0
[evaluation]
every = 1
partner_holdout = 0.1
[simulation]
partners = 10
dataset = "mnist"
partition = "iid"
alpha = 0.5
dropout = 0.0
"""

# Every key that stands outside [performance] and [simulation], with another value than the small job's.
AGREED = (
    "name=other",
    "task.kind=text-classification",
    "task.model=other",
    "task.options.layers=small",
    "task.package=p==1",
    "training.rounds=7",
    "training.local_steps=7",
    "training.batch_size=7",
    "training.optimizer=adam",
    "training.learning_rate=0.25",
    "training.momentum=0.5",
    "training.schedule=cosine",
    "training.server_strategy=fedyogi",
    "training.max_failed_rounds=7",
    "privacy.noise_multiplier=2.0",
    "privacy.delta=1e-6",
    "privacy.max_grad_norm=2.0",
    "aggregation.min_cohort=4",
    "aggregation.cohort=5",
    "aggregation.threshold=2",
    "aggregation.round_timeout=7.0",
    "aggregation.stage_timeout=7.0",
    "aggregation.max_update_norm=7.0",
    "aggregation.max_weight=7",
    "evaluation.every=2",
    "evaluation.partner_holdout=0.2",
    "evaluation.patience=2",
    "evaluation.monitor=test",
)
NOT_AGREED = (
    "performance.max_physical_batch=7",
    "simulation.partners=7",
    "simulation.dataset=mnist",
    "simulation.format=csv",
    "simulation.input=a",
    "simulation.label=b",
    "simulation.column=c",
    "simulation.test=d",
    "simulation.test_share=0.3",
    "simulation.image_size=8",
    "simulation.partition=dirichlet",
    "simulation.alpha=0.1",
    "simulation.shards=3",
    "simulation.dropout=0.5",
    "simulation.seed=7",
    "simulation.device=auto",
    "simulation.threads=2",
    "simulation.partner_cpus=0.5",
    "simulation.partner_gpus=0.5",
)


def test_the_contracts_job_loads(tmp_path):
    path = tmp_path / "job.toml"
    path.write_text(CONTRACT, encoding="utf-8")
    job = load(path)
    raw = tomllib.loads(CONTRACT)
    loaded = job.model_dump(mode="json")
    keys = [(section, key) for section, table in raw.items() if isinstance(table, dict) for key in table]
    assert len(keys) == 26
    assert {(s, k): loaded[s][k] for s, k in keys} == {(s, k): raw[s][k] for s, k in keys}
    assert job.aggregation.needed(10) == 7  # 3 would be under the floor


@pytest.mark.parametrize("strategy", SERVER_OPTIONS)
def test_every_strategy_with_its_options_loads(make_job, strategy):
    options = [f"training.server_options.{key}=0.5" for key in sorted(SERVER_OPTIONS[strategy])]
    job = make_job(f"training.server_strategy={strategy}", *options)
    assert job.training.server_options == dict.fromkeys(SERVER_OPTIONS[strategy], 0.5)


def test_the_resolved_job_loads_as_the_same(make_job):
    job = make_job("aggregation.cohort=5", "task.options.shape=[8,8]", "privacy.noise_multiplier=1.23456789012345")
    again = parse(Job, tomllib.loads(tomli_w.dumps(job.model_dump(mode="json", exclude_none=True))), where="again")
    assert again == job
    assert again.hash() == job.hash()


@pytest.mark.parametrize(
    ("key", "value", "expected"),
    [
        ("training.rounds", '"5"', "integer"),
        ("training.rounds", "5.0", "integer"),
        ("training.rounds", "true", "integer"),
        ("training.rounds", "0", "greater than 0"),
        ("training.learning_rate", "-0.5", "greater than 0"),
        ("training.learning_rate", '"quick"', "number"),
        ("training.learning_rate", "nan", "finite"),
        ("training.learning_rate", "inf", "finite"),
        ("training.momentum", "1.0", "less than 1"),
        ("training.optimizer", '"lion"', "'sgd' or 'adam'"),
        ("training.schedule", '"step"', "'constant', 'linear' or 'cosine'"),
        ("training.server_options.eta", "nan", "finite"),
        ("training.max_failed_rounds", "-1", "greater than or equal to 0"),
        ("privacy.noise_multiplier", "0.19", "greater than or equal to 0.2"),
        ("privacy.delta", "0.0", "greater than 0"),
        ("privacy.delta", "1.0", "less than 1"),
        ("privacy.mechanism", '"gaussian"', "'dp-sgd'"),
        ("privacy.max_grad_norm", "-1.0", "greater than 0"),
        ("aggregation.secure", '"no"', "boolean"),
        ("aggregation.min_cohort", "0", "greater than 0"),
        ("aggregation.round_timeout", "0", "greater than 0"),
        ("aggregation.stage_timeout", "-1.0", "greater than 0"),
        ("aggregation.max_update_norm", "0", "greater than 0"),
        ("aggregation.max_update_norm", "inf", "finite"),
        ("aggregation.max_weight", "0", "greater than 0"),
        ("aggregation.weighting", '"size"', "'uniform' or 'examples'"),
        ("evaluation.partner_holdout", "1.0", "less than 1"),
        ("evaluation.every", "0", "greater than 0"),
        ("performance.max_physical_batch", "0", "greater than 0"),
        ("simulation.partners", "[3]", "integer"),
        ("simulation.partition", '"random"', "'iid', 'dirichlet', 'by-column' or 'shards'"),
        ("simulation.seed", "-1", "greater than or equal to 0"),
        ("simulation.device", '"gpu"', "pattern"),
        ("name", '"../etc"', "pattern"),
        ("task", '"cnn"', "object"),
    ],
)
def test_a_wrong_value_is_named(raw_job, make_job, key, value, expected):
    with pytest.raises(BadInput) as caught:
        make_job(f"{key}={value}")
    assert caught.value.message.startswith(f"expected {key}")
    assert expected in caught.value.message
    assert ", found " in caught.value.message
    assert "job.toml" in caught.value.message
    assert caught.value.hint == f"change {key}"


@pytest.mark.parametrize("key", ["extra", "training.epochs", "privacy.sigma", "aggregation.k", "simulation.gpu"])
def test_an_unknown_key_is_named_with_the_known_ones(make_job, key):
    with pytest.raises(BadInput, match=f"^expected a known key in job.toml, found {key}$") as caught:
        make_job(f"{key}=1")
    known = {"extra": "training", "training": "rounds", "privacy": "epsilon", "aggregation": "cohort"}
    assert known.get(key.partition(".")[0], "partners") in caught.value.hint


@pytest.mark.parametrize(
    "key", ["name", "task", "training", "privacy", "task.kind", "training.rounds", "privacy.mechanism"]
)
def test_a_missing_key_is_named(make_job, key):
    with pytest.raises(BadInput, match=f"^expected {key} in job.toml, found nothing$") as caught:
        make_job(without=(key,))
    assert caught.value.hint == f"add {key}"


@pytest.mark.parametrize(
    ("overrides", "without", "words"),
    [
        (("privacy.epsilon=1.0",), (), "privacy.epsilon or privacy.noise_multiplier, found both"),
        ((), ("privacy.noise_multiplier",), "found neither"),
        ((), ("privacy.delta",), "privacy.delta with dp-sgd, found nothing"),
        ((), ("privacy.max_grad_norm",), "privacy.max_grad_norm with dp-sgd, found nothing"),
        (("privacy.mechanism=none",), (), "no privacy.noise_multiplier with mechanism none"),
        (("privacy.mechanism=client",), (), "not built yet"),
        (("privacy.mechanism=distributed-dp-sgd",), (), "not built yet"),
        (("aggregation.secure=true", "aggregation.min_cohort=2"), (), "min_cohort of at least 3 with"),
        (
            ("aggregation.secure=true", "aggregation.threshold=1"),
            (),
            "cohort of 3 with aggregation.secure = true, found 1",
        ),
        (("aggregation.secure=true", "training.server_strategy=krum"), (), "found krum"),
        (("aggregation.threshold=4",), (), "at most min_cohort 3, found 4"),
        (("aggregation.cohort=2",), (), "at least min_cohort 3, found 2"),
        (("aggregation.weighting=examples",), (), "found examples in "),
        (("training.server_strategy=fedsgd",), (), "found fedsgd"),
        (("training.server_options.eta=1.0",), (), "option of fedavg in training.server_options, found eta"),
        (("training.optimizer=adam", "training.momentum=0.9"), (), "no training.momentum with adam, found 0.9"),
        (("evaluation.patience=1", "evaluation.partner_holdout=0.0"), (), "partner_holdout above 0"),
    ],
)
def test_an_impossible_combination_is_named(make_job, overrides, without, words):
    with pytest.raises(BadInput, match=r"^expected ") as caught:
        make_job(*overrides, without=without)
    assert words in caught.value.message
    assert caught.value.hint


@pytest.mark.parametrize("strategy", sorted(NEEDS_SINGLE_UPDATES))
def test_no_strategy_that_needs_single_updates_is_secure(make_job, strategy):
    with pytest.raises(BadInput, match=f"found {strategy}, which needs every partner's own update"):
        make_job("aggregation.secure=true", f"training.server_strategy={strategy}")


def test_secure_is_what_a_job_is_when_it_does_not_say(make_job):
    assert make_job(without=("aggregation.secure",)).aggregation.secure


@pytest.mark.parametrize(("size", "at_most_half"), [(3, 1), (4, 2), (5, 2), (10, 5), (11, 5)])
@pytest.mark.parametrize("key", ["min_cohort", "cohort"])
def test_a_threshold_of_half_is_refused_under_secure_aggregation_with_both_numbers(make_job, size, at_most_half, key):
    secure = ("aggregation.secure=true", f"aggregation.{key}={size}")
    room = (f"aggregation.min_cohort={max(3, at_most_half + 1)}",) if key == "cohort" else ()
    for threshold in (1, at_most_half):
        with pytest.raises(BadInput, match=rf"^expected .* cohort of {size} .*, found {threshold} in ") as caught:
            make_job(*secure, *room, f"aggregation.threshold={threshold}")
        assert f"to {2 * size // 3 + 1} or" in caught.value.hint
    assert make_job(*secure, *room, f"aggregation.threshold={at_most_half + 1}").aggregation.secure
    assert make_job(f"aggregation.{key}={size}", *room, f"aggregation.threshold={at_most_half}").aggregation.threshold


@given(st.integers(3, 300), st.integers(1, 300))
def test_a_secure_round_needs_two_thirds_and_one_more(make_job, cohort, threshold):
    section = make_job("aggregation.secure=true").aggregation
    assert section.needed(cohort) == 2 * cohort // 3 + 1
    assert section.model_copy(update={"threshold": threshold}).needed(cohort) == max(threshold, 2 * cohort // 3 + 1)


@given(st.integers(1, 300), st.integers(1, 300), st.integers(1, 300))
def test_a_round_in_clear_needs_what_the_job_says(make_job, cohort, least, threshold):
    section = make_job().aggregation.model_copy(update={"min_cohort": least})
    assert section.needed(cohort) == min(3, least)
    assert section.model_copy(update={"threshold": threshold}).needed(cohort) == threshold


def test_counts_weigh_where_they_are_summed_unseen_or_nothing_is_private(make_job):
    by_examples = "aggregation.weighting=examples"
    assert make_job(by_examples, "aggregation.secure=true").aggregation.full_weight == 10_000
    assert make_job(by_examples, "privacy={mechanism='none'}").aggregation.full_weight == 10_000
    assert make_job(by_examples, "aggregation.secure=true", "aggregation.max_weight=7").aggregation.full_weight == 7
    assert make_job("aggregation.max_weight=7").aggregation.full_weight == 1


def test_the_hash_changes_with_every_agreed_key(make_job):
    keys = {f"{s}.{k}" for s, t in make_job().agreed().items() if isinstance(t, dict) for k in t} | {"name"}
    left_out = {"training.server_options", "privacy.mechanism", "privacy.epsilon", "aggregation.secure"}
    named = {text.partition("=")[0] for text in AGREED}
    assert keys - left_out - {"aggregation.weighting", "task.options"} == named - {"task.options.layers"}
    hashes = {make_job(text).hash() for text in AGREED}
    none = make_job("privacy={mechanism='none'}")
    hashes |= {
        make_job().hash(),
        make_job("privacy.epsilon=1.0", without=("privacy.noise_multiplier",)).hash(),
        make_job("training.server_strategy=fedadam", "training.server_options.eta=0.5").hash(),
        make_job("training.server_strategy=fedadam").hash(),
        none.hash(),
        make_job("privacy={mechanism='none'}", "aggregation.weighting=examples").hash(),
        make_job("aggregation.secure=true").hash(),
    }
    assert len(hashes) == len(AGREED) + 7


@pytest.mark.parametrize("text", NOT_AGREED)
def test_the_hash_leaves_out_what_changes_nothing_released(make_job, text):
    assert make_job(text) != make_job()
    assert make_job(text).hash() == make_job().hash()


def test_every_key_outside_the_hash_is_tried(make_job):
    job = make_job().model_dump()
    keys = {f"{section}.{key}" for section in ("performance", "simulation") for key in job[section]}
    assert keys == {text.partition("=")[0] for text in NOT_AGREED}


@given(st.randoms(use_true_random=False))
def test_the_hash_does_not_depend_on_the_order_of_keys(raw_job, random):
    def shuffled(value):
        if not isinstance(value, dict):
            return value
        keys = list(value)
        random.shuffle(keys)
        return {key: shuffled(value[key]) for key in keys}

    raw = raw_job("task.options.a=1", "task.options.b=2")
    assert parse(Job, shuffled(raw), where="job.toml").hash() == parse(Job, raw, where="job.toml").hash()


KEYS = st.lists(st.from_regex(r"[a-z_]{1,8}", fullmatch=True), min_size=1, max_size=4)
VALUES = st.one_of(
    st.integers(-(2**53), 2**53),
    st.floats(allow_nan=False, allow_infinity=False),
    st.booleans(),
    st.text(st.characters(min_codepoint=32, max_codepoint=0x2FFF, exclude_characters='"\\\x7f'), max_size=20),
    st.lists(st.integers(0, 9), max_size=4),
)


@given(KEYS, VALUES)
def test_an_override_sets_the_nested_key_to_the_value_as_toml(keys, value):
    shown = tomli_w.dumps({"v": value}).partition("=")[2].strip()
    shown = str(value) if isinstance(value, list) else shown
    found = override({}, [f"{'.'.join(keys)}={shown}"])
    for key in keys:
        assert list(found) == [key]
        found = found[key]
    assert found == value
    assert type(found) is type(value)


@pytest.mark.parametrize(
    ("shown", "value"),
    [
        ("cosine", "cosine"),
        ("a=b", "a=b"),
        ("", ""),
        (" 5 ", 5),
        ("5", 5),
        ("True", "True"),
        ("true", True),
        ("1e-5", 1e-5),
    ],
)
def test_a_value_that_is_no_toml_is_a_text(shown, value):
    assert override({}, [f"a={shown}"]) == {"a": value}


def test_an_override_leaves_the_rest_and_the_original_alone():
    raw = {"a": {"b": 1, "c": 2}, "d": 3}
    assert override(raw, ["a.b=5", "a.b=6", "e.f=7"]) == {"a": {"b": 6, "c": 2}, "d": 3, "e": {"f": 7}}
    assert raw == {"a": {"b": 1, "c": 2}, "d": 3}


@pytest.mark.parametrize("text", ["rounds", "=5", ".a=5", "a..b=5", "a.=5", ""])
def test_an_override_without_key_and_value_is_refused(text):
    with pytest.raises(BadInput, match=r"^expected --set KEY=VALUE, found "):
        override({}, [text])


def test_an_override_into_a_value_is_refused():
    with pytest.raises(BadInput, match=r"^expected a section at name in --set name.x=1, found a value$"):
        override({"name": "n"}, ["name.x=1"])


def test_a_value_with_a_line_break_sets_one_key_only():
    assert override({}, ["a=1\nb = 2"]) == {"a": "1\nb = 2"}


@pytest.mark.parametrize("content", [b"name = ", b"\xff\xfe", b"name = 'a'\nname = 'b'"])
def test_a_file_that_is_no_toml_is_refused(tmp_path, content):
    path = tmp_path / "job.toml"
    path.write_bytes(content)
    with pytest.raises(BadInput, match=r"^expected TOML in .*job.toml, found "):
        load(path)


@pytest.mark.parametrize("name", ["absent.toml", "."])
def test_a_file_that_is_not_there_is_refused(tmp_path, name):
    with pytest.raises(BadInput, match=r"^expected a job file at "):
        load(tmp_path / name)


def test_a_date_is_refused_and_not_read_as_a_text(tmp_path):
    path = tmp_path / "job.toml"
    path.write_text(CONTRACT.replace('name = "mnist-cnn"', "name = 2026-01-01"), encoding="utf-8")
    with pytest.raises(BadInput):
        load(path)


@given(st.integers(1, 200), st.floats(1e-6, 10.0))
def test_learning_rates_fall_from_the_start_to_near_zero(make_job, rounds, rate):
    training = make_job().training.model_copy(update={"rounds": rounds, "learning_rate": rate})
    for schedule in ("constant", "linear", "cosine"):
        rates = [training.model_copy(update={"schedule": schedule}).learning_rate_at(r) for r in range(1, rounds + 1)]
        assert rates[0] == rate
        assert all(later <= earlier for earlier, later in pairwise(rates))
        assert rates[-1] > 0
    halfway = {"constant": 1.0, "linear": 0.5, "cosine": 0.5}
    for schedule, share in halfway.items():
        even = training.model_copy(update={"schedule": schedule, "rounds": 2 * rounds})
        assert math.isclose(even.learning_rate_at(rounds + 1), share * rate)
    quarter = training.model_copy(update={"schedule": "cosine", "rounds": 4 * rounds})
    assert math.isclose(quarter.learning_rate_at(rounds + 1), rate * (1 + math.sqrt(0.5)) / 2)
