"""The job: what loads, what is refused and in which words, what its hash covers."""

from __future__ import annotations

import time
import tomllib

import pytest
import tomli_w
from hypothesis import given
from hypothesis import strategies as st

from tacit.check import parse
from tacit.errors import BadInput
from tacit.job import SERVER_OPTIONS, Job, load

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
    "task.labels=['no', 'yes']",
    "task.package=p==1",
    "training.rounds=7",
    "training.local_steps=7",
    "training.batch_size=7",
    "training.population=700",
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
    "aggregation.max_colluders=2",
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
    "simulation.vanishing=1",
    "simulation.metrics_epsilon=0.5",
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
        ("training.population", "10000000001", "less than or equal to 10000000000"),
        ("training.rounds", "1000001", "less than or equal to 1000000"),
        ("training.local_steps", "1000001", "less than or equal to 1000000"),
        ("privacy.max_grad_norm", "9e-7", "greater than or equal to 0.000001"),
        ("privacy.max_grad_norm", "1.1e6", "less than or equal to 1000000"),
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
        (("privacy.mechanism=client",), (), "privacy.max_update_norm with client, found nothing"),
        (
            ("privacy.mechanism=distributed-dp-sgd", "aggregation.secure=true"),
            (),
            "training.population with distributed-dp-sgd, found nothing",
        ),
        (("training.batch_size=16385",), (), "batch_size of at most 16384 with dp-sgd, found 16385"),
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


@pytest.mark.parametrize(
    ("overrides", "words"),
    [
        (("task.labels=['a', 'b', 'a']",), "found 'a' as number 2"),
        (("task.labels=['a', ' b']",), "found ' b' as number 1"),
        (("task.labels=['']",), "found '' as number 0"),
        (("task.labels=['a', 'b']", "task.options.classes=3"), "for 3 classes as in task.options.classes, found 2"),
        (("task.labels=[1, 2]",), "task.labels.0 to be a valid string, found 1"),
    ],
)
def test_classes_are_named_once_each(make_job, overrides, words):
    with pytest.raises(BadInput, match=words):
        make_job(*overrides)
    assert make_job("task.labels=['b', 'a']", "task.options.classes=2").task.labels == ("b", "a")


def test_the_hash_changes_with_every_agreed_key(make_job):
    keys = {f"{s}.{k}" for s, t in make_job().agreed().items() if isinstance(t, dict) for k in t} | {"name"}
    left_out = {"training.server_options", "privacy.mechanism", "privacy.epsilon", "aggregation.secure"}
    left_out |= {f"privacy.{key}" for key in ("max_update_norm", "noise_by", "clip_quantile", "clip_rate")}  # of client
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
    alone = {"simulation.user_rate"}  # of client: tests/common/test_users.py
    assert keys - alone == {text.partition("=")[0] for text in NOT_AGREED}


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


def test_very_many_class_names_are_read_at_once(make_job) -> None:
    """A server names as many as a message holds; each compared with all before it, they would take a minute."""
    names = [f"c{i}" for i in range(60_000)]
    began = time.perf_counter()
    assert len(make_job(f"task.labels={names}", "task.options.classes=60000").task.labels) == 60_000
    assert time.perf_counter() - began < 10
