"""A job file becomes a job for partners: what is missing comes from the test set, what is wrong is told at once."""

from __future__ import annotations

import json

import numpy as np
import pytest

from tacit.errors import BadInput
from tacit.job import SimulationSection
from tacit_server.proposal import pick_device, plan, resolve
from tacit_server.runs import TestSet

LABELS = "task.labels=['no', 'yes']"
SHAPE = "task.options.shape=[8, 8]"


@pytest.fixture
def images(tmp_path):
    """A test set of 8x8 pictures in two classes."""
    path = tmp_path / "test.npz"
    pixels = np.random.default_rng(0).integers(0, 256, size=(30, 8, 8), dtype=np.uint8)
    np.savez(path, image=pixels, label=np.array(["yes", "no"] * 15))
    return TestSet(path=str(path))


@pytest.fixture
def texts(tmp_path):
    path = tmp_path / "test.csv"
    path.write_text("words,kind,id\n" + "".join(f"word{i},{'ham' if i % 2 else 'spam'},{i}\n" for i in range(20)))
    return TestSet(path=str(path), input="words", label="kind")


def test_options_and_names_come_from_the_test_set(make_job, images):
    made = resolve(make_job(), images)
    assert made.job.task.labels == ("no", "yes")
    assert made.job.task.options == {"classes": 2, "shape": [8, 8]}
    assert made.job.task.package == "tacit"
    assert made.options.classes == 2
    assert made.job.simulation == SimulationSection()
    assert (len(made.test), made.test.targets.tolist()[:2]) == (30, [1, 0])
    assert resolve(made.job, images).job == made.job == plan(made.job, images).job


def test_the_job_s_own_names_give_the_order(make_job, images):
    made = resolve(make_job("task.labels=['yes', 'no']"), images)
    assert made.test.targets.tolist()[:2] == [0, 1]
    with pytest.raises(BadInput, match="expected one of the classes yes, found 'no' in row 2"):
        resolve(make_job("task.labels=['yes']"), images)


def test_texts(make_job, texts):
    job = make_job(
        "task.kind=text-classification",
        "task.model=transformer",
        "task.options={width=8, depth=1, heads=1, length=16}",
    )
    assert resolve(job, texts).job.task.labels == ("ham", "spam")
    with pytest.raises(BadInput, match="expected one column beside the label"):
        resolve(job, TestSet(path=texts.path, label="kind"))


def test_without_a_test_set_the_job_must_say_it_all(make_job):
    assert resolve(make_job(LABELS, SHAPE), None).options.classes == 2
    with pytest.raises(BadInput, match=r"^expected the classes' names as task.labels, found none$") as caught:
        resolve(make_job(SHAPE), None)
    assert "--test" in caught.value.hint
    with pytest.raises(BadInput, match=r"^expected task\.options\.shape, found nothing$"):
        resolve(make_job(LABELS), None)


WRONG = {
    "more classes": ((LABELS, SHAPE, "task.options.classes=3"), "task.labels for 3 classes .* found 2"),
    "another shape": (("task.options.shape=[8, 9]",), r"expected images uint8 of shape \[8, 9\]"),
    "unknown option": (("task.options.depth=3",), "task.options.depth"),
    "no such task": (("task.kind=telepathy",), 'found "telepathy"'),
    "no such model": (("task.model=oracle", SHAPE, LABELS), 'found "oracle"'),
    "sums that wrap": (("aggregation.max_update_norm=2e5",), "max_update_norm of at most 174763"),
}


@pytest.mark.parametrize("fault", WRONG)
def test_what_is_wrong_is_told(make_job, images, fault):
    overrides, words = WRONG[fault]
    with pytest.raises(BadInput, match=words):
        resolve(make_job(*overrides), images)


def test_a_monitor_without_a_test_set_is_refused(make_job):
    with pytest.raises(BadInput, match=r"^expected a test set with evaluation\.monitor"):
        resolve(make_job(LABELS, SHAPE, "evaluation.monitor=test"), None)


def test_a_task_that_changed_since_is_refused(make_job, images):
    job = resolve(make_job(), images).job
    other = job.model_copy(update={"task": job.task.model_copy(update={"package": "other==1"})})
    with pytest.raises(BadInput, match="of other==1, found tacit"):
        plan(other, images)


def test_a_tester_scores_the_vector_that_it_is_given(make_job, images):
    from tacit import vector as vectors

    made = resolve(make_job(), images)
    test = made.tester(device="cpu")
    vector = vectors.flatten(made.network())
    counters = test(vector)
    assert counters.confusion.sum() == 30
    assert np.array_equal(test(vector).to_vector(), counters.to_vector())
    assert resolve(make_job(LABELS, SHAPE), None).tester(device="cpu") is None


def test_networks_have_weights_of_their_own(make_job):
    from tacit import vector as vectors

    made = resolve(make_job(LABELS, SHAPE), None)
    assert (vectors.flatten(made.network()) != vectors.flatten(made.network())).any()


@pytest.mark.parametrize("name", ["cuda:99", "abacus", ""])
def test_a_device_that_is_not_there_is_refused(name):
    with pytest.raises(BadInput, match=r"^expected a device"):
        pick_device(name)
    assert pick_device("cpu").type == "cpu"


def test_a_resolved_job_is_plain_json(make_job, images):
    job = resolve(make_job(), images).job
    assert type(job).model_validate_json(json.dumps(job.model_dump(mode="json"))) == job
